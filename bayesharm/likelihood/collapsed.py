"""The collapsed likelihood: every effect integrated out, a few log-scales left, many features at once.

This is the fast path of :mod:`bayesharm.likelihood.definition`, whose lines the comments name. It makes the same numbers
from sums of products instead of scans. A is a bordered block-diagonal (arrowhead) matrix: with d the dense effects and E the
block of the eliminated ones, which is diagonal but for intercepts and their slopes,

    A = [ A_dd  Cᵀ ]        S = A_dd − Cᵀ E⁻¹ C   (Schur complement of E),   |A| = |E| |S|,
        [ C     E  ],       bᵀA⁻¹b = b_eᵀ E⁻¹ b_e + rᵀ S⁻¹ r,   r = b_d − Cᵀ E⁻¹ b_e.

S is a small dense matrix for each feature, although A has a row for every repeat-scanned participant. The noise precision
of their scans is w / lambda with w = 1 / sigma², and lambda does not depend on the feature: the sums are weighted by
1 / lambda once for all scales, and equivalent columns are added up. The feature axis is always last.

Where features lack scans, XᵀX is another one for each feature (:mod:`bayesharm.likelihood.gram_terms`), and no columns are
equivalent. The formulas are the same.

Words of this file:

- *entry*: one column in one noise class, a nonzero count of scans; *class entry*: the same before classes are merged;
- *merged class*: noise classes that have one precision w once their sums are weighted by 1 / lambda;
- *column class*: eliminated columns with one posterior precision (pivot); *couple*: an intercept and its slope;
- *group*: equivalent pairs of entries of one block of E; *small* and *large* groups differ in how they are added up;
- *packed*: the lower triangle of a symmetric matrix as a vector (:mod:`bayesharm.algorithms.linalg`).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayesharm.algorithms.linalg import solve, unpack
from bayesharm.likelihood.effect_entries import EffectEntries
from bayesharm.likelihood.gram_terms import (
    class_gain,
    class_weight,
    cross_products,
    entry_weight,
    feature_terms,
    repeat,
    segment_sum,
    shared_terms,
)
from bayesharm.likelihood.grams import Grams, compute_grams
from bayesharm.likelihood.layout import IndexLayout, lay_out
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.normal_equations import FeatureTerms, SharedTerms, WeightedStatistics, assemble
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.model.design import Design

Array = jax.Array


class ConditionedEffects(NamedTuple):
    """The Gaussian posterior of all effects given the scales, in the terms that differ between scales; feature axis last.

    An eliminated effect is a sum over its entries of ``response · (Xᵀy − XᵀX_d d)``, plus noise of its residual variance,
    independent but between couples; these products are weighted by 1 / lambda and gain
    (:meth:`CollapsedLikelihood.eliminated_products`). :class:`EffectEntries` says which response and which variance; number
    0 of each is that of the dense effects.
    """

    dense_mean: Array  # (dense, feature)
    dense_covariance: Array  # (dense, dense, feature)
    response: Array  # (1 + response, feature) w times an entry of E⁻¹, after 1
    response_product: Array  # (product, feature) products of two responses
    residual_variance: Array  # (1 + column class, feature) diagonal of E⁻¹, after 0
    residual_covariance: Array  # (couple, feature) entries of E⁻¹ between couples
    prior_variance: Array  # (dense, then column class, feature)


class CollapsedLikelihood:
    """The likelihood of a design with all effects integrated out, for many features at once.

    Parameters
    ----------
    design : Design
    grams : Grams, optional
        XᵀX of each noise class, where the design itself does not have all scans
        (:class:`~bayesharm.likelihood.sufficient_statistics.SufficientStatistics`).
    class_size : (class,) int array, optional
        Numbers of scans, likewise.
    has_missing : bool
        Whether features lack scans; their moments then have counts.
    """

    def __init__(
        self,
        design: Design,
        grams: Grams | None = None,
        class_size: np.ndarray | None = None,
        has_missing: bool = False,
    ) -> None:
        class_size = design.class_size if class_size is None else class_size
        self._layout: IndexLayout = lay_out(design, grams or compute_grams(design), class_size, has_missing)

    @property
    def has_missing(self) -> bool:
        """Whether features lack scans."""
        return self._layout.counts is not None

    @property
    def n_dense(self) -> int:
        """Number of effects that are not eliminated."""
        return self._layout.n_dense

    @property
    def n_eliminated(self) -> int:
        """Number of eliminated effects."""
        return len(self._layout.column_classes.of_column)

    @property
    def n_column_classes(self) -> int:
        """Number of classes of equivalent eliminated columns: the work for each feature grows with it."""
        return len(self._layout.column_classes.first)

    @property
    def n_couples(self) -> int:
        """Number of intercepts and slopes that are partners."""
        layout = self._layout
        return len(layout.couples) + len(layout.dense_couples)

    @property
    def couples(self) -> np.ndarray:
        """Eliminated intercepts and slopes that are partners, counted from the first eliminated effect, (couple, 2)."""
        return self._layout.couples

    def gain(self, ratios: VarianceRatios) -> Array:
        """Gain of each scanner, 1 where nobody shows it, (scanner,)."""
        return jnp.exp(jnp.where(self._layout.gain_is_known, ratios.log_gain, 0.0))

    @property
    def scans_per_scanner(self) -> np.ndarray:
        """Number of scans of each scanner, (scanner,)."""
        layout = self._layout
        return np.bincount(layout.class_scanner, weights=layout.class_size, minlength=layout.n_scanners)

    def observed_per_scanner(self, moments: Moments) -> np.ndarray:
        """Number of observed scans of each scanner in each feature that lacks scans, (scanner, feature) int array."""
        layout = self._layout
        assert layout.counts is not None and moments.counts is not None
        observed = np.zeros((layout.n_scanners, moments.n_features))
        source, target, _ = layout.counts.size
        np.add.at(observed, layout.class_scanner[target], moments.counts[source])
        return observed.round().astype(int)

    @property
    def effect_entries(self) -> EffectEntries:
        """Index arrays that make all effects of :class:`ConditionedEffects`."""
        return self._layout.effect_entries()

    def weighted(self, ratios: VarianceRatios, moments: Moments) -> WeightedStatistics:
        """Weight the sums of products by 1 / lambda and add up equivalent ones, once for all scales.

        Parameters
        ----------
        ratios : VarianceRatios
        moments : Moments
        """
        layout = self._layout
        if ratios.log_noise.shape != (layout.n_scanners,):
            raise ValueError(f"ratios of shape {ratios.log_noise.shape} for {layout.n_scanners} scanners")
        if self.has_missing != (moments.counts is not None):
            raise ValueError("moments with counts need a likelihood of features that lack scans, and the other way round")
        dtype, n_dense, has_gain = ratios.log_noise.dtype, layout.n_dense, layout.has_gain.astype(int)
        grams = shared_terms(layout, ratios) if moments.counts is None else feature_terms(layout, ratios, moments)
        cross, eliminated = self.eliminated_products(ratios, moments)

        i, j, group, example, _ = layout.pairs
        other = np.where(i == j, 0.0, 1.0).astype(dtype)[:, None]  # a pair of two entries stands for two products
        large, small = layout.split_groups()
        in_large = np.flatnonzero(np.isin(group, large))
        position = np.searchsorted(large, group[in_large])
        first, second, twice = i[in_large], j[in_large], other[in_large]
        by_dense = jnp.zeros((n_dense, 0, eliminated.shape[1]), dtype)
        if len(large):  # never where features lack scans
            by_dense = jax.lax.map(
                lambda column: segment_sum(
                    position,
                    len(large),
                    column[first, None] * eliminated[second] + twice * column[second, None] * eliminated[first],
                ),
                cross[..., 0].T,
            )
        entries, weight = layout.grams.dense, class_weight(layout, ratios)
        weight_of_dense = entry_weight(layout, ratios, entries.classes, has_gain[entries.columns])
        by_feature = FeatureTerms(
            dense=segment_sum(
                layout.dense.merged,
                len(layout.dense.classes),
                weight_of_dense[:, None] * jnp.asarray(moments.dense, dtype),
            ),
            cross=jnp.swapaxes(by_dense, 0, 1),
            entries=eliminated[small.entries],
            eliminated=segment_sum(group, len(example), (1 + other) * eliminated[i] * eliminated[j]),
            squares=segment_sum(layout.merged_class, layout.n_merged, weight[:, None] * jnp.asarray(moments.squares, dtype)),
            grams=grams if self.has_missing else None,
        )
        single_scan, scanner = layout.class_single_scan, layout.column_scanner[layout.representatives]
        merged = layout.merged_class[single_scan]
        noise = jnp.exp(ratios.log_noise[layout.class_scanner]) * layout.class_variance.astype(dtype)
        shared = SharedTerms(
            noise_ratio=jnp.ones(layout.n_merged, dtype).at[merged].set(noise[single_scan].astype(dtype)),
            gain_square=jnp.zeros(layout.n_merged, dtype).at[merged].set(class_gain(layout, ratios)[single_scan] ** 2),
            correlation=jnp.tanh(jnp.asarray(ratios.correlation, dtype)),
            bias_ratio=jnp.where(scanner >= 0, jnp.exp(ratios.log_bias[np.maximum(scanner, 0)]), 1.0).astype(dtype),
            grams=None if self.has_missing else grams,
        )
        return WeightedStatistics(shared, by_feature)

    def log_likelihood(self, statistics: WeightedStatistics, log_scales: Array) -> Array:
        """log p(feature | scales), all effects integrated out (line 6).

        Parameters
        ----------
        statistics : WeightedStatistics
            From :meth:`weighted`.
        log_scales : (scale, feature) array
            Natural logarithms of the scales of the standardized features, noise first.

        Returns
        -------
        (feature,) array
            For standardized features.
        """
        layout, grams, by_feature = self._layout, statistics.grams, statistics.by_feature
        normal = assemble(self._layout, statistics, log_scales)
        _, _, log_det, quadratic = solve(normal.schur, normal.rhs)  # log|S| and rᵀS⁻¹r
        dtype, n_dense = log_scales.dtype, layout.n_dense
        n_lanes = log_scales.shape[-1]
        log_noise_ratio, size = grams.log_noise_ratio, grams.size[:, None]
        if not grams.is_shared:
            log_noise_ratio, size = repeat(grams.log_noise_ratio, n_lanes), repeat(grams.size, n_lanes)
        n_equivalent = np.bincount(layout.column_classes.of_column, minlength=self.n_column_classes).astype(dtype)
        log_prior = jnp.log(normal.prior_precision)
        log_det += normal.log_det - n_equivalent @ log_prior[n_dense:] + log_noise_ratio - log_prior[:n_dense].sum(0)
        if (layout.correlation_of >= 0).any():  # half of it for each of two partners
            rho = statistics.shared.correlation[layout.correlation_of[layout.correlation_of >= 0]]
            log_det += 0.5 * jnp.log1p(-(rho**2)).sum()
        log_det -= (size * jnp.log(normal.noise_precision)).sum(0)
        quadratic = (
            (normal.noise_precision * by_feature.squares).sum(0)
            - (normal.coefficient * by_feature.eliminated).sum(0)
            - quadratic
        )
        return -0.5 * (log_det + quadratic + size.sum(0) * np.log(2 * np.pi).astype(dtype))

    def condition(self, statistics: WeightedStatistics, log_scales: Array) -> ConditionedEffects:
        """Condition all effects on the features, given the scales (line 5); parameters as for :meth:`log_likelihood`."""
        normal, entries, n_classes = (
            assemble(self._layout, statistics, log_scales),
            self.effect_entries,
            self.n_column_classes,
        )
        solution, one = solve(normal.schur, normal.rhs), jnp.ones_like(log_scales[:1])
        w = normal.noise_precision[self._layout.eliminated.classes[entries.response_entry]]
        response = jnp.concatenate([one, w * normal.inverse[entries.response_inverse]])
        return ConditionedEffects(
            solution.x,
            unpack(solution.inverse),
            response,
            response[entries.product_first] * response[entries.product_second],
            jnp.concatenate([0 * one, normal.inverse[:n_classes]]),
            normal.inverse[n_classes:],
            1 / normal.prior_precision,
        )

    def eliminated_products(self, ratios: VarianceRatios, moments: Moments) -> tuple[Array, Array]:
        """XᵀX_d and Xᵀy of the eliminated columns, weighted by 1 / lambda and gain.

        Returns
        -------
        cross : (merged entry, dense, feature) array
            The last axis has length 1 unless features lack scans.
        products : (merged entry, feature) array
        """
        layout, entries = self._layout, self._layout.grams.eliminated
        cross = cross_products(layout, ratios, moments.counts)
        power = layout.has_gain.astype(int)[layout.n_dense + entries.columns]
        weight = entry_weight(layout, ratios, entries.classes, power)
        by_class = weight[:, None] * jnp.asarray(moments.eliminated, weight.dtype)
        products = segment_sum(layout.eliminated.merged, len(layout.eliminated.classes), by_class)
        return cross if self.has_missing else cross[..., None], products
