"""Placement of importance samples where the hyperparameters are."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from bayesharm.algorithms.laplace import Laplace
from bayesharm.inference.expansion import expand_at_modes
from bayesharm.inference.importance import ImportanceSample, draw_importance_sample
from bayesharm.likelihood.hierarchy import Hierarchy
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.problem import Gaussian, Problem
from bayesharm.likelihood.ratios import VarianceRatios

Array = jax.Array
DRAWN_AT_ONCE = 2**16  # samples × features; drawing needs ten times the memory of the samples that it returns
MIN_POOLING_SD = 0.5  # smallest prior sd, of log-scales, of the proposal that hardly pools features


def prior_at(hierarchy: Hierarchy, center: np.ndarray) -> Gaussian:
    """Return the prior of the log-scales at eta and log omega_excess, ``omega² = omega_excess² + omega_floor²``."""
    eta, log_omega_excess, _ = hierarchy.split(center)
    omega = np.hypot(np.exp(log_omega_excess), hierarchy.priors.omega_floor)
    return Gaussian(hierarchy.center(eta), hierarchy.of_scales(omega))


def place_importance_samples(
    problem: Problem,
    moments: Moments,
    center: np.ndarray,
    eta_sd: np.ndarray,
    ratios: VarianceRatios,
    keys: Array,
    n_samples: int,
    starts: tuple[Array, ...],
) -> tuple[ImportanceSample, tuple[Laplace, ...]]:
    """Draw samples around each feature's modes under four priors: omega halved, as given, doubled, and hardly pooling.

    Samples of one proposal cover only an omega close to its own: those of a narrow prior cannot distinguish larger values
    of omega, and few of those of a wide prior are where a narrow one has its mass.

    Parameters
    ----------
    problem : Problem
    moments : Moments
    center : (dimension,) array
        Position of the hyperparameters: eta and log omega_excess.
    eta_sd : (scale,) array
        Posterior sd of eta.
    ratios : VarianceRatios
    keys : (feature,) PRNG keys
    n_samples : int
        For each feature.
    starts : tuple of (scale, feature) arrays
        Coordinates where the search for each mode begins; a missing one begins at the mode before it.

    Returns
    -------
    sample : ImportanceSample
    modes : tuple of Laplace
        The proposals.
    """
    eta, omega = prior_at(problem.hierarchy, center)
    prior_sds = (0.5 * omega, omega, 2 * omega, np.hypot(np.maximum(2 * omega, MIN_POOLING_SD), 1.5 * eta_sd))
    modes: list[Laplace] = []
    for k, prior_sd in enumerate(prior_sds):
        start = starts[k] if k < len(starts) else modes[-1].mode
        _, (mode, factor, _) = expand_at_modes(problem, ratios, moments, Gaussian(eta, prior_sd), start)
        modes.append(Laplace(mode, factor, jnp.asarray(np.isfinite(mode).all(0))))
    size = max(1, DRAWN_AT_ONCE // n_samples)
    blocks = [slice(start, start + size) for start in range(0, len(keys), size)]
    parts = [
        draw_importance_sample(
            keys[block],
            tuple(Laplace(*(part[..., block] for part in mode)) for mode in modes),
            n_samples,
            problem.participant_scale,
        )
        for block in blocks
    ]
    sample = ImportanceSample(*(jnp.concatenate(part, axis=-1) for part in zip(*parts, strict=True)))
    return sample, tuple(modes)
