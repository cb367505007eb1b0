"""Mode and curvature of many small posteriors at once, the lane axis last. A preconditioner, not a result."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bayesharm.algorithms.linalg import cholesky, invert, pack, solve, unpack

Array = jax.Array
LONGEST_STEP = 2.0  # of a log-scale
FIRST_DAMPING, HARDER, EASIER = 100.0, 4.0, 0.1  # in precisions of the fallback: after a step that failed, and factors
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


def fit_laplace(log_density: LogDensity, start: Array, fallback_sd: Array, *, n_iterations: int = 60) -> Laplace:
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
    directions = jnp.broadcast_to(identity, (*identity.shape[:2], start.shape[1]))

    def gradient(x):
        value, pull = jax.vjp(log_density, x)
        return pull(jnp.ones_like(value))[0], value

    def unfinished(state):
        return (state[0] <= n_iterations) & ~jnp.all(state[5])

    def step(state):
        """One step from x, or the curvature where the last one has led to."""
        k, x, _, done, damping, _ = state
        slope, along, value = jax.linearize(gradient, x, has_aux=True)
        hessian = jax.lax.map(along, directions)
        precision = -0.5 * (hessian + hessian.transpose(1, 0, 2))
        _, change, log_det, decrement = solve(pack(precision + damping * unit), slope)
        proposal = x + jnp.clip(change, -LONGEST_STEP, LONGEST_STEP)
        new_value = log_density(proposal)
        valid = jnp.isfinite(log_det) & (decrement >= 0)
        # near the mode a good step may seem to lose a little in float32
        rounding = 16 * jnp.finfo(x.dtype).eps * jnp.abs(value)
        better = valid & (new_value >= value - tolerance**2 - rounding) & ~done & (k < n_iterations)
        finished = done | (valid & (decrement < tolerance) & (damping <= 1))
        first = jnp.where(valid, FIRST_DAMPING, 1.0)  # a step that went too far, or a curvature of the wrong sign
        damping = jnp.where(better, damping * EASIER, jnp.maximum(damping * HARDER, first))
        damping = jnp.where(damping < 1e-3, 0.0, damping)
        return k + 1, jnp.where(better, proposal, x), precision, finished, damping, done

    n_lanes = start.shape[1]
    nobody = jnp.zeros(n_lanes, bool)
    state = (0, start, directions, nobody, jnp.zeros(n_lanes, start.dtype), nobody)
    _, mode, precision, done, _, _ = jax.lax.while_loop(unfinished, step, state)
    inverse, log_det = invert(pack(precision))
    positive = jnp.isfinite(log_det)
    covariance = jnp.where(positive, unpack(inverse), identity * fallback_sd**2)
    factor = cholesky(covariance)
    fine = positive & jnp.all(jnp.isfinite(factor), (0, 1))
    return Laplace(mode, jnp.where(fine, factor, identity * fallback_sd), done & fine)
