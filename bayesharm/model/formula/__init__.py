"""Covariates by formula: a Wilkinson formula becomes numeric columns, which a run freezes."""
