"""Numerical algorithms that know no model."""
