"""The collapsed likelihood: every effect integrated out, a few log-scales left, many features at once.

With y standardized, effects u ~ Normal(0, D) and noise precision w[c] in noise class c,

    A = Σ_c w[c] X_cᵀX_c + D⁻¹,   b = Σ_c w[c] X_cᵀy_c,
    −2 log p(y | scales) = Σ_c w[c] y_cᵀy_c − bᵀA⁻¹b + log|A| + log|D| − Σ_c n_c log w[c] + N log 2π

(Searle, Casella & McCulloch, *Variance Components*, 1992, ch. 6). The eliminated columns make a diagonal
block of A; its Schur complement is a small dense matrix for each feature. The feature axis is always last.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayesharm.design import FIXED, Design
from bayesharm.moments import Layout, Moments
from bayesharm.packed import log_det_and_quadratic, positions

Array = jax.Array


class Plan(NamedTuple):
    """Index arrays of a design in the order the likelihood works.

    All scans of people scanned repeatedly make one class (index 0) once they are weighted by the noise ratio;
    people scanned once keep a class for each scanner.

    Attributes
    ----------
    layout : Layout
    scanner, once, size : (class,) arrays
    merged : (class,) int array
        Merged class of each class.
    n_merged : int
    dense, eliminated : (merged classes, columns, index of each entry in the merged ones)
    pairs : (2, pair) int array
        Pairs of merged eliminated entries that belong to one column.
    group : (pair,) int array
        Pairs of one group have the same coefficient in any feature: people with the same numbers of scans on every scanner.
    first : (group,) int array
        First pair of each group.
    column_scale, column_sd : arrays over columns
    once_scale : int
    """

    layout: Layout
    scanner: np.ndarray
    once: np.ndarray
    size: np.ndarray
    merged: np.ndarray
    n_merged: int
    dense: tuple[np.ndarray, np.ndarray, np.ndarray]
    eliminated: tuple[np.ndarray, np.ndarray, np.ndarray]
    pairs: np.ndarray
    group: np.ndarray
    first: np.ndarray
    column_scale: np.ndarray
    column_sd: np.ndarray
    once_scale: int


class Constants(NamedTuple):
    """What all features share once the noise ratio is known (a JAX pytree)."""

    variance_ratio: Array  # (merged class,) lambda of each class; 1 for the repeated one
    gram: Array  # (packed, merged class)
    outer: Array  # (packed, group) symmetrized products of cross moments, added up
    cross: Array  # (eliminated entry, dense)
    squares: Array  # (eliminated entry,)
    log_ratio: Array  # () sum over repeated scans of log lambda


def make_plan(design: Design, layout: Layout) -> Plan:
    """Order a design for the likelihood."""
    merged = np.zeros(len(design.class_scanner), np.int32)  # int32: an index for JAX in either precision
    merged[design.class_once] = 1 + np.arange(design.class_once.sum())

    def merge(entries) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        key = np.stack([merged[entries.classes], entries.columns])
        unique, index = np.unique(key, axis=1, return_inverse=True)
        return unique[0], unique[1], index.reshape(-1).astype(np.int32)

    eliminated = merge(layout.eliminated)
    column = eliminated[1]
    first, second = np.triu_indices(len(column))
    pairs = np.stack([first, second]).astype(np.int32)[:, column[first] == column[second]]
    group, first_of_group = _group_pairs(design, layout, eliminated, pairs)
    return Plan(
        layout,
        design.class_scanner.astype(np.int32),
        design.class_once,
        design.class_size,
        merged,
        int(merged.max()) + 1,
        merge(layout.dense),
        eliminated,
        pairs,
        group,
        first_of_group,
        design.column_scale.astype(np.int32),
        design.column_sd,
        design.once_scale,
    )


def _group_pairs(design: Design, layout: Layout, eliminated, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Groups of pairs whose coefficients are equal whatever the scales and noise ratios are, and the first of each."""
    _, columns, merged = eliminated
    contents: list[list[tuple[float, float]]] = [[] for _ in columns]
    for entry, c, square in zip(merged, layout.eliminated.classes, layout.eliminated_gram, strict=True):
        contents[entry].append((float(c), float(square)))
    n_entries = np.bincount(columns)
    numbers: dict[tuple, int] = {}
    group, first = np.zeros(pairs.shape[1], np.int32), []
    for pair, (i, j) in enumerate(pairs.T):
        column = layout.dense_gram.shape[1] + columns[i]
        alike = (design.column_scale[column], design.column_sd[column], *sorted(contents[i]))
        key = alike if n_entries[columns[i]] == 1 else (i, j, "a pair of its own")
        if key not in numbers:
            numbers[key] = len(numbers)
            first.append(pair)
        group[pair] = numbers[key]
    return group, np.array(first, np.int32)


def condense(plan: Plan, log_ratio: Array, moments: Moments) -> tuple[Constants, Moments]:
    """Weigh the scans of people scanned repeatedly by the noise ratio, once and for all.

    Parameters
    ----------
    plan : Plan
    log_ratio : (scanner,) array
        log lambda of each scanner.
    moments : Moments

    Returns
    -------
    Constants
    Moments
        Over merged classes.
    """
    layout, dtype = plan.layout, log_ratio.dtype
    weight = jnp.where(plan.once, 1.0, jnp.exp(-log_ratio[plan.scanner])).astype(dtype)

    def add(index, n, values, classes):
        spread = _one_hot(index, n, dtype) * weight[classes]
        return spread @ jnp.asarray(values, dtype).reshape(len(classes), -1)

    def add_all(values, classes):
        return add(plan.merged[classes], plan.n_merged, values, classes)

    n_dense = layout.dense_gram.shape[1]
    all_classes = np.arange(len(plan.scanner))
    row, column, _ = positions(n_dense)
    gram = add_all(layout.dense_gram[:, row, column], all_classes)
    n_entries = len(plan.eliminated[0])
    cross = add(plan.eliminated[2], n_entries, layout.cross_gram, layout.eliminated.classes)
    squares = add(plan.eliminated[2], n_entries, layout.eliminated_gram, layout.eliminated.classes)[:, 0]
    i, j = plan.pairs
    other = np.where(i == j, 0.0, 1.0).astype(dtype)[:, None]
    outer = cross[i][:, row] * cross[j][:, column] + other * cross[j][:, row] * cross[i][:, column]
    outer = _one_hot(plan.group, len(plan.first), dtype) @ outer
    constants = Constants(
        variance_ratio=jnp.ones(plan.n_merged, dtype)
        .at[plan.merged[plan.once]]
        .set(jnp.exp(log_ratio[plan.scanner[plan.once]])),
        gram=gram.T,
        outer=outer.T,
        cross=cross,
        squares=squares,
        log_ratio=jnp.sum(jnp.where(plan.once, 0.0, plan.size * log_ratio[plan.scanner])).astype(dtype),
    )
    condensed = Moments(
        dense=add(plan.dense[2], len(plan.dense[0]), moments.dense, layout.dense.classes),
        eliminated=add(plan.eliminated[2], n_entries, moments.eliminated, layout.eliminated.classes),
        squares=add_all(moments.squares, all_classes),
    )
    return constants, condensed


class Normal(NamedTuple):
    """The Gaussian of all effects of each feature given its scales, factored; feature axis last."""

    schur: Array  # (packed, feature) precision of the dense effects, the eliminated ones integrated out
    rhs: Array  # (dense, feature)
    pivot: Array  # (eliminated, feature) conditional precision of the eliminated effects
    pivot_rhs: Array  # (eliminated, feature)
    precision: Array  # (merged class, feature) of the noise
    prior: Array  # (column, feature) prior precision


def normal_equations(plan: Plan, constants: Constants, moments: Moments, log_scales: Array) -> Normal:
    """Assemble the normal equations and eliminate the diagonal block.

    Parameters
    ----------
    plan, constants, moments
        From :func:`make_plan` and :func:`condense`.
    log_scales : (scale, feature) array
        Natural logarithms of the scales of the standardized features, noise first.
    """
    dtype = log_scales.dtype
    variance = jnp.exp(2 * log_scales)
    once = np.zeros(plan.n_merged)
    once[plan.merged[plan.once]] = 1.0
    ratio = constants.variance_ratio[:, None]
    w = 1 / (variance[0] * ratio + jnp.asarray(once, dtype)[:, None] * variance[plan.once_scale])
    fixed = (plan.column_sd**-2.0).astype(dtype)[:, None]
    free = (plan.column_scale != FIXED)[:, None]
    prior = jnp.where(free, 1 / variance[np.maximum(plan.column_scale, 0)], fixed)

    n_dense = constants.cross.shape[1]
    classes, columns, _ = plan.eliminated
    to_column = _one_hot(columns, len(plan.column_scale) - n_dense, dtype)
    entry_w = w[classes]
    pivot = prior[n_dense:] + to_column @ (entry_w * constants.squares[:, None])
    pivot_rhs = to_column @ (entry_w * moments.eliminated)
    i, j = plan.pairs[:, plan.first]
    coefficient = entry_w[i] * entry_w[j] / pivot[columns[i]]
    schur = constants.gram @ w - constants.outer @ coefficient
    schur = schur.at[positions(n_dense)[2].diagonal()].add(prior[:n_dense])
    rhs = _one_hot(plan.dense[1], n_dense, dtype) @ (w[plan.dense[0]] * moments.dense)
    rhs -= constants.cross.T @ (entry_w * (pivot_rhs / pivot)[columns])
    return Normal(schur, rhs, pivot, pivot_rhs, w, prior)


def log_likelihood(plan: Plan, constants: Constants, moments: Moments, log_scales: Array) -> Array:
    """log p(feature | scales), all effects integrated out.

    Returns
    -------
    (feature,) array
        For standardized features.
    """
    normal = normal_equations(plan, constants, moments, log_scales)
    log_det, quadratic = log_det_and_quadratic(normal.schur, normal.rhs)
    log_det += jnp.log(normal.pivot).sum(0) - jnp.log(normal.prior).sum(0) + constants.log_ratio
    size = np.bincount(plan.merged, weights=plan.size, minlength=plan.n_merged).astype(log_scales.dtype)
    log_det -= size @ jnp.log(normal.precision)
    quadratic = (
        (normal.precision * moments.squares).sum(0) - (normal.pivot_rhs**2 / normal.pivot).sum(0) - quadratic
    )
    return -0.5 * (log_det + quadratic + size.sum() * np.log(2 * np.pi).astype(log_scales.dtype))


def _one_hot(index: np.ndarray, n: int, dtype) -> Array:
    """(n, entry) matrix that adds entries up by index."""
    return jnp.asarray(np.arange(n)[:, None] == index, dtype)
