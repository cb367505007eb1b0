"""The joint posterior of all effects given the scales: Gaussian, and exact (line 5 of ``bayesharm.likelihood.definition``).

The *dense* effects have a posterior mean and covariance. An *eliminated* effect, that of a participant for instance, shares
no scan with any other eliminated effect, so that given the dense effects d it is independent of all others:

    u = intercept − slope · d + residual,   residual ~ Normal(0, residual variance).

An intercept and a slope of one level, two partners, share scans, and their residuals are correlated.
A posterior with thousands of effects so takes a (dense, dense) matrix, and a few numbers for each effect. The arrays are
NumPy's: what a design says before any feature is seen needs no JAX, which takes seconds to import.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import sparse

from bayesharm.likelihood.definition import design_matrix, prior_variance, scan_precision
from bayesharm.likelihood.grams import entries_of
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.model.contrasts import EffectGroup, add_columns
from bayesharm.model.design import Design


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
    residual_covariance : (…, couple) array
        Of two partners.
    couples : (couple, 2) int array
        Partners, counted from the first eliminated effect.
    """

    dense_mean: np.ndarray
    dense_covariance: np.ndarray
    intercept: np.ndarray
    slope: np.ndarray
    residual_variance: np.ndarray
    prior_variance: np.ndarray
    residual_covariance: np.ndarray
    couples: np.ndarray

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
        noise_sd = scan_precision(design, log_scales, ratios) ** -0.5
        # in units of prior and noise sd the prior precision is nearly the identity: well conditioned at any scales
        x = sparse.diags_array(1 / noise_sd) @ design_matrix(design, ratios) @ sparse.diags_array(prior_sd)
        x, prior = x.tocsr()[rows], _prior_precision(design, ratios)
        n_dense, couples = design.n_dense, design.eliminated_pairs
        dense, eliminated = x[:, :n_dense], x[:, n_dense:]
        inverse = _invert_blocks((eliminated.T @ eliminated + prior[n_dense:, n_dense:]).tocsr(), couples)
        cross = (eliminated.T @ dense).toarray()
        slope = inverse @ cross
        schur = prior[:n_dense, :n_dense].toarray() + (dense.T @ dense).toarray() - cross.T @ slope
        dense_sd, eliminated_sd = np.split(prior_sd, [n_dense])
        first, second = couples.T
        return cls(
            np.zeros(n_dense),
            dense_sd[:, None] * np.linalg.inv(schur) * dense_sd,
            np.zeros(len(eliminated_sd)),
            eliminated_sd[:, None] * slope / dense_sd,
            eliminated_sd**2 * inverse.diagonal(),
            prior_sd**2,
            entries_of(inverse, first, second) * eliminated_sd[first] * eliminated_sd[second],
            couples,
        )

    def mean(self, combinations: sparse.csr_array) -> np.ndarray:
        """Posterior mean of each combination, (…, combination)."""
        eliminated = self.intercept - (self.slope @ self.dense_mean[..., None])[..., 0]
        return _combine(combinations, np.concatenate([self.dense_mean, eliminated], axis=-1), -1)

    def variance(self, combinations: sparse.csr_array) -> np.ndarray:
        """Posterior variance of each combination, (…, combination)."""
        independent = _combine(combinations.power(2), self._residual_of_columns(), -1)
        if len(self.couples):
            first, second = self.dense_mean.shape[-1] + self.couples.T
            products = sparse.csr_array(combinations[:, first].multiply(combinations[:, second]))
            independent += 2 * _combine(products, self.residual_covariance, -1)
        return self._variance_from_dense(self._dense_weights(combinations)) + independent

    def covariance(self, combinations: sparse.csr_array) -> np.ndarray:
        """Posterior covariance of all combinations, (…, combination, combination)."""
        weights = self._dense_weights(combinations)
        residual = self._residual_of_columns()
        used, n_dense = np.flatnonzero(np.diff(combinations.tocsc().indptr)), self.dense_mean.shape[-1]
        used = used[used >= n_dense]
        eliminated = combinations[:, used].toarray()
        independent = (eliminated * residual[..., None, used]) @ eliminated.T
        if len(self.couples):
            first, second = (combinations[:, n_dense + part].toarray() for part in self.couples.T)
            between = (first * self.residual_covariance[..., None, :]) @ second.T
            independent = independent + between + np.swapaxes(between, -1, -2)
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


def _prior_precision(design: Design, ratios: VarianceRatios) -> sparse.csr_array:
    """Prior precision of the effects in units of their prior sds, (column, column)."""
    columns, has_partner = np.arange(len(design.columns)), np.flatnonzero(design.correlation_of >= 0)
    rho = np.zeros(len(columns))
    rho[has_partner] = np.tanh(ratios.correlation)[design.correlation_of[has_partner]]
    at = np.concatenate([columns, has_partner]), np.concatenate([columns, design.partner[has_partner]])
    values = np.concatenate([1 / (1 - rho**2), -(rho / (1 - rho**2))[has_partner]])
    return sparse.csr_array((values, at), shape=(len(columns),) * 2)


def _invert_blocks(matrix: sparse.csr_array, couples: np.ndarray) -> sparse.csr_array:
    """Invert a matrix that is diagonal but for 2 × 2 blocks of couples."""
    first, second = couples.T
    pivot = matrix.diagonal()
    inverse, between = 1 / pivot, entries_of(matrix, first, second)
    det = pivot[first] * pivot[second] - between**2
    inverse[first], inverse[second] = pivot[second] / det, pivot[first] / det
    every = np.arange(len(pivot))
    at = np.concatenate([every, first, second]), np.concatenate([every, second, first])
    return sparse.csr_array((np.concatenate([inverse, -between / det, -between / det]), at), shape=matrix.shape)
