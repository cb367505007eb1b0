"""Check of a model: its file, and its density written three times, on a small simulated study."""
