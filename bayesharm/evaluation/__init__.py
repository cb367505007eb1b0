"""Evaluation of harmonization methods on people and visits that their fits have not seen."""
