"""Check of a fit: whether the scans of travelers differ between scanners as much as bias and noise predict."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from bayesharm.reporting.before_after import BeforeAfter

LEAST_TRAVELERS = 3  # on a scanner, for an interval
HIGH, LOW = 1.2, 0.8  # ratio of observed to expected variance beyond which a scanner is named


def check_travelers(result: BeforeAfter) -> pd.DataFrame | None:
    """Compare the squared deviations of harmonized means of travelers with those that noise predicts, for each scanner.

    A deviation is that of a person's mean on a scanner from the mean of these means over the person's scanners. Its expected
    square follows from the noise of both, less what the estimates of the biases take up
    (:attr:`BeforeAfter.of_travelers`).

    Parameters
    ----------
    result : BeforeAfter

    Returns
    -------
    DataFrame by scanner or None
        `ratio` of observed to expected variance over all features: 1 where the model predicts the variance. Limits of
        the 90% interval are by jackknife over travelers, missing where a scanner has fewer than three; None without
        travelers.
    """
    people = result.people
    if people is None or not people.has_travelers:
        return None
    _, observed, expected, _ = result.of_travelers
    rows = {}
    for k, name in enumerate(people.scanners):
        cells = np.flatnonzero(people.scanner == k)
        if len(cells) == 0 or expected[cells].sum() <= 0:
            continue
        ratio, error = observed[cells].sum() / expected[cells].sum(), np.nan
        if len(cells) >= LEAST_TRAVELERS:
            left = [np.delete(cells, j) for j in range(len(cells))]
            without = np.array([observed[each].sum() / expected[each].sum() for each in left])
            error = float(np.sqrt((len(cells) - 1) * without.var()) * stdtrit(len(cells) - 1, 0.95))
        rows[name] = {"ratio": ratio, "ratio_q05": max(0.0, ratio - error), "ratio_q95": ratio + error}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("scanner") if rows else None


def find_unusual(table: pd.DataFrame | None) -> tuple[list[str], list[str]]:
    """Name the scanners of this table whose travelers differ by clearly more than noise predicts, and by clearly less."""
    if table is None:
        return [], []
    return [*map(str, table.index[table["ratio_q05"] > HIGH])], [*map(str, table.index[table["ratio_q95"] < LOW])]
