"""Effective number of independent features, for statements that combine correlated features."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from bayesharm.model.design import Design

N_REWEIGHTINGS = 4  # rounds in which noise variances and residuals are estimated in turn
MAX_FILLINGS, FILLING_TOLERANCE = 30, 1e-3  # rounds in which missing values are filled in, and the last change, in sds
MIN_RESIDUAL = 1e-3  # of a scan with a residual, over the root mean square of residuals
MIN_STRENGTH = 1e-9  # smallest singular value of independent columns, over the largest one (or 1)
MAX_LEVELS = 100  # of a family whose effects are regressed out: by chance, those of more levels hardly look like correlation


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


class Residualization(NamedTuple):
    """Linear map from values of scans to residuals with equal variance and without means.

    Attributes
    ----------
    rows : (used scan,) int array
    weight : (used scan,) array
        One over the noise sd of a scan, relative to others.
    code : (used scan,) int array
        Scans with the same number share a mean.
    basis : (used scan, column) array
        Orthonormal columns that are regressed out, after the means.
    dof : int
        Degrees of freedom of the residuals.
    """

    rows: np.ndarray
    weight: np.ndarray
    code: np.ndarray
    basis: np.ndarray
    dof: int

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Return residuals of the used scans, (scan, feature) -> (used scan, feature); 0 where a value is missing."""
        return self.project(self.weight[:, None] * self.fill(values)[self.rows])

    def fill(self, values: np.ndarray) -> np.ndarray:
        """Fill in missing values such that their residuals are 0, which leaves those of the observed scans.

        Each round replaces them by fitted values, as the EM algorithm for least squares (Healy & Westmacott, 1956).

        Parameters
        ----------
        values : (scan, feature) array
            Standardized.
        """
        missing = np.isnan(values)
        if not missing.any():
            return values
        filled = np.where(missing, 0.0, values)
        features = np.flatnonzero(missing[self.rows].any(0))
        y, is_hole = filled[np.ix_(self.rows, features)], missing[np.ix_(self.rows, features)]
        for _ in range(MAX_FILLINGS):
            change = np.where(is_hole, self.project(self.weight[:, None] * y) / self.weight[:, None], 0.0)
            y -= change
            if np.abs(change).max(initial=0.0) < FILLING_TOLERANCE:
                break
        filled[np.ix_(self.rows, features)] = y
        return filled

    def project(self, weighted: np.ndarray) -> np.ndarray:
        """Remove means and columns from weighted values, an orthogonal projection; (used scan, …)."""
        y = weighted - self.weight[:, None] * _means(weighted, self.code, self.weight)
        return y - self.basis @ (self.basis.T @ y)


def residualize(design: Design, scans: pd.DataFrame, values: np.ndarray) -> Residualization:
    """Find the residuals in which errors of estimated effects show how features are correlated.

    They are without the means of participants (of people scanned once: of scanner and population), of scanners, and without
    other effects that vary within people, such as that of time; divided by the noise sd of their noise class.

    Parameters
    ----------
    design : Design
    scans : DataFrame
    values : (scan of the design, feature) array
        From which the noise sds are estimated.
    """
    people, scanner = pd.factorize(design.participants)[0], design.class_scanner[design.scan_class]
    is_repeated, cells = np.bincount(people)[people] > 1, list_cells(design, scans)
    labels = np.where(is_repeated, people, np.where(cells < 0, -1, people.max() + 1 + cells))
    used = labels[labels >= 0]
    within = _columns_within_people(design, people, len(used) - len(np.unique(used)) - len(design.scanners))
    columns = np.column_stack([np.eye(len(design.scanners))[scanner], *within])
    return fit_residualization(values, labels, columns, design.scan_class)


def _columns_within_people(design: Design, people: np.ndarray, dof: int) -> list[np.ndarray]:
    """Return the columns of covariates and families that vary within people, (scan, column) each, but for scanner effects.

    A family of many levels is left out, or one that would take more than half of the degrees of freedom.
    """
    by_people = {f.name for f in design.spec.families if f.by == "participant" or "participant_id" in f.columns}
    by_people |= {f.slope_name for f in design.spec.slopes if f.name in by_people}
    within = []
    for term in dict.fromkeys(design.families):
        places = np.flatnonzero(design.families == term)
        if term in ("mean", *by_people, *design.spec.components) or len(places) > MAX_LEVELS:
            continue
        columns = pd.DataFrame(design.matrix[:, places].toarray())
        by_person = columns.groupby(people)
        columns = columns.loc[:, (by_person.max() - by_person.min()).max() > MIN_STRENGTH]
        if 0 < columns.shape[1] <= dof / 2:
            within.append(columns.to_numpy())
            dof -= columns.shape[1]
    return within


def count_independent_for_ratios(design: Design, scans: pd.DataFrame, values: np.ndarray) -> float:
    """Estimate the effective number of features for the hyperparameters and the variance ratios of scanners.

    Parameters
    ----------
    design : Design
    scans : DataFrame
    values : (scan of the design, feature) array
    """
    return count_independent(residualize(design, scans, values), values)


def count_independent_features(
    values: np.ndarray, labels: np.ndarray, columns: np.ndarray | None = None, classes: np.ndarray | None = None
) -> float:
    """Estimate the effective number of independent features, for sums over features of quadratic statistics.

    Parameters
    ----------
    values : (scan, feature) array
    labels, columns, classes
        As for :func:`fit_residualization`.
    """
    return count_independent(fit_residualization(values, labels, columns, classes), values)


def count_independent(residualization: Residualization, values: np.ndarray) -> float:
    """Estimate the effective number of independent features, ``F² / Σ r²``.

    The sum is over all pairs of the F features, and r is the correlation of their residuals. r² is corrected for its
    expectation by chance.

    Returns
    -------
    float
        1, as if all features were one, where too few scans are left for an estimate.
    """
    dof, standardized = residualization.dof, _standardized(values)
    residuals = residualization(standardized)
    if dof < 2 or not residuals.shape[1]:
        return 1.0
    norm = np.sqrt((residuals**2).sum(0))
    varies = norm > MIN_STRENGTH * np.sqrt(len(residuals))  # rounding errors of others would look like correlation
    residuals, n = residuals[:, varies] / norm[varies], int(varies.sum())
    if n == 0:
        return 1.0
    squares = (residuals.T @ residuals) ** 2
    missing = np.isnan(standardized[residualization.rows][:, varies])
    # the only observed scan of a person has no residual either
    observed = ~missing & (np.abs(residuals) > MIN_RESIDUAL / np.sqrt(len(residuals)))
    if not missing.any():
        excess = squares.sum() - n - n * (n - 1) / dof
    else:  # residuals of the scans that two features share, out of those that either has
        together = observed.T.astype(float) @ observed
        size = together.diagonal()
        shared = np.maximum(together**2 / np.outer(size, size), MIN_STRENGTH)
        by_chance = len(residuals) / np.maximum(together, 1) / dof
        excess = (np.where(together > 0, squares / shared - by_chance, 0.0) * (1 - np.eye(n))).sum()
    return n**2 / (n + max(0.0, excess / (1 - 1 / dof)))


def fit_residualization(
    values: np.ndarray, labels: np.ndarray, columns: np.ndarray | None = None, classes: np.ndarray | None = None
) -> Residualization:
    """Estimate the noise sds of scans, and the residuals in turn.

    Parameters
    ----------
    values : (scan, feature) array
    labels : (scan,) int array
        Scans with the same label share a mean; scans with a negative label are left out.
    columns : (scan, column) array, optional
        Regressed out by least squares, beside the means.
    classes : (scan,) int array, optional
        Scans with the same noise variance. Unequal variances would look like correlation.
    """
    rows = np.flatnonzero(labels >= 0)
    code = pd.factorize(labels[rows])[0]
    y = _standardized(values)[rows]
    columns = np.zeros((len(y), 0)) if columns is None else columns[rows].astype(float)
    noise_class = np.zeros(len(y), int) if classes is None else pd.factorize(classes[rows])[0]
    weight = np.ones(len(y))
    for _ in range(N_REWEIGHTINGS):
        weighted = weight[:, None] * columns
        weighted = weighted - weight[:, None] * _means(weighted, code, weight)
        basis, strength, _ = np.linalg.svd(weighted, full_matrices=False)
        basis = basis[:, strength > MIN_STRENGTH * max(1.0, strength.max(initial=0.0))]
        dof = len(y) - (int(code.max()) + 1 if len(code) else 0) - basis.shape[1]
        result = Residualization(np.arange(len(y)), weight, code, basis, dof)
        if dof < 2 or not y.shape[1]:
            break
        n_values = np.maximum(np.bincount(noise_class, (~np.isnan(y)).sum(1)), 1)
        variance = np.bincount(noise_class, (result(y) ** 2).sum(1)) / n_values
        weight = weight / np.sqrt(np.where(variance > 0, variance, 1.0))[noise_class]
    return result._replace(rows=rows)


def _standardized(values: np.ndarray) -> np.ndarray:
    """Standardize the features that vary, and leave out the others; missing values stay NaN."""
    y = values.astype(float)
    if not len(y):
        return y
    observed = ~np.isnan(y)
    low, high = (bound(y, axis=0, where=observed, initial=start) for bound, start in ((np.min, np.inf), (np.max, -np.inf)))
    with np.errstate(invalid="ignore"):
        y = y[:, ~np.isinf(y).any(0) & (high > low)]
    if observed.all():
        return (y - y.mean(0)) / y.std(0)
    return (y - np.nanmean(y, 0)) / np.nanstd(y, 0)


def _means(weighted: np.ndarray, code: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Compute the weighted mean of the scans with the same number, for each of them."""
    if not len(code):
        return weighted
    sums = sparse.csr_array((weight, (code, np.arange(len(code)))))
    return (sums @ weighted / np.bincount(code, weight**2)[:, None])[code]
