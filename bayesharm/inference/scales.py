"""NUTS on the scales of every feature: four chains of each feature are four lanes of one program.

The prior of a feature is predictive: the mixture of ``Normal(eta, omega²)`` over posterior draws of the hyperparameters,
each weighted by one over the feature's own marginal likelihood, so that the feature is not counted twice. Whitened
by its Laplace approximation, a feature's posterior is nearly standard normal: unit mass, fixed step, no warm-up search.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bayesharm.algorithms.devices import share_out
from bayesharm.algorithms.laplace import Laplace, fit_laplace
from bayesharm.algorithms.linalg import cholesky, matvec
from bayesharm.algorithms.nuts import sample_batched
from bayesharm.inference.importance import ImportanceSample, draw_importance_sample, log_importance_weights
from bayesharm.inference.predictive_prior import PredictivePrior, log_predictive_prior
from bayesharm.likelihood.collapsed import WeightedStatistics
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.problem import Problem, to_coordinates, to_log_scales
from bayesharm.likelihood.ratios import VarianceRatios

Array = jax.Array
N_NODES = 128  # what a Laplace approximation is judged and mended by


class SampleShape(NamedTuple):
    """What a compiled program is made for."""

    n_chains: int
    n_draws: int
    max_tree_depth: int = 3  # seven steps; deeper trees make a draw no better here, and programs slower


class NutsSettings(NamedTuple):
    """How carefully it runs; another pace needs no other program."""

    n_warmup: int
    step_size: float


class ScaleDraws(NamedTuple):
    """Posterior draws of the log-scales of a block of features.

    Attributes
    ----------
    log_scales : (chain, draw, scale, feature) array
        Of standardized features.
    diverging : (chain, draw, feature) bool array
    n_steps : (chain, draw, feature) int array
        Leapfrog steps.
    log_weights : (node, feature) array
        Log importance ratios of the posterior to its Laplace approximation, for Pareto-k.
    last : (chain, scale, feature) array
        Where the chains are in the end, whitened, so that they can go on.
    """

    log_scales: Array
    diverging: Array
    n_steps: Array
    log_weights: Array
    last: Array


@partial(jax.jit, static_argnums=(1, 2))
def start_chains(keys: Array, n_scales: int, n_chains: int) -> Array:
    """Where the chains of each feature begin, whitened, (chain, scale, feature).

    Parameters
    ----------
    keys : (feature,) PRNG keys
    """
    return jax.vmap(lambda key: jax.random.normal(key, (n_chains, n_scales)), out_axes=2)(keys)


@partial(jax.jit, static_argnums=(0, 7), static_argnames="mesh")
def sample_block(
    problem: Problem,
    ratios: VarianceRatios,
    moments: Moments,
    mixture: PredictivePrior,
    node_keys: Array,
    keys: Array,
    start: Array,
    effort: SampleShape,
    pace: NutsSettings,
    mesh: Mesh | None = None,
) -> ScaleDraws:
    """Sample the log-scales of a block of features.

    Parameters
    ----------
    problem : Problem
    ratios : VarianceRatios
    moments : Moments
        Of the block.
    mixture : Mixture
        Predictive prior of the block's features.
    node_keys, keys : (feature,) PRNG keys
    start : (chain, scale, feature) array
        From :func:`start_chains`, or the end of draws before.
    effort : Effort
    pace : Pace
    mesh : Mesh, optional
        As for :func:`bayesharm.algorithms.devices.share_out`.
    """
    feature_offset_sd = problem.priors.feature_offset_sd

    def potential(shared, own, z):
        (shared_terms, mean, log_sd), (feature_terms, log_weight, mode, factor) = shared, own
        statistics = WeightedStatistics(shared_terms, feature_terms)
        log_scales = to_log_scales(problem.pair, mode + matvec(factor, z))
        return -(
            problem.likelihood.log_likelihood(statistics, log_scales)
            + log_predictive_prior(PredictivePrior(mean, log_sd, log_weight), log_scales, feature_offset_sd)
        )

    def sample(shared, own):
        (ratios, mean, log_sd, pace), (moments, log_weight, node_keys, keys, start) = shared, own
        statistics = problem.likelihood.weighted(ratios, moments)
        laplace, nodes, log_weights = _laplace_with_diagnostics(
            problem, ratios, moments, PredictivePrior(mean, log_sd, log_weight), node_keys
        )
        n_features, n_scales = keys.shape[0], len(mean)
        of_lanes = jax.tree.map(
            lambda leaf: jnp.repeat(leaf, effort.n_chains, axis=-1),
            (statistics.by_feature, log_weight, *_whitening(laplace, nodes, log_weights)),
        )
        chain_keys = jax.vmap(lambda key: jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(effort.n_chains)))(keys)
        draws = sample_batched(
            potential,
            (statistics.shared, mean, log_sd),
            of_lanes,
            jnp.moveaxis(start, 0, -1).reshape(n_scales, -1),
            chain_keys.reshape(-1),
            n_warmup=pace.n_warmup,
            n_draws=effort.n_draws,
            step_size=pace.step_size,
            max_tree_depth=effort.max_tree_depth,
        )
        mode, factor = of_lanes[2:]
        log_scales = to_log_scales(problem.pair, mode + jax.vmap(matvec, (None, 0))(factor, draws.position))

        def by_chain(array):
            return jnp.moveaxis(array.reshape(*array.shape[:-1], n_features, effort.n_chains), -1, 0)

        return ScaleDraws(
            by_chain(log_scales),
            by_chain(draws.diverging),
            by_chain(draws.n_steps),
            log_weights,
            by_chain(draws.position[-1]),
        )

    shared = (ratios, mixture.mean, mixture.log_sd, pace)
    return share_out(sample, mesh, shared, (moments, mixture.log_weight, node_keys, keys, start))


@partial(jax.jit, static_argnums=0, static_argnames="mesh")
def approximate_block(
    problem: Problem,
    ratios: VarianceRatios,
    moments: Moments,
    mixture: PredictivePrior,
    keys: Array,
    mesh: Mesh | None = None,
) -> ScaleDraws:
    """In place of draws, points with the mean and the covariance of each posterior, by Laplace and importance sampling.

    Averages over them are exact for polynomials to the third degree (Arasaratnam & Haykin, *IEEE Trans. Autom. Control* 54,
    2009). A feature whose mode was not found counts as diverging.

    Parameters
    ----------
    problem, ratios, moments, mixture, mesh
        As for :func:`sample_block`.
    keys : (feature,) PRNG keys

    Returns
    -------
    ScaleDraws
        Of one chain; two points for each scale.
    """

    def approximate(shared, own):
        (ratios, mean, log_sd), (moments, log_weight, keys) = shared, own
        mixture = PredictivePrior(mean, log_sd, log_weight)
        laplace, nodes, log_weights = _laplace_with_diagnostics(problem, ratios, moments, mixture, keys)
        center, factor = _whitening(laplace, nodes, log_weights)
        away = np.sqrt(len(center)).astype(center.dtype) * jnp.swapaxes(factor, 0, 1)
        points = jnp.concatenate([center + away, center - away])
        failed = jnp.broadcast_to(~laplace.converged, (1, len(points), len(keys)))
        log_scales = to_log_scales(problem.pair, points)[None]
        return ScaleDraws(log_scales, failed, jnp.zeros_like(failed, int), log_weights, laplace.mode[None])

    shared = (ratios, mixture.mean, mixture.log_sd)
    return share_out(approximate, mesh, shared, (moments, mixture.log_weight, keys))


def _laplace_with_diagnostics(
    problem: Problem, ratios: VarianceRatios, moments: Moments, mixture: PredictivePrior, keys: Array
) -> tuple[Laplace, ImportanceSample, Array]:
    """Laplace approximation of each feature, nodes drawn from it, and their log importance ratios, (node, feature)."""
    statistics = problem.likelihood.weighted(ratios, moments)
    feature_offset_sd = problem.priors.feature_offset_sd

    def log_density(coordinates):
        log_scales = to_log_scales(problem.pair, coordinates)
        prior = log_predictive_prior(mixture, log_scales, feature_offset_sd)
        return problem.likelihood.log_likelihood(statistics, log_scales) + prior

    center = jnp.broadcast_to(jnp.asarray(mixture.mean).mean(1)[:, None], (len(mixture.mean), len(keys)))
    center = to_coordinates(problem.pair, center)
    spread = jnp.sqrt(jnp.mean(jnp.exp(2 * mixture.log_sd), 1) + mixture.mean.var(1) + feature_offset_sd**2)
    laplace = fit_laplace(log_density, center, jnp.broadcast_to(spread[:, None], center.shape))
    nodes = draw_importance_sample(keys, (laplace,), N_NODES, problem.pair)
    log_weights = log_importance_weights(problem, ratios, moments, nodes)
    return laplace, nodes, log_weights + log_predictive_prior(mixture, nodes.log_scales, feature_offset_sd)


def _whitening(laplace: Laplace, nodes: ImportanceSample, log_weights: Array) -> tuple[Array, Array]:
    """Center and covariance factor of each posterior: the importance-weighted ones, and Laplace's where weights are few.

    Returns
    -------
    center : (scale, feature) array
    factor : (scale, scale, feature) array
    """
    weight = jax.nn.softmax(log_weights, axis=0)
    n_effective = 1 / (weight**2).sum(0)
    share = n_effective / (n_effective + 10 * len(laplace.mode))
    mean = jnp.einsum("nf,nsf->sf", weight, nodes.coordinates)
    away = nodes.coordinates - mean
    covariance = jnp.einsum("nf,nsf,ntf->stf", weight, away, away)
    curvature = jnp.einsum("suf,tuf->stf", laplace.factor, laplace.factor)
    factor = cholesky(share * covariance + (1 - share) * curvature)
    fine = jnp.isfinite(factor).all((0, 1))
    center = share * mean + (1 - share) * laplace.mode
    return jnp.where(fine, center, laplace.mode), jnp.where(fine, factor, laplace.factor)
