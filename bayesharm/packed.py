"""Many small symmetric matrices at once, the batch axis last; of each only the upper triangle is kept, row by row.

Plain array operations on the whole batch: LAPACK would be called once for each matrix, and take longer.
"""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


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


@jax.custom_jvp
def invert(packed: Array) -> tuple[Array, Array]:
    """Invert symmetric positive definite matrices.

    A symmetric sweep (Gauss–Jordan without pivoting, stable for such matrices). Where a matrix is not positive definite its
    results are NaN.

    Parameters
    ----------
    packed : (n(n+1)/2, batch) array

    Returns
    -------
    inverse : (n(n+1)/2, batch) array
    log_det : (batch,) array
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

    swept, log_det = jax.lax.fori_loop(0, n, step, (packed, jnp.zeros_like(packed[0])))
    positive = jnp.isfinite(log_det)
    return jnp.where(positive, -swept, jnp.nan), jnp.where(positive, log_det, jnp.nan)


@invert.defjvp
def _invert_jvp(primals, tangents):
    inverse, log_det = invert(*primals)
    full, change = unpack(inverse), unpack(tangents[0])
    left = jnp.sum(full[:, :, None] * change[None], axis=1)
    d_inverse = -jnp.sum(left[:, :, None] * full[None], axis=1)
    return (inverse, log_det), (pack(d_inverse), jnp.sum(full * change, (0, 1)))


@jax.custom_jvp
def log_det_and_quadratic(packed: Array, rhs: Array) -> tuple[Array, Array]:
    """log|S| and rᵀS⁻¹r; their gradient is the inverse that was computed anyway.

    Parameters
    ----------
    packed : (n(n+1)/2, batch) array
    rhs : (n, batch) array

    Returns
    -------
    log_det, quadratic : (batch,) arrays
    """
    inverse, log_det = invert(packed)
    return log_det, jnp.sum(solve(inverse, rhs) * rhs, axis=0)


def solve(inverse: Array, rhs: Array) -> Array:
    """S⁻¹r from the packed inverse and r (n, batch)."""
    return jnp.sum(unpack(inverse) * rhs, axis=1)


@log_det_and_quadratic.defjvp
def _log_det_and_quadratic_jvp(primals, tangents):
    (packed, rhs), (d_packed, d_rhs) = primals, tangents
    inverse, log_det = invert(packed)
    x = solve(inverse, rhs)
    row, column, _ = positions(len(rhs))
    twice = np.where(row == column, 1, 2).astype(packed.dtype)[:, None]  # entries off the diagonal stand for two
    d_log_det = jnp.sum(twice * inverse * d_packed, 0)
    d_quadratic = jnp.sum(2 * x * d_rhs, 0) - jnp.sum(twice * x[row] * x[column] * d_packed, 0)
    return (log_det, jnp.sum(rhs * x, 0)), (d_log_det, d_quadratic)
