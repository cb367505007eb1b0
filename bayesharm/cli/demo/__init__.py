"""The command ``demo``: the whole workflow on a simulated study and on a real one."""
