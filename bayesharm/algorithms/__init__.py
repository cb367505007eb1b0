"""Numerical algorithms for batches of small problems; none of them knows the model."""
