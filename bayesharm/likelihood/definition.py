"""The likelihood by its definition: dense matrices, one feature, double precision.

Slow and short. :class:`~bayesharm.likelihood.collapsed.CollapsedLikelihood` and
:class:`~bayesharm.conditional.posterior.ConditionalPosterior` compute the same numbers for thousands of features at once,
refer to the lines below, and are tested against them. Symbols are those of ``docs/reference/notation.md``.

The model of one standardized feature is the linear mixed model

    y = X u + e,   u ~ Normal(0, D),   e ~ Normal(0, W⁻¹),   W diagonal, D nearly so.

A column of X is one effect: the mean, a covariate, the measurement bias of a scanner, the sampling bias of a population and
so on. The gain g of the scanner multiplies the columns of all that people differ by. Given the scales, y and u are jointly
Gaussian, so that u can be integrated out exactly:

    line 1   D = prior variances of the effects: tau², for a scanner's bias tau² kappa; fixed for the mean and covariates;
             and the covariance rho tau tau' of the intercept and the slope of a level
    line 2   W = noise precisions of the scans: 1 / (sigma² lambda v), for single-scan participants
             1 / (sigma² lambda v + g² tau²), with v the relative noise variance of a scan, if it is known
    line 3   A = XᵀWX + D⁻¹
    line 4   b = XᵀWy
    line 5   u | y ~ Normal(A⁻¹b, A⁻¹)
    line 6   −2 log p(y) = yᵀWy − bᵀA⁻¹b + log|A| + log|D| − log|W| + N log 2π

A scan may have a weight, which multiplies its precision in line 2 (:mod:`bayesharm.likelihood.scan_weights`).

The effect of a single-scan participant has no column: no other scan shares it, so that it is part of the noise (line 2).
Lines 3 and 4 are Henderson's mixed-model equations. Line 6 is the density of Normal(0, V), V = X D Xᵀ + W⁻¹, rewritten with
the Woodbury identity and the matrix determinant lemma (Searle, Casella & McCulloch, *Variance Components*, 1992, ch. 6).
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.model.design import FIXED, Design


def prior_variance(design: Design, log_scales: np.ndarray, ratios: VarianceRatios) -> np.ndarray:
    """Diagonal of D: prior variance of each effect, (column,)."""
    tau_squared = np.exp(2 * log_scales)[np.maximum(design.column_scale, 0)]
    kappa = np.where(design.bias_ratio_of >= 0, ratios.bias[design.bias_ratio_of], 1.0)
    return np.where(design.column_scale == FIXED, design.column_sd**2, tau_squared) * kappa  # line 1


def prior_covariance(design: Design, log_scales: np.ndarray, ratios: VarianceRatios) -> np.ndarray:
    """D: prior covariance of the effects, (column, column)."""
    variance = prior_variance(design, log_scales, ratios)
    covariance, has_partner = np.diag(variance), np.flatnonzero(design.correlation_of >= 0)
    partner, rho = design.partner[has_partner], np.tanh(ratios.correlation)[design.correlation_of[has_partner]]
    covariance[has_partner, partner] = rho * np.sqrt(variance[has_partner] * variance[partner])
    return covariance


def gain_of_scanners(design: Design, ratios: VarianceRatios) -> np.ndarray:
    """Gain of each scanner, 1 where nobody shows it, (scanner,)."""
    return np.where(design.gain_is_known & (design.spec.gain != "none"), ratios.gain, 1.0)


def design_matrix(design: Design, ratios: VarianceRatios) -> sparse.csr_array:
    """X, (scan, column), with the gains of the scanners."""
    return with_gain(design, ratios, design.matrix, design.scan_class)


def with_gain(design: Design, ratios: VarianceRatios, matrix: sparse.csr_array, classes: np.ndarray) -> sparse.csr_array:
    """Multiply differences between people in rows of X, (row, column), by the gains of their scanners."""
    if design.spec.gain == "none":
        return matrix
    gain = gain_of_scanners(design, ratios)[design.class_scanner[classes]]
    scaled = matrix @ sparse.diags_array(design.has_gain.astype(float))
    return (matrix + sparse.diags_array(gain - 1) @ scaled).tocsr()


def noise_variance(design: Design, log_scales: np.ndarray, ratios: VarianceRatios) -> np.ndarray:
    """Noise variance of each noise class of the design, (class,), or (class, feature) for log-scales (scale, feature).

    It is that of a scan of weight 1: of others, it is divided by `Design.scan_weight`.
    """
    variance = np.exp(2 * log_scales)
    noise = np.multiply.outer((ratios.noise[design.class_scanner] * design.class_variance), variance[0])
    has_feature_ratio = np.flatnonzero(design.class_noise_scale >= 0)
    noise[has_feature_ratio] *= variance[design.class_noise_scale[has_feature_ratio]]
    gain = gain_of_scanners(design, ratios)[design.class_scanner]
    return noise + np.multiply.outer(
        design.class_single_scan * gain**2, variance[design.single_scan_scale]
    )  # 1 / w of line 2


def scan_precision(design: Design, log_scales: np.ndarray, ratios: VarianceRatios) -> np.ndarray:
    """Diagonal of W: noise precision of each scan, (scan,)."""
    return design.scan_weight / noise_variance(design, log_scales, ratios)[design.scan_class]  # line 2


def normal_equations(
    design: Design, y: np.ndarray, log_scales: np.ndarray, ratios: VarianceRatios, weight: np.ndarray | float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """A, (column, column), and b, (column,)."""
    x, w = design_matrix(design, ratios).toarray(), weight * scan_precision(design, log_scales, ratios)
    return (x.T * w) @ x + np.linalg.inv(prior_covariance(design, log_scales, ratios)), (x.T * w) @ y  # lines 3 and 4


def condition(
    design: Design, y: np.ndarray, log_scales: np.ndarray, ratios: VarianceRatios, weight: np.ndarray | float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Posterior mean, (column,), and covariance, (column, column), of all effects given the scales."""
    a, b = normal_equations(design, y, log_scales, ratios, weight)
    return np.linalg.solve(a, b), np.linalg.inv(a)  # line 5


def log_likelihood(
    design: Design, y: np.ndarray, log_scales: np.ndarray, ratios: VarianceRatios, weight: np.ndarray | float = 1.0
) -> float:
    """log p(y | scales, ratios), all effects integrated out.

    Parameters
    ----------
    design : Design
    y : (scan,) array
        One standardized feature, the scans in the order of the design.
    log_scales : (scale,) array
        Natural logarithms of ``design.scales``, in standard deviations of the feature.
    ratios : VarianceRatios
    weight : (scan,) array, or 1
    """
    a, b = normal_equations(design, y, log_scales, ratios, weight)
    d, w = prior_covariance(design, log_scales, ratios), weight * scan_precision(design, log_scales, ratios)
    quadratic = y @ (w * y) - b @ np.linalg.solve(a, b)
    log_det = np.linalg.slogdet(a)[1] + np.linalg.slogdet(d)[1] - np.log(w).sum()
    return float(-0.5 * (quadratic + log_det + len(y) * np.log(2 * np.pi)))  # line 6
