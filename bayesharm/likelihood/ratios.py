"""Ratios that all features share: of each scanner's noise, biases and gain; and correlations of intercepts and slopes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Array = Any  # of NumPy or of JAX


class VarianceRatios(NamedTuple):
    """Natural logarithms of the ratios of each scanner, centered over scanners, and correlations (a JAX pytree).

    Attributes
    ----------
    log_noise : (scanner,) array
        log lambda: the noise variance of scanner k is ``sigma² lambda[k]``.
    log_bias : (scanner,) array
        log kappa: the prior variance of its measurement bias is ``tau² kappa[k]``.
    log_gain : (scanner,) array
        log g: its gain multiplies differences between people.
    correlation : (slope family,) array
        atanh rho of the intercepts and slopes of each family whose effects depend on a column.
    """

    log_noise: Array
    log_bias: Array
    log_gain: Array
    correlation: Array

    @classmethod
    def equal(cls, n_scanners: int, n_correlations: int = 0) -> VarianceRatios:
        """Ratios of 1 and correlations of 0: all scanners have the same noise and gain, and biases of the same size."""
        zero = np.zeros(n_scanners)
        return cls(zero, zero, zero, np.zeros(n_correlations))

    @classmethod
    def of_variances(cls, log_noise: Array, log_bias: Array) -> VarianceRatios:
        """Ratios of noise and of biases; gains of 1."""
        return cls(log_noise, log_bias, 0 * log_noise, np.zeros(0))

    @classmethod
    def from_vector(cls, vector: Array, n_scanners: int) -> VarianceRatios:
        """Split a vector of log lambda of each scanner, log kappa, log g, and then atanh rho."""
        ends = n_scanners, 2 * n_scanners, 3 * n_scanners
        return cls(vector[: ends[0]], vector[ends[0] : ends[1]], vector[ends[1] : ends[2]], vector[ends[2] :])

    def to_vector(self) -> Array:
        """Join all to one vector, for an optimizer or a covariance matrix, (3 × scanner + slope family,)."""
        if isinstance(self.log_noise, np.ndarray):
            return np.concatenate(self)
        import jax.numpy as jnp  # takes a second, and the check of a study does without

        return jnp.concatenate(self)

    @property
    def noise(self) -> Array:
        """lambda of each scanner, (scanner,)."""
        return np.exp(self.log_noise)

    @property
    def bias(self) -> Array:
        """kappa of each scanner, (scanner,)."""
        return np.exp(self.log_bias)

    @property
    def gain(self) -> Array:
        """g of each scanner, (scanner,)."""
        return np.exp(self.log_gain)
