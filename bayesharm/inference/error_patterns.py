"""Error patterns: how the errors of estimated effects are correlated over features.

An estimate of an effect is a sum over scans, and a scan that deviates does so in many features. The errors of two features
are therefore taken to be correlated as their residuals are. The residuals of a feature, in random sums over the scans and
divided by their length, are its *pattern* g. With standard normal weights w, the products ``w · g`` of all features are
standard normal, each by itself, and correlated as the residuals: one vector w makes one joint draw of all features, block by
block, without a matrix of features by features. The random sums blur correlations by ``1 / sqrt(N_PATTERNS)``, without bias.
"""

from __future__ import annotations

import numpy as np

from bayesharm.algorithms.random_streams import Stage
from bayesharm.inference.effective_features import Residualization

MIN_RESIDUAL = 1e-4  # length of a pattern over that of the values, below which a feature has no residuals
MIN_DOF = 10  # degrees of freedom of the residuals below which features count as one
N_PATTERNS = 128  # entries of a pattern; with fewer scans, their residuals themselves


def make_pattern_map(residualization: Residualization, n_scans: int, seed: int) -> np.ndarray | None:
    """Make the linear map from the values of a feature to its pattern, up to its length.

    Parameters
    ----------
    residualization : Residualization
    n_scans : int
    seed : int

    Returns
    -------
    (entry, scan) array, or None
        None where the residuals have fewer than `MIN_DOF` degrees of freedom.
    """
    if residualization.dof < MIN_DOF:
        return None
    n_used = len(residualization.rows)
    sums = np.eye(n_used)
    if n_used > N_PATTERNS:
        sums = np.random.default_rng([seed, Stage.ERROR_PATTERNS]).standard_normal((n_used, N_PATTERNS))
    pattern_map = np.zeros((sums.shape[1], n_scans), np.float32)
    pattern_map[:, residualization.rows] = (residualization.weight[:, None] * residualization.project(sums)).T
    return pattern_map


def make_patterns(pattern_map: np.ndarray | None, values: np.ndarray) -> np.ndarray:
    """Return the pattern of each feature, of length 1; (entry, feature).

    Features without residuals, and all features where there is no map, get the same pattern, as if they were one.

    Parameters
    ----------
    pattern_map : (entry, scan) array, or None
    values : (scan, feature) array
        Standardized.
    """
    patterns = np.zeros((1, values.shape[1])) if pattern_map is None else pattern_map @ values.astype(np.float32)
    length = np.sqrt((patterns**2).sum(0))
    is_known = length > MIN_RESIDUAL * np.sqrt((values**2).sum(0))
    with np.errstate(invalid="ignore", divide="ignore"):
        patterns = np.where(is_known, patterns / length, len(patterns) ** -0.5)
    return patterns.astype(np.float32)


def variance_inflation(patterns: np.ndarray, dof: int) -> float:
    """Return how many times the variance of a sum over features is that of independent ones; at least 1.

    Parameters
    ----------
    patterns, dof
        As for :func:`count_independent_patterns`.
    """
    return max(1.0, patterns.shape[1] / count_independent_patterns(patterns, dof)) if patterns.size else 1.0


def count_independent_patterns(patterns: np.ndarray, dof: int) -> float:
    """Estimate the effective number of independent features, ``F² / Σ r²``, from their patterns.

    r² is corrected for its expectation by chance, that of random sums and that of few residuals.

    Parameters
    ----------
    patterns : (entry, feature) array
    dof : int
        Degrees of freedom of the residuals.
    """
    n_entries, n = patterns.shape
    if n_entries == 1 or dof < 2:
        return 1.0
    squares = ((patterns.astype(float) @ patterns.T.astype(float)) ** 2).sum() - n
    if n_entries == N_PATTERNS:
        squares = (squares - n * (n - 1) / n_entries) / (1 - 1 / n_entries)
    corrected = max(0.0, (squares - n * (n - 1) / dof) / (1 - 1 / dof))
    return n**2 / (n + corrected)
