"""Weighted sums of products of columns: the part of the normal equations that does not depend on the values of features.

They are the same for all features, or have a feature axis last where features lack scans.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayesharm.algorithms.linalg import positions
from bayesharm.likelihood.counts import Additions
from bayesharm.likelihood.layout import IndexLayout
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.ratios import VarianceRatios

Array = jax.Array
MAX_ONE_HOT = 2**16  # entries of a matrix of zeros and ones; larger sums are scattered additions, without such a matrix


class GramTerms(NamedTuple):
    """Weighted sums of products of columns (a JAX pytree).

    Attributes
    ----------
    schur : tuple of arrays
        What makes S. Shared by all features: products of dense columns, (packed, merged class), and symmetrized products of
        cross moments, added up over pairs, (packed, group). Of each feature: a table of both, (source, position, feature),
        for each of the :func:`schur_parts`.
    cross : (merged entry, dense[, feature]) array
        Products of eliminated columns with dense ones.
    squares : (class entry[, feature]) array
    size : (merged class[, feature]) array
        Numbers of scans.
    log_noise_ratio : ([feature]) array
        Sum of log lambda over scans of repeat-scanned participants.
    """

    schur: tuple[Array, ...]
    cross: Array
    squares: Array
    size: Array
    log_noise_ratio: Array

    @property
    def is_shared(self) -> bool:
        """Whether all features have the same terms."""
        return self.squares.ndim == 1


class SchurPart(NamedTuple):
    """A part of S of a feature: entries of S, and all sums of products that enter any of them.

    Attributes
    ----------
    positions : (position,) int array
        Packed positions.
    classes, groups : int arrays
        Merged classes and groups, the sources.
    """

    positions: np.ndarray
    classes: np.ndarray
    groups: np.ndarray


def schur_parts(layout: IndexLayout) -> tuple[SchurPart, ...]:
    """Split S into the part of repeat-scanned participants and that of all others, which fill different entries of it."""
    assert layout.counts is not None
    index = positions(layout.n_dense)[2]
    i, j, _, _ = layout.pairs
    is_repeated = (layout.eliminated.classes[i] == 0) & (layout.eliminated.classes[j] == 0)
    parts = []
    for classes, groups in (
        (np.arange(1), np.flatnonzero(is_repeated)),
        (np.arange(1, layout.n_merged), np.flatnonzero(~is_repeated)),
    ):
        used = layout.counts.shares[classes].any(0)
        for first, second in zip(i[groups], j[groups], strict=True):
            columns = np.flatnonzero(layout.counts.touches[first] | layout.counts.touches[second])
            used[index[np.ix_(columns, columns)]] = True
        if used.any():
            parts.append(SchurPart(np.flatnonzero(used), classes, groups))
    return tuple(parts)


def contract(table: Array, weights: Array) -> Array:
    """Weighted sums over the first axis of a table, (term, row[, feature]) × (term, lane) -> (row, lane).

    Lanes are features, or sets of the features one after another, which share the table.
    """
    if table.ndim == 2:
        return table.T @ weights
    n_features = table.shape[-1]
    by_set = weights.reshape(len(weights), -1, n_features)
    return jnp.einsum("tpf,tkf->pkf", table, by_set).reshape(table.shape[1], -1)


def repeat(terms: Array, n_lanes: int) -> Array:
    """Terms of each feature, (…, feature), for sets of the features one after another, (…, lane)."""
    return jnp.tile(terms, n_lanes // terms.shape[-1])


def schur_complement(layout: IndexLayout, grams: GramTerms, w: Array, coefficient: Array) -> Array:
    """S without the prior precision of the dense effects, (packed, lane).

    Parameters
    ----------
    layout : IndexLayout
    grams : GramTerms
    w : (merged class, lane) array
    coefficient : (group, lane) array
    """
    if grams.is_shared:
        dense, outer = grams.schur
        return dense @ w - outer @ coefficient
    schur = jnp.zeros((len(positions(layout.n_dense)[0]), w.shape[-1]), w.dtype)
    for part, table in zip(schur_parts(layout), grams.schur, strict=True):
        weights = jnp.concatenate([w[part.classes], -coefficient[part.groups]])
        schur = schur.at[part.positions].add(contract(table, weights), unique_indices=True, indices_are_sorted=True)
    return schur


def class_weight(layout: IndexLayout, ratios: VarianceRatios) -> Array:
    """1 / lambda of each noise class, or 1 where lambda does not multiply the whole noise variance, (class,)."""
    weight = jnp.where(layout.class_single_scan, 1.0, jnp.exp(-ratios.log_noise[layout.class_scanner]))
    return weight.astype(ratios.log_noise.dtype)


def cross_products(layout: IndexLayout, weight: Array, counts: Array | np.ndarray | None) -> Array:
    """XᵀX_d of the eliminated columns times 1 / lambda, (merged entry, dense[, feature])."""
    if counts is None:
        gram = layout.grams.cross_gram.astype(weight.dtype)
        by_class = weight[layout.grams.eliminated.classes][:, None] * gram
        return segment_sum(layout.eliminated.merged, len(layout.eliminated.classes), by_class)
    assert layout.counts is not None
    n_entries, n_dense = len(layout.eliminated.classes), layout.n_dense
    return _add(layout.counts.cross, n_entries * n_dense, _weighted(layout, weight, counts)).reshape(n_entries, n_dense, -1)


def shared_terms(layout: IndexLayout, ratios: VarianceRatios) -> GramTerms:
    """Terms that all features share."""
    grams, dtype, weight = layout.grams, ratios.log_noise.dtype, class_weight(layout, ratios)
    row, column, _ = positions(layout.n_dense)
    cross = cross_products(layout, weight, None)
    squares = segment_sum(
        layout.eliminated.merged,
        len(cross),
        (weight[grams.eliminated.classes] * grams.eliminated_gram.astype(dtype))[:, None],
    )[:, 0]
    i, j, group, example = layout.pairs
    other = np.where(i == j, 0.0, 1.0).astype(dtype)[:, None]
    outer = cross[i][:, row] * cross[j][:, column] + other * cross[j][:, row] * cross[i][:, column]
    log_noise = ratios.log_noise[layout.class_scanner]
    dense = segment_sum(
        layout.merged_class, layout.n_merged, weight[:, None] * grams.dense_gram[:, row, column].astype(dtype)
    )
    return GramTerms(
        schur=(dense.T, segment_sum(group, len(example), outer).T),
        cross=cross,
        squares=squares[layout.column_classes.entries],
        size=jnp.asarray(np.bincount(layout.merged_class, weights=layout.class_size, minlength=layout.n_merged), dtype),
        log_noise_ratio=jnp.sum(jnp.where(layout.class_single_scan, 0.0, layout.class_size * log_noise)).astype(dtype),
    )


def feature_terms(layout: IndexLayout, ratios: VarianceRatios, moments: Moments) -> GramTerms:
    """Terms of each feature from the counts of its observed scans."""
    assert layout.counts is not None
    dtype, weight = ratios.log_noise.dtype, class_weight(layout, ratios)
    counts = jnp.asarray(moments.counts, dtype)
    weighted, n_merged = _weighted(layout, weight, counts), layout.n_merged
    row, column, _ = positions(layout.n_dense)
    dense = _add(layout.counts.dense, len(row) * n_merged, weighted).reshape(len(row), n_merged, -1)
    cross = cross_products(layout, weight, counts)
    squares = _add(layout.counts.squares, len(cross), weighted)
    of_class = _add(layout.counts.size, len(layout.class_scanner), counts)
    if moments.class_counts is not None:  # with weights, counts are sums of weights
        of_class = jnp.asarray(moments.class_counts, dtype)
    log_noise = jnp.where(layout.class_single_scan, 0.0, ratios.log_noise[layout.class_scanner]).astype(dtype)

    def table(part: SchurPart) -> Array:
        i, j = layout.pairs.first[part.groups], layout.pairs.second[part.groups]  # each pair is a group of its own
        other = np.where(i == j, 0.0, 1.0).astype(dtype)[:, None, None]
        rows, columns = row[part.positions], column[part.positions]
        outer = cross[i][:, rows] * cross[j][:, columns] + other * cross[j][:, rows] * cross[i][:, columns]
        return jnp.concatenate([jnp.swapaxes(dense[part.positions][:, part.classes], 0, 1), outer])

    return GramTerms(
        schur=tuple(table(part) for part in schur_parts(layout)),
        cross=cross,
        squares=squares[layout.column_classes.entries],
        size=segment_sum(layout.merged_class, n_merged, of_class),
        log_noise_ratio=log_noise @ of_class,
    )


def _weighted(layout: IndexLayout, weight: Array, counts: Array | np.ndarray) -> Array:
    assert layout.counts is not None
    return weight[layout.counts.classes][:, None] * jnp.asarray(counts, weight.dtype)


def _add(additions: Additions, n: int, counts: Array) -> Array:
    """Add counts up to n numbers, (count, feature) -> (n, feature)."""
    return segment_sum(additions.target, n, counts[additions.source])


def segment_sum(index: np.ndarray, n: int, values: Array | np.ndarray) -> Array:
    """Sums of rows that have the same index, (row, …) -> (n, …)."""
    if len(index) * n > MAX_ONE_HOT or values.ndim > 2:
        return jax.ops.segment_sum(jnp.asarray(values), index, n)
    return one_hot(index, n, values.dtype) @ values


def one_hot(index: np.ndarray, n: int, dtype: np.dtype) -> Array:
    """(n, entry) matrix that adds entries up by index."""
    return jnp.asarray(np.arange(n)[:, None] == index, dtype)
