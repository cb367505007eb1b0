"""Linear algebra of batches of small symmetric matrices, the batch axis last.

A *packed* matrix is its upper triangle, row by row. All functions are plain array operations on the whole batch: LAPACK
would be called once for each matrix, which takes longer.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
MANY_ROWS = 32  # rows from which matrix products of one batch entry at a time are faster than of all at once


@cache
def positions(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return row and column of each packed entry, and the (n, n) index of the packed entry of each row and column."""
    row, column = (part.astype(np.int32) for part in np.triu_indices(n))
    index = np.empty((n, n), np.int32)
    index[row, column] = index[column, row] = np.arange(len(row))
    return row, column, index


def pack(matrix: Array) -> Array:
    """Pack symmetric matrices, (n, n, …) -> (n(n+1)/2, …)."""
    row, column, _ = positions(matrix.shape[0])
    return matrix[row, column]


def unpack(packed: Array) -> Array:
    """Unpack symmetric matrices, (n(n+1)/2, …) -> (n, n, …)."""
    return packed[positions(_order(packed))[2]]


def _order(packed: Array) -> int:
    return int((2 * packed.shape[0]) ** 0.5)


class Solution(NamedTuple):
    """Solution of S x = r and its by-products.

    Attributes
    ----------
    inverse : (n(n+1)/2, batch) array
        S⁻¹, packed.
    x : (n, batch) array
    log_det : (batch,) array
        log|S|.
    quadratic : (batch,) array
        rᵀS⁻¹r.
    """

    inverse: Array
    x: Array
    log_det: Array
    quadratic: Array


@jax.custom_jvp
def solve(packed: Array, rhs: Array) -> Solution:
    """Solve S x = r and invert S in one pass, with r as a further row and column of the swept matrix.

    Parameters
    ----------
    packed : (n(n+1)/2, batch) array
        S, positive definite; where it is not, all results are NaN.
    rhs : (n, batch) array
    """
    n = len(rhs)
    swept, log_det = _sweep(jnp.concatenate([jnp.zeros_like(rhs[:1]), rhs, packed]), 1)
    return Solution(-swept[n + 1 :], swept[1 : n + 1], log_det, -swept[0])


@solve.defjvp
def _solve_jvp(primals, tangents):
    solution, (change, d_rhs) = solve(*primals), tangents
    inverse, x = unpack(solution.inverse), solution.x
    row, column, _ = positions(len(x))
    twice = np.where(row == column, 1, 2).astype(x.dtype)[:, None]  # a packed entry off the diagonal stands for two
    d_log_det = jnp.sum(twice * solution.inverse * change, 0)
    d_quadratic = jnp.sum(2 * x * d_rhs, 0) - jnp.sum(twice * x[row] * x[column] * change, 0)
    full = unpack(change)
    d_x = matvec(inverse, d_rhs - matvec(full, x))
    return solution, Solution(pack(-_sandwich(inverse, full)), d_x, d_log_det, d_quadratic)


def _sandwich(outer: Array, inner: Array) -> Array:
    """Compute outer · inner · outer for symmetric matrices, (n, n, batch)."""
    if len(outer) <= MANY_ROWS:
        return jax.lax.map(lambda column: matvec(outer, matvec(inner, column)), outer)
    first, second = (jnp.moveaxis(part, -1, 0) for part in (outer, inner))
    return jnp.moveaxis(first @ second @ first, 0, -1)


def invert(packed: Array) -> tuple[Array, Array]:
    """Return the packed inverse and the log determinant of positive definite matrices; NaN where they are not.

    Parameters
    ----------
    packed : (n(n+1)/2, batch) array
    """
    swept, log_det = _sweep(packed, 0)
    return -swept, log_det


def _sweep(packed: Array, first: int) -> tuple[Array, Array]:
    """Apply the sweep operator to rows and columns from `first` on (Goodnight, *Am. Stat.* 33, 1979).

    This is Gauss–Jordan elimination without pivoting, which is stable for positive definite matrices.

    Returns
    -------
    swept : (n(n+1)/2, batch) array
    log_det : (batch,) array
        Log determinant of the swept block.
    """
    n = _order(packed)
    row, column, packed_index = positions(n)
    index = jnp.asarray(packed_index)

    def step(k, state):
        a, log_det = state
        is_pivot = jnp.arange(n) == k
        values = a[index[k]]
        pivot = values[k]
        values = jnp.where(is_pivot[:, None], -1.0, values)
        cleared = jnp.where((is_pivot[row] | is_pivot[column])[:, None], 0.0, a)
        return cleared - (values / pivot)[row] * values[column], log_det + jnp.log(pivot)

    swept, log_det = jax.lax.fori_loop(first, n, step, (packed, jnp.zeros_like(packed[0])))
    positive = jnp.isfinite(log_det)
    return jnp.where(positive, swept, jnp.nan), jnp.where(positive, log_det, jnp.nan)


def matvec(matrix: Array, vector: Array) -> Array:
    """Multiply (…, n, batch) matrices by (n, batch) vectors, as additions: XLA's own reduction takes many times as long."""
    product = sum((matrix[..., k, :] * vector[k] for k in range(len(vector))), jnp.zeros_like(matrix[..., 0, :]))
    # XLA would merge a product into the next one for some n and repeat it for each row: at n = 15, ten times the time
    return jax.lax.optimization_barrier(product)


def cholesky(matrix: Array) -> Array:
    """Compute lower Cholesky factors, column by column.

    Parameters
    ----------
    matrix : (n, n, batch) array
        Symmetric positive definite; otherwise the result contains NaN.
    """
    below = jnp.arange(len(matrix))[:, None]

    def step(k, state):
        rest, factor = state
        column = jnp.where(below >= k, rest[k] / jnp.sqrt(rest[k, k]), 0.0)
        return rest - column[:, None] * column, factor.at[:, k].set(column)

    return jax.lax.fori_loop(0, len(matrix), step, (matrix, jnp.zeros_like(matrix)))[1]


def solve_lower(factor: Array, rhs: Array) -> Array:
    """Solve lower triangular systems by forward substitution.

    Parameters
    ----------
    factor : (n, n, batch) array
    rhs : (..., n, batch) array
    """
    below = jnp.arange(len(factor))[:, None]

    def step(k, x):
        x = x.at[..., k, :].divide(factor[k, k])
        return x - jnp.where(below > k, factor[:, k], 0.0) * x[..., k, None, :]

    return jax.lax.fori_loop(0, len(factor), step, rhs)
