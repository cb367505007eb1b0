"""Uncertainty of harmonization carried into later analyses: Rubin's rules."""
