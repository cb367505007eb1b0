"""Mode and curvature of many small posteriors at once, the lane axis last. A preconditioner, not a result."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bayesharm.packed import invert, pack, solve, unpack

Array = jax.Array
LogDensity = Callable[[Array], Array]  # (dimension, lane) -> (lane,)


class Laplace(NamedTuple):
    """A Gaussian approximation for each lane.

    Attributes
    ----------
    mode : (dimension, lane) array
    factor : (dimension, dimension, lane) array
        Lower Cholesky factor of the covariance.
    converged : (lane,) bool array
    """

    mode: Array
    factor: Array
    converged: Array


def fit_laplace(
    log_density: LogDensity, start: Array, fallback_sd: Array, *, n_iterations: int = 60
) -> Laplace:
    """Damped Newton (Levenberg–Marquardt) in every lane, stopped when all lanes have converged.

    Parameters
    ----------
    log_density : callable
        Twice differentiable log density of all lanes.
    start : (dimension, lane) array
    fallback_sd : (dimension, lane) array
        Unit of the damping, and the spread where the curvature at the end is not positive definite.
    n_iterations : int
        At most so many steps.
    """
    tolerance = 1e-4  # of the Newton decrement before the last step; quadratic convergence squares it
    identity = jnp.eye(start.shape[0], dtype=start.dtype)[:, :, None]
    unit = identity / fallback_sd**2
    gradient = jax.grad(lambda x: log_density(x).sum())

    def slope_and_precision(x):
        slope, along = jax.linearize(gradient, x)
        directions = jnp.broadcast_to(identity, (*identity.shape[:2], x.shape[1]))
        hessian = jax.lax.map(along, directions)
        return slope, -0.5 * (hessian + hessian.transpose(1, 0, 2))

    def unfinished(state):
        return (state[0] < n_iterations) & ~jnp.all(state[5])

    def step(state):
        k, x, value, slope, precision, done, damping = state
        _, change, log_det, decrement = solve(pack(precision + damping * unit), slope)
        proposal = x + jnp.clip(change, -2.0, 2.0)
        new_value = log_density(proposal)
        valid = jnp.isfinite(log_det) & (decrement >= 0)
        # near the mode a good step may seem to lose a little in float32
        rounding = 16 * jnp.finfo(x.dtype).eps * jnp.abs(value)
        better = valid & (new_value >= value - tolerance**2 - rounding) & ~done
        x = jnp.where(better, proposal, x)
        value = jnp.where(better, new_value, value)
        finished = done | (valid & (decrement < tolerance) & (damping < 1e-3))
        damping = jnp.where(better, damping * 0.1, jnp.maximum(damping * 10, 1e-2))
        damping = jnp.where(damping < 1e-6, 0.0, damping)
        return k + 1, x, value, *slope_and_precision(x), finished, damping

    n_lanes = start.shape[1]
    state = (
        0,
        start,
        log_density(start),
        *slope_and_precision(start),
        jnp.zeros(n_lanes, bool),
        jnp.zeros(n_lanes, start.dtype),
    )
    _, mode, _, _, precision, done, _ = jax.lax.while_loop(unfinished, step, state)
    inverse, log_det = invert(pack(precision))
    positive = jnp.isfinite(log_det)
    covariance = jnp.where(positive, unpack(inverse), identity * fallback_sd**2)
    factor = cholesky(covariance)
    fine = positive & jnp.all(jnp.isfinite(factor), (0, 1))
    return Laplace(mode, jnp.where(fine, factor, identity * fallback_sd), done & fine)


def cholesky(matrix: Array) -> Array:
    """Lower Cholesky factors of many small matrices, the batch axis last; written out, no LAPACK call.

    Parameters
    ----------
    matrix : (n, n, batch) array
        Symmetric positive definite; otherwise the result has NaN.
    """
    n = matrix.shape[0]
    rows: list[list[Array]] = []
    for i in range(n):
        row: list[Array] = []
        for j in range(i + 1):
            rest = matrix[i, j] - sum((row[k] * (row if i == j else rows[j])[k] for k in range(j)), 0.0)
            row.append(jnp.sqrt(rest) if i == j else rest / rows[j][j])
        rows.append(row)
    zero = jnp.zeros_like(matrix[0, 0])
    return jnp.stack([jnp.stack(row + [zero] * (n - len(row))) for row in rows])


def solve_lower(factor: Array, rhs: Array) -> Array:
    """Solve with many small lower triangular matrices, the batch axis last.

    Parameters
    ----------
    factor : (n, n, batch) array
    rhs : (..., n, batch) array
    """
    solved: list[Array] = []
    for i in range(factor.shape[0]):
        rest = rhs[..., i, :] - sum((factor[i, j] * solved[j] for j in range(i)), 0.0)
        solved.append(rest / factor[i, i])
    return jnp.stack(solved, axis=-2)
