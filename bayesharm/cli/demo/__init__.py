"""The demo: the main job on a simulated and on a real study."""
