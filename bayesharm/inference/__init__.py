"""Inference: Laplace, hyperparameters, noise ratio, NUTS in lanes, exact conditional effects, reference models."""
