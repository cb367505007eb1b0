"""Joint density of hyperparameters, variance ratios and the scales of many features, and coordinates that whiten it.

The effects are integrated out. A *position* holds whitened hyperparameters and ratios, then the whitened scales z of each
feature: its scales are ``mean + factor z``, with mean and factor of their Gaussian posterior given the hyperparameters
(:mod:`bayesharm.inference.gaussian_likelihood`). Both move with the hyperparameters, so that a position is nearly standard
normal, whether the data determine a scale or not. This is a non-centered parameterization (Papaspiliopoulos, Roberts &
Sköld, *Statistical Science* 22, 2007), around the posterior instead of the prior.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayesharm.inference.gaussian_likelihood import GaussianLikelihood, condition_scales, place_scales
from bayesharm.inference.hyper_approximation import HyperApproximation
from bayesharm.inference.importance import log_prior, quadratic_features
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.problem import Problem, to_log_scales

Array = jax.Array


class Parameters(NamedTuple):
    """All unknowns that are not integrated out (a JAX pytree).

    Attributes
    ----------
    eta : (scale,) array
        Of noise ratios before centering.
    omega_excess : (group,) array
        Of either sign; its prior is symmetric. :class:`~bayesharm.likelihood.hierarchy.Hierarchy` defines the groups.
    raw_ratios : (ratio,) array
        log lambda, log kappa, log g, before centering over scanners, and atanh rho; 0 where the model has no such ratios.
    log_scales : (scale, feature) array
        With noise ratios of each feature, lambda is in these, not in `raw_ratios`.
    """

    eta: Array
    omega_excess: Array
    raw_ratios: Array
    log_scales: Array


class Whitening(NamedTuple):
    """Map from positions to parameters (a JAX pytree).

    Attributes
    ----------
    center : (shared,) array
        eta, omega_excess and raw ratios at position 0.
    factor : (shared, shared) array
        Lower triangular.
    likelihood : GaussianLikelihood
        Of all features.
    """

    center: Array
    factor: Array
    likelihood: GaussianLikelihood


def log_density(problem: Problem, moments: Moments, parameters: Parameters) -> Array:
    """Compute the log density of the model, all effects integrated out; constants of the half-normal prior are left out.

    Its priors are written separately from those of :mod:`bayesharm.reference_models`, which check it.
    """
    hierarchy, (eta, omega_excess, raw, log_scales) = problem.hierarchy, parameters
    statistics = problem.likelihood.weighted(problem.ratios(jnp.asarray(problem.centering) @ raw), moments)
    mean, log_sd = hierarchy.center(eta), hierarchy.of_scales(hierarchy.log_omega(omega_excess))
    prior_of_scales = log_prior(quadratic_features(log_scales), mean[:, None], log_sd[:, None], hierarchy.offset_sd)[0]
    squares = (
        (((eta - problem.log_medians) / hierarchy.eta_sd) ** 2).sum()
        + ((omega_excess / hierarchy.priors.omega_sd) ** 2).sum()
        + ((raw / problem.ratio_sd) ** 2).sum()
    )
    return (problem.likelihood.log_likelihood(statistics, log_scales) + prior_of_scales).sum() - 0.5 * squares


def to_parameters(problem: Problem, whitening: Whitening, position: Array) -> tuple[Parameters, Array]:
    """Map a position to parameters; also return the log determinant of the map, up to a constant."""
    n_shared, hierarchy, likelihood = len(whitening.center), problem.hierarchy, whitening.likelihood
    shared = whitening.center + whitening.factor @ position[:n_shared]
    eta, omega_excess, free = hierarchy.split(shared)
    raw = jnp.zeros(problem.n_ratios, shared.dtype).at[free_ratios(problem)].set(free)
    log_sd = hierarchy.of_scales(hierarchy.log_omega(omega_excess))
    conditioned = condition_scales(likelihood, hierarchy.center(eta), log_sd, hierarchy.offset_sd)
    coordinates = place_scales(conditioned, position[n_shared:].reshape(likelihood.center.shape))
    log_determinant = jnp.log(jnp.diagonal(conditioned.factor)).sum()
    return Parameters(eta, omega_excess, raw, to_log_scales(problem.participant_scale, coordinates)), log_determinant


def free_ratios(problem: Problem) -> np.ndarray:
    """Return the positions, among all ratios, of those that the model has."""
    return np.flatnonzero(problem.is_free)


def start_whitening(problem: Problem, approximation: HyperApproximation) -> Whitening:
    """Whiten hyperparameters and ratios by their approximate posterior."""
    mode, factor = approximation.mode.copy(), approximation.factor.copy()
    n_scales = problem.hierarchy.n_scales
    mode[n_scales:] = np.exp(mode[n_scales:])  # from the logarithm of omega_excess to itself
    factor[n_scales:] *= mode[n_scales:, None]
    free = free_ratios(problem)
    # centered ratios do not vary together, raw ones do, as in their prior
    together = problem.ratio_sd[:, None] * problem.common * problem.ratio_sd
    covariance = approximation.ratios.covariance + together + 1e-9 * np.eye(problem.n_ratios)
    blocks = factor, np.linalg.cholesky(covariance[np.ix_(free, free)])
    whole = np.zeros((len(mode) + len(free),) * 2)
    whole[: len(mode), : len(mode)], whole[len(mode) :, len(mode) :] = blocks
    center = np.concatenate([mode, approximation.ratios.mean.to_vector()[free]])
    return Whitening(jnp.asarray(center), jnp.asarray(whole), approximation.likelihood)
