"""The model written twice more, in NumPyro and in PyMC, as a reference."""
