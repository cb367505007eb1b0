"""The joint posterior of all effects, given the scales: Gaussian, and exact."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from bayesharm.algorithms.linalg import solve, unpack
from bayesharm.likelihood.collapsed import CollapsedLikelihood, WeightedStatistics
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.problem import Problem
from bayesharm.likelihood.ratios import VarianceRatios

Array = jax.Array


def condition(
    likelihood: CollapsedLikelihood, statistics: WeightedStatistics, log_scales: Array
) -> tuple[Array, Array, Array, Array, Array]:
    """Dense effects given the scales, mean and covariance; g, products of two g, and variances of columns of their own.

    The last three begin with 1, 1 and 0: those of dense columns.
    """
    plan, normal = likelihood.plan, likelihood.normal_equations(statistics, log_scales)
    solution = solve(normal.schur, normal.rhs)
    classes, columns, _ = plan.eliminated
    kind, entries, example = plan.kinds.of_column[columns], plan.kinds.entries, plan.pairs.first[plan.pairs.example]
    one = jnp.ones_like(log_scales[:1])
    return (
        solution.x,
        unpack(solution.inverse),
        jnp.concatenate([one, normal.precision[classes[entries]] / normal.pivot[kind[entries]]]),
        jnp.concatenate([one, normal.coefficient / normal.pivot[kind[example]]]),
        jnp.concatenate([0 * one, 1 / normal.pivot]),
    )


class ConditionalPosterior(NamedTuple):
    """What all scans say of the effects; the node and feature axes first.

    Attributes
    ----------
    mean : (node, feature, dense) array
    covariance : (node, feature, dense, dense) array
    constant : (node, feature, eliminated) array
        Eliminated effects where dense ones are 0.
    slope : (node, feature, eliminated, dense) array
        What is taken from that for each dense effect.
    own : (node, feature, eliminated) array
        Their variance given the dense ones.
    """

    mean: Array
    covariance: Array
    constant: Array
    slope: Array
    own: Array


@partial(jax.jit, static_argnums=0)
def condition_effects(problem: Problem, ratios: VarianceRatios, moments: Moments, log_scales: Array) -> ConditionalPosterior:
    """The joint posterior of all effects at each node of the log-scales.

    Parameters
    ----------
    problem : Problem
    ratios : VarianceRatios
    moments : Moments
    log_scales : (node, scale, feature) array
    """
    plan = problem.likelihood.plan
    statistics = problem.likelihood.weighted(ratios, moments)
    cross, eliminated = problem.likelihood.eliminated_products(ratios, moments)
    columns, n_eliminated = plan.eliminated[1], len(plan.kinds.of_column)

    def of_node(log_scales):
        dense, covariance, g, _, own = condition(problem.likelihood, statistics, log_scales)
        g = g[1 + plan.kinds.of_entry]
        constant = jax.ops.segment_sum(g * eliminated, columns, n_eliminated)
        slope = jax.ops.segment_sum(g[:, None] * cross[..., None], columns, n_eliminated)
        own = own[1 + plan.kinds.of_column]
        return ConditionalPosterior(*(jnp.moveaxis(part, -1, 0) for part in (dense, covariance, constant, slope, own)))

    return jax.lax.map(of_node, log_scales)


def linear_combinations(known: ConditionalPosterior, forms: sparse.csr_array) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of linear forms of the effects.

    Parameters
    ----------
    known : Known
        Of arrays of numpy.
    forms : (form, column) sparse array

    Returns
    -------
    mean : (node, feature, form) array
    covariance : (node, feature, form, form) array
    """
    form, some, mean, own = _apply(known, forms)
    covariance = form @ known.covariance @ np.swapaxes(form, -1, -2)
    return mean, covariance + (some * own[..., None, :]) @ some.T


def variance_of_combinations(known: ConditionalPosterior, forms: sparse.csr_array) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each of many forms, (node, feature, form) both; parameters as for :func:`linear_combinations`."""
    form, some, mean, own = _apply(known, forms)
    return mean, ((form @ known.covariance) * form).sum(-1) + own @ (some**2).T


def _apply(known: ConditionalPosterior, forms: sparse.csr_array) -> tuple[Any, ...]:
    """Forms of the dense effects alone, what they take of eliminated ones, their means, and variances of the latter."""
    n_dense = known.mean.shape[-1]
    dense, eliminated = forms[:, :n_dense].toarray(), forms[:, n_dense:].tocsc()
    used = np.flatnonzero(np.diff(eliminated.indptr))  # most forms are of few columns
    some = eliminated[:, used].toarray()
    form = dense - some @ known.slope[..., used, :]
    mean = (form @ known.mean[..., None])[..., 0] + known.constant[..., used] @ some.T
    return form, some, mean, known.own[..., used]
