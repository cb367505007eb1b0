"""All effects of every feature, exactly: Gaussian given the scales, averaged over draws of them (Rao–Blackwell)."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from bayesharm.inference.problem import Problem
from bayesharm.marginal import Constants, condense, normal_equations
from bayesharm.moments import Moments
from bayesharm.packed import invert, unpack

Array = jax.Array


@partial(jax.jit, static_argnums=0)
def average_effects(
    problem: Problem, log_ratio: Array, moments: Moments, log_scales: Array
) -> tuple[Array, Array]:
    """Posterior mean and sd of every reported contrast, for standardized features.

    The mean is the average of the conditional means over draws; the variance is the average of the conditional
    variances plus the variance of the conditional means, which are counted from the first of them: the squares of small
    differences do not suffer from rounding.

    Parameters
    ----------
    problem : Problem
    log_ratio : (scanner,) array
    moments : Moments
    log_scales : (draw, scale, feature) array

    Returns
    -------
    mean, sd : (effect, feature) arrays
    """
    constants, condensed = condense(problem.plan, log_ratio, moments)

    def add(total, log_scales):
        mean, variance = conditional_effects(problem, constants, condensed, log_scales)
        origin, first, second = total
        origin = jnp.where(jnp.isnan(origin), mean, origin)  # the first
        away = mean - origin
        return (origin, first + away, second + variance + away**2), None

    zero = jnp.zeros((problem.contrasts.shape[0], log_scales.shape[-1]), log_scales.dtype)
    (origin, first, second), _ = jax.lax.scan(add, (zero + jnp.nan, zero, zero), log_scales)
    away = first / len(log_scales)
    return origin + away, jnp.sqrt(jnp.maximum(second / len(log_scales) - away**2, 0.0))


def conditional_effects(
    problem: Problem, constants: Constants, moments: Moments, log_scales: Array
) -> tuple[Array, Array]:
    """Mean and variance of every contrast given the scales.

    Parameters
    ----------
    problem : Problem
    constants, moments
        From :func:`bayesharm.marginal.condense`.
    log_scales : (scale, feature) array

    Returns
    -------
    mean, variance : (effect, feature) arrays
    """
    plan = problem.plan
    normal = normal_equations(plan, constants, moments, log_scales)
    n_dense = normal.rhs.shape[0]
    covariance = unpack(invert(normal.schur)[0])
    dense = jnp.sum(covariance * normal.rhs, axis=1)

    # Each eliminated effect is its own regression on the dense ones: u = pivot_rhs / pivot − regression · dense.
    classes, columns, _ = plan.eliminated
    contrasts = problem.contrasts.astype(log_scales.dtype)
    own, rest = contrasts[:, n_dense:], contrasts[:, :n_dense]
    weight = normal.precision[classes] / normal.pivot[columns]  # (entry, feature)
    regression = jnp.einsum("xe,er,ef->xrf", own[:, columns], constants.cross, weight)
    direction = rest[:, :, None] - regression  # (effect, dense, feature)
    mean = jnp.sum(direction * dense, axis=1) + own @ (normal.pivot_rhs / normal.pivot)
    spread = jax.lax.map(lambda v: jnp.sum(v * jnp.sum(covariance * v, axis=1), axis=0), direction)
    return mean, spread + own**2 @ (1 / normal.pivot)
