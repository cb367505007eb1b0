"""The posterior of the effects given the scales, computed for many features and draws of the scales at once.

:class:`~bayesharm.conditional.posterior.ConditionalPosterior` says how it is stored.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from bayesharm.algorithms.linalg import cholesky
from bayesharm.algorithms.programs import program
from bayesharm.conditional.posterior import ConditionalPosterior
from bayesharm.likelihood.collapsed import CollapsedLikelihood, ConditionedEffects
from bayesharm.likelihood.gram_terms import segment_sum
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.problem import Problem
from bayesharm.likelihood.ratios import VarianceRatios

Array = jax.Array


def condition_effects(
    problem: Problem, ratios: VarianceRatios, moments: Moments, log_scales: np.ndarray
) -> ConditionalPosterior:
    """Joint posterior of all effects of each feature at each draw of its log-scales.

    Parameters
    ----------
    problem : Problem
    ratios : VarianceRatios
    moments : Moments
    log_scales : (draw, scale, feature) array

    Returns
    -------
    ConditionalPosterior
        With leading axes (draw, feature), of standardized features.
    """
    parts = _condition_effects(problem, ratios, moments, log_scales)
    return ConditionalPosterior(*(np.asarray(part) for part in (*parts, problem.likelihood.couples)))


@program("problem")
def _condition_effects(problem: Problem, ratios: VarianceRatios, moments: Moments, log_scales: Array) -> tuple[Array, ...]:
    likelihood = problem.likelihood
    statistics = likelihood.weighted(ratios, moments)
    cross, products = likelihood.eliminated_products(ratios, moments)
    entries, n_dense, n_eliminated = likelihood.effect_entries, likelihood.n_dense, likelihood.n_eliminated
    column, response_of_term = entries.column[n_dense:] - n_dense, entries.response[n_dense:]
    source = entries.source[n_dense:] - n_dense
    prior_of_column = np.concatenate([np.arange(n_dense), n_dense + entries.residual[n_dense:] - 1])

    def of_draw(log_scales: Array) -> tuple[Array, ...]:
        given = likelihood.condition(statistics, log_scales)
        response = given.response[response_of_term]
        intercept = jax.ops.segment_sum(response * products[source], column, n_eliminated)
        slope = jax.ops.segment_sum(response[:, None] * cross[source], column, n_eliminated)
        residual = given.residual_variance[entries.residual[n_dense:]]
        prior = given.prior_variance[prior_of_column]
        covariance = given.residual_covariance
        parts = (given.dense_mean, given.dense_covariance, intercept, slope, residual, prior, covariance)
        return tuple(jnp.moveaxis(part, -1, 0) for part in parts)

    return jax.lax.map(of_draw, log_scales)


def draw_effects(
    likelihood: CollapsedLikelihood, given: ConditionedEffects, products: tuple[Array, Array], normal: Array
) -> Array:
    """Draw all effects from their joint posterior, one draw for each feature.

    Parameters
    ----------
    likelihood : CollapsedLikelihood
    given : ConditionedEffects
    products : tuple of arrays
        From :meth:`CollapsedLikelihood.eliminated_products`, repeated for the draws of a batch.
    normal : (column, feature) array
        Draws of the standard normal distribution.

    Returns
    -------
    (column, feature) array
    """
    entries, n_dense = likelihood.effect_entries, likelihood.n_dense
    cross, of_feature = products
    dense = given.dense_mean + jnp.einsum("ijf,jf->if", cholesky(given.dense_covariance), normal[:n_dense])
    column, response = entries.column[n_dense:] - n_dense, given.response[entries.response[n_dense:]]
    fitted = cross[..., 0] @ dense if cross.shape[-1] == 1 else jnp.einsum("edf,df->ef", cross, dense)
    residual = (of_feature - fitted)[entries.source[n_dense:] - n_dense]
    eliminated = segment_sum(column, likelihood.n_eliminated, response * residual)
    variance, noise = given.residual_variance[entries.residual[n_dense:]], normal[n_dense:]
    sd = jnp.sqrt(variance)
    if len(couples := likelihood.couples):
        first, second = couples.T
        share = given.residual_covariance / sd[first]  # of the first of two partners in the second
        eliminated = eliminated.at[second].add(share * noise[first])
        sd = sd.at[second].set(jnp.sqrt(variance[second] - share**2))
    eliminated += sd * noise
    return jnp.concatenate([dense, eliminated])


def batch_draws(log_scales: Array, at_most: int) -> tuple[Array, int]:
    """Lay draws of the scales side by side, as if they were features, so that several are evaluated at once.

    Parameters
    ----------
    log_scales : (draw, scale, feature) array
    at_most : int
        Draws at once.

    Returns
    -------
    log_scales : (batch, scale, draw of the batch × feature) array
    at_once : int
        Draws of a batch: the largest divisor of the number of draws that is not above `at_most`.
    """
    n_draws, n_scales, n_features = log_scales.shape
    at_once = next(k for k in range(at_most, 0, -1) if n_draws % k == 0)
    batches = jnp.swapaxes(log_scales.reshape(n_draws // at_once, at_once, n_scales, n_features), 1, 2)
    return batches.reshape(*batches.shape[:2], -1), at_once
