"""The prior of a feature's log-scales given the hyperparameters, and the positions in which inference holds the latter.

Every sd has hyperparameters of its own: ``log tau[c,f] ~ Normal(eta[c] + a[f], omega[c]²)``. Noise ratios of a scanner and
feature share one omega, and have no offset a[f]: ``delta[k,f] ~ Normal(0, omega²)``. The likelihood depends on the sum of
delta and log sqrt(lambda) alone. While inference learns the hyperparameters, a log-scale of a noise ratio is this sum,
lambda in the likelihood is 1, and ``eta[k] = log sqrt(lambda[k])``, so that nothing else differs between scales and ratios.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from bayesharm.model.spec import Priors

Array = Any  # of NumPy or of JAX


@dataclass(frozen=True)
class Hierarchy:
    """Hyperpriors, and which scales share hyperparameters; a static argument of compiled programs.

    A *position* holds eta of every scale, then omega_excess of every group of scales. Groups are the sds, each alone, and
    the noise ratios, all together.

    Attributes
    ----------
    priors : Priors
        ``feature_offset_sd`` is 0 where all features are divided by a common sd.
    n_scales : int
    n_sds : int
        Scales that are sds; the others, the last, are noise ratios.
    """

    priors: Priors
    n_scales: int
    n_sds: int

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return self.n_sds + (self.n_sds < self.n_scales)

    @property
    def eta_sd(self) -> np.ndarray:
        """Prior sd of eta, (scale,); of noise ratios before they are centered."""
        return np.repeat([self.priors.eta_sd, self.priors.noise_ratio_sd / 2], [self.n_sds, self.n_scales - self.n_sds])

    @property
    def offset_sd(self) -> float | tuple[float, ...]:
        """Prior sd of the feature offset in the log-scales: a number, or one for each scale, 0 for noise ratios."""
        offset_sd = self.priors.feature_offset_sd
        if self.n_sds == self.n_scales or not offset_sd:
            return offset_sd
        return (offset_sd,) * self.n_sds + (0.0,) * (self.n_scales - self.n_sds)

    def split(self, position: Array) -> tuple[Array, Array, Array]:
        """Split positions, (dimension, …), into eta, omega_excess and the rest."""
        n, end = self.n_scales, self.n_scales + self.n_groups
        return position[:n], position[n:end], position[end:]

    @property
    def group(self) -> np.ndarray:
        """Group of each scale, (scale,) int array."""
        return np.minimum(np.arange(self.n_scales), self.n_sds)

    @property
    def centering(self) -> np.ndarray:
        """Matrix that centers eta of the noise ratios over scanners, as log lambda is, (scale, scale)."""
        is_ratio = np.arange(self.n_scales) >= self.n_sds
        return np.eye(self.n_scales) - np.outer(is_ratio, is_ratio) / max(1, self.n_scales - self.n_sds)

    def center(self, eta: Array) -> Array:
        """Center eta of the noise ratios, (scale, …)."""
        return eta if self.n_sds == self.n_scales else self.centering.astype(eta.dtype) @ eta

    def of_scales(self, of_groups: Array) -> Array:
        """Give every scale the value of its group, (group, …) -> (scale, …)."""
        return of_groups if self.n_sds == self.n_scales else of_groups[self.group]

    def log_omega(self, omega_excess: Array) -> Array:
        """Return log omega of each group, for omega_excess of either sign."""
        return 0.5 * jnp.log(omega_excess**2 + self.priors.omega_floor**2)
