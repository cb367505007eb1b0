"""Example studies: simulated ones with known truth, and public ones."""
