"""Example studies: simulated with known ground truth, and public."""
