"""As how many independent features correlated ones count."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bayesharm.design import Design

ROUNDS = 50  # of taking means away in turns, until nothing is left of them
SETTLED = 1e-6  # in sd


def list_cells(design: Design, scans: pd.DataFrame) -> np.ndarray:
    """The scanner and population of each scan of people who did not travel, as a number; -1 of travelers; (scan,)."""
    own = scans.iloc[design.rows]
    labels = own[[name for name in ("scanner", "site", "diagnosis") if name in own]].astype(str).agg("\0".join, axis=1)
    return np.where(np.isin(design.participants, design.travelers), -1, pd.factorize(labels)[0])


def list_people(design: Design, scans: pd.DataFrame) -> np.ndarray:
    """The same with a number of their own for each traveler."""
    cells = list_cells(design, scans)
    return np.where(cells < 0, cells.max() + 1 + pd.factorize(design.participants)[0], cells)


def count_effective(values: np.ndarray, *labels: np.ndarray) -> float:
    """Effective number of independent features, for sums over features of what depends on squares.

    ``F² / Σ r²`` over all pairs, where r is the correlation between two features of what is left of them without the means
    of scans with the same label, and its square is corrected for what it is by chance.

    Parameters
    ----------
    values : (scan, feature) array
    *labels : (scan,) int arrays
        Scans that have a label below 0 are left out.
    """
    there = np.min(labels, axis=0) >= 0
    codes = [pd.factorize(own[there])[0] for own in labels]
    y = values[there].astype(float)
    y /= np.maximum(y.std(0), np.finfo(float).tiny)
    for _ in range(ROUNDS):
        largest = 0.0
        for code in codes:
            means = np.stack([np.bincount(code, column) for column in y.T], axis=1) / np.bincount(code)[:, None]
            y -= means[code]
            largest = max(largest, float(np.abs(means).max()))
        if len(codes) == 1 or largest < SETTLED:
            break
    y = y[:, (y**2).sum(0) > 0]
    freedom, n = len(y) - sum(code.max() for code in codes) - 1, y.shape[1]
    if freedom < 2 or not n:  # nothing is known of correlations
        return float(values.shape[1])
    y /= np.sqrt((y**2).sum(0))
    squares = ((y.T @ y) ** 2).sum() - n
    by_chance = n * (n - 1) / freedom
    excess = max(0.0, (squares - by_chance) / (1 - 1 / freedom))
    return n**2 / (n + excess)
