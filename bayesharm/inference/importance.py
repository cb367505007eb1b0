"""Each feature's marginal likelihood under any prior of its scales, by importance sampling around its Laplace mode.

Nodes are drawn once from a multivariate Student-t and the collapsed likelihood is computed there once; the marginal
likelihood under a Normal(eta, omega²) prior is then a weighted sum (Geweke, *Econometrica* 57, 1989).
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from bayesharm.algorithms.devices import map_some
from bayesharm.algorithms.laplace import Laplace, fit_laplace
from bayesharm.algorithms.student_t import draw_student_t
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.problem import Gaussian, Problem, to_log_scales
from bayesharm.likelihood.ratios import VarianceRatios

Array = jax.Array


class ImportanceSample(NamedTuple):
    """Importance nodes; the feature axis last.

    Attributes
    ----------
    coordinates : (node, scale, feature) array
        As :func:`bayesharm.likelihood.problem.to_coordinates` gives them.
    log_scales : (node, scale, feature) array
    log_proposal : (node, feature) array
        Log density of the proposal.
    """

    coordinates: Array
    log_scales: Array
    log_proposal: Array


@partial(jax.jit, static_argnums=(2, 3))
def draw_importance_sample(keys: Array, proposals: tuple[Laplace, ...], n_nodes: int, pair: int = 0) -> ImportanceSample:
    """Draw nodes from Student-t proposals around Laplace approximations, (:func:`draw_student_t`), as log-scales too."""
    coordinates, log_proposal = draw_student_t(keys, proposals, n_nodes)
    return ImportanceSample(coordinates, to_log_scales(pair, coordinates), log_proposal)


@partial(jax.jit, static_argnums=0)
def find_modes(problem: Problem, ratios: VarianceRatios, moments: Moments, prior: Gaussian, start: Array) -> Laplace:
    """Laplace approximation of every feature's posterior under a common Normal prior, in coordinates."""
    statistics = problem.likelihood.weighted(ratios, moments)
    mean, sd = (jnp.asarray(part)[:, None] for part in prior)

    def log_density(coordinates):
        log_scales = to_log_scales(problem.pair, coordinates)
        prior = log_prior(quadratic_features(log_scales), mean, jnp.log(sd), problem.priors.feature_offset_sd)[0]
        return problem.likelihood.log_likelihood(statistics, log_scales) + prior

    return fit_laplace(log_density, start, jnp.broadcast_to(sd, start.shape))


@partial(jax.jit, static_argnums=0)
def log_importance_weights(problem: Problem, ratios: VarianceRatios, moments: Moments, nodes: ImportanceSample) -> Array:
    """log likelihood − log proposal at every node, (node, feature)."""
    statistics = problem.likelihood.weighted(ratios, moments)

    def evaluate(log_scales):
        return problem.likelihood.log_likelihood(statistics, log_scales)

    value = map_some(evaluate, nodes.log_scales) - nodes.log_proposal
    return jnp.where(jnp.isfinite(value), value, -jnp.inf)


def quadratic_features(log_scales: Array) -> Array:
    """What a Normal log density of the log-scales is linear in: squares and values.

    Parameters
    ----------
    log_scales : (..., scale, feature) array

    Returns
    -------
    (2 × scale, ..., feature) array
    """
    return jnp.moveaxis(jnp.concatenate([log_scales**2, log_scales], axis=-2), -2, 0)


def log_prior(
    basis: Array,
    mean: Array | np.ndarray,
    log_sd: Array | np.ndarray,
    feature_offset_sd: float = 0.0,
    keep: Array | np.ndarray | float = 1.0,
) -> Array:
    """Normal log density of log-scales under many hyperparameters at once, as matrix products.

    Their covariance is ``diag(sd²) + amplitude_sd² 11ᵀ``, its inverse by Sherman and Morrison.

    Parameters
    ----------
    basis : (2 × scale, ...) array
        From :func:`quadratic_features`.
    mean, log_sd : (scale, hyper) arrays
    feature_offset_sd : float
        Prior sd of what all log-scales of a feature have in common.
    keep : (scale, 1) array, optional
        1 for scales that there are, 0 for those that do not count.

    Returns
    -------
    (hyper, ...) array
    """
    precision = keep * jnp.exp(-2 * log_sd)
    coefficients = jnp.concatenate([-0.5 * precision, mean * precision])
    constant = -(0.5 * mean**2 * precision + keep * (log_sd + 0.5 * np.log(2 * np.pi))).sum(0)
    basis_rows = basis.reshape(len(basis), -1)
    value = coefficients.T @ basis_rows + constant[:, None]
    if feature_offset_sd:
        total = precision.sum(0)
        pull = precision.T @ basis_rows[len(precision) :] - (mean * precision).sum(0)[:, None]
        value += (
            0.5 * pull**2 / (feature_offset_sd**-2 + total)[:, None] - 0.5 * jnp.log1p(feature_offset_sd**2 * total)[:, None]
        )
    return value.reshape(-1, *basis.shape[1:])


def log_marginal(basis: Array, log_weight: Array, mean: Array, log_sd: Array, feature_offset_sd: float = 0.0) -> Array:
    """log p(feature | eta, omega) for every feature and hyperparameter, (hyper, feature).

    Parameters
    ----------
    basis : (2 × scale, node, feature) array
    log_weight : (node, feature) array
        From :func:`log_importance_weights`.
    mean, log_sd : (scale, hyper) arrays
    feature_offset_sd : float
    """
    return logsumexp(log_weight + log_prior(basis, mean, log_sd, feature_offset_sd), axis=1) - np.log(log_weight.shape[0])


@partial(jax.jit, static_argnums=4)
def log_marginals(basis: Array, log_weight: Array, mean: Array, log_sd: Array, feature_offset_sd: float) -> Array:
    """What :func:`log_marginal` gives for many hyperparameters, one after the other, (feature, hyper)."""

    def one(hyper):
        return log_marginal(basis, log_weight, hyper[0][:, None], hyper[1][:, None], feature_offset_sd)[0]

    return jax.lax.map(one, (mean.T, log_sd.T)).T


@partial(jax.jit, static_argnums=(4, 5))
def subsample(
    key: Array, basis: Array, log_weight: Array, hyper: tuple[Array, Array], n_kept: int, feature_offset_sd: float = 0.0
) -> tuple[Array, Array]:
    """Fewer nodes for the same marginal likelihoods: systematic sampling with probability proportional to size.

    Most nodes weigh nothing wherever the hyperparameters can be. The size of a node is its largest share of a feature's
    marginal likelihood under any of some hyperparameters; what is kept with probability p weighs 1/p, so that
    marginal likelihoods keep their expectation (Horvitz & Thompson, *JASA* 47, 1952).

    Parameters
    ----------
    key : PRNG key
    basis : (2 × scale, node, feature) array
    log_weight : (node, feature) array
    hyper : tuple of (scale, hyper) arrays
        Means and log sds that matter.
    n_kept : int
    feature_offset_sd : float

    Returns
    -------
    basis : (2 × scale, n_kept, feature) array
    log_weight : (n_kept, feature) array
    """
    n_nodes, n_features = log_weight.shape

    def largest(size, one):
        mean, log_sd = (part[:, None] for part in one)
        terms = log_weight + log_prior(basis, mean, log_sd, feature_offset_sd)[0]
        return jnp.maximum(size, jax.nn.softmax(terms, axis=0)), None

    size, _ = jax.lax.scan(largest, jnp.full_like(log_weight, 1e-6), tuple(part.T for part in hyper))

    def share(p, _):  # those that would be kept more than once are kept, the others share the rest
        free = p < 1
        rest = n_kept - (~free).sum(0)
        return jnp.where(free, jnp.minimum(1.0, size * rest / jnp.where(free, size, 0).sum(0)), 1.0), None

    p, _ = jax.lax.scan(share, jnp.zeros_like(size), length=20)
    sums = jnp.cumsum(p, axis=0)
    ticks = jax.random.uniform(key, (n_features,), sums.dtype) + jnp.arange(n_kept, dtype=sums.dtype)[:, None]
    kept = jnp.minimum(jax.vmap(jnp.searchsorted, in_axes=1, out_axes=1)(sums, ticks), n_nodes - 1)
    thinned = jnp.take_along_axis(log_weight - jnp.log(p), kept, axis=0) + np.log(n_kept / n_nodes)
    return jnp.take_along_axis(basis, kept[None], axis=1), thinned
