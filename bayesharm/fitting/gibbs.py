"""Gibbs sampling of a block of features whose noise has heavy tails: weights of scans, scales and effects in turn.

Given the weights, everything is as for Gaussian noise with weighted sums. A sweep of a chain is

1. scales given weights, all effects integrated out: one step of Hamiltonian Monte Carlo in whitened coordinates. In studies
   of few features, where a scale of which the data say little has a long tail toward 0, new values from the prior of each
   scale given the others follow, by Metropolis and Hastings;
2. effects given scales and weights: one exact draw;
3. weights given effects and scales: one exact draw for each scan (:mod:`bayesharm.inference.tails`).

Each chain of each feature has weights of its own. Results are averages of conditional moments over sweeps, as without heavy
tails: those of the effects given scales and weights, and those of the weights given effects and scales.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from bayesharm.algorithms.devices import run_sharded
from bayesharm.algorithms.programs import program
from bayesharm.conditional.contrast_moments import contrast_moments
from bayesharm.conditional.finite_population import FamilyLevels
from bayesharm.fitting.gibbs_sweep import GibbsShape, WeightedBlock, WeightedChains
from bayesharm.inference.predictive_prior import PredictivePrior
from bayesharm.inference.scales import sample_around, whiten
from bayesharm.inference.tails import Tails
from bayesharm.likelihood.problem import Problem, to_log_scales
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.likelihood.scan_weights import ScanTerms

Array = Any  # of NumPy or of JAX


class ChainState(NamedTuple):
    """Where the chains of a block are.

    Attributes
    ----------
    position : (chain, scale, feature) array
        Whitened log-scales.
    weight : (chain, scan, feature) array
    squares : (chain, scan, feature) array
        Squared residuals of the last draw of the effects, over the noise variance; NaN where a feature lacks a scan.
    """

    position: Array
    weight: Array
    squares: Array


class GibbsDraws(NamedTuple):
    """Posterior of a block of features.

    Attributes
    ----------
    log_scales : (chain, draw, scale, feature) array
    diverging : (chain, draw, feature) bool array
    log_weights : (sample, feature) array
        Log importance weights of the posterior of the scales, given typical weights, against its Laplace approximation.
    state : ChainState
    effect_mean, effect_variance : (contrast, feature) arrays
    weight : (scan, feature) array
        Posterior mean.
    fitted : (scan, feature) array
        Posterior mean of the sum of the effects.
    finite_sd, contribution : (chain, group, scale, feature) arrays
    """

    log_scales: Array
    diverging: Array
    log_weights: Array
    state: ChainState
    effect_mean: Array
    effect_variance: Array
    weight: Array
    fitted: Array
    finite_sd: Array
    contribution: Array


@program("problem", "shape", "mesh")
def sample_weighted_block(
    problem: Problem,
    terms: ScanTerms,
    levels: FamilyLevels,
    ratios: VarianceRatios,
    tails: Tails,
    values: Array,
    prior: PredictivePrior,
    importance_keys: Array,
    keys: Array,
    state: ChainState,
    n_warmup: int,
    is_first: bool,
    shape: GibbsShape,
    mesh: Mesh | None = None,
) -> GibbsDraws:
    """Sample weights, scales and effects of a block of features.

    Parameters
    ----------
    problem : Problem
        Of features that lack scans, whether they do or not: they have sums of their own.
    terms : ScanTerms
    levels : FamilyLevels
    ratios : VarianceRatios
    tails : Tails
    values : (scan, feature) array
        Standardized; NaN where a feature lacks a scan.
    prior : PredictivePrior
    importance_keys, keys : (feature,) PRNG keys
    state : ChainState
        `state` of an earlier run, or at first any positions; weights are found here then.
    n_warmup : int
        Sweeps that are discarded.
    is_first : bool
    shape : GibbsShape
    mesh : Mesh, optional
        As for :func:`bayesharm.algorithms.devices.run_sharded`.
    """

    def sample(shared: Any, batched: Any) -> GibbsDraws:
        terms, levels, ratios, tails, mean, log_sd, n_warmup, is_first = shared
        values, log_weight, importance_keys, keys, state = batched
        prior = PredictivePrior(mean, log_sd, log_weight)
        block = WeightedBlock(problem, terms, levels, ratios, tails, values)
        weight, laplace = block.approximate(prior)
        samples, log_weights = sample_around(problem, ratios, block.moments(weight), prior, laplace, importance_keys)
        center, factor = whiten(laplace, samples, log_weights)
        reference = contrast_moments(problem, *block.condition(weight, to_log_scales(problem.participant_scale, center)))[0]

        def of_chains(leaf: Any) -> Any:
            return jnp.repeat(leaf, shape.n_chains, axis=-1)

        def flat(array: Array) -> Array:  # (chain, …, feature) -> (…, feature × chain)
            return jnp.moveaxis(array, 0, -1).reshape(*array.shape[1:-1], -1)

        def by_chain(array: Array) -> Array:
            return jnp.moveaxis(array.reshape(*array.shape[:-1], -1, shape.n_chains), -1, 0)

        chain_keys = jax.vmap(lambda key: jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(shape.n_chains)))(keys)
        chains = WeightedChains(
            WeightedBlock(problem, terms, levels, ratios, tails, of_chains(values)),
            PredictivePrior(mean, log_sd, of_chains(log_weight)),
            of_chains(center), of_chains(factor), of_chains(reference), chain_keys.reshape(-1),
        )  # fmt: skip
        start = jnp.where(is_first, of_chains(weight), flat(state.weight))
        sums, position, weight, squares, kept = chains.run(flat(state.position), start, n_warmup, shape)
        log_scales, diverging, finite_sd, contribution = kept
        mean, square, variance, mean_weight, fitted = (
            by_chain(part).mean(0) / shape.n_groups for part in jax.tree.leaves(sums)
        )
        return GibbsDraws(
            by_chain(log_scales.reshape(-1, *log_scales.shape[2:])),
            by_chain(diverging.reshape(-1, diverging.shape[-1])),
            log_weights,
            ChainState(*map(by_chain, (position, weight, jnp.where(chains.block.observed, squares, jnp.nan)))),
            reference + mean,
            variance + square - mean**2,
            mean_weight,
            fitted,
            by_chain(finite_sd),
            by_chain(contribution),
        )

    shared = (terms, levels, ratios, tails, prior.mean, prior.log_sd, n_warmup, is_first)
    return run_sharded(sample, mesh, shared, (values, prior.log_weight, importance_keys, keys, state))
