"""NUTS on the log-scales of every feature: the chains of all features of a block are one batch of one program.

The prior of a feature is the predictive one (:mod:`bayesharm.inference.predictive_prior`). Whitened by its Laplace
approximation, a feature's posterior is nearly standard normal: unit mass, fixed step size, hardly any warm-up.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bayesharm.algorithms.devices import run_sharded
from bayesharm.algorithms.laplace import Laplace, fit_laplace
from bayesharm.algorithms.linalg import cholesky, matvec
from bayesharm.algorithms.nuts import sample_batched
from bayesharm.algorithms.programs import program
from bayesharm.inference.importance import ImportanceSample, draw_importance_sample, log_importance_weights
from bayesharm.inference.predictive_prior import PredictivePrior, log_predictive_prior
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.normal_equations import WeightedStatistics
from bayesharm.likelihood.problem import Problem, to_coordinates, to_log_scales
from bayesharm.likelihood.ratios import VarianceRatios

Array = jax.Array
N_SAMPLES = 128  # importance samples of each feature that check its Laplace approximation and correct its whitening
PRIOR_ESS = 10  # per scale: effective sample size at which sample moments count as much as Laplace's in the whitening


class SampleShape(NamedTuple):
    """Sizes that a program is compiled for.

    Attributes
    ----------
    n_chains, n_draws : int
    max_tree_depth : int
        3 allows seven leapfrog steps. Deeper trees make draws no better here, and programs slower.
    """

    n_chains: int
    n_draws: int
    max_tree_depth: int = 3


class NutsSettings(NamedTuple):
    """Settings of NUTS that need no program of their own.

    Attributes
    ----------
    n_warmup : int
        Iterations of each chain that are discarded.
    step_size : float
        In whitened coordinates, that is in posterior sds.
    """

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
    log_weights : (sample, feature) array
        Log importance weights of the posterior against its Laplace approximation, for Pareto-k.
    last : (chain, scale, feature) array
        Whitened positions at the end, from which the chains can be continued.
    """

    log_scales: Array
    diverging: Array
    n_steps: Array
    log_weights: Array
    last: Array


@program("n_scales", "n_chains")
def start_chains(keys: Array, n_scales: int, n_chains: int) -> Array:
    """Draw the whitened positions at which the chains of each feature start, (chain, scale, feature).

    Parameters
    ----------
    keys : (feature,) PRNG keys
    """
    return jax.vmap(lambda key: jax.random.normal(key, (n_chains, n_scales)), out_axes=2)(keys)


@program("problem", "shape", "mesh")
def sample_block(
    problem: Problem,
    ratios: VarianceRatios,
    moments: Moments,
    prior: PredictivePrior,
    importance_keys: Array,
    keys: Array,
    start: Array,
    shape: SampleShape,
    settings: NutsSettings,
    mesh: Mesh | None = None,
) -> ScaleDraws:
    """Sample the log-scales of a block of features by NUTS.

    Parameters
    ----------
    problem : Problem
    ratios : VarianceRatios
    moments : Moments
    prior : PredictivePrior
        Of the features of the block, as are the moments.
    importance_keys, keys : (feature,) PRNG keys
        For the importance samples, and for NUTS.
    start : (chain, scale, feature) array
        From :func:`start_chains`, or `last` of earlier draws.
    shape : SampleShape
    settings : NutsSettings
    mesh : Mesh, optional
        As for :func:`bayesharm.algorithms.devices.run_sharded`.
    """
    offset_sd = problem.hierarchy.offset_sd

    def potential(shared, batched, z):
        (shared_terms, mean, log_sd), (feature_terms, log_weight, center, factor) = shared, batched
        statistics = WeightedStatistics(shared_terms, feature_terms)
        log_scales = to_log_scales(problem.participant_scale, center + matvec(factor, z))
        return -(
            problem.likelihood.log_likelihood(statistics, log_scales)
            + log_predictive_prior(PredictivePrior(mean, log_sd, log_weight), log_scales, offset_sd)
        )

    def sample(shared, batched):
        (ratios, mean, log_sd, settings), (moments, log_weight, importance_keys, keys, start) = shared, batched
        statistics = problem.likelihood.weighted(ratios, moments)
        laplace, samples, log_weights = approximate_scales(
            problem, ratios, moments, PredictivePrior(mean, log_sd, log_weight), importance_keys
        )
        n_features, n_scales = keys.shape[0], len(mean)
        of_chains = jax.tree.map(
            lambda leaf: jnp.repeat(leaf, shape.n_chains, axis=-1),
            (statistics.by_feature, log_weight, *whiten(laplace, samples, log_weights)),
        )
        chain_keys = jax.vmap(lambda key: jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(shape.n_chains)))(keys)
        draws = sample_batched(
            potential,
            (statistics.shared, mean, log_sd),
            of_chains,
            jnp.moveaxis(start, 0, -1).reshape(n_scales, -1),
            chain_keys.reshape(-1),
            n_warmup=settings.n_warmup,
            n_draws=shape.n_draws,
            step_size=settings.step_size,
            max_tree_depth=shape.max_tree_depth,
        )
        center, factor = of_chains[2:]
        log_scales = to_log_scales(problem.participant_scale, center + jax.vmap(matvec, (None, 0))(factor, draws.position))

        def by_chain(array):
            return jnp.moveaxis(array.reshape(*array.shape[:-1], n_features, shape.n_chains), -1, 0)

        return ScaleDraws(
            by_chain(log_scales),
            by_chain(draws.diverging),
            by_chain(draws.n_steps),
            log_weights,
            by_chain(draws.position[-1]),
        )

    shared = (ratios, prior.mean, prior.log_sd, settings)
    return run_sharded(sample, mesh, shared, (moments, prior.log_weight, importance_keys, keys, start))


@program("problem", "mesh")
def approximate_block(
    problem: Problem,
    ratios: VarianceRatios,
    moments: Moments,
    prior: PredictivePrior,
    keys: Array,
    mesh: Mesh | None = None,
) -> ScaleDraws:
    """Represent each posterior by points with its mean and covariance, from Laplace and importance sampling.

    Averages over the points are exact for polynomials up to the third degree (spherical cubature rule; Arasaratnam &
    Haykin, *IEEE Trans. Autom. Control* 54, 2009). A feature without a mode counts as diverging.

    Parameters
    ----------
    problem, ratios, moments, prior, mesh
        As for :func:`sample_block`.
    keys : (feature,) PRNG keys

    Returns
    -------
    ScaleDraws
        Of one chain; two points for each scale.
    """

    def approximate(shared, batched):
        (ratios, mean, log_sd), (moments, log_weight, keys) = shared, batched
        prior = PredictivePrior(mean, log_sd, log_weight)
        laplace, samples, log_weights = approximate_scales(problem, ratios, moments, prior, keys)
        center, factor = whiten(laplace, samples, log_weights)
        away = np.sqrt(len(center)).astype(center.dtype) * jnp.swapaxes(factor, 0, 1)
        points = jnp.concatenate([center + away, center - away])
        failed = jnp.broadcast_to(~laplace.converged, (1, len(points), len(keys)))
        log_scales = to_log_scales(problem.participant_scale, points)[None]
        return ScaleDraws(log_scales, failed, jnp.zeros_like(failed, int), log_weights, laplace.mode[None])

    shared = (ratios, prior.mean, prior.log_sd)
    return run_sharded(approximate, mesh, shared, (moments, prior.log_weight, keys))


def approximate_scales(
    problem: Problem, ratios: VarianceRatios, moments: Moments, prior: PredictivePrior, keys: Array
) -> tuple[Laplace, ImportanceSample, Array]:
    """Return each feature's Laplace approximation, samples drawn from it, and their log weights, (sample, feature)."""
    laplace = find_mode_of_scales(problem, ratios, moments, prior)
    return laplace, *sample_around(problem, ratios, moments, prior, laplace, keys)


def sample_around(
    problem: Problem, ratios: VarianceRatios, moments: Moments, prior: PredictivePrior, laplace: Laplace, keys: Array
) -> tuple[ImportanceSample, Array]:
    """Draw samples from a Laplace approximation; also return their log weights, (sample, feature)."""
    samples = draw_importance_sample(keys, (laplace,), N_SAMPLES, problem.participant_scale)
    log_weights = log_importance_weights(problem, ratios, moments, samples)
    return samples, log_weights + log_predictive_prior(prior, samples.log_scales, problem.hierarchy.offset_sd)


def find_mode_of_scales(problem: Problem, ratios: VarianceRatios, moments: Moments, prior: PredictivePrior) -> Laplace:
    """Compute the Laplace approximation of each feature's log-scales, in coordinates."""
    statistics = problem.likelihood.weighted(ratios, moments)
    offset_sd = problem.hierarchy.offset_sd

    def log_density(coordinates):
        log_scales = to_log_scales(problem.participant_scale, coordinates)
        log_prior = log_predictive_prior(prior, log_scales, offset_sd)
        return problem.likelihood.log_likelihood(statistics, log_scales) + log_prior

    center = jnp.broadcast_to(jnp.asarray(prior.mean).mean(1)[:, None], (len(prior.mean), moments.n_features))
    center = to_coordinates(problem.participant_scale, center)
    prior_sd = jnp.sqrt(jnp.mean(jnp.exp(2 * prior.log_sd), 1) + prior.mean.var(1) + np.square(offset_sd))
    return fit_laplace(log_density, center, jnp.broadcast_to(prior_sd[:, None], center.shape))


def whiten(laplace: Laplace, samples: ImportanceSample, log_weights: Array) -> tuple[Array, Array]:
    """Return center and covariance factor of each posterior.

    They are averages of the importance-weighted moments and Laplace's; the former count by their effective sample size.

    Returns
    -------
    center : (scale, feature) array
    factor : (scale, scale, feature) array
    """
    weight = jax.nn.softmax(log_weights, axis=0)
    ess = 1 / (weight**2).sum(0)
    share = ess / (ess + PRIOR_ESS * len(laplace.mode))
    mean = jnp.einsum("nf,nsf->sf", weight, samples.coordinates)
    away = samples.coordinates - mean
    covariance = jnp.einsum("nf,nsf,ntf->stf", weight, away, away)
    curvature = jnp.einsum("suf,tuf->stf", laplace.factor, laplace.factor)
    factor = cholesky(share * covariance + (1 - share) * curvature)
    is_valid = jnp.isfinite(factor).all((0, 1))
    center = share * mean + (1 - share) * laplace.mode
    return jnp.where(is_valid, center, laplace.mode), jnp.where(is_valid, factor, laplace.factor)
