"""Mean and variance of every reported contrast given the scales, where each feature and draw has its own sums.

:mod:`bayesharm.conditional.effects` averages over draws that share the sums of a feature, and is faster for many draws.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from bayesharm.algorithms.linalg import matvec
from bayesharm.likelihood.collapsed import CollapsedLikelihood, ConditionedEffects
from bayesharm.likelihood.gram_terms import segment_sum
from bayesharm.likelihood.problem import Problem

Array = jax.Array


def conditional_means(likelihood: CollapsedLikelihood, given: ConditionedEffects, products: tuple[Array, Array]) -> Array:
    """Mean of all effects given the scales, (column, feature).

    Parameters
    ----------
    likelihood : CollapsedLikelihood
    given : ConditionedEffects
    products : tuple of arrays
        From :meth:`CollapsedLikelihood.eliminated_products`.
    """
    constant, slope = _regress(likelihood, given, products)
    return jnp.concatenate([given.dense_mean, constant - matvec(slope, given.dense_mean)])


def contrast_moments(problem: Problem, given: ConditionedEffects, products: tuple[Array, Array]) -> tuple[Array, Array]:
    """Mean and variance of every reported contrast, (contrast, feature).

    With d the dense effects, an eliminated effect is ``constant − slope · d`` plus independent noise: each contrast is a
    combination of d, whose covariance is known, plus noise, independent within a contrast: it never contains two partners.
    """
    columns, weight, group, sums = problem.reported
    likelihood, n_dense = problem.likelihood, problem.likelihood.n_dense
    constant, slope = _regress(likelihood, given, products)
    n_features = constant.shape[-1]
    identity = jnp.broadcast_to(jnp.eye(n_dense, dtype=slope.dtype)[..., None], (n_dense, n_dense, n_features))
    slope = jnp.concatenate([identity, -slope])
    constant = jnp.concatenate([jnp.zeros((n_dense, n_features), constant.dtype), constant])
    noise = given.residual_variance[likelihood.effect_entries.residual]

    is_level = group >= 0
    n_levels = np.bincount(group[is_level])

    def center(values: Array) -> Array:
        """Mean over the levels of each contrast group."""
        flat = segment_sum(group[is_level], len(n_levels), values[is_level].reshape(int(is_level.sum()), -1))
        return (flat / n_levels[:, None].astype(flat.dtype)).reshape(len(n_levels), *values.shape[1:])

    of_contrast = group[columns]
    centered = np.where(of_contrast >= 0, 1.0, 0.0).astype(slope.dtype)
    size = n_levels[of_contrast][:, None].astype(slope.dtype)
    direction = slope[columns] - centered[:, None, None] * center(slope)[of_contrast]
    mean = constant[columns] - centered[:, None] * center(constant)[of_contrast] + matvec(direction, given.dense_mean)
    own = noise[columns]
    variance = own + centered[:, None] * (center(noise)[of_contrast] - 2 * own) / size
    variance += _quadratic(direction, given.dense_covariance)
    mean, variance = mean * weight[:, None], variance * (weight**2)[:, None]
    if not len(sums):
        return mean, variance
    of_sums = jnp.broadcast_to(jnp.asarray(sums, slope.dtype)[..., None], (*sums.shape, n_features))
    return (
        jnp.concatenate([mean, matvec(of_sums, given.dense_mean)]),
        jnp.concatenate([variance, _quadratic(of_sums, given.dense_covariance)]),
    )


def _regress(
    likelihood: CollapsedLikelihood, given: ConditionedEffects, products: tuple[Array, Array]
) -> tuple[Array, Array]:
    """Constant, (eliminated, feature), and slope, (eliminated, dense, feature), of the eliminated effects."""
    entries, n_dense = likelihood.effect_entries, likelihood.n_dense
    cross, of_feature = products
    column, response = entries.column[n_dense:] - n_dense, given.response[entries.response[n_dense:]]
    source = entries.source[n_dense:] - n_dense
    constant = segment_sum(column, likelihood.n_eliminated, response * of_feature[source])
    return constant, segment_sum(column, likelihood.n_eliminated, response[:, None] * cross[source])


def _quadratic(rows: Array, covariance: Array) -> Array:
    """Quadratic form of each row, (row, dense, feature) -> (row, feature); additions, as in :func:`matvec`."""
    along = sum((rows[:, k, None] * covariance[k] for k in range(len(covariance))), jnp.zeros_like(rows))
    return (along * rows).sum(1)
