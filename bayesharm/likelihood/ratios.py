"""Variance ratios of the scanners, shared by all features: of their noise (lambda) and of their biases (kappa)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Array = Any  # of NumPy or of JAX


class VarianceRatios(NamedTuple):
    """Natural logarithms of the variance ratios of each scanner, centered over scanners (a JAX pytree).

    Attributes
    ----------
    log_noise : (scanner,) array
        log lambda: the noise variance of scanner k is ``sigma² lambda[k]``.
    log_bias : (scanner,) array
        log kappa: the prior variance of its measurement bias is ``tau² kappa[k]``.
    """

    log_noise: Array
    log_bias: Array

    @classmethod
    def equal(cls, n_scanners: int) -> VarianceRatios:
        """Ratios of 1: all scanners have the same noise and biases of the same size."""
        return cls(np.zeros(n_scanners), np.zeros(n_scanners))

    @classmethod
    def from_vector(cls, vector: Array) -> VarianceRatios:
        """Split a vector of log lambda of each scanner, then log kappa of each, (2 × scanner,)."""
        half = len(vector) // 2
        return cls(vector[:half], vector[half:])

    def to_vector(self) -> Array:
        """Join log lambda and log kappa to one vector, for an optimizer or a covariance matrix, (2 × scanner,)."""
        if isinstance(self.log_noise, np.ndarray):
            return np.concatenate([self.log_noise, self.log_bias])
        import jax.numpy as jnp  # takes a second, and the check of a study does without

        return jnp.concatenate([self.log_noise, self.log_bias])

    @property
    def noise(self) -> Array:
        """lambda of each scanner, (scanner,)."""
        return np.exp(self.log_noise)

    @property
    def bias(self) -> Array:
        """kappa of each scanner, (scanner,)."""
        return np.exp(self.log_bias)
