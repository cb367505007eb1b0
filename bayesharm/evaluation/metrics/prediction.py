"""Is what a scanner measured what the person's other scanners say?"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from bayesharm.errors import InputError
from bayesharm.evaluation.metrics.jackknife import Measure, Rows, jackknife, select, travel


def difference_from_others(values: np.ndarray, scans: pd.DataFrame) -> np.ndarray:
    """Each scan minus the mean of the person's other scanners; scans on one scanner are averaged first.

    One predictor for every method. A method that makes everything smaller has small differences too: look at the
    identification rate and the intraclass correlation beside it.

    Parameters
    ----------
    values : (scan, feature) array
        Harmonized; scans with NaN in all features are left out.
    scans : DataFrame
        `participant_id`, `scanner`.

    Returns
    -------
    (scan, feature) array
        NaN for scans of people on one scanner.

    Raises
    ------
    InputError
        Nobody was scanned on several scanners.
    """
    values = np.asarray(values, float)
    there = np.flatnonzero(~np.isnan(values).all(1))
    there = there[travel(scans.iloc[there])]
    found = np.full(values.shape, np.nan)
    table = scans.iloc[there].reset_index(drop=True)
    for _, visits in table.groupby("participant_id"):
        rows = [there[of.index] for _, of in visits.groupby("scanner")]
        means = np.stack([values[of].mean(0) for of in rows])
        for of, mean in zip(rows, means, strict=True):
            found[of] = values[of] - (means.sum(0) - mean) / (len(means) - 1)
    return found


def prediction_rmse(errors: np.ndarray, scans: pd.DataFrame, *, unit: np.ndarray | float = 1.0) -> Measure:
    """Root mean square of errors of prediction over features and visits (a person on a scanner), every visit counting once.

    Parameters
    ----------
    errors : (scan, feature) array
        What was measured minus what was predicted, such as from :func:`difference_from_others`; NaN in all features of a
        scan that was not predicted.
    scans : DataFrame
        `participant_id`, `scanner`.
    unit : (feature,) array or float
        What errors are divided by, such as the sd of each feature: the same for all methods.

    Raises
    ------
    InputError
        No scan was predicted.
    """
    rows = select(errors, scans, unit=unit)
    return _over_visits(rows, rows.values**2, np.sqrt)


def interval_coverage(
    observed: np.ndarray,
    mean: np.ndarray,
    sd: np.ndarray,
    scans: pd.DataFrame,
    *,
    df: np.ndarray | float = np.inf,
    level: float = 0.9,
) -> Measure:
    """Share of what was measured that lies within intervals of prediction, every visit counting once.

    Parameters
    ----------
    observed, mean, sd : (scan, feature) array
        What was measured, the mean and the scale of its prediction; NaN in all features of a scan that was not predicted.
    scans : DataFrame
        `participant_id`, `scanner`.
    df : array that broadcasts to (scan, feature), or float
        Degrees of freedom of a Student-t prediction of this scale; by default it is Gaussian.
    level : float
        Of the intervals, which are central.

    Raises
    ------
    InputError
        No scan was predicted, or the level is impossible.
    """
    if not 0 < level < 1:
        raise InputError("The level is impossible.", got=f"level={level}", expected="between 0 and 1", do="take 0.9")
    beyond = np.abs(np.asarray(observed) - mean) - stats.t.ppf((1 + level) / 2, df) * np.asarray(sd)
    rows = select(beyond, scans)
    return _over_visits(rows, rows.values <= 0)


def _over_visits(rows: Rows, numbers: np.ndarray, function=lambda mean: mean) -> Measure:
    by_scan = numbers.mean(1)

    def part(i: int) -> tuple[float, int]:
        visits = rows.visits(i)
        return sum(by_scan[visit].mean() for visit in visits), len(visits)

    return jackknife(rows, part, lambda total, n: function(total / n))[0]
