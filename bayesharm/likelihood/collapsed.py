"""The collapsed likelihood: every effect integrated out, a few log-scales left, many features at once.

With y standardized, effects u ~ Normal(0, D) and noise precision w[c] in noise class c,

    A = Σ_c w[c] X_cᵀX_c + D⁻¹,   b = Σ_c w[c] X_cᵀy_c,
    −2 log p(y | scales) = Σ_c w[c] y_cᵀy_c − bᵀA⁻¹b + log|A| + log|D| − Σ_c n_c log w[c] + N log 2π

(Searle, Casella & McCulloch, *Variance Components*, 1992, ch. 6). The eliminated columns make a diagonal
block of A; its Schur complement is a small dense matrix for each feature. The feature axis is always last.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayesharm.algorithms.linalg import positions, solve
from bayesharm.likelihood.layout import Plan
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.model.design import FIXED

Array = jax.Array
FEW_PAIRS = 16  # of a group


class SharedTerms(NamedTuple):
    """What all features share once the noise ratio is known (a JAX pytree)."""

    variance_ratio: Array  # (merged class,) lambda of each class; 1 for the repeated one
    gram: Array  # (packed, merged class)
    outer: Array  # (packed, group) symmetrized products of cross moments, added up over pairs
    cross: Array  # (eliminated entry, dense)
    squares: Array  # (kind entry,)
    size: Array  # (dense, then kind) kappa of each column; 1 of those without
    log_ratio: Array  # () sum over repeated scans of log lambda


class FeatureTerms(NamedTuple):
    """What each feature adds once the noise ratio is known; feature axis last (a JAX pytree)."""

    dense: Array  # (dense entry, feature)
    cross: Array  # (large group, dense, feature) symmetrized products of cross moments and eliminated ones, added up
    entries: Array  # (entry of a small kind, feature) eliminated ones, for which these are made each time
    eliminated: Array  # (group, feature) products of eliminated ones, added up over pairs
    squares: Array  # (merged class, feature)


class WeightedStatistics(NamedTuple):
    """Sufficient statistics of the features, weighted by the noise ratios of the scanners (a JAX pytree).

    Attributes
    ----------
    shared : SharedTerms
    by_feature : FeatureTerms
    """

    shared: SharedTerms
    by_feature: FeatureTerms


class Normal(NamedTuple):
    """The Gaussian of all effects of each feature given its scales, factored; feature axis last."""

    schur: Array  # (packed, feature) precision of the dense effects, the eliminated ones integrated out
    rhs: Array  # (dense, feature)
    pivot: Array  # (kind, feature) conditional precision of the eliminated effects
    coefficient: Array  # (group, feature) of products of the eliminated entries
    precision: Array  # (merged class, feature) of the noise
    prior: Array  # (dense, then kind, feature) prior precision


@dataclass(frozen=True, eq=False)
class CollapsedLikelihood:
    """The likelihood of a design with all effects integrated out, for many features at once.

    Attributes
    ----------
    plan : Plan
        Index arrays of the design.
    """

    plan: Plan

    def weighted(self, ratios: VarianceRatios, moments: Moments) -> WeightedStatistics:
        """Weigh the sums of products by the noise ratios, and add up equivalent ones, once for all scales.

        Parameters
        ----------
        ratios : VarianceRatios
        moments : Moments
        """
        plan = self.plan
        if ratios.log_noise.shape != (plan.n_scanners,):
            raise ValueError(f"ratios of shape {ratios.log_noise.shape} for {plan.n_scanners} scanners")
        layout, dtype = plan.layout, ratios.log_noise.dtype
        weight = _weight(plan, ratios)
        row, column, _ = positions(layout.dense_gram.shape[1])
        over_classes = partial(segment_sum, plan.merged, plan.n_merged)
        cross, eliminated = self.eliminated_products(ratios, moments)
        squares = segment_sum(
            plan.eliminated[2],
            len(cross),
            (weight[layout.eliminated.classes] * layout.eliminated_gram.astype(dtype))[:, None],
        )[:, 0]

        bias = plan.column_bias[_columns(plan)]
        i, j, group, example = plan.pairs
        over_pairs = partial(segment_sum, group, len(example))
        other = np.where(i == j, 0.0, 1.0).astype(dtype)[:, None]
        dense = plan.layout.dense
        shared = SharedTerms(
            variance_ratio=jnp.ones(plan.n_merged, dtype)
            .at[plan.merged[plan.once]]
            .set(jnp.exp(ratios.log_noise[plan.scanner[plan.once]])),
            gram=over_classes(weight[:, None] * layout.dense_gram[:, row, column].astype(dtype)).T,
            outer=over_pairs(cross[i][:, row] * cross[j][:, column] + other * cross[j][:, row] * cross[i][:, column]).T,
            cross=cross,
            squares=squares[plan.kinds.entries],
            size=jnp.where(bias >= 0, jnp.exp(ratios.log_bias[np.maximum(bias, 0)]), 1.0).astype(dtype),
            log_ratio=jnp.sum(jnp.where(plan.once, 0.0, plan.size * ratios.log_noise[plan.scanner])).astype(dtype),
        )
        large, small = _by_size(plan)
        many = np.flatnonzero(np.isin(group, large))
        place = np.searchsorted(large, group[many])
        one, two, twice = i[many], j[many], other[many]
        by_dense = jax.lax.map(
            lambda column: segment_sum(
                place, len(large), column[one, None] * eliminated[two] + twice * column[two, None] * eliminated[one]
            ),
            cross.T,
        )
        by_feature = FeatureTerms(
            dense=segment_sum(
                plan.dense[2], len(plan.dense[0]), weight[dense.classes][:, None] * jnp.asarray(moments.dense, dtype)
            ),
            cross=jnp.swapaxes(by_dense, 0, 1),
            entries=eliminated[small.entries],
            eliminated=over_pairs((1 + other) * eliminated[i] * eliminated[j]),
            squares=over_classes(weight[:, None] * jnp.asarray(moments.squares, dtype)),
        )
        return WeightedStatistics(shared, by_feature)

    def log_likelihood(self, statistics: WeightedStatistics, log_scales: Array) -> Array:
        """log p(feature | scales), all effects integrated out.

        Returns
        -------
        (feature,) array
            For standardized features.
        """
        plan, (constants, moments) = self.plan, statistics
        normal = self.normal_equations(statistics, log_scales)
        _, _, log_det, quadratic = solve(normal.schur, normal.rhs)
        dtype, n_dense = log_scales.dtype, constants.cross.shape[1]
        n_alike = np.bincount(plan.kinds.of_column, minlength=len(plan.kinds.first)).astype(dtype)
        log_det += n_alike @ (jnp.log(normal.pivot) - jnp.log(normal.prior[n_dense:])) + constants.log_ratio
        log_det -= jnp.log(normal.prior[:n_dense]).sum(0)
        size = np.bincount(plan.merged, weights=plan.size, minlength=plan.n_merged).astype(dtype)
        log_det -= size @ jnp.log(normal.precision)
        quadratic = (
            (normal.precision * moments.squares).sum(0) - (normal.coefficient * moments.eliminated).sum(0) - quadratic
        )
        return -0.5 * (log_det + quadratic + size.sum() * np.log(2 * np.pi).astype(dtype))

    def normal_equations(self, statistics: WeightedStatistics, log_scales: Array) -> Normal:
        """Assemble the normal equations and eliminate the diagonal block.

        Parameters
        ----------
        statistics : WeightedStatistics
            From :meth:`weighted`.
        log_scales : (scale, feature) array
            Natural logarithms of the scales of the standardized features, noise first.
        """
        plan, (constants, moments), dtype = self.plan, statistics, log_scales.dtype
        variance = jnp.exp(2 * log_scales)
        once = np.zeros(plan.n_merged)
        once[plan.merged[plan.once]] = 1.0
        ratio = constants.variance_ratio[:, None]
        w = 1 / (variance[0] * ratio + jnp.asarray(once, dtype)[:, None] * variance[plan.single_scan_scale])
        n_dense = constants.cross.shape[1]
        columns = _columns(plan)
        scale, fixed = plan.column_scale[columns], (plan.column_sd[columns] ** -2.0).astype(dtype)
        prior = jnp.where((scale != FIXED)[:, None], 1 / variance[np.maximum(scale, 0)], fixed[:, None])
        prior /= constants.size[:, None]

        classes, elsewhere, _ = plan.eliminated
        kind = plan.kinds.of_column[elsewhere]  # of each entry
        some = plan.kinds.entries
        to_kind = _one_hot(kind[some], len(plan.kinds.first), dtype)
        pivot = prior[n_dense:] + to_kind @ (w[classes[some]] * constants.squares[:, None])
        i, j = plan.pairs.first[plan.pairs.example], plan.pairs.second[plan.pairs.example]
        coefficient = w[classes[i]] * w[classes[j]] / pivot[kind[i]]
        schur = constants.gram @ w - constants.outer @ coefficient
        schur = schur.at[positions(n_dense)[2].diagonal()].add(prior[:n_dense])
        rhs = _one_hot(plan.dense[1], n_dense, dtype) @ (w[plan.dense[0]] * moments.dense)
        large, small = _by_size(plan)
        rhs -= jnp.einsum("grf,gf->rf", moments.cross, coefficient[large])
        product = coefficient[small.own] * moments.entries
        if len(small.group):
            mixed = coefficient[small.group]
            product += segment_sum(small.first, len(product), mixed * moments.entries[small.second])
            product += segment_sum(small.second, len(product), mixed * moments.entries[small.first])
        rhs -= constants.cross[small.entries].T @ product
        return Normal(schur, rhs, pivot, coefficient, w, prior)

    def eliminated_products(self, ratios: VarianceRatios, moments: Moments) -> tuple[Array, Array]:
        """Products of eliminated columns with dense ones (entry, dense) and with features (entry, feature), weighted."""
        plan = self.plan
        entries, dtype = plan.layout.eliminated, ratios.log_noise.dtype
        weight = _weight(plan, ratios)[entries.classes][:, None]
        spread = partial(segment_sum, plan.eliminated[2], len(plan.eliminated[0]))
        return (
            spread(weight * plan.layout.cross_gram.astype(dtype)),
            spread(weight * jnp.asarray(moments.eliminated, dtype)),
        )


def _weight(plan: Plan, ratios: VarianceRatios) -> Array:
    return jnp.where(plan.once, 1.0, jnp.exp(-ratios.log_noise[plan.scanner])).astype(ratios.log_noise.dtype)


def _columns(plan: Plan) -> np.ndarray:
    """Dense columns, and one of each kind of the eliminated ones."""
    n_dense = plan.layout.dense_gram.shape[1]
    return np.concatenate([np.arange(n_dense), n_dense + plan.kinds.first])


class Small(NamedTuple):
    """Entries of kinds of few columns.

    Attributes
    ----------
    entries : (small entry,) int array
    own : (small entry,) int array
        Group of the pair of each with itself.
    first, second, group : (small pair,) int arrays
        Other pairs, as places in `entries`, and their groups.
    """

    entries: np.ndarray
    own: np.ndarray
    first: np.ndarray
    second: np.ndarray
    group: np.ndarray


def _by_size(plan: Plan) -> tuple[np.ndarray, Small]:
    """Groups of so many pairs that a sum over them for each dense column takes less than the pairs; entries of others."""
    i, j, group, example = plan.pairs
    large = np.bincount(group, minlength=len(example)) > FEW_PAIRS
    few = ~large[group]
    alone, mixed = few & (i == j), few & (i != j)
    order = np.argsort(i[alone], kind="stable")  # every entry makes one pair with itself
    entries, own = i[alone][order], group[alone][order]
    first, second = (np.searchsorted(entries, part[mixed]).astype(np.int32) for part in (i, j))
    return np.flatnonzero(large), Small(entries, own, first, second, group[mixed])


def segment_sum(index: np.ndarray, n: int, values: Array | np.ndarray) -> Array:
    """Sums of rows that have the same index, (row, …) -> (n, …)."""
    if len(index) * n > 2**16:
        return jax.ops.segment_sum(jnp.asarray(values), index, n)
    return _one_hot(index, n, values.dtype) @ values


def _one_hot(index: np.ndarray, n: int, dtype) -> Array:
    """(n, entry) matrix that adds entries up by index."""
    return jnp.asarray(np.arange(n)[:, None] == index, dtype)
