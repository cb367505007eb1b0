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
from jax.scipy.special import logsumexp

from bayesharm.inference.hyper import Hyper
from bayesharm.inference.importance import Nodes, basis_of, draw_nodes, evaluate_nodes, log_prior
from bayesharm.inference.laplace import Laplace, cholesky, fit_laplace
from bayesharm.inference.nuts import sample_lanes
from bayesharm.inference.problem import Problem
from bayesharm.marginal import condense, log_likelihood
from bayesharm.moments import Moments

Array = jax.Array
N_NODES = 128  # for Pareto-k of the Laplace approximation
N_COMPONENTS = 256  # of the predictive prior while there are few features
NARROWEST = 0.03  # narrower components make spikes that say nothing more
ENOUGH_FEATURES = 128  # from so many on the predictive prior is as good as Normal


class Mixture(NamedTuple):
    """Predictive prior of the log-scales of the features of a block.

    Attributes
    ----------
    mean, log_sd : (scale, component) arrays
    log_weight : (component, feature) array
    """

    mean: Array | np.ndarray
    log_sd: Array | np.ndarray
    log_weight: Array | np.ndarray


class Effort(NamedTuple):
    """How long and how carefully NUTS runs."""

    n_chains: int
    n_warmup: int
    n_draws: int
    step_size: float
    max_tree_depth: int


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
    """

    log_scales: Array
    diverging: Array
    n_steps: Array
    log_ratios: Array


def log_mixture(mixture: Mixture, log_scales: Array) -> Array:
    """Log density of the predictive prior, up to a constant of each feature.

    Parameters
    ----------
    mixture : Mixture
    log_scales : (..., scale, feature) array

    Returns
    -------
    (..., feature) array
    """
    terms = log_prior(basis_of(log_scales), mixture.mean, mixture.log_sd)
    weight = mixture.log_weight.reshape(len(terms), *(1,) * (terms.ndim - 2), -1)
    return logsumexp(terms + weight, axis=0)


@partial(jax.jit, static_argnums=(0, 6))
def sample_block(
    problem: Problem,
    log_ratio: Array,
    moments: Moments,
    mixture: Mixture,
    node_keys: Array,
    keys: Array,
    effort: Effort,
) -> ScaleDraws:
    """Sample the log-scales of a block of features.

    Parameters
    ----------
    problem : Problem
    log_ratio : (scanner,) array
    moments : Moments
        Of the block.
    mixture : Mixture
        Predictive prior of the block's features.
    node_keys, keys : (feature,) PRNG keys
    effort : Effort
    """
    constants, condensed = condense(problem.plan, log_ratio, moments)

    def log_density(log_scales):
        return log_likelihood(problem.plan, constants, condensed, log_scales) + log_mixture(
            mixture, log_scales
        )

    n_features, n_scales = keys.shape[0], len(mixture.mean)
    start = jnp.broadcast_to(mixture.mean.mean(1)[:, None], (n_scales, n_features))
    spread = jnp.sqrt(jnp.mean(jnp.exp(2 * mixture.log_sd), 1) + mixture.mean.var(1))
    laplace = fit_laplace(log_density, start, jnp.broadcast_to(spread[:, None], start.shape))
    nodes = draw_nodes(node_keys, (laplace,), N_NODES)
    log_ratios = evaluate_nodes(problem, log_ratio, moments, nodes) + log_mixture(mixture, nodes.log_scales)

    def spread_over_chains(tree):
        return jax.tree.map(lambda leaf: jnp.repeat(leaf, effort.n_chains, axis=-1), tree)

    shared = (constants, mixture.mean, mixture.log_sd)
    own = spread_over_chains((condensed, mixture.log_weight, *_whitening(laplace, nodes, log_ratios)))

    def potential(shared, own, z):
        (constants, mean, log_sd), (condensed, log_weight, mode, factor) = shared, own
        log_scales = mode + jnp.sum(factor * z, axis=1)
        return -(
            log_likelihood(problem.plan, constants, condensed, log_scales)
            + log_mixture(Mixture(mean, log_sd, log_weight), log_scales)
        )

    def begin(key):
        start_key, *chain_keys = jax.random.split(key, effort.n_chains + 1)
        return jax.random.normal(start_key, (n_scales, effort.n_chains)), jnp.stack(chain_keys)

    start, chain_keys = jax.vmap(begin, out_axes=(1, 0))(keys)
    draws = sample_lanes(
        potential,
        shared,
        own,
        start.reshape(n_scales, -1),
        chain_keys.reshape(-1),
        n_warmup=effort.n_warmup,
        n_draws=effort.n_draws,
        step_size=effort.step_size,
        max_tree_depth=effort.max_tree_depth,
    )
    mode, factor = own[2:]
    log_scales = mode + jnp.sum(factor * draws.position[:, None], axis=2)

    def by_chain(array):
        return jnp.moveaxis(array.reshape(*array.shape[:-1], n_features, effort.n_chains), -1, 0)

    return ScaleDraws(by_chain(log_scales), by_chain(draws.diverging), by_chain(draws.n_steps), log_ratios)


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
    mean = jnp.einsum("nf,nsf->sf", weight, nodes.log_scales)
    away = nodes.log_scales - mean
    covariance = jnp.einsum("nf,nsf,ntf->stf", weight, away, away)
    curvature = jnp.einsum("suf,tuf->stf", laplace.factor, laplace.factor)
    factor = cholesky(share * covariance + (1 - share) * curvature)
    fine = jnp.isfinite(factor).all((0, 1))
    centre = share * mean + (1 - share) * laplace.mode
    return jnp.where(fine, centre, laplace.mode), jnp.where(fine, factor, laplace.factor)


def make_mixture(hyper: Hyper) -> Mixture:
    """The predictive prior that posterior draws of the hyperparameters make.

    Many features determine the hyperparameters well: the mixture is then one Normal of its mean and variance. With few
    features it is kept as it is, for every feature that the hyperparameters were learned from weighted by one over
    that feature's marginal likelihood.

    Returns
    -------
    mixture : Mixture
        Weights are log weights of the sampled features, (component, sampled feature).
    """
    if len(hyper.log_marginal) >= ENOUGH_FEATURES:
        mean, log_sd = hyper.predictive.mean[:, None], np.log(hyper.predictive.sd)[:, None]
        return Mixture(mean, log_sd, np.zeros((1, len(hyper.log_marginal))))
    n_draws = hyper.log_marginal.shape[1]
    kept = np.unique(np.linspace(0, n_draws - 1, N_COMPONENTS).astype(int))
    mean, log_sd = hyper.eta.reshape(n_draws, -1)[kept].T, np.log(hyper.omega.reshape(n_draws, -1)[kept]).T
    return Mixture(mean, np.maximum(log_sd, np.log(NARROWEST)), -hyper.log_marginal[:, kept].T)
