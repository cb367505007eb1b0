"""Check of a fit: whether the scans of travelers differ between scanners as much as bias and noise predict."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bayesharm.reporting.before_after import CHUNK, BeforeAfter

Z90 = 1.6448536269514722
LEAST_TRAVELERS = 3  # on a scanner, for an interval


def check_travelers(result: BeforeAfter) -> pd.DataFrame | None:
    """Compare the squared deviations of harmonized means of travelers with those that noise predicts, for each scanner.

    A deviation is that of a person's mean on a scanner from the mean of these means over the person's scanners. Its expected
    square follows from the noise of both, less the degrees of freedom of the estimated differences between scanners.

    Parameters
    ----------
    result : BeforeAfter

    Returns
    -------
    DataFrame by scanner or None
        `ratio` of observed to expected variance over all features: 1 where the model predicts what was measured. Limits of
        the 90% interval are by jackknife over travelers, missing where a scanner has fewer than three; None without
        travelers.
    """
    people = result.people
    if people is None or not people.has_travelers:
        return None
    who = (np.arange(len(people.people))[:, None] == people.person).astype(float)
    observed, expected = np.zeros(len(people.person)), np.zeros(len(people.person))
    for start in range(0, result.bias.shape[1], CHUNK):
        part = slice(start, start + CHUNK)
        y = people.values[:, part] - result.bias[people.scanner, part]
        known = np.isfinite(y)
        y = np.where(known, y, 0.0)
        noise = np.where(known, result.noise[people.scanner, part] / people.n_scans[:, None], 0.0)
        n = np.maximum(who @ known, 1.0)
        mean, of_mean, n_of = (who @ y / n)[people.person], (who @ noise / n**2)[people.person], n[people.person]
        is_compared = known & (n_of > 1)
        observed += np.sum(np.where(is_compared, (y - mean) ** 2, 0.0), axis=1)
        expected += np.sum(np.where(is_compared, noise * (1 - 2 / n_of) + of_mean, 0.0), axis=1)
    n_cells, n_used = len(people.person), result.n_estimated
    expected *= max(0.0, 1 - n_used / max(1, n_cells - len(people.people)))
    rows = {}
    for k, name in enumerate(people.scanners):
        cells = np.flatnonzero(people.scanner == k)
        if len(cells) == 0 or expected[cells].sum() <= 0:
            continue
        ratio, error = observed[cells].sum() / expected[cells].sum(), np.nan
        if len(cells) >= LEAST_TRAVELERS:
            left = [np.delete(cells, j) for j in range(len(cells))]
            without = np.array([observed[each].sum() / expected[each].sum() for each in left])
            error = float(np.sqrt((len(cells) - 1) * without.var()))
        rows[name] = {"ratio": ratio, "ratio_q05": max(0.0, ratio - Z90 * error), "ratio_q95": ratio + Z90 * error}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("scanner") if rows else None
