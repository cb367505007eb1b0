"""The joint posterior of all effects given the scales: Gaussian, and exact (line 5 of ``bayesharm.likelihood.definition``).

The *dense* effects have a posterior mean and covariance. An *eliminated* effect, that of a participant for instance, shares
no scan with any other eliminated effect, so that given the dense effects d it is independent of all others:

    u = intercept − slope · d + residual,   residual ~ Normal(0, residual variance).

A posterior with thousands of effects so takes a (dense, dense) matrix, and a few numbers for each effect.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from bayesharm.algorithms.linalg import cholesky
from bayesharm.algorithms.programs import program
from bayesharm.likelihood.collapsed import CollapsedLikelihood, ConditionedEffects, WeightedStatistics
from bayesharm.likelihood.definition import noise_variance, prior_variance
from bayesharm.likelihood.gram_terms import segment_sum
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.problem import Problem
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.model.contrasts import EffectGroup, add_columns
from bayesharm.model.design import Design

Array = jax.Array


class ConditionalPosterior(NamedTuple):
    """Gaussian posterior of all effects given the scales; arrays of NumPy, with any leading axes, such as (draw, feature).

    A *combination* is a linear combination of the effects, a row of a sparse (combination, column) matrix.

    Attributes
    ----------
    dense_mean : (…, dense) array
    dense_covariance : (…, dense, dense) array
    intercept : (…, eliminated) array
    slope : (…, eliminated, dense) array
    residual_variance : (…, eliminated) array
    prior_variance : (…, column) array
    """

    dense_mean: np.ndarray
    dense_covariance: np.ndarray
    intercept: np.ndarray
    slope: np.ndarray
    residual_variance: np.ndarray
    prior_variance: np.ndarray

    @classmethod
    def of_scans(
        cls, design: Design, log_scales: np.ndarray, ratios: VarianceRatios, rows: np.ndarray
    ) -> ConditionalPosterior:
        """Posterior given some scans of a design, before any feature is seen: variances do not depend on features.

        All means are 0.

        Parameters
        ----------
        design : Design
        log_scales : (scale,) array
        ratios : VarianceRatios
        rows : (scan,) bool array
            The scans to use.
        """
        prior_sd = np.sqrt(prior_variance(design, log_scales, ratios))
        noise_sd = np.sqrt(noise_variance(design, log_scales, ratios))[design.scan_class]
        # in units of prior and noise sd the prior precision is the identity: well conditioned at any scales
        x = (sparse.diags_array(1 / noise_sd) @ design.matrix @ sparse.diags_array(prior_sd)).tocsr()[rows]
        dense, eliminated = x[:, : design.n_dense], x[:, design.n_dense :]
        pivot = 1 + np.asarray(eliminated.power(2).sum(axis=0)).reshape(-1)
        cross = (eliminated.T @ dense).toarray()
        slope = cross / pivot[:, None]
        schur = np.eye(design.n_dense) + (dense.T @ dense).toarray() - cross.T @ slope
        dense_sd, eliminated_sd = np.split(prior_sd, [design.n_dense])
        return cls(
            np.zeros(design.n_dense),
            dense_sd[:, None] * np.linalg.inv(schur) * dense_sd,
            np.zeros(len(eliminated_sd)),
            eliminated_sd[:, None] * slope / dense_sd,
            eliminated_sd**2 / pivot,
            prior_sd**2,
        )

    def mean(self, combinations: sparse.csr_array) -> np.ndarray:
        """Posterior mean of each combination, (…, combination)."""
        eliminated = self.intercept - (self.slope @ self.dense_mean[..., None])[..., 0]
        return _combine(combinations, np.concatenate([self.dense_mean, eliminated], axis=-1), -1)

    def variance(self, combinations: sparse.csr_array) -> np.ndarray:
        """Posterior variance of each combination, (…, combination)."""
        independent = _combine(combinations.power(2), self._residual_of_columns(), -1)
        return self._variance_from_dense(self._dense_weights(combinations)) + independent

    def covariance(self, combinations: sparse.csr_array) -> np.ndarray:
        """Posterior covariance of all combinations, (…, combination, combination)."""
        weights = self._dense_weights(combinations)
        residual = self._residual_of_columns()
        used = np.flatnonzero(np.diff(combinations.tocsc().indptr))
        used = used[used >= self.dense_mean.shape[-1]]
        eliminated = combinations[:, used].toarray()
        independent = (eliminated * residual[..., None, used]) @ eliminated.T
        return weights @ self.dense_covariance @ np.swapaxes(weights, -1, -2) + independent

    def contraction(self, combinations: sparse.csr_array) -> np.ndarray:
        """1 − posterior variance / prior variance of each combination, (…, combination)."""
        return 1 - self.variance(combinations) / _combine(combinations.power(2), self.prior_variance, -1)

    def contraction_of(self, group: EffectGroup) -> np.ndarray:
        """Contraction of all contrasts of a group of effects, (…, level).

        The contrasts of a group with thousands of levels, such as participants, are never written out as a matrix.
        """
        if group.is_sum:
            return self.contraction(sparse.csr_array(group.contrasts))
        is_plain = group.contrast_group < 0  # not minus the mean of a contrast group
        contrast_group = np.where(is_plain, 0, np.unique(group.contrast_group, return_inverse=True)[1])
        n_levels = np.bincount(contrast_group)[contrast_group]
        at = (contrast_group, np.arange(len(contrast_group)))
        mean_of_group = sparse.csr_array((1 / n_levels, at))

        def variance_of_contrasts(variance: np.ndarray) -> np.ndarray:
            """Variances of independent effects minus the mean of their contrast group."""
            of_mean = _combine(mean_of_group, variance / n_levels, -1)[..., contrast_group]
            return np.where(is_plain, variance, variance * (1 - 2 / n_levels) + of_mean)

        weights = self._dense_weights(add_columns(group.columns, group.n_columns))
        center = _combine(mean_of_group, weights, -2)[..., contrast_group, :]
        weights = np.where(is_plain[:, None], weights, weights - center)
        residual, prior = (part[..., group.columns[:, 0]] for part in (self._residual_of_columns(), self.prior_variance))
        posterior = self._variance_from_dense(weights) + variance_of_contrasts(residual)
        return 1 - posterior / variance_of_contrasts(prior)

    def _dense_weights(self, combinations: sparse.csr_array) -> np.ndarray:
        """Weights of the dense effects in combinations whose eliminated effects are written as functions of them."""
        n_dense = self.dense_mean.shape[-1]
        eliminated = combinations[:, n_dense:].tocsc()
        used = np.flatnonzero(np.diff(eliminated.indptr))  # most combinations are of few columns
        return combinations[:, :n_dense].toarray() - _combine(eliminated[:, used].tocsr(), self.slope[..., used, :], -2)

    def _variance_from_dense(self, weights: np.ndarray) -> np.ndarray:
        return ((weights @ self.dense_covariance) * weights).sum(-1)

    def _residual_of_columns(self) -> np.ndarray:
        """Residual variance of every effect, 0 for dense ones, (…, column)."""
        return np.concatenate([np.zeros_like(self.dense_mean), self.residual_variance], axis=-1)


def _combine(weights: sparse.csr_array, values: np.ndarray, axis: int) -> np.ndarray:
    """Linear combinations of the entries of an array along one axis."""
    values = np.moveaxis(values, axis, 0)
    combined = weights @ values.reshape(len(values), int(np.prod(values.shape[1:])))
    return np.moveaxis(combined.reshape(weights.shape[0], *values.shape[1:]), 0, axis)


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
    return ConditionalPosterior(*map(np.asarray, _condition_effects(problem, ratios, moments, log_scales)))


@program("problem")
def _condition_effects(problem: Problem, ratios: VarianceRatios, moments: Moments, log_scales: Array) -> tuple[Array, ...]:
    likelihood = problem.likelihood
    statistics = likelihood.weighted(ratios, moments)
    cross, products = likelihood.eliminated_products(ratios, moments)
    entries, n_dense, n_eliminated = likelihood.effect_entries, likelihood.n_dense, likelihood.n_eliminated
    column, gain_of_entry = entries.column[n_dense:] - n_dense, entries.gain[n_dense:]
    prior_of_column = np.concatenate([np.arange(n_dense), n_dense + entries.residual[n_dense:] - 1])

    def of_draw(log_scales: Array) -> tuple[Array, ...]:
        given = likelihood.condition(statistics, log_scales)
        gain = given.gain[gain_of_entry]
        intercept = jax.ops.segment_sum(gain * products, column, n_eliminated)
        slope = jax.ops.segment_sum(gain[:, None] * cross, column, n_eliminated)
        residual = given.residual_variance[entries.residual[n_dense:]]
        prior = given.prior_variance[prior_of_column]
        parts = (given.dense_mean, given.dense_covariance, intercept, slope, residual, prior)
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
    column, gain = entries.column[n_dense:] - n_dense, given.gain[entries.gain[n_dense:]]
    fitted = cross[..., 0] @ dense if cross.shape[-1] == 1 else jnp.einsum("edf,df->ef", cross, dense)
    eliminated = segment_sum(column, likelihood.n_eliminated, gain * (of_feature - fitted))
    eliminated += jnp.sqrt(given.residual_variance[entries.residual[n_dense:]]) * normal[n_dense:]
    return jnp.concatenate([dense, eliminated])


def batch_draws(statistics: WeightedStatistics, log_scales: Array, at_most: int) -> tuple[WeightedStatistics, Array, int]:
    """Lay draws of the scales side by side, as if they were features, so that several are evaluated at once.

    Parameters
    ----------
    statistics : WeightedStatistics
    log_scales : (draw, scale, feature) array
    at_most : int
        Draws at once.

    Returns
    -------
    statistics : WeightedStatistics
        Repeated for the draws of a batch.
    log_scales : (batch, scale, draw of the batch × feature) array
    at_once : int
        Draws of a batch: the largest divisor of the number of draws that is not above `at_most`.
    """
    n_draws, n_scales, n_features = log_scales.shape
    at_once = next(k for k in range(at_most, 0, -1) if n_draws % k == 0)
    batches = jnp.swapaxes(log_scales.reshape(n_draws // at_once, at_once, n_scales, n_features), 1, 2)
    return statistics.tile(at_once), batches.reshape(*batches.shape[:2], -1), at_once
