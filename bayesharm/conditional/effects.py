"""All effects of every feature, exactly: Gaussian given the scales, averaged over draws of them (Rao–Blackwell).

Given the scales, an effect is a linear form of the *augmented* dense effects, which are 1 and the dense effects: a dense
effect is one of these, an eliminated one a sum over its entries of ``g (b − x · dense)``, and noise of its own; only
g = w / pivot depends on the scales, and is the same for all columns of a kind. So moments of the augmented effects times
powers of g are averaged over draws, for each kind once, and what must be done for each of many people is done once after it.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bayesharm.algorithms.devices import share_out
from bayesharm.algorithms.linalg import pack, unpack
from bayesharm.conditional.gaussian import condition
from bayesharm.likelihood.collapsed import segment_sum
from bayesharm.likelihood.layout import Plan
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.problem import Problem
from bayesharm.likelihood.ratios import VarianceRatios

Array = jax.Array
MOST_DRAWS = 10  # at once
MANY_ENTRIES = 32  # at once


class Forms(NamedTuple):
    """Which entries make which columns; every dense column is an entry, and comes first.

    Attributes
    ----------
    column, like : (entry,) int arrays
        The column of each entry, and which g it has; g number 0 is 1, that of dense columns.
    first, second, group : (pair,) int arrays
        Pairs of entries of one column, and which product of two g they have.
    kind : (column,) int array
        Which variance of its own a column has; number 0 is none.
    """

    column: np.ndarray
    like: np.ndarray
    first: np.ndarray
    second: np.ndarray
    group: np.ndarray
    kind: np.ndarray


class Averages(NamedTuple):
    """Averages over draws, the feature axis last; *centers* are means of mates.

    Attributes
    ----------
    form : (like, augmented, feature) array
        Augmented effects times g.
    square : (group, packed, feature) array
        Second moments of the augmented effects times two g.
    own : (kind, feature) array
        Variance that columns have of their own.
    center, center_square : (mates, feature) arrays
        Centers and their second moments.
    with_center : (like, mates, augmented, feature) array
        Second moments of augmented effects times g and centers.
    """

    form: Array
    square: Array
    own: Array
    center: Array
    center_square: Array
    with_center: Array


@partial(jax.jit, static_argnums=0, static_argnames="mesh")
def average_effects(
    problem: Problem, ratios: VarianceRatios, moments: Moments, log_scales: Array, mesh: Mesh | None = None
) -> tuple[Array, Array]:
    """Posterior mean and sd of every reported contrast, for standardized features.

    The mean is the average of the conditional means over draws; the variance is the average of the conditional second
    moments less the square of the mean, which asks for double precision.

    Parameters
    ----------
    problem : Problem
    ratios : VarianceRatios
    moments : Moments
    log_scales : (draw, scale, feature) array
    mesh : Mesh, optional
        As for :func:`bayesharm.algorithms.devices.share_out`.

    Returns
    -------
    mean, sd : (effect, feature) arrays
    """
    return share_out(lambda ratios, own: _summarize(problem, ratios, *own), mesh, ratios, (moments, log_scales))


def _summarize(problem: Problem, ratios: VarianceRatios, moments: Moments, log_scales: Array) -> tuple[Array, Array]:
    columns, weight, contrast_group, sums = problem.reported
    forms = _write_forms(problem.likelihood.plan)
    cross, eliminated = problem.likelihood.eliminated_products(ratios, moments)
    n_dense, n_features = cross.shape[1], log_scales.shape[-1]
    slope = jnp.concatenate([jnp.eye(n_dense, dtype=cross.dtype), -cross])
    constant = jnp.concatenate([jnp.zeros((n_dense, n_features), cross.dtype), eliminated])
    n_mates = np.bincount(contrast_group[contrast_group >= 0])

    averages = _average(problem, ratios, moments, log_scales, forms, slope, constant)

    def augmented(entry):
        return jnp.concatenate([constant[entry][None], jnp.broadcast_to(slope[entry][:, None], (n_dense, n_features))])

    def of_entry(item):
        entry, like, of_mates = item
        here = augmented(entry)
        return (here * averages.form[like]).sum(0), (here * averages.with_center[like, of_mates]).sum(0)

    def of_pair(item):
        first, second, group = item
        square = (unpack(averages.square[group]) * augmented(second)).sum(1)
        return jnp.where(first == second, 1.0, 2.0) * (augmented(first) * square).sum(0)

    entries = (np.arange(len(forms.like)), forms.like, np.maximum(contrast_group[forms.column], 0))
    pairs = (forms.first, forms.second, forms.group)
    form, with_center = (
        segment_sum(forms.column, len(contrast_group), part)[columns]
        for part in jax.lax.map(of_entry, entries, batch_size=MANY_ENTRIES)
    )
    square = segment_sum(
        forms.column[forms.first], len(contrast_group), jax.lax.map(of_pair, pairs, batch_size=MANY_ENTRIES)
    )[columns]

    own, contrast_group = averages.own[forms.kind[columns]], contrast_group[columns]
    centered = np.where(contrast_group >= 0, 1.0, 0.0)[:, None]
    mean = form - centered * averages.center[contrast_group]
    second = (
        square
        + own
        - centered * (2 * with_center - averages.center_square[contrast_group] + 2 * own / n_mates[contrast_group][:, None])
    )
    sd = jnp.sqrt(jnp.maximum(second - mean**2, 0.0))
    mean, sd = mean * weight[:, None], sd * weight[:, None]
    if not len(sums):
        return mean, sd
    # sums are forms of dense columns, whose g is 1: number 0 of both averages
    mean_of_sums = sums @ averages.form[0, 1:]
    square = jnp.einsum("ai,ijf,aj->af", sums, unpack(averages.square[0])[1:, 1:], sums)
    sd_of_sums = jnp.sqrt(jnp.maximum(square - mean_of_sums**2, 0.0))
    return jnp.concatenate([mean, mean_of_sums]), jnp.concatenate([sd, sd_of_sums])


def _write_forms(plan: Plan) -> Forms:
    _, columns, _ = plan.eliminated
    n_dense = plan.layout.dense_gram.shape[1]
    dense, none = np.arange(n_dense), np.zeros(n_dense, int)
    kinds, pairs = plan.kinds, plan.pairs
    return Forms(
        np.concatenate([dense, n_dense + columns]),
        np.concatenate([none, 1 + kinds.of_entry]),
        np.concatenate([dense, n_dense + pairs.first]),
        np.concatenate([dense, n_dense + pairs.second]),
        np.concatenate([none, 1 + pairs.group]),
        np.concatenate([none, 1 + kinds.of_column]),
    )


def _average(
    problem: Problem,
    ratios: VarianceRatios,
    moments: Moments,
    log_scales: Array,
    forms: Forms,
    slope: Array,
    constant: Array,
) -> Averages:
    """Average over the draws, some of them at a time."""
    plan, contrast_group = problem.likelihood.plan, problem.reported.contrast_group
    n_draws, _, n_features = log_scales.shape
    n_like, n_kinds = 1 + len(plan.kinds.entries), 1 + len(plan.kinds.first)
    n_mates = np.bincount(contrast_group[contrast_group >= 0])
    # centers as forms: the mean over mates of what entries of each like have
    shares = [np.where(contrast_group == s, 1 / n, 0.0)[forms.column][:, None] for s, n in enumerate(n_mates)]
    center_constant, center_slope = (
        jnp.stack([segment_sum(forms.like, n_like, share * part) for share in shares]) for part in (constant, slope)
    )
    own_share = np.stack(
        [np.bincount(forms.kind[contrast_group == s], minlength=n_kinds) / n**2 for s, n in enumerate(n_mates)]
    )
    statistics = problem.likelihood.weighted(ratios, moments)
    at_once = next(k for k in range(MOST_DRAWS, 0, -1) if n_draws % k == 0)
    by_feature = jax.tree.map(lambda leaf: jnp.tile(leaf, at_once), statistics.by_feature)
    statistics = statistics._replace(by_feature=by_feature)

    def by_draw(array: Array) -> Array:
        return array.reshape(*array.shape[:-1], at_once, n_features)

    def total(one, other):
        return sum(one[..., k, :] * other[..., k, :] for k in range(at_once))

    def of_draws(log_scales):
        dense, covariance, g, g_pair, own = map(by_draw, condition(problem.likelihood, statistics, log_scales))
        augmented = jnp.concatenate([jnp.ones_like(dense[:1]), dense])
        square = (augmented[:, None] * augmented).at[1:, 1:].add(covariance)
        direction = jnp.concatenate(
            [
                (center_constant[:, :, None] * g).sum(1)[:, None],
                jnp.einsum("slr,lkf->srkf", center_slope, g),
            ],
            axis=1,
        )
        along = sum(square[:, k] * direction[:, k, None] for k in range(len(augmented)))
        one = jnp.ones_like(own[0])
        return Averages(
            total(g[:, None], augmented),
            total(g_pair[:, None], pack(square)),
            total(own, one),
            total((direction * augmented).sum(1), one),
            total((direction * along).sum(1) + jnp.einsum("sq,qkf->skf", own_share, own), one),
            total(g[:, None, None], along),
        )

    log_scales = jnp.swapaxes(log_scales.reshape(n_draws // at_once, at_once, -1, n_features), 1, 2)
    log_scales = log_scales.reshape(*log_scales.shape[:2], -1)
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(of_draws, log_scales[0]))
    sums, _ = jax.lax.scan(lambda sums, some: (jax.tree.map(jnp.add, sums, of_draws(some)), None), zero, log_scales)
    return jax.tree.map(lambda leaf: leaf / n_draws, sums)
