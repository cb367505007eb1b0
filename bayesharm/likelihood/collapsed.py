"""The collapsed likelihood: every effect integrated out, a few log-scales left, many features at once.

This is the fast path of :mod:`bayesharm.likelihood.definition`, whose lines the comments name. It makes the same numbers
from sums of products instead of scans. A is a bordered block-diagonal (arrowhead) matrix: with d the dense effects and E the
diagonal block of the eliminated ones,

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
- *column class*: eliminated columns with one posterior precision (pivot);
- *group*: equivalent pairs of entries of one eliminated column; *small* and *large* groups differ in how they are added up;
- *packed*: the lower triangle of a symmetric matrix as a vector (:mod:`bayesharm.algorithms.linalg`).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayesharm.algorithms.linalg import positions, solve, unpack
from bayesharm.likelihood.gram_terms import (
    GramTerms,
    class_weight,
    contract,
    cross_products,
    feature_terms,
    one_hot,
    repeat,
    schur_complement,
    segment_sum,
    shared_terms,
)
from bayesharm.likelihood.grams import Grams, compute_grams
from bayesharm.likelihood.layout import EffectEntries, IndexLayout, lay_out
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.model.design import FIXED, Design

Array = jax.Array


class SharedTerms(NamedTuple):
    """Weighted sums that all features share (a JAX pytree)."""

    noise_ratio: Array  # (merged class,) lambda of each class; 1 for repeat-scanned participants
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
    pivot: Array  # (column class, feature) diagonal of E: precision of the eliminated effects given the dense ones
    coefficient: Array  # (group, feature) w w' / pivot, the factor of products of two eliminated entries
    noise_precision: Array  # (merged class, feature) w
    prior_precision: Array  # (dense, then column class, feature) diagonal of D⁻¹


class ConditionedEffects(NamedTuple):
    """The Gaussian posterior of all effects given the scales, in the terms that differ between scales; feature axis last.

    An eliminated effect is a sum over its entries of ``gain · (Xᵀy − XᵀX_d d)``, plus independent noise of its residual
    variance; these products are weighted by 1 / lambda (:meth:`CollapsedLikelihood.eliminated_products`).
    :class:`EffectEntries` says which gain and which variance; number 0 of each is that of the dense effects.
    """

    dense_mean: Array  # (dense, feature)
    dense_covariance: Array  # (dense, dense, feature)
    gain: Array  # (1 + class entry, feature) w / pivot, after 1
    gain_product: Array  # (1 + group, feature) products of two gains, after 1
    residual_variance: Array  # (1 + column class, feature) 1 / pivot, after 0
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
    def scans_per_scanner(self) -> np.ndarray:
        """Number of scans of each scanner, (scanner,)."""
        layout = self._layout
        return np.bincount(layout.class_scanner, weights=layout.class_size, minlength=layout.n_scanners)

    def observed_per_scanner(self, moments: Moments) -> np.ndarray:
        """Number of observed scans of each scanner in each feature that lacks scans, (scanner, feature) int array."""
        layout = self._layout
        assert layout.counts is not None and moments.counts is not None
        observed = np.zeros((layout.n_scanners, moments.n_features))
        source, target = layout.counts.size
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
        dtype, weight = ratios.log_noise.dtype, class_weight(layout, ratios)
        grams = shared_terms(layout, ratios) if moments.counts is None else feature_terms(layout, ratios, moments)
        cross, eliminated = self.eliminated_products(ratios, moments)

        i, j, group, example = layout.pairs
        other = np.where(i == j, 0.0, 1.0).astype(dtype)[:, None]  # a pair of two entries stands for two products
        large, small = layout.split_groups()
        in_large = np.flatnonzero(np.isin(group, large))
        position = np.searchsorted(large, group[in_large])
        first, second, twice = i[in_large], j[in_large], other[in_large]
        by_dense = jnp.zeros((layout.n_dense, 0, eliminated.shape[1]), dtype)
        if len(large):  # never where features lack scans
            by_dense = jax.lax.map(
                lambda column: segment_sum(
                    position,
                    len(large),
                    column[first, None] * eliminated[second] + twice * column[second, None] * eliminated[first],
                ),
                cross[..., 0].T,
            )
        by_feature = FeatureTerms(
            dense=segment_sum(
                layout.dense.merged,
                len(layout.dense.classes),
                weight[layout.grams.dense.classes][:, None] * jnp.asarray(moments.dense, dtype),
            ),
            cross=jnp.swapaxes(by_dense, 0, 1),
            entries=eliminated[small.entries],
            eliminated=segment_sum(group, len(example), (1 + other) * eliminated[i] * eliminated[j]),
            squares=segment_sum(layout.merged_class, layout.n_merged, weight[:, None] * jnp.asarray(moments.squares, dtype)),
            grams=grams if self.has_missing else None,
        )
        single_scan, scanner = layout.class_single_scan, layout.column_scanner[layout.representatives]
        shared = SharedTerms(
            noise_ratio=jnp.ones(layout.n_merged, dtype)
            .at[layout.merged_class[single_scan]]
            .set(jnp.exp(ratios.log_noise[layout.class_scanner[single_scan]])),
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
        normal = self._normal_equations(statistics, log_scales)
        _, _, log_det, quadratic = solve(normal.schur, normal.rhs)  # log|S| and rᵀS⁻¹r
        dtype, n_dense = log_scales.dtype, layout.n_dense
        n_lanes = log_scales.shape[-1]
        log_noise_ratio, size = grams.log_noise_ratio, grams.size[:, None]
        if not grams.is_shared:
            log_noise_ratio, size = repeat(grams.log_noise_ratio, n_lanes), repeat(grams.size, n_lanes)
        n_equivalent = np.bincount(layout.column_classes.of_column, minlength=self.n_column_classes).astype(dtype)
        log_det += n_equivalent @ (jnp.log(normal.pivot) - jnp.log(normal.prior_precision[n_dense:])) + log_noise_ratio
        log_det -= jnp.log(normal.prior_precision[:n_dense]).sum(0)
        log_det -= (size * jnp.log(normal.noise_precision)).sum(0)
        quadratic = (
            (normal.noise_precision * by_feature.squares).sum(0)
            - (normal.coefficient * by_feature.eliminated).sum(0)
            - quadratic
        )
        return -0.5 * (log_det + quadratic + size.sum(0) * np.log(2 * np.pi).astype(dtype))

    def condition(self, statistics: WeightedStatistics, log_scales: Array) -> ConditionedEffects:
        """Condition all effects on the features, given the scales (line 5); parameters as for :meth:`log_likelihood`."""
        layout, normal = self._layout, self._normal_equations(statistics, log_scales)
        solution = solve(normal.schur, normal.rhs)
        classes, column_class = layout.eliminated.classes, layout.column_classes.of_column[layout.eliminated.columns]
        entries, example = layout.column_classes.entries, layout.pairs.first[layout.pairs.example]
        one = jnp.ones_like(log_scales[:1])
        return ConditionedEffects(
            solution.x,
            unpack(solution.inverse),
            jnp.concatenate([one, normal.noise_precision[classes[entries]] / normal.pivot[column_class[entries]]]),
            jnp.concatenate([one, normal.coefficient / normal.pivot[column_class[example]]]),
            jnp.concatenate([0 * one, 1 / normal.pivot]),
            1 / normal.prior_precision,
        )

    def eliminated_products(self, ratios: VarianceRatios, moments: Moments) -> tuple[Array, Array]:
        """XᵀX_d and Xᵀy of the eliminated columns, times 1 / lambda.

        Returns
        -------
        cross : (merged entry, dense, feature) array
            The last axis has length 1 unless features lack scans.
        products : (merged entry, feature) array
        """
        layout, weight = self._layout, class_weight(self._layout, ratios)
        cross = cross_products(layout, weight, moments.counts)
        by_class = weight[layout.grams.eliminated.classes][:, None] * jnp.asarray(moments.eliminated, weight.dtype)
        products = segment_sum(layout.eliminated.merged, len(layout.eliminated.classes), by_class)
        return cross if self.has_missing else cross[..., None], products

    def _normal_equations(self, statistics: WeightedStatistics, log_scales: Array) -> NormalEquations:
        """Assemble A and b (lines 1 to 4) and eliminate the diagonal block."""
        layout, (shared, by_feature), grams, dtype = self._layout, statistics, statistics.grams, log_scales.dtype
        variance = jnp.exp(2 * log_scales)
        noise = variance[0] * shared.noise_ratio[:, None]
        w = 1 / (
            noise + jnp.asarray(layout.single_scan_merged, dtype)[:, None] * variance[layout.single_scan_scale]
        )  # line 2
        n_dense, columns = layout.n_dense, layout.representatives
        scale, fixed = layout.column_scale[columns], (layout.column_sd[columns] ** -2.0).astype(dtype)
        prior = jnp.where((scale != FIXED)[:, None], 1 / variance[np.maximum(scale, 0)], fixed[:, None])
        prior /= shared.bias_ratio[:, None]  # line 1

        # line 3: E, then S
        classes = layout.eliminated.classes
        column_class = layout.column_classes.of_column[layout.eliminated.columns]  # of each entry
        entries = layout.column_classes.entries
        to_class = one_hot(column_class[entries], self.n_column_classes, dtype)
        squares = grams.squares[:, None] if grams.is_shared else repeat(grams.squares, log_scales.shape[-1])
        pivot = prior[n_dense:] + to_class @ (w[classes[entries]] * squares)
        i, j = layout.pairs.first[layout.pairs.example], layout.pairs.second[layout.pairs.example]
        coefficient = w[classes[i]] * w[classes[j]] / pivot[column_class[i]]
        schur = schur_complement(layout, grams, w, coefficient)
        schur = schur.at[positions(n_dense)[2].diagonal()].add(prior[:n_dense])

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
        return NormalEquations(schur, rhs, pivot, coefficient, w, prior)
