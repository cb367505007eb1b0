"""The normal equations of many features: assembled from weighted sums, the eliminated effects removed.

The words of this file are those of :mod:`bayesharm.likelihood.collapsed`, and the lines those of
:mod:`bayesharm.likelihood.definition`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayesharm.algorithms.linalg import positions
from bayesharm.likelihood.gram_terms import GramTerms, contract, one_hot, repeat, schur_complement, segment_sum
from bayesharm.likelihood.layout import IndexLayout
from bayesharm.model.design import FIXED

Array = jax.Array


class SharedTerms(NamedTuple):
    """Weighted sums that all features share (a JAX pytree)."""

    noise_ratio: Array  # (merged class,) lambda v of each class; 1 for repeat-scanned participants
    gain_square: Array  # (merged class,) g² where the participant effect is part of the noise, else 0
    correlation: Array  # (correlation,) rho
    bias_ratio: Array  # (dense, then column class) kappa of each column; 1 for columns without kappa
    grams: GramTerms | None  # None where features lack scans


class FeatureTerms(NamedTuple):
    """Weighted sums of each feature; feature axis last (a JAX pytree)."""

    dense: Array  # (merged dense entry, feature)
    cross: Array  # (large group, dense, feature) symmetrized products of cross moments and Xᵀy, added up over pairs
    entries: Array  # (small entry, feature) Xᵀy, where these products are made each time
    eliminated: Array  # (group, feature) products of Xᵀy, added up over pairs
    squares: Array  # (merged class, feature)
    grams: GramTerms | None  # only where features lack scans


class WeightedStatistics(NamedTuple):
    """Sufficient statistics of the features, weighted by the noise ratios of the scanners (a JAX pytree).

    Attributes
    ----------
    shared : SharedTerms
    by_feature : FeatureTerms
    """

    shared: SharedTerms
    by_feature: FeatureTerms

    @property
    def grams(self) -> GramTerms:
        """Sums of products of columns, shared by all features or of each."""
        grams = self.by_feature.grams if self.shared.grams is None else self.shared.grams
        assert grams is not None
        return grams

    def tile(self, n: int) -> WeightedStatistics:
        """Repeat the features `n` times, one set after another, to evaluate `n` draws of the scales at once.

        The sets share the products of columns, which need most memory.
        """
        by_feature = jax.tree.map(lambda leaf: jnp.tile(leaf, n), self.by_feature._replace(grams=None))
        return self._replace(by_feature=by_feature._replace(grams=self.by_feature.grams))


class NormalEquations(NamedTuple):
    """The normal equations of each feature, the eliminated effects removed; feature axis last."""

    schur: Array  # (packed, feature) S: precision of the dense effects
    rhs: Array  # (dense, feature) r
    inverse: Array  # (column class, then couple, feature) E⁻¹: its diagonal, and its entries between couples
    log_det: Array  # (feature,) log|E|
    coefficient: Array  # (group, feature) w w' times an entry of E⁻¹, the factor of products of two eliminated entries
    noise_precision: Array  # (merged class, feature) w
    prior_precision: Array  # (dense, then column class, feature) diagonal of D, inverted


def assemble(layout: IndexLayout, statistics: WeightedStatistics, log_scales: Array) -> NormalEquations:
    """Assemble A and b (lines 1 to 4), and eliminate the effects of E.

    Parameters
    ----------
    layout : IndexLayout
    statistics : WeightedStatistics
    log_scales : (scale, feature) array
    """
    (shared, by_feature), grams, dtype = statistics, statistics.grams, log_scales.dtype
    variance = jnp.exp(2 * log_scales)
    noise = variance[0] * shared.noise_ratio[:, None]
    if (of_feature := layout.merged_noise_scale >= 0).any():
        ratio = variance[np.maximum(layout.merged_noise_scale, 0)]
        noise *= ratio if of_feature.all() else jnp.where(of_feature[:, None], ratio, 1.0)
    w = 1 / (noise + shared.gain_square[:, None] * variance[layout.single_scan_scale])  # line 2
    n_dense, columns = layout.n_dense, layout.representatives
    scale, fixed = layout.column_scale[columns], (layout.column_sd[columns] ** -2.0).astype(dtype)
    prior = jnp.where((scale != FIXED)[:, None], 1 / variance[np.maximum(scale, 0)], fixed[:, None])
    prior /= shared.bias_ratio[:, None]  # line 1
    tight, correlation_of = prior, layout.correlation_of[columns]
    if (correlation_of >= 0).any():
        rho = jnp.where(correlation_of >= 0, shared.correlation[np.maximum(correlation_of, 0)], 0.0)[:, None]
        tight = prior / (1 - rho**2)

        def between(one: np.ndarray, other: np.ndarray) -> Array:
            """Entries of D⁻¹ between partners."""
            return -rho[one] * jnp.sqrt(tight[one] * tight[other])

    # line 3: E, then S
    classes = layout.eliminated.classes
    column_class = layout.column_classes.of_column[layout.eliminated.columns]  # of each entry
    entries = layout.column_classes.entries
    n_lanes, n_classes = log_scales.shape[-1], len(layout.column_classes.first)
    to_class = one_hot(column_class[entries], n_classes, dtype)
    squares = grams.squares[:, None] if grams.is_shared else repeat(grams.squares, n_lanes)
    pivot = tight[n_dense:] + to_class @ (w[classes[entries]] * squares)
    inverse, log_pivot = 1 / pivot, jnp.log(pivot)
    if len(layout.couples):
        one, other = layout.column_classes.couples.T
        products = grams.coupled[:, None] if grams.is_shared else repeat(grams.coupled, n_lanes)
        couple = np.searchsorted(layout.couples[:, 0], layout.coupled.columns)
        coupling = segment_sum(couple, len(layout.couples), w[layout.coupled.classes] * products)
        if (correlation_of >= 0).any():
            coupling += between(n_dense + one, n_dense + other)
        det = pivot[one] * pivot[other] - coupling**2
        inverse = inverse.at[one].set(pivot[other] / det).at[other].set(pivot[one] / det)
        log_pivot = log_pivot.at[one].set(jnp.log(det)).at[other].set(0.0)
        inverse = jnp.concatenate([inverse, -coupling / det])
    n_equivalent = np.bincount(layout.column_classes.of_column, minlength=n_classes).astype(dtype)
    log_det = jnp.asarray(n_equivalent) @ log_pivot
    i, j = layout.pairs.first[layout.pairs.example], layout.pairs.second[layout.pairs.example]
    coefficient = w[classes[i]] * w[classes[j]] * inverse[layout.pairs.inverse]
    schur = schur_complement(layout, grams, w, coefficient)
    schur = schur.at[positions(n_dense)[2].diagonal()].add(tight[:n_dense])
    if len(layout.dense_couples):
        one, other = layout.dense_couples.T
        schur = schur.at[positions(n_dense)[2][one, other]].add(between(one, other))

    # line 4: b_d, then r
    rhs = one_hot(layout.dense.columns, n_dense, dtype) @ (w[layout.dense.classes] * by_feature.dense)
    large, small = layout.split_groups()
    rhs -= jnp.einsum("grf,gf->rf", by_feature.cross, coefficient[large])
    product = coefficient[small.with_itself] * by_feature.entries
    if len(small.group):
        of_two = coefficient[small.group]
        product += segment_sum(small.first, len(product), of_two * by_feature.entries[small.second])
        product += segment_sum(small.second, len(product), of_two * by_feature.entries[small.first])
    rhs -= contract(grams.cross[small.entries], product)
    return NormalEquations(schur, rhs, inverse, log_det, coefficient, w, prior)
