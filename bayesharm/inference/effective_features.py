"""As how many independent features correlated ones count."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import sparse

from bayesharm.model.design import Design

RETRY_SCHEDULE = 4  # of noise and what is left
NOTHING = 1e-9  # of the strength of columns: they say the same


def list_cells(design: Design, scans: pd.DataFrame) -> np.ndarray:
    """The scanner and population of each person who did not travel, as a number at their first scan; else -1; (scan,)."""
    own = scans.iloc[design.rows]
    labels = own[[name for name in ("scanner", "site", "diagnosis") if name in own]].astype(str).agg("\0".join, axis=1)
    later = pd.Series(design.participants).duplicated().to_numpy()
    return np.where(np.isin(design.participants, design.travelers) | later, -1, pd.factorize(labels)[0])


def count_independent_for_ratios(design: Design, scans: pd.DataFrame, values: np.ndarray) -> float:
    """Effective number of features for what scanners differ by in all of them: by how their noise goes together.

    Parameters
    ----------
    design : Design
    scans : DataFrame
    values : (scan of the design, feature) array
    """
    people, scanner = pd.factorize(design.participants)[0], design.class_scanner[design.scan_class]
    again, cells = np.bincount(people)[people] > 1, list_cells(design, scans)
    labels = np.where(again, people, np.where(cells < 0, -1, people.max() + 1 + cells))
    return count_independent_features(values, labels, np.eye(len(design.scanners))[scanner], design.scan_class)


def count_independent_features(
    values: np.ndarray, labels: np.ndarray, columns: np.ndarray | None = None, classes: np.ndarray | None = None
) -> float:
    """Effective number of independent features, for sums over features of what depends on squares.

    ``F² / Σ r²`` over all pairs, where r is the correlation between two features of what is left of them without the means
    of scans with the same label, and its square is corrected for what it is by chance.

    Parameters
    ----------
    values : (scan, feature) array
    labels : (scan,) int array
        Scans with a label below 0 are left out.
    columns : (scan, column) array, optional
        What is taken away by least squares beside the means.
    classes : (scan,) int array, optional
        Scans whose noise has the same size: in other sizes it would look like correlation.

    Returns
    -------
    float
        1 where too few scans are left to tell: as if all features were one.
    """
    there = labels >= 0
    code = pd.factorize(labels[there])[0]
    y = values[there].astype(float)
    y = y[:, np.isfinite(y).all(0) & (np.ptp(y, axis=0) > 0)] if len(y) else y
    y = (y - y.mean(0)) / y.std(0)
    columns = np.zeros((len(y), 0)) if columns is None else columns[there].astype(float)
    own = np.zeros(len(y), int) if classes is None else pd.factorize(classes[there])[0]
    weight = np.ones(len(y))
    for _ in range(RETRY_SCHEDULE):  # what noise there is in each class is known from what is left
        rest, freedom = _without(weight[:, None] * y, code, weight, weight[:, None] * columns)
        if freedom < 2 or not rest.shape[1]:
            return 1.0
        square = np.bincount(own, (rest**2).mean(1)) / np.bincount(own)
        weight /= np.sqrt(np.where(square > 0, square, 1.0))[own]
    norm = np.sqrt((rest**2).sum(0))
    rest = rest[:, norm > 0] / norm[norm > 0]
    n = rest.shape[1]
    squares = ((rest.T @ rest) ** 2).sum() - n
    by_chance = n * (n - 1) / freedom
    excess = max(0.0, (squares - by_chance) / (1 - 1 / freedom))
    return n**2 / (n + excess)


def _without(y: np.ndarray, code: np.ndarray, weight: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, int]:
    """What is left of rows without the means of labels, which have this weight in each row, and columns; and its freedom."""
    sums = sparse.csr_array((weight, (code, np.arange(len(code)))))
    length = np.bincount(code, weight**2)

    def away(table: np.ndarray) -> np.ndarray:
        return table - weight[:, None] * (sums @ table / length[:, None])[code]

    y, more = away(y), away(columns)
    left, strength, _ = np.linalg.svd(more, full_matrices=False)
    left = left[:, strength > NOTHING * max(1.0, strength.max(initial=0.0))]
    return y - left @ (left.T @ y), len(y) - len(length) - left.shape[1]
