"""Weighted sums of products of columns: the part of the normal equations that does not depend on the values of features.

They are the same for all features, or have a feature axis last where features lack scans.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayesharm.algorithms.linalg import positions
from bayesharm.likelihood.column_classes import MergedEntries
from bayesharm.likelihood.counts import Additions
from bayesharm.likelihood.grams import Entries
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
    coupled : (coupled entry[, feature]) array
        Products of two eliminated partners.
    size : (merged class[, feature]) array
        Numbers of scans.
    log_noise_ratio : ([feature]) array
        Sum of log lambda over scans of repeat-scanned participants.
    """

    schur: tuple[Array, ...]
    cross: Array
    squares: Array
    coupled: Array
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
    index, is_single = positions(layout.n_dense)[2], layout.single_scan_merged > 0
    i, j = layout.pairs.first, layout.pairs.second
    has_single = is_single[layout.eliminated.classes[i]] | is_single[layout.eliminated.classes[j]]
    parts = []
    for classes, groups in (
        (np.flatnonzero(~is_single), np.flatnonzero(~has_single)),
        (np.flatnonzero(is_single), np.flatnonzero(has_single)),
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


def class_gain(layout: IndexLayout, ratios: VarianceRatios) -> Array:
    """Gain of the scanner of each noise class, (class,)."""
    gain = jnp.exp(jnp.where(layout.gain_is_known, ratios.log_gain, 0.0))
    return gain[layout.class_scanner].astype(ratios.log_noise.dtype)


def entry_weight(layout: IndexLayout, ratios: VarianceRatios, classes: np.ndarray, power: np.ndarray) -> Array:
    """Weights of products of columns in noise classes: 1 / lambda, times a power of the gain; shapes broadcast."""
    weight = class_weight(layout, ratios)[classes]
    if not layout.has_gain.any():
        return jnp.broadcast_to(weight, np.broadcast_shapes(weight.shape, power.shape))
    return weight * class_gain(layout, ratios)[classes] ** power.astype(weight.dtype)


def cross_products(layout: IndexLayout, ratios: VarianceRatios, counts: Array | np.ndarray | None) -> Array:
    """XᵀX_d of the eliminated columns, weighted, (merged entry, dense[, feature])."""
    n_dense, n_entries = layout.n_dense, len(layout.eliminated.classes)
    if counts is None:
        entries, has_gain = layout.grams.eliminated, layout.has_gain.astype(int)
        power = has_gain[n_dense + entries.columns][:, None] + has_gain[:n_dense]
        weight = entry_weight(layout, ratios, entries.classes[:, None], power)
        return segment_sum(layout.eliminated.merged, n_entries, weight * layout.grams.cross_gram.astype(weight.dtype))
    assert layout.counts is not None
    return _add(layout, ratios, layout.counts.cross, n_entries * n_dense, counts).reshape(n_entries, n_dense, -1)


def shared_terms(layout: IndexLayout, ratios: VarianceRatios) -> GramTerms:
    """Terms that all features share."""
    grams, dtype, n_dense = layout.grams, ratios.log_noise.dtype, layout.n_dense
    row, column, _ = positions(n_dense)
    cross, has_gain = cross_products(layout, ratios, None), layout.has_gain.astype(int)

    def add_up(entries: Entries, merged: MergedEntries, gram: np.ndarray) -> Array:
        weight = entry_weight(layout, ratios, entries.classes, 2 * has_gain[n_dense + entries.columns])
        return segment_sum(merged.merged, len(merged.classes), (weight * gram.astype(dtype))[:, None])[:, 0]

    squares = add_up(grams.eliminated, layout.eliminated, grams.eliminated_gram)
    i, j, group = layout.pairs.first, layout.pairs.second, layout.pairs.group
    other = np.where(i == j, 0.0, 1.0).astype(dtype)[:, None]
    # products with zeros and ones instead of indices, whose derivatives are additions one by one
    by_row, by_column = cross @ one_hot(row, n_dense, dtype), cross @ one_hot(column, n_dense, dtype)
    outer = by_row[i] * by_column[j] + other * by_row[j] * by_column[i]
    log_noise = ratios.log_noise[layout.class_scanner]
    weight = entry_weight(layout, ratios, np.arange(len(layout.class_scanner))[:, None], has_gain[row] + has_gain[column])
    dense = segment_sum(layout.merged_class, layout.n_merged, weight * grams.dense_gram[:, row, column].astype(dtype))
    return GramTerms(
        schur=(dense.T, segment_sum(group, len(layout.pairs.example), outer).T),
        cross=cross,
        squares=squares[layout.column_classes.entries],
        coupled=add_up(grams.coupled, layout.coupled, grams.coupled_gram),
        size=jnp.asarray(np.bincount(layout.merged_class, weights=layout.class_size, minlength=layout.n_merged), dtype),
        log_noise_ratio=jnp.sum(jnp.where(layout.class_single_scan, 0.0, layout.class_size * log_noise)).astype(dtype),
    )


def feature_terms(layout: IndexLayout, ratios: VarianceRatios, moments: Moments) -> GramTerms:
    """Terms of each feature from the counts of its observed scans."""
    assert layout.counts is not None
    dtype, n_merged = ratios.log_noise.dtype, layout.n_merged
    counts = jnp.asarray(moments.counts, dtype)
    row, column, _ = positions(layout.n_dense)
    add = partial(_add, layout, ratios)
    dense = add(layout.counts.dense, len(row) * n_merged, counts).reshape(len(row), n_merged, -1)
    cross = cross_products(layout, ratios, counts)
    squares = add(layout.counts.squares, len(cross), counts)
    size = layout.counts.size
    if moments.class_counts is None:
        of_class = segment_sum(size.target, len(layout.class_scanner), counts[size.source])
    else:  # counts are sums of the weights of scans
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
        coupled=add(layout.counts.coupled, len(layout.coupled.classes), counts),
        size=segment_sum(layout.merged_class, n_merged, of_class),
        log_noise_ratio=log_noise @ of_class,
    )


def _add(layout: IndexLayout, ratios: VarianceRatios, additions: Additions, n: int, counts: Array | np.ndarray) -> Array:
    """Add counts up to n weighted sums, (count, feature) -> (n, feature)."""
    assert layout.counts is not None
    weight = entry_weight(layout, ratios, layout.counts.classes[additions.source], additions.power)
    return segment_sum(additions.target, n, weight[:, None] * jnp.asarray(counts, weight.dtype)[additions.source])


def segment_sum(index: np.ndarray, n: int, values: Array | np.ndarray) -> Array:
    """Sums of rows that have the same index, (row, …) -> (n, …)."""
    if len(index) == n and (index == np.arange(n)).all():
        return jnp.asarray(values)
    if len(index) * n > MAX_ONE_HOT or values.ndim > 2:
        return jax.ops.segment_sum(jnp.asarray(values), index, n)
    return one_hot(index, n, values.dtype) @ values


def one_hot(index: np.ndarray, n: int, dtype: np.dtype) -> Array:
    """(n, entry) matrix that adds entries up by index."""
    return jnp.asarray(np.arange(n)[:, None] == index, dtype)
