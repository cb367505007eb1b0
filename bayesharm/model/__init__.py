"""The specification of a model, its terms, and the design matrix."""
