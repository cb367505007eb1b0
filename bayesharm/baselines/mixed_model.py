"""Linear mixed model with random effects of groups, fitted to each feature by restricted maximum likelihood (REML)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import linalg, optimize, sparse

MAX_GRADIENT = 1e-5  # of the deviance per scan; a larger one means that the search has failed
SMALLEST_NOISE = 1e-6  # relative to the sd of a feature; below it the model explains every scan
ROUNDING = 1e-12  # relative to the values
SEARCH = {"gtol": 1e-8}
BLOCK = 512  # features whose random effects are predicted at a time, which bounds memory


@dataclass(frozen=True, eq=False)
class MixedModel:
    """Estimates of ``y = fixed @ coefficients + random @ u[group] + noise``; NaN for features that could not be fitted.

    Attributes
    ----------
    coefficients : (column, feature) array
        Fixed effects.
    covariance : (feature, column, column) array
        Covariance of the errors of the fixed effects, given the variances.
    noise_sd : (feature,) array
        REML estimate of the noise sd.
    factor : (feature, random, random) array
        Lower Cholesky factor of the covariance of the random effects, divided by the noise sd; signs are arbitrary.
    """

    coefficients: np.ndarray
    covariance: np.ndarray
    noise_sd: np.ndarray
    factor: np.ndarray

    @property
    def random_covariance(self) -> np.ndarray:
        """Covariance of the random effects, (feature, random, random)."""
        return self.noise_sd[:, None, None] ** 2 * self.factor @ self.factor.swapaxes(1, 2)

    @property
    def is_fitted(self) -> np.ndarray:
        """Features with estimates, (feature,) bool."""
        return np.isfinite(self.noise_sd)


def fit_mixed_model(values: np.ndarray, fixed: np.ndarray, random: np.ndarray, groups: np.ndarray) -> MixedModel:
    """Fit the model of Laird and Ware (1982) to each feature by REML.

    The restricted likelihood is profiled over coefficients and noise, and maximized over the Cholesky factor of the
    covariance of the random effects [1]_. The factor has no sign constraint: an estimate on the boundary (a variance of 0,
    or a correlation of 1) is then an ordinary minimum.

    Parameters
    ----------
    values : (scan, feature) array
        Complete data.
    fixed : (scan, column) array
        Columns of the fixed effects, linearly independent.
    random : (scan, random) array
        Columns of the random effects, such as a constant and time. Of similar size, so that the search is quick.
    groups : (scan,) int array
        Group of each scan, 0 to J - 1.

    Returns
    -------
    MixedModel

    References
    ----------
    .. [1] Bates, Mächler, Bolker & Walker (2015). Fitting linear mixed-effects models using lme4. *Journal of Statistical
       Software* 67(1).
    """
    (n_scans, n_columns), n_random, n_features = fixed.shape, random.shape[1], values.shape[1]
    # Orthonormal columns, and what least squares leaves of the data: the same model without loss of digits.
    basis, triangle = np.linalg.qr(fixed)
    first = basis.T @ values
    rest = values - basis @ first
    likelihood = _RestrictedLikelihood(basis, random, groups)
    back = linalg.solve_triangular(triangle, np.eye(n_columns))
    coefficients = np.full((n_columns, n_features), np.nan)
    covariance = np.full((n_features, n_columns, n_columns), np.nan)
    noise_sd, factor = np.full(n_features, np.nan), np.full((n_features, n_random, n_random), np.nan)
    start = np.eye(n_random)[likelihood.lower]
    for f in range(n_features):
        sums = likelihood.sums_of(rest[:, f])
        spread = np.sqrt(sums.squares / n_scans)
        if not spread > SMALLEST_NOISE * values[:, f].std() + ROUNDING * np.abs(values[:, f]).max():
            continue
        with np.errstate(all="ignore"):  # the likelihood of data without noise has no maximum
            found = optimize.minimize(likelihood.deviance, start, args=(sums,), jac=True, method="BFGS", options=SEARCH)
        if not np.abs(found.jac).max() < MAX_GRADIENT:
            continue
        cholesky = likelihood.to_factor(found.x)
        solution = likelihood.solve(cholesky, sums)
        variance = solution.square / likelihood.n_free
        if not variance > (SMALLEST_NOISE * spread) ** 2:
            continue
        coefficients[:, f] = back @ (first[:, f] + solution.coefficients)
        covariance[f] = variance * back @ solution.inverse @ back.T
        noise_sd[f], factor[f] = np.sqrt(variance), cholesky
    return MixedModel(coefficients, covariance, noise_sd, factor)


def predict_random_effects(residuals: np.ndarray, random: np.ndarray, groups: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Predict the random effects of each group (BLUP) from residuals of the fixed effects.

    Parameters
    ----------
    residuals : (scan, feature) array
        Data minus fixed effects; NaN where missing.
    random : (scan, random) array
        Columns of the random effects.
    groups : (scan,) int array
        Group of each scan, 0 to J - 1.
    factor : (feature, random, random) array
        As in `MixedModel`.

    Returns
    -------
    (group, feature, random) array
    """
    n_random, n_features = random.shape[1], residuals.shape[1]
    add_up = _group_sums(groups)
    effects = np.empty((add_up.shape[0], n_features, n_random))
    for start in range(0, n_features, BLOCK):
        part = slice(start, start + BLOCK)
        is_observed = np.isfinite(residuals[:, part])
        block = np.where(is_observed, residuals[:, part], 0.0)
        moment = np.stack([add_up @ (random[:, [a]] * block) for a in range(n_random)], axis=-1)
        gram = np.stack(
            [[add_up @ (random[:, [a]] * random[:, [b]] * is_observed) for b in range(n_random)] for a in range(n_random)]
        ).transpose(2, 3, 0, 1)
        scale = factor[part]
        inner = np.eye(n_random) + scale.swapaxes(1, 2) @ gram @ scale
        scaled = np.linalg.solve(inner, scale.swapaxes(1, 2) @ moment[..., None])
        effects[:, part] = (scale @ scaled)[..., 0]
    return effects


def _group_sums(groups: np.ndarray) -> sparse.csr_array:
    """Return the (group, scan) matrix whose product adds up the scans of each group."""
    return sparse.csr_array((np.ones(len(groups)), (groups, np.arange(len(groups)))))


class _Sums(NamedTuple):
    """Products of one feature with the random columns by group and with the fixed columns, and its sum of squares."""

    by_group: np.ndarray
    by_column: np.ndarray
    squares: float


class _Solution(NamedTuple):
    """Solution of the normal equations; variances are divided by that of the noise, V is the covariance of the scans."""

    shrink: np.ndarray  # turns Z'x of a group into Z'V^-1 x
    inverse: np.ndarray  # (X'V^-1 X)^-1
    coefficients: np.ndarray
    square: float  # of the residuals, by V^-1
    log_det: float  # of V and of X'V^-1 X


class _RestrictedLikelihood:
    """Profiled restricted likelihood of one feature, from sums over the scans of each group."""

    def __init__(self, fixed: np.ndarray, random: np.ndarray, groups: np.ndarray) -> None:
        self.fixed, self.n_free = fixed, fixed.shape[0] - fixed.shape[1]
        n_random = random.shape[1]
        self.lower = np.tril_indices(n_random)
        add_up = _group_sums(groups)
        self.gram = np.stack([add_up @ (random[:, [a]] * random) for a in range(n_random)], axis=1)
        self.cross = np.stack([add_up @ (random[:, [a]] * fixed) for a in range(n_random)], axis=1)
        self.weigh = [add_up.multiply(random[:, a]).tocsr() for a in range(n_random)]

    def sums_of(self, values: np.ndarray) -> _Sums:
        """Return all that the likelihood needs of the values of a feature."""
        by_group = np.stack([weigh @ values for weigh in self.weigh], axis=1)
        return _Sums(by_group, self.fixed.T @ values, float(values @ values))

    def to_factor(self, parameters: np.ndarray) -> np.ndarray:
        """Return the Cholesky factor with these entries in its lower triangle."""
        factor = np.zeros((self.gram.shape[1],) * 2)
        factor[self.lower] = parameters
        return factor

    def deviance(self, parameters: np.ndarray, sums: _Sums) -> tuple[float, np.ndarray]:
        """Return minus twice the log restricted likelihood per scan, without constants, and its gradient."""
        factor, n_scans = self.to_factor(parameters), len(self.fixed)
        found = self.solve(factor, sums)
        # With P = V^-1 - V^-1 X (X'V^-1 X)^-1 X'V^-1, the derivative for the covariance of the random effects is
        # Z'PZ - Z'Py y'PZ / noise variance, summed over groups.
        fixed = found.shrink @ self.cross
        scores = (found.shrink @ sums.by_group[:, :, None])[:, :, 0] - fixed @ found.coefficients
        slope = (found.shrink @ self.gram).sum(axis=0) - np.tensordot(fixed @ found.inverse, fixed, ([0, 2], [0, 2]))
        slope -= scores.T @ scores * (self.n_free / found.square)
        value = found.log_det + self.n_free * np.log(found.square)
        return value / n_scans, (2 * slope @ factor)[self.lower] / n_scans

    def solve(self, factor: np.ndarray, sums: _Sums) -> _Solution:
        """Solve the normal equations given the Cholesky factor of the covariance of the random effects."""
        one = np.eye(len(factor))
        inner = one + factor.T @ self.gram @ factor
        within = factor @ np.linalg.solve(inner, np.broadcast_to(factor.T, inner.shape))
        weighted = within @ self.cross
        normal = np.eye(len(sums.by_column)) - np.tensordot(self.cross, weighted, ([0, 1], [0, 1]))
        moment = sums.by_column - np.tensordot(weighted, sums.by_group, ([0, 1], [0, 1]))
        inverse = np.linalg.inv(normal)
        coefficients = inverse @ moment
        square = sums.squares - np.einsum("ja,jab,jb->", sums.by_group, within, sums.by_group) - moment @ coefficients
        log_det = np.linalg.slogdet(inner)[1].sum() + np.linalg.slogdet(normal)[1]
        return _Solution(one - self.gram @ within, inverse, coefficients, square, log_det)
