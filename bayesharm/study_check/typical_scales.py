"""Typical sizes of the effects in the given features: restricted maximum likelihood, pooled over features.

The expected precision of a scanner effect depends on how large noise, people and scanners are. Where there are features, a
few steps of the EM algorithm (Dempster, Laird & Rubin 1977) on some of them give these sizes well enough for a forecast.
Where the data do not separate two of them, their ratio stays near that of the prior medians, where the steps start. The fit
does not use the result.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from bayesharm.conditional.posterior import ConditionalPosterior
from bayesharm.data.features import Features
from bayesharm.likelihood.definition import scan_precision
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.model.design import FIXED, Design

N_FEATURES = 100
MAX_STEPS, SMALL_STEP = 2000, 1e-5  # of the logarithms of the variances
MIN_FEATURES = 5  # below which the prior medians are used
MIN_SHARE = 0.8  # of the values of a feature that must be there
SMALLEST = 0.01  # of the scales, in sd of a feature


def read_typical(features: Features) -> np.ndarray | None:
    """Read about 100 evenly spaced features, (scan, feature); None if few of them are nearly complete and vary."""
    step = max(1, features.n_features // N_FEATURES)
    chosen = features if step == 1 else features.take(features.names[::step])
    values = np.concatenate([chosen.read(start, stop) for start, stop in chosen.blocks()], axis=1)
    known = np.isfinite(values)
    values = np.where(known, values, np.nan)[:, known.mean(0) >= MIN_SHARE]
    with np.errstate(over="ignore", invalid="ignore"):
        sd = np.nanstd(values, axis=0)
        usable = np.isfinite(sd) & (sd > 1e-9 * np.nanmax(np.abs(values), axis=0, initial=0))
    return values[:, usable] if usable.sum() >= MIN_FEATURES else None


def estimate_scales(design: Design, values: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    """Estimate the root mean square over features of each scale.

    Parameters
    ----------
    design : Design
    values : (scan, feature) array
        In the order of the scans table; NaN where missing.
    rows : (scan of the design,) bool array, optional
        Scans of the design that were measured; all by default.

    Returns
    -------
    (scale,) array
        In standard deviations of a feature.
    """
    rows = np.full(design.n_scans, True) if rows is None else rows
    y = values[design.rows[rows]]
    y = y[:, np.isfinite(y).any(0)]
    sd = np.nanstd(y, axis=0)
    y = ((y - np.nanmean(y, axis=0)) / np.where(sd > 0, sd, 1))[:, sd > 0]
    if not y.size:
        return design.scale_medians
    variance, fitted = design.scale_medians**2, np.zeros_like(y)
    for _ in range(MAX_STEPS):
        before = variance
        variance, fitted = _step(design, y, fitted, variance, rows)
        variance = np.maximum(variance, SMALLEST**2)
        if np.abs(np.log(variance / before)).max() < SMALL_STEP:
            break
    return np.sqrt(variance)


def _step(
    design: Design, y: np.ndarray, fitted: np.ndarray, variance: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One step of the EM algorithm: expected mean squares of effects and noise, and the fitted values.

    A missing value is put at its fitted value of the step before, which says nothing on the noise.
    """
    log_scales, equal = np.log(variance) / 2, VarianceRatios.equal(len(design.scanners), len(design.correlations))
    posterior = ConditionalPosterior.of_scans(design, log_scales, equal, rows)
    x, noise_class = design.matrix[rows], design.scan_class[rows]
    precision = scan_precision(design, log_scales, equal)[rows]
    known = np.isfinite(y)
    mean = _posterior_mean(posterior, x.T @ (np.where(known, y, fitted) * precision[:, None]), design.n_dense)
    identity = sparse.eye_array(len(design.columns), format="csr")
    square, fitted = (mean**2).mean(1) + posterior.variance(identity), x @ mean
    expected = np.where(known, (y - fitted) ** 2 + posterior.variance(x)[:, None], 1 / precision[:, None])
    residual = expected.mean(1)

    single = design.class_single_scan[noise_class]
    relative = design.class_variance[noise_class] / design.scan_weight[rows]
    person = variance[design.single_scan_scale] if design.single_scan_scale else 0.0
    share = np.where(single, person / (variance[0] * relative + person), 0.0)  # of a deviation that is the person's
    apart = share * variance[0] * relative
    of_person = np.where(single, share**2 * residual + apart, 0.0)
    of_noise = ((1 - share) ** 2 * residual + apart) / relative

    is_scaled = design.column_scale != FIXED
    total = np.bincount(design.column_scale[is_scaled], square[is_scaled], len(variance))
    count = np.bincount(design.column_scale[is_scaled], minlength=len(variance)).astype(float)
    total[0], count[0] = of_noise.sum(), len(of_noise)
    if design.single_scan_scale:
        total[design.single_scan_scale] += of_person.sum()
        count[design.single_scan_scale] += single.sum()
    return np.where(count > 0, total / np.maximum(count, 1), variance), fitted  # noise ratios stay at 1


def _posterior_mean(posterior: ConditionalPosterior, b: np.ndarray, n_dense: int) -> np.ndarray:
    """Posterior means A⁻¹b of all effects, (column, feature), for many right-hand sides b of one design."""
    dense = posterior.dense_covariance @ (b[:n_dense] - posterior.slope.T @ b[n_dense:])
    eliminated, (first, second) = posterior.residual_variance[:, None] * b[n_dense:], posterior.couples.T
    eliminated[first] += posterior.residual_covariance[:, None] * b[n_dense + second]
    eliminated[second] += posterior.residual_covariance[:, None] * b[n_dense + first]
    return np.concatenate([dense, eliminated - posterior.slope @ dense])
