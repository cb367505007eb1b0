"""Screening of a study for contradictions and mislabeled columns."""
