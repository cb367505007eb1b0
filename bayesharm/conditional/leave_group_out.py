"""Leave-group-out predictive densities: each fold of scans predicted from all others, exact given the scales.

Everything is Gaussian, so that no model is fitted again. Given all scans, the noise-free values of the scans of a fold are
f ~ Normal(mu, M). Removing the information of the fold itself, with noise precisions W and residuals r = W^(1/2) (y − mu),

    B = I − W^(1/2) M W^(1/2),   f | others ~ Normal(mu − M W^(1/2) B⁻¹ r, M + M W^(1/2) B⁻¹ W^(1/2) M),
    log p(y | others) = ½ log|B| − ½ rᵀB⁻¹r − ½ Σ log(2π / W)

(Sundararajan & Keerthi, *Neural Computation* 13, 2001, for single scans). Scans of a fold with the same effects share one
value of f, and differ only by noise. Folds with the same values are handled together. Missing values have precision 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.special import ndtr

from bayesharm.conditional.gaussian import condition_effects
from bayesharm.conditional.held_out_groups import HeldOutGroups, PredictionUnits
from bayesharm.conditional.posterior import ConditionalPosterior
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.problem import Problem
from bayesharm.likelihood.ratios import VarianceRatios

MIN_EIGENVALUE = 1e-11  # of B: below, the prediction of a fold from the others is lost in rounding
MAX_LANES = 2048  # draws × features at once
MAX_NUMBERS = 2**25  # in the arrays of these


class HeldOutDensity(NamedTuple):
    """Predictive densities of the held-out scans, of standardized features.

    Attributes
    ----------
    folds : (draw, fold, feature) array
        log density of all scans of a fold, given all other scans.
    units : (draw, unit, feature) array
        log density of the scans of a unit, given the scans outside its fold.
    below : (draw, scan, feature) array of float32, or None
        Predictive probability of a smaller value than the measured one, for each scan; NaN for scans that are never held
        out.
    """

    folds: np.ndarray
    units: np.ndarray
    below: np.ndarray | None


class _ScanMoments(NamedTuple):
    """Number, mean and sum of squares around it of the observed scans of each value; (feature or 1, group or 1, value)."""

    n: np.ndarray
    mean: np.ndarray
    within: np.ndarray

    @classmethod
    def of(cls, group: HeldOutGroups | PredictionUnits, values: np.ndarray) -> _ScanMoments:
        shape = (-1, len(group.n_scans), values.shape[1])
        observed = ~np.isnan(values)

        def average(part: np.ndarray) -> np.ndarray:
            return np.moveaxis((group.means @ part).reshape(shape), 2, 0)

        share = np.ones((1, 1, 1)) if observed.all() else average(observed.astype(float))
        filled, n, share = np.where(observed, values, 0.0), share * group.n_scans, np.where(share > 0, share, 1.0)
        mean, square = average(filled) / share, average(filled**2) / share
        return cls(n, mean, np.maximum(square - mean**2, 0) * n)


def leave_group_out(
    problem: Problem,
    ratios: VarianceRatios,
    moments: Moments,
    values: np.ndarray,
    log_scales: np.ndarray,
    held: tuple[HeldOutGroups, ...],
    below: bool = False,
) -> HeldOutDensity:
    """Predict the scans of each fold from all others, in double precision.

    Parameters
    ----------
    problem : Problem
    ratios : VarianceRatios
    moments : Moments
    values : (scan, feature) array
        Standardized features, in the order of the design's scans; NaN where a feature lacks a scan.
    log_scales : (draw, scale, feature) array
    held : tuple of HeldOutGroups
        From :func:`arrange_folds`.
    below : bool
        Whether to compute the predictive probabilities of single scans.
    """
    n_draws, _, n_features = log_scales.shape
    n_folds = sum(len(group.folds) for group in held)
    n_units = max((int(units.numbers.max()) + 1 for group in held for units in group.units or ()), default=n_folds)
    held = tuple(_apply_gain(group, ratios) for group in held)
    density = HeldOutDensity(
        np.empty((n_draws, n_folds, n_features)),
        np.empty((n_draws, n_units, n_features)),
        np.full((n_draws, *values.shape), np.nan, np.float32) if below else None,
    )
    lanes = _lanes_at_once(problem, held)
    width = min(n_features, lanes)
    for first in range(0, n_features, width):
        columns = slice(first, first + width)
        block, scans = moments.take(columns), values[:, columns]
        of_groups = [
            (_ScanMoments.of(group, scans), [_ScanMoments.of(unit, scans) for unit in group.units or ()]) for group in held
        ]
        for start in range(0, n_draws, lanes // width):
            rows = slice(start, start + lanes // width)
            scales = np.asarray(log_scales[rows, :, columns])
            posterior = condition_effects(problem, ratios, block, scales)
            of_scans = None if density.below is None else density.below[rows, :, columns]
            out = HeldOutDensity(density.folds[rows, :, columns], density.units[rows, :, columns], of_scans)
            for group, (of_folds, of_units) in zip(held, of_groups, strict=True):
                noise = _noise_variance(problem, ratios, scales, group)
                _predict(group, posterior, noise, of_folds, of_units, scans, out)
    return density


def _lanes_at_once(problem: Problem, held: Sequence[HeldOutGroups]) -> int:
    """Draws × features at once, within `MAX_NUMBERS`."""
    n_dense, n_values = problem.likelihood.n_dense, max(len(group.n_scans) for group in held)
    numbers = max(n_dense * (problem.likelihood.n_eliminated + n_dense), n_values**2)
    return int(np.clip(MAX_NUMBERS // numbers, 1, MAX_LANES))


def _apply_gain(group: HeldOutGroups, ratios: VarianceRatios) -> HeldOutGroups:
    """Multiply differences between people in the values by the gains of the scanners."""
    if not group.with_gain.nnz:
        return group
    more = sparse.diags_array(ratios.gain[group.scanner] - 1) @ group.with_gain
    return group._replace(combinations=(group.combinations + more).tocsr())


def _noise_variance(problem: Problem, ratios: VarianceRatios, log_scales: np.ndarray, group: HeldOutGroups) -> np.ndarray:
    """Noise variance of each value, (draw, feature, value)."""
    variance = np.exp(2 * log_scales[:, 0, :, None]) * (ratios.noise[group.scanner] * group.relative_noise)
    if (group.noise_scale >= 0).any():
        of_feature = np.exp(2 * np.moveaxis(log_scales[:, np.maximum(group.noise_scale, 0)], 1, -1))
        variance = variance * np.where(group.noise_scale >= 0, of_feature, 1.0)
    if problem.participant_scale:
        gain = problem.likelihood.gain(ratios)[group.scanner]
        participant = np.exp(2 * log_scales[:, problem.participant_scale, :, None])
        variance = variance + participant * (group.is_single_scan * gain**2)
    return variance


def _predict(
    group: HeldOutGroups,
    posterior: ConditionalPosterior,
    noise: np.ndarray,
    of_folds: _ScanMoments,
    of_units: Sequence[_ScanMoments],
    values: np.ndarray,
    out: HeldOutDensity,
) -> None:
    """Write the densities of a group of folds, for some draws and features, into `out`."""
    root = np.sqrt(of_folds.n / noise[:, :, None])  # W^(1/2), (draw, feature, fold or 1, value)
    identity = np.eye(len(group.n_scans))
    prior = posterior.covariance(group.combinations)[:, :, None]  # M, (draw, feature, 1, value, value)
    b = identity - root[..., :, None] * prior * root[..., None, :]
    # where the noise is so small that B is singular within rounding, a draw has no weight and must not spoil the others
    is_lost = ~(np.linalg.eigvalsh(np.where(np.isfinite(b), b, 0.0))[..., 0] > MIN_EIGENVALUE)
    mean = posterior.mean(group.combinations)[..., None, :]
    is_lost |= ~np.isfinite(mean).all(-1)
    b = np.where(is_lost[..., None, None], identity, b)
    residual = root * (of_folds.mean - mean)  # r, (draw, feature, fold, value)
    solved = _solve(b, residual)
    log_det = np.linalg.slogdet(b)[1]
    joint = 0.5 * (log_det - (residual * solved).sum(-1) - _log_noise(noise, of_folds))
    joint = np.where(is_lost, np.inf, joint)  # so that the weight of the draw without the fold is 0
    out.folds[:, group.folds] = np.swapaxes(joint, 1, 2)
    if group.units is None:
        out.units[:, group.folds] = np.swapaxes(np.where(is_lost, 0.0, joint), 1, 2)
    # f given the other folds
    center = mean - ((root * solved)[..., None, :] @ prior)[..., 0, :]
    gain = prior * root[..., None, :]
    covariance = prior + gain @ np.linalg.solve(b, np.swapaxes(gain, -1, -2))
    for units, moments in zip(group.units or (), of_units, strict=True):
        lost, of_fold = (_of_folds(part, units.fold) for part in (is_lost, covariance))
        density = _density_of_units(units, moments, center[:, :, units.fold], of_fold, noise)
        out.units[:, units.numbers] = np.swapaxes(np.where(lost, 0.0, density), 1, 2)
    if out.below is not None:
        variance = np.diagonal(covariance, axis1=-2, axis2=-1) + noise[:, :, None]
        fold = group.position if variance.shape[2] > 1 else 0
        deviation = values[group.scans].T - center[:, :, group.position, group.value]
        below = ndtr(deviation / np.sqrt(variance[:, :, fold, group.value]))
        lost = _of_folds(is_lost, group.position) & ~np.isnan(values[group.scans].T)
        out.below[:, group.scans] = np.swapaxes(np.where(lost, 0.5, below), 1, 2)


def _of_folds(values: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Values of some folds, (draw, feature, fold or 1, …); those of a single one stand for all folds."""
    return values if values.shape[2] == 1 else values[:, :, folds]


def _density_of_units(
    units: PredictionUnits, moments: _ScanMoments, center: np.ndarray, covariance: np.ndarray, noise: np.ndarray
) -> np.ndarray:
    """log density of the scans of each unit, (draw, feature, unit), where f of the fold is Normal(center, covariance)."""
    noise, identity = noise[..., units.value], np.eye(len(units.value))
    root = np.sqrt(moments.n / noise[:, :, None])
    total = identity + root[..., :, None] * covariance[..., units.value[:, None], units.value] * root[..., None, :]
    deviation = root * (moments.mean - center[..., units.value])
    quadratic = (deviation * _solve(total, deviation)).sum(-1)
    return -0.5 * (np.linalg.slogdet(total)[1] + quadratic + _log_noise(noise, moments))


def _solve(matrix: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Solve with symmetric matrices, (…, row or 1, value, value), for each row of (…, row, value)."""
    if matrix.shape[-3] == 1:
        return np.swapaxes(np.linalg.solve(matrix[..., 0, :, :], np.swapaxes(rows, -1, -2)), -1, -2)
    return np.linalg.solve(matrix, rows[..., None])[..., 0]


def _log_noise(noise: np.ndarray, moments: _ScanMoments) -> np.ndarray:
    """Σ log(2π / W) over scans, plus the squares of the scans around the mean of their value over the noise variance."""
    noise = noise[:, :, None]
    return (moments.n * np.log(2 * np.pi * noise)).sum(-1) + (moments.within / noise).sum(-1)
