"""Effective number of independent features, for statements that combine correlated features."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import sparse

from bayesharm.model.design import Design

N_REWEIGHTINGS = 4  # rounds in which noise variances and residuals are estimated in turn
MIN_STRENGTH = 1e-9  # smallest singular value of independent columns, over the largest one (or 1)


def list_cells(design: Design, scans: pd.DataFrame) -> np.ndarray:
    """Number the combinations of scanner and population of participants who did not travel.

    Returns
    -------
    (scan,) int array
        -1 for travelers, and for later scans of a participant.
    """
    in_design = scans.iloc[design.rows]
    columns = [name for name in ("scanner", "site", "diagnosis") if name in in_design]
    labels = in_design[columns].astype(str).agg("\0".join, axis=1)
    is_later = pd.Series(design.participants).duplicated().to_numpy()
    return np.where(np.isin(design.participants, design.travelers) | is_later, -1, pd.factorize(labels)[0])


def count_independent_for_ratios(design: Design, scans: pd.DataFrame, values: np.ndarray) -> float:
    """Estimate the effective number of features for the variance ratios of scanners, from the correlation of their noise.

    Parameters
    ----------
    design : Design
    scans : DataFrame
    values : (scan of the design, feature) array
    """
    people, scanner = pd.factorize(design.participants)[0], design.class_scanner[design.scan_class]
    is_repeated, cells = np.bincount(people)[people] > 1, list_cells(design, scans)
    labels = np.where(is_repeated, people, np.where(cells < 0, -1, people.max() + 1 + cells))
    return count_independent_features(values, labels, np.eye(len(design.scanners))[scanner], design.scan_class)


def count_independent_features(
    values: np.ndarray, labels: np.ndarray, columns: np.ndarray | None = None, classes: np.ndarray | None = None
) -> float:
    """Estimate the effective number of independent features, for sums over features of quadratic statistics.

    It is ``F² / Σ r²``. The sum is over all pairs of the F features, and r is the correlation of their residuals: values
    minus the mean of scans with the same label. r² is corrected for its expectation by chance.

    Parameters
    ----------
    values : (scan, feature) array
    labels : (scan,) int array
        Scans with a negative label are left out.
    columns : (scan, column) array, optional
        Regressed out by least squares, beside the means.
    classes : (scan,) int array, optional
        Scans with the same noise variance. Unequal variances would look like correlation.

    Returns
    -------
    float
        1, as if all features were one, where too few scans are left for an estimate.
    """
    is_used = labels >= 0
    code = pd.factorize(labels[is_used])[0]
    y = values[is_used].astype(float)
    y = y[:, np.isfinite(y).all(0) & (np.ptp(y, axis=0) > 0)] if len(y) else y
    y = (y - y.mean(0)) / y.std(0)
    columns = np.zeros((len(y), 0)) if columns is None else columns[is_used].astype(float)
    noise_class = np.zeros(len(y), int) if classes is None else pd.factorize(classes[is_used])[0]
    weight = np.ones(len(y))
    for _ in range(N_REWEIGHTINGS):
        residuals, dof = _residuals(weight[:, None] * y, code, weight, weight[:, None] * columns)
        if dof < 2 or not residuals.shape[1]:
            return 1.0
        variance = np.bincount(noise_class, (residuals**2).mean(1)) / np.bincount(noise_class)
        weight /= np.sqrt(np.where(variance > 0, variance, 1.0))[noise_class]
    norm = np.sqrt((residuals**2).sum(0))
    residuals = residuals[:, norm > 0] / norm[norm > 0]
    n = residuals.shape[1]
    squares = ((residuals.T @ residuals) ** 2).sum() - n
    by_chance = n * (n - 1) / dof
    corrected = max(0.0, (squares - by_chance) / (1 - 1 / dof))
    return n**2 / (n + corrected)


def _residuals(y: np.ndarray, code: np.ndarray, weight: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, int]:
    """Return weighted least-squares residuals without label means and columns, and their degrees of freedom."""
    sums = sparse.csr_array((weight, (code, np.arange(len(code)))))
    length = np.bincount(code, weight**2)

    def without_means(table: np.ndarray) -> np.ndarray:
        return table - weight[:, None] * (sums @ table / length[:, None])[code]

    y, columns = without_means(y), without_means(columns)
    basis, strength, _ = np.linalg.svd(columns, full_matrices=False)
    basis = basis[:, strength > MIN_STRENGTH * max(1.0, strength.max(initial=0.0))]
    return y - basis @ (basis.T @ y), len(y) - len(length) - basis.shape[1]
