"""Posterior mean and sd of all effects of every feature: exact given the scales, averaged over draws of the scales.

This is Rao–Blackwellization: the average of conditional moments has no Monte-Carlo error from drawing effects. Given the
scales, an effect is a linear combination of the *augmented* dense effects a = (1, d), plus independent noise: a dense effect
is an entry of a, an eliminated effect the sum over its entries of ``response · (Xᵀy − XᵀX_d d)``. Only the response differs
between draws, and equivalent entries share it. So the moments of a times powers of the response are averaged over draws,
once for all equivalent entries, and the sums for each of many participants are made once, after it.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bayesharm.algorithms.devices import run_sharded
from bayesharm.algorithms.linalg import pack, unpack
from bayesharm.algorithms.programs import program
from bayesharm.conditional.gaussian import batch_draws
from bayesharm.likelihood.gram_terms import segment_sum
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.problem import Problem
from bayesharm.likelihood.ratios import VarianceRatios

Array = jax.Array
MAX_DRAWS = 10  # draws at once, which bounds the memory of a batch
MAX_ENTRIES = 32  # entries, or pairs of entries, at once


class Averages(NamedTuple):
    """Averages over draws; the feature axis last. A *center* is the mean of the effects of a contrast group."""

    augmented: Array  # (response, augmented, feature) augmented effects times a response
    square: Array  # (product, packed, feature) second moments of the augmented effects times two responses
    residual: Array  # (residual variance, feature)
    center: Array  # (contrast group, feature)
    center_square: Array  # (contrast group, feature) second moments of the centers
    with_center: Array  # (response, contrast group, augmented, feature) augmented effects times a response and a center


@program("problem", "mesh")
def average_effects(
    problem: Problem, ratios: VarianceRatios, moments: Moments, log_scales: Array, mesh: Mesh | None = None
) -> tuple[Array, Array]:
    """Posterior mean and sd of every reported contrast, for standardized features.

    The mean is the average of the conditional means over draws. The variance is the average of the conditional second
    moments minus the square of the mean, a difference that needs double precision.

    Parameters
    ----------
    problem : Problem
    ratios : VarianceRatios
    moments : Moments
    log_scales : (draw, scale, feature) array
    mesh : Mesh, optional
        As for :func:`bayesharm.algorithms.devices.run_sharded`.

    Returns
    -------
    mean, sd : (contrast, feature) arrays
    """
    return run_sharded(lambda ratios, sharded: _summarize(problem, ratios, *sharded), mesh, ratios, (moments, log_scales))


def _summarize(problem: Problem, ratios: VarianceRatios, moments: Moments, log_scales: Array) -> tuple[Array, Array]:
    columns, weight, contrast_group, sums = problem.reported
    entries = problem.likelihood.effect_entries
    cross, products = problem.likelihood.eliminated_products(ratios, moments)
    n_dense, n_features = cross.shape[1], log_scales.shape[-1]
    identity = jnp.eye(n_dense, dtype=cross.dtype)[..., None]
    slope = jnp.concatenate([jnp.broadcast_to(identity, (n_dense, *cross.shape[1:])), -cross])
    constant = jnp.concatenate([jnp.zeros((n_dense, n_features), cross.dtype), products])
    slope, constant = slope[entries.source], constant[entries.source]
    n_levels = np.bincount(contrast_group[contrast_group >= 0])

    averages = _average(problem, ratios, moments, log_scales, slope, constant)

    def weights_of(term):
        """Weights of the augmented effects in a term, but for its response."""
        return jnp.concatenate([constant[term][None], jnp.broadcast_to(slope[term], (n_dense, n_features))])

    def of_term(item):
        term, response, group = item
        weights = weights_of(term)
        return (weights * averages.augmented[response]).sum(0), (weights * averages.with_center[response, group]).sum(0)

    def of_pair(item):
        first, second, product = item
        square = (unpack(averages.square[product]) * weights_of(second)).sum(1)
        return jnp.where(first == second, 1.0, 2.0) * (weights_of(first) * square).sum(0)

    by_term = (np.arange(len(entries.response)), entries.response, np.maximum(contrast_group[entries.column], 0))
    by_pair = (entries.first, entries.second, entries.product)
    effect, with_center = (
        segment_sum(entries.column, len(contrast_group), part)[columns]
        for part in jax.lax.map(of_term, by_term, batch_size=MAX_ENTRIES)
    )
    square = segment_sum(
        entries.column[entries.first], len(contrast_group), jax.lax.map(of_pair, by_pair, batch_size=MAX_ENTRIES)
    )[columns]

    residual, contrast_group = averages.residual[entries.residual[columns]], contrast_group[columns]
    is_centered = np.where(contrast_group >= 0, 1.0, 0.0)[:, None]
    mean = effect - is_centered * averages.center[contrast_group]
    second = (
        square
        + residual
        - is_centered
        * (2 * with_center - averages.center_square[contrast_group] + 2 * residual / n_levels[contrast_group][:, None])
    )
    sd = jnp.sqrt(jnp.maximum(second - mean**2, 0.0))
    mean, sd = mean * weight[:, None], sd * weight[:, None]
    if not len(sums):
        return mean, sd
    # sums are combinations of dense effects, whose response is 1: number 0 of both averages
    mean_of_sums = sums @ averages.augmented[0, 1:]
    square = jnp.einsum("ai,ijf,aj->af", sums, unpack(averages.square[0])[1:, 1:], sums)
    sd_of_sums = jnp.sqrt(jnp.maximum(square - mean_of_sums**2, 0.0))
    return jnp.concatenate([mean, mean_of_sums]), jnp.concatenate([sd, sd_of_sums])


def _average(
    problem: Problem, ratios: VarianceRatios, moments: Moments, log_scales: Array, slope: Array, constant: Array
) -> Averages:
    """Average over the draws, a batch of draws at a time."""
    likelihood, contrast_group = problem.likelihood, problem.reported.contrast_group
    entries, n_features = likelihood.effect_entries, log_scales.shape[-1]
    n_responses, n_residuals = 1 + len(entries.response_entry), 1 + likelihood.n_column_classes
    n_levels = np.bincount(contrast_group[contrast_group >= 0])
    # a center is a combination of the augmented effects, too: for each response, the mean over its contrast group
    shares = [np.where(contrast_group == s, 1 / n, 0.0)[entries.column][:, None] for s, n in enumerate(n_levels)]
    center_constant = jnp.stack([segment_sum(entries.response, n_responses, share * constant) for share in shares])
    flat = slope.reshape(len(slope), -1)
    center_slope = jnp.stack([segment_sum(entries.response, n_responses, share * flat) for share in shares])
    center_slope = center_slope.reshape(*center_slope.shape[:2], *slope.shape[1:])
    residual_share = np.stack(
        [np.bincount(entries.residual[contrast_group == s], minlength=n_residuals) / n**2 for s, n in enumerate(n_levels)]
    )
    batches, at_once = batch_draws(log_scales, MAX_DRAWS)
    statistics = likelihood.weighted(ratios, moments).tile(at_once)

    def by_draw(array: Array) -> Array:
        return array.reshape(*array.shape[:-1], at_once, n_features)

    def total(one, other):
        return sum(one[..., k, :] * other[..., k, :] for k in range(at_once))

    def of_batch(log_scales):
        given = likelihood.condition(statistics, log_scales)
        dense, covariance, response, product, residual = map(by_draw, given[:5])
        augmented = jnp.concatenate([jnp.ones_like(dense[:1]), dense])
        square = (augmented[:, None] * augmented).at[1:, 1:].add(covariance)
        direction = jnp.concatenate(
            [
                (center_constant[:, :, None] * response).sum(1)[:, None],
                jnp.einsum("slr,lkf->srkf", center_slope[..., 0], response)
                if center_slope.shape[-1] == 1
                else jnp.einsum("slrf,lkf->srkf", center_slope, response),
            ],
            axis=1,
        )
        along = sum(square[:, k] * direction[:, k, None] for k in range(len(augmented)))
        one = jnp.ones_like(residual[0])
        return Averages(
            total(response[:, None], augmented),
            total(product[:, None], pack(square)),
            total(residual, one),
            total((direction * augmented).sum(1), one),
            total((direction * along).sum(1) + jnp.einsum("sq,qkf->skf", residual_share, residual), one),
            total(response[:, None, None], along),
        )

    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(of_batch, batches[0]))
    sums, _ = jax.lax.scan(lambda sums, batch: (jax.tree.map(jnp.add, sums, of_batch(batch)), None), zero, batches)
    return jax.tree.map(lambda leaf: leaf / len(log_scales), sums)
