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
    column_scale: np.ndarray
    column_sd: np.ndarray
    once_scale: int


class Constants(NamedTuple):
    """What all features share once the noise ratio is known (a JAX pytree)."""

    variance_ratio: Array  # (merged class,) lambda of each class; 1 for the repeated one
    gram: Array  # (dense, dense, merged class)
    outer: Array  # (dense, dense, pair) symmetrized products of cross moments
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
        design.column_scale.astype(np.int32),
        design.column_sd,
        design.once_scale,
    )


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
    gram = add_all(layout.dense_gram, all_classes).reshape(plan.n_merged, n_dense, n_dense)
    n_entries = len(plan.eliminated[0])
    cross = add(plan.eliminated[2], n_entries, layout.cross_gram, layout.eliminated.classes)
    squares = add(plan.eliminated[2], n_entries, layout.eliminated_gram, layout.eliminated.classes)[:, 0]
    i, j = plan.pairs
    outer = cross[i][:, :, None] * cross[j][:, None, :]
    outer = jnp.where((i == j)[:, None, None], outer, outer + outer.transpose(0, 2, 1))
    constants = Constants(
        variance_ratio=jnp.ones(plan.n_merged, dtype)
        .at[plan.merged[plan.once]]
        .set(jnp.exp(log_ratio[plan.scanner[plan.once]])),
        gram=gram.transpose(1, 2, 0),
        outer=outer.transpose(1, 2, 0),
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

    schur: Array  # (dense, dense, feature) precision of the dense effects, the eliminated ones integrated out
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

    n_dense = constants.gram.shape[0]
    classes, columns, _ = plan.eliminated
    to_column = _one_hot(columns, len(plan.column_scale) - n_dense, dtype)
    entry_w = w[classes]
    pivot = prior[n_dense:] + to_column @ (entry_w * constants.squares[:, None])
    pivot_rhs = to_column @ (entry_w * moments.eliminated)
    i, j = plan.pairs
    coefficient = entry_w[i] * entry_w[j] / pivot[columns[i]]
    schur = constants.gram @ w - constants.outer @ coefficient
    diagonal = np.arange(n_dense)
    schur = schur.at[diagonal, diagonal].add(prior[:n_dense])
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


@jax.custom_jvp
def inverse_and_log_det(matrix: Array) -> tuple[Array, Array]:
    """Invert many small symmetric positive definite matrices, the batch axis last.

    A symmetric sweep (Gauss–Jordan without pivoting, stable for such matrices): plain array operations on the
    whole batch, no LAPACK call for each matrix. Where a matrix is not positive definite its results are NaN.

    Parameters
    ----------
    matrix : (n, n, batch) array

    Returns
    -------
    inverse : (n, n, batch) array
    log_det : (batch,) array
    """
    n = matrix.shape[0]

    def step(k, state):
        a, log_det = state
        row = jax.lax.dynamic_index_in_dim(a, k, 0, keepdims=False)
        pivot = jax.lax.dynamic_index_in_dim(row, k, 0, keepdims=False)
        here = jnp.arange(n) == k
        row = jnp.where(here[:, None], -1.0, row)
        cleared = jnp.where((here[:, None] | here)[:, :, None], 0.0, a)
        return cleared - (row / pivot)[:, None] * row, log_det + jnp.log(pivot)

    swept, log_det = jax.lax.fori_loop(0, n, step, (matrix, jnp.zeros_like(matrix[0, 0])))
    positive = jnp.isfinite(log_det)
    return jnp.where(positive, -swept, jnp.nan), jnp.where(positive, log_det, jnp.nan)


@inverse_and_log_det.defjvp
def _inverse_and_log_det_jvp(primals, tangents):
    inverse, log_det = inverse_and_log_det(*primals)
    (change,) = tangents
    left = jnp.sum(inverse[:, :, None] * change[None], axis=1)
    d_inverse = -jnp.sum(left[:, :, None] * inverse[None], axis=1)
    return (inverse, log_det), (d_inverse, jnp.sum(inverse * change, (0, 1)))


@jax.custom_jvp
def log_det_and_quadratic(matrix: Array, rhs: Array) -> tuple[Array, Array]:
    """log|S| and rᵀS⁻¹r for a batch of small matrices; its gradient is the inverse that was computed anyway.

    Parameters
    ----------
    matrix : (n, n, batch) array
    rhs : (n, batch) array

    Returns
    -------
    log_det, quadratic : (batch,) arrays
    """
    inverse, log_det = inverse_and_log_det(matrix)
    return log_det, jnp.sum(inverse * rhs[:, None] * rhs, (0, 1))


@log_det_and_quadratic.defjvp
def _log_det_and_quadratic_jvp(primals, tangents):
    (matrix, rhs), (d_matrix, d_rhs) = primals, tangents
    inverse, log_det = inverse_and_log_det(matrix)
    x = jnp.sum(inverse * rhs, axis=1)
    d_log_det = jnp.sum(inverse * d_matrix, (0, 1))
    d_quadratic = jnp.sum(2 * x * d_rhs, 0) - jnp.sum(x[:, None] * x * d_matrix, (0, 1))
    return (log_det, jnp.sum(rhs * x, 0)), (d_log_det, d_quadratic)


def _one_hot(index: np.ndarray, n: int, dtype) -> Array:
    """(n, entry) matrix that adds entries up by index."""
    return jnp.asarray(np.arange(n)[:, None] == index, dtype)
