"""Independent implementations of the full model, in NumPyro and in PyMC, to validate the inference."""
