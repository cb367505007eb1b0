"""The posterior, its run folder, and tables."""
