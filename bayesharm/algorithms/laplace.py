"""Laplace approximations of many small posteriors at once: mode and inverse curvature, the batch axis last.

Newton's method with Levenberg–Marquardt damping (Nocedal & Wright, *Numerical Optimization*, 2006, section 10.3). The
package uses the approximations as proposals and preconditioners, never as results.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bayesharm.algorithms.linalg import cholesky, invert, pack, solve, unpack

Array = jax.Array
LogDensity = Callable[[Array], Array]  # (dimension, batch) -> (batch,)


@dataclass(frozen=True)
class NewtonSettings:
    """Step control of the damped Newton method. Damping is in units of the prior precision, 1 / fallback_sd².

    Attributes
    ----------
    max_step : float
        Largest step of one coordinate; the coordinates of the package are logarithms, so 2 is a factor of 7.
    first_damping : float
        Damping after the first rejected Newton step: steps become short compared with the fallback sd.
    increase, decrease : float
        Factors of the damping after a rejected and an accepted step. The decrease is the stronger one, so that
        convergence is soon quadratic again.
    min_damping : float
        Smaller values become 0, a plain Newton step.
    tolerance : float
        Newton decrement, in units of log density, below which one last step ends the search; quadratic convergence
        squares it.
    """

    max_step: float = 2.0
    first_damping: float = 100.0
    increase: float = 4.0
    decrease: float = 0.1
    min_damping: float = 1e-3
    tolerance: float = 1e-4


SETTINGS = NewtonSettings()


class Laplace(NamedTuple):
    """Gaussian approximation of each posterior of the batch.

    Attributes
    ----------
    mode : (dimension, batch) array
    factor : (dimension, dimension, batch) array
        Lower Cholesky factor of the covariance.
    converged : (batch,) bool array
    """

    mode: Array
    factor: Array
    converged: Array


class NewtonState(NamedTuple):
    """State of the search.

    Attributes
    ----------
    n_steps : int
    position : (dimension, batch) array
    precision : (dimension, dimension, batch) array
        Negative Hessian of the log density at the position before the last step.
    damping : (batch,) array
    is_converged : (batch,) bool array
    was_converged : (batch,) bool array
        `is_converged` before the last step. A converged position no longer moves, so that `precision` is its own.
    """

    n_steps: Array | int
    position: Array
    precision: Array
    damping: Array
    is_converged: Array
    was_converged: Array


def fit_laplace(log_density: LogDensity, start: Array, fallback_sd: Array, *, n_iterations: int = 60) -> Laplace:
    """Find mode and curvature of every posterior; stop when all have converged.

    Parameters
    ----------
    log_density : callable
        Twice differentiable log density of the whole batch.
    start : (dimension, batch) array
    fallback_sd : (dimension, batch) array
        Sets the unit of the damping, and is the spread where the curvature at the end is not positive definite.
    n_iterations : int
        Maximum number of steps.
    """
    dimension, n_batch = start.shape
    identity = jnp.eye(dimension, dtype=start.dtype)[:, :, None]
    prior_precision = identity / fallback_sd**2
    nowhere = jnp.zeros(n_batch, bool)

    def is_unfinished(state: NewtonState) -> Array:
        return (state.n_steps <= n_iterations) & ~jnp.all(state.was_converged)

    def step(state: NewtonState) -> NewtonState:
        return _damped_newton_step(log_density, prior_precision, n_iterations, state)

    unknown = jnp.broadcast_to(identity, (dimension, dimension, n_batch))
    initial = NewtonState(0, start, unknown, jnp.zeros(n_batch, start.dtype), nowhere, nowhere)
    final = jax.lax.while_loop(is_unfinished, step, initial)
    inverse, log_det = invert(pack(final.precision))
    is_positive = jnp.isfinite(log_det)
    covariance = jnp.where(is_positive, unpack(inverse), identity * fallback_sd**2)
    factor = cholesky(covariance)
    is_valid = is_positive & jnp.all(jnp.isfinite(factor), (0, 1))
    return Laplace(final.position, jnp.where(is_valid, factor, identity * fallback_sd), final.is_converged & is_valid)


def _damped_newton_step(
    log_density: LogDensity, prior_precision: Array, n_iterations: int, state: NewtonState
) -> NewtonState:
    """Try one Levenberg–Marquardt step, the solution d of ``(A + μ P) d = g``.

    Here g is the gradient of the log density, A its negative Hessian, P the diagonal prior precision and μ the damping.
    With μ = 0 this is Newton's step. A large μ turns it toward the gradient, scaled by the prior variances, and shortens
    it to ``P⁻¹ g / μ``, which raises the log density even where A is not positive definite. So μ grows after a step that
    fails and shrinks after one that succeeds (Marquardt, *J. SIAM* 11, 1963). ``gᵀ d`` is the Newton decrement, about twice
    the log density still to be gained.
    """
    x = state.position
    slope, along, value = jax.linearize(lambda x: _gradient(log_density, x), x, has_aux=True)
    directions = jnp.broadcast_to(jnp.eye(len(x), dtype=x.dtype)[:, :, None], state.precision.shape)
    hessian = jax.lax.map(along, directions)
    precision = -0.5 * (hessian + hessian.transpose(1, 0, 2))
    _, change, log_det, decrement = solve(pack(precision + state.damping * prior_precision), slope)
    proposal = x + jnp.clip(change, -SETTINGS.max_step, SETTINGS.max_step)
    new_value = log_density(proposal)
    is_valid = jnp.isfinite(log_det) & (decrement >= 0)
    # near the mode a good step may seem to lose a little in single precision
    rounding = 16 * jnp.finfo(x.dtype).eps * jnp.abs(value)
    is_gain = new_value >= value - SETTINGS.tolerance**2 - rounding
    is_accepted = is_valid & is_gain & ~state.is_converged & (state.n_steps < n_iterations)
    is_converged = state.is_converged | (is_valid & (decrement < SETTINGS.tolerance) & (state.damping <= 1))
    return NewtonState(
        state.n_steps + 1,
        jnp.where(is_accepted, proposal, x),
        precision,
        _next_damping(state.damping, is_valid, is_accepted),
        is_converged,
        state.is_converged,
    )


def _gradient(log_density: LogDensity, x: Array) -> tuple[Array, Array]:
    """Gradient of the log density, and the log density."""
    value, pull = jax.vjp(log_density, x)
    return pull(jnp.ones_like(value))[0], value


def _next_damping(damping: Array, is_valid: Array, is_accepted: Array) -> Array:
    """Damping of the next step; from 0 it rises further after a step too long than after a curvature of the wrong sign."""
    first = jnp.where(is_valid, SETTINGS.first_damping, 1.0)
    damping = jnp.where(is_accepted, damping * SETTINGS.decrease, jnp.maximum(damping * SETTINGS.increase, first))
    return jnp.where(damping < SETTINGS.min_damping, 0.0, damping)
