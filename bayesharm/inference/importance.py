"""Marginal likelihood of each feature under any prior of its log-scales, by importance sampling.

Samples are drawn once from Student-t proposals around the feature's Laplace modes, and the collapsed likelihood is
computed there once. The marginal likelihood under a Normal(eta, omega²) prior is then a weighted mean (Geweke,
*Econometrica* 57, 1989).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayesharm.algorithms.devices import map_items
from bayesharm.algorithms.laplace import Laplace, fit_laplace
from bayesharm.algorithms.programs import program
from bayesharm.algorithms.student_t import draw_student_t
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.problem import Gaussian, Problem, to_log_scales
from bayesharm.likelihood.ratios import VarianceRatios

Array = jax.Array


class ImportanceSample(NamedTuple):
    """Importance samples of every feature.

    Attributes
    ----------
    coordinates : (sample, scale, feature) array
        As returned by :func:`bayesharm.likelihood.problem.to_coordinates`.
    log_scales : (sample, scale, feature) array
    log_proposal : (sample, feature) array
        Log density of the proposal.
    """

    coordinates: Array
    log_scales: Array
    log_proposal: Array


@program("n_samples", "participant_scale")
def draw_importance_sample(
    keys: Array, proposals: tuple[Laplace, ...], n_samples: int, participant_scale: int = 0
) -> ImportanceSample:
    """Draw from Student-t proposals around Laplace approximations (:func:`draw_student_t`) and convert to log-scales."""
    coordinates, log_proposal = draw_student_t(keys, proposals, n_samples)
    return ImportanceSample(coordinates, to_log_scales(participant_scale, coordinates), log_proposal)


@program("problem")
def find_modes(problem: Problem, ratios: VarianceRatios, moments: Moments, prior: Gaussian, start: Array) -> Laplace:
    """Compute the Laplace approximation of every feature's posterior under a common Normal prior, in coordinates."""
    statistics = problem.likelihood.weighted(ratios, moments)
    mean, sd = (jnp.asarray(part)[:, None] for part in prior)

    def log_density(coordinates):
        log_scales = to_log_scales(problem.participant_scale, coordinates)
        prior = log_prior(quadratic_features(log_scales), mean, jnp.log(sd), problem.hierarchy.offset_sd)[0]
        # the Jacobian of coordinates -> log-scales is 1 (:func:`to_log_scales`)
        return problem.likelihood.log_likelihood(statistics, log_scales) + prior

    return fit_laplace(log_density, start, jnp.broadcast_to(sd, start.shape))


@program("problem")
def log_importance_weights(problem: Problem, ratios: VarianceRatios, moments: Moments, sample: ImportanceSample) -> Array:
    """Compute log likelihood − log proposal at every sample, (sample, feature); -inf where it is not finite."""
    statistics = problem.likelihood.weighted(ratios, moments)

    def evaluate(log_scales):
        return problem.likelihood.log_likelihood(statistics, log_scales)

    log_weights = map_items(evaluate, sample.log_scales) - sample.log_proposal
    return jnp.where(jnp.isfinite(log_weights), log_weights, -jnp.inf)


def quadratic_features(log_scales: Array | np.ndarray) -> Array | np.ndarray:
    """Return squares and values of log-scales, in which a Normal log density is linear.

    Parameters
    ----------
    log_scales : (..., scale, feature) array

    Returns
    -------
    (2 × scale, ..., feature) array
    """
    if isinstance(log_scales, np.ndarray):
        return np.moveaxis(np.concatenate([log_scales**2, log_scales], axis=-2), -2, 0)
    return jnp.moveaxis(jnp.concatenate([log_scales**2, log_scales], axis=-2), -2, 0)


def log_prior(
    basis: Array | np.ndarray,
    mean: Array | np.ndarray,
    log_sd: Array | np.ndarray,
    offset_sd: float | Sequence[float] = 0.0,
    keep: Array | np.ndarray | float = 1.0,
) -> Array:
    """Compute the Normal log density of log-scales under many hyperparameters at once, as matrix products.

    The covariance of the log-scales of a feature is ``diag(sd²) + offset_sd offset_sdᵀ``; its inverse is that of Sherman
    and Morrison.

    Parameters
    ----------
    basis : (2 × scale, ...) array
        From :func:`quadratic_features`.
    mean, log_sd : (scale, hyper) arrays
    offset_sd : float or (scale,) sequence
        Prior sd of the offset that the log-scales of a feature share, 0 for those without.
    keep : (scale, 1) array, optional
        1 for scales of the model, 0 for scales that are left out.

    Returns
    -------
    (hyper, ...) array
    """
    precision = keep * jnp.exp(-2 * log_sd)
    coefficients = jnp.concatenate([-0.5 * precision, mean * precision])
    constant = -(0.5 * mean**2 * precision + keep * (log_sd + 0.5 * np.log(2 * np.pi))).sum(0)
    basis_rows = basis.reshape(len(basis), -1)
    value = coefficients.T @ basis_rows + constant[:, None]
    if np.any(offset_sd):
        offset = np.broadcast_to(offset_sd, len(precision)).astype(precision.dtype)[:, None]
        total, shared = (offset**2 * precision).sum(0), offset * precision
        pull = shared.T @ basis_rows[len(precision) :] - (mean * shared).sum(0)[:, None]
        value += 0.5 * pull**2 / (1 + total)[:, None] - 0.5 * jnp.log1p(total)[:, None]
    return value.reshape(-1, *basis.shape[1:])
