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
from bayesharm.algorithms.nuts import sample_lanes
from bayesharm.inference.importance import Nodes, draw_nodes, evaluate_nodes
from bayesharm.inference.predictive_prior import Mixture, log_mixture
from bayesharm.likelihood.marginal import condense, log_likelihood
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.problem import Problem, to_coordinates, to_log_scales

Array = jax.Array
N_NODES = 128  # what a Laplace approximation is judged and mended by


class Effort(NamedTuple):
    """What a compiled program is made for."""

    n_chains: int
    n_draws: int
    max_tree_depth: int = 3  # seven steps; deeper trees make a draw no better here, and programs slower


class Pace(NamedTuple):
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
    log_ratios : (node, feature) array
        Log importance ratios of the posterior to its Laplace approximation, for Pareto-k.
    last : (chain, scale, feature) array
        Where the chains are in the end, whitened, so that they can go on.
    """

    log_scales: Array
    diverging: Array
    n_steps: Array
    log_ratios: Array
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
    log_ratio: Array,
    moments: Moments,
    mixture: Mixture,
    node_keys: Array,
    keys: Array,
    start: Array,
    effort: Effort,
    pace: Pace,
    mesh: Mesh | None = None,
) -> ScaleDraws:
    """Sample the log-scales of a block of features.

    Parameters
    ----------
    problem : Problem
    log_ratio : (2 × scanner,) array
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
    amplitude_sd = problem.priors.amplitude_sd

    def potential(shared, own, z):
        (constants, mean, log_sd), (condensed, log_weight, mode, factor) = shared, own
        log_scales = to_log_scales(problem.pair, mode + matvec(factor, z))
        return -(
            log_likelihood(problem.plan, constants, condensed, log_scales)
            + log_mixture(Mixture(mean, log_sd, log_weight), log_scales, amplitude_sd)
        )

    def sample(shared, own):
        (log_ratio, mean, log_sd, pace), (moments, log_weight, node_keys, keys, start) = shared, own
        constants, condensed = condense(problem.plan, log_ratio, moments)
        laplace, nodes, log_ratios = _explore(
            problem, log_ratio, moments, Mixture(mean, log_sd, log_weight), node_keys
        )
        n_features, n_scales = keys.shape[0], len(mean)
        of_lanes = jax.tree.map(
            lambda leaf: jnp.repeat(leaf, effort.n_chains, axis=-1),
            (condensed, log_weight, *_whitening(laplace, nodes, log_ratios)),
        )
        chain_keys = jax.vmap(lambda key: jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(effort.n_chains)))(keys)
        draws = sample_lanes(
            potential,
            (constants, mean, log_sd),
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
            log_ratios,
            by_chain(draws.position[-1]),
        )

    shared = (log_ratio, mixture.mean, mixture.log_sd, pace)
    return share_out(sample, mesh, shared, (moments, mixture.log_weight, node_keys, keys, start))


@partial(jax.jit, static_argnums=0, static_argnames="mesh")
def approximate_block(
    problem: Problem, log_ratio: Array, moments: Moments, mixture: Mixture, keys: Array, mesh: Mesh | None = None
) -> ScaleDraws:
    """In place of draws, points with the mean and the covariance of each posterior, by Laplace and importance sampling.

    Averages over them are exact for polynomials to the third degree (Arasaratnam & Haykin, *IEEE Trans. Autom. Control* 54,
    2009). A feature whose mode was not found counts as diverging.

    Parameters
    ----------
    problem, log_ratio, moments, mixture, mesh
        As for :func:`sample_block`.
    keys : (feature,) PRNG keys

    Returns
    -------
    ScaleDraws
        Of one chain; two points for each scale.
    """

    def approximate(shared, own):
        (log_ratio, mean, log_sd), (moments, log_weight, keys) = shared, own
        mixture = Mixture(mean, log_sd, log_weight)
        laplace, nodes, log_ratios = _explore(problem, log_ratio, moments, mixture, keys)
        centre, factor = _whitening(laplace, nodes, log_ratios)
        away = np.sqrt(len(centre)).astype(centre.dtype) * jnp.swapaxes(factor, 0, 1)
        points = jnp.concatenate([centre + away, centre - away])
        failed = jnp.broadcast_to(~laplace.converged, (1, len(points), len(keys)))
        log_scales = to_log_scales(problem.pair, points)[None]
        return ScaleDraws(log_scales, failed, jnp.zeros_like(failed, int), log_ratios, laplace.mode[None])

    shared = (log_ratio, mixture.mean, mixture.log_sd)
    return share_out(approximate, mesh, shared, (moments, mixture.log_weight, keys))


def _explore(
    problem: Problem, log_ratio: Array, moments: Moments, mixture: Mixture, keys: Array
) -> tuple[Laplace, Nodes, Array]:
    """Laplace approximation of each feature, nodes drawn from it, and their log importance ratios, (node, feature)."""
    constants, condensed = condense(problem.plan, log_ratio, moments)
    amplitude_sd = problem.priors.amplitude_sd

    def log_density(coordinates):
        log_scales = to_log_scales(problem.pair, coordinates)
        prior = log_mixture(mixture, log_scales, amplitude_sd)
        return log_likelihood(problem.plan, constants, condensed, log_scales) + prior

    centre = jnp.broadcast_to(jnp.asarray(mixture.mean).mean(1)[:, None], (len(mixture.mean), len(keys)))
    centre = to_coordinates(problem.pair, centre)
    spread = jnp.sqrt(jnp.mean(jnp.exp(2 * mixture.log_sd), 1) + mixture.mean.var(1) + amplitude_sd**2)
    laplace = fit_laplace(log_density, centre, jnp.broadcast_to(spread[:, None], centre.shape))
    nodes = draw_nodes(keys, (laplace,), N_NODES, problem.pair)
    log_ratios = evaluate_nodes(problem, log_ratio, moments, nodes)
    return laplace, nodes, log_ratios + log_mixture(mixture, nodes.log_scales, amplitude_sd)


def _whitening(laplace: Laplace, nodes: Nodes, log_ratios: Array) -> tuple[Array, Array]:
    """Centre and covariance factor of each posterior: the importance-weighted ones, and Laplace's where weights are few.

    Returns
    -------
    centre : (scale, feature) array
    factor : (scale, scale, feature) array
    """
    weight = jax.nn.softmax(log_ratios, axis=0)
    n_effective = 1 / (weight**2).sum(0)
    share = n_effective / (n_effective + 10 * len(laplace.mode))
    mean = jnp.einsum("nf,nsf->sf", weight, nodes.coordinates)
    away = nodes.coordinates - mean
    covariance = jnp.einsum("nf,nsf,ntf->stf", weight, away, away)
    curvature = jnp.einsum("suf,tuf->stf", laplace.factor, laplace.factor)
    factor = cholesky(share * covariance + (1 - share) * curvature)
    fine = jnp.isfinite(factor).all((0, 1))
    centre = share * mean + (1 - share) * laplace.mode
    return jnp.where(fine, centre, laplace.mode), jnp.where(fine, factor, laplace.factor)
