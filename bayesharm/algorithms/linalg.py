"""Many small symmetric matrices at once, the batch axis last; of each only the upper triangle is kept, row by row.

Plain array operations on the whole batch: LAPACK would be called once for each matrix, and take longer.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
MANY_ROWS = 32  # from here on, products of one pair of matrices after another are faster than all of them at once


@cache
def positions(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where entries are kept: their rows, their columns, and the (n, n) index of each pair of the two."""
    row, column = (part.astype(np.int32) for part in np.triu_indices(n))
    index = np.empty((n, n), np.int32)
    index[row, column] = index[column, row] = np.arange(len(row))
    return row, column, index


def pack(matrix: Array) -> Array:
    """(n, n, …) symmetric matrices -> (n(n+1)/2, …)."""
    row, column, _ = positions(matrix.shape[0])
    return matrix[row, column]


def unpack(packed: Array) -> Array:
    """(n(n+1)/2, …) -> (n, n, …)."""
    return packed[positions(_order(packed))[2]]


def _order(packed: Array) -> int:
    return int((2 * packed.shape[0]) ** 0.5)


class Solution(NamedTuple):
    """Of S x = r, the batch axis last."""

    inverse: Array  # packed
    x: Array  # (n, batch)
    log_det: Array  # (batch,) log|S|
    quadratic: Array  # (batch,) rᵀS⁻¹r


@jax.custom_jvp
def solve(packed: Array, rhs: Array) -> Solution:
    """Invert S, and solve S x = r on the way: r is swept along as another row and column.

    Parameters
    ----------
    packed : (n(n+1)/2, batch) array
        Positive definite; where it is not, all results are NaN.
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
    twice = np.where(row == column, 1, 2).astype(x.dtype)[:, None]  # entries off the diagonal stand for two
    d_log_det = jnp.sum(twice * solution.inverse * change, 0)
    d_quadratic = jnp.sum(2 * x * d_rhs, 0) - jnp.sum(twice * x[row] * x[column] * change, 0)
    full = unpack(change)
    d_x = matvec(inverse, d_rhs - matvec(full, x))
    return solution, Solution(pack(-_sandwich(inverse, full)), d_x, d_log_det, d_quadratic)


def _sandwich(outer: Array, inner: Array) -> Array:
    """Products outer · inner · outer of symmetric matrices, (n, n, batch)."""
    if len(outer) <= MANY_ROWS:
        return jax.lax.map(lambda column: matvec(outer, matvec(inner, column)), outer)
    first, second = (jnp.moveaxis(part, -1, 0) for part in (outer, inner))
    return jnp.moveaxis(first @ second @ first, 0, -1)


def invert(packed: Array) -> tuple[Array, Array]:
    """Inverse, packed, and log determinant of positive definite matrices; NaN where they are not.

    Parameters
    ----------
    packed : (n(n+1)/2, batch) array
    """
    swept, log_det = _sweep(packed, 0)
    return -swept, log_det


def _sweep(packed: Array, first: int) -> tuple[Array, Array]:
    """Sweep all rows and columns but some first ones: Gauss–Jordan without pivoting, stable for such matrices.

    Returns
    -------
    swept : (n(n+1)/2, batch) array
    log_det : (batch,) array
        Of the part that was swept.
    """
    n = _order(packed)
    row, column, where = positions(n)
    index = jnp.asarray(where)

    def step(k, state):
        a, log_det = state
        here = jnp.arange(n) == k
        values = a[index[k]]
        pivot = values[k]
        values = jnp.where(here[:, None], -1.0, values)
        cleared = jnp.where((here[row] | here[column])[:, None], 0.0, a)
        return cleared - (values / pivot)[row] * values[column], log_det + jnp.log(pivot)

    swept, log_det = jax.lax.fori_loop(first, n, step, (packed, jnp.zeros_like(packed[0])))
    positive = jnp.isfinite(log_det)
    return jnp.where(positive, swept, jnp.nan), jnp.where(positive, log_det, jnp.nan)


def matvec(matrix: Array, vector: Array) -> Array:
    """(…, n, batch) matrices times (n, batch) vectors, as additions: XLA's own reduction takes many times as long here."""
    return sum((matrix[..., k, :] * vector[k] for k in range(len(vector))), jnp.zeros_like(matrix[..., 0, :]))


def cholesky(matrix: Array) -> Array:
    """Lower Cholesky factors of many small matrices, the batch axis last, column by column; no LAPACK call.

    Parameters
    ----------
    matrix : (n, n, batch) array
        Symmetric positive definite; otherwise the result has NaN.
    """
    below = jnp.arange(len(matrix))[:, None]

    def step(k, state):
        rest, factor = state
        column = jnp.where(below >= k, rest[k] / jnp.sqrt(rest[k, k]), 0.0)
        return rest - column[:, None] * column, factor.at[:, k].set(column)

    return jax.lax.fori_loop(0, len(matrix), step, (matrix, jnp.zeros_like(matrix)))[1]


def solve_lower(factor: Array, rhs: Array) -> Array:
    """Solve with many small lower triangular matrices, the batch axis last.

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
