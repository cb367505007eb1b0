"""Accuracy of predicting a scan from the same person's scans on other scanners."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy import stats

from bayesharm.errors import InputError
from bayesharm.evaluation.metrics.jackknife import (
    CompleteScans,
    JackknifeEstimate,
    jackknife,
    select_complete,
    traveler_mask,
)


def difference_from_others(values: np.ndarray, scans: pd.DataFrame) -> np.ndarray:
    """Subtract from each scan the mean of the same person's other scanners, after averaging the scans on each scanner.

    The predictor is the same for every method. A method that shrinks all values also has small differences: interpret them
    together with the identification rate and the intraclass correlation.

    Parameters
    ----------
    values : (scan, feature) array
        Harmonized values; scans with NaN in all features are not used.
    scans : DataFrame
        With the columns `participant_id` and `scanner`.

    Returns
    -------
    (scan, feature) array
        Differences; NaN for scans of people on one scanner.

    Raises
    ------
    InputError
        Nobody was scanned on several scanners.
    """
    values = np.asarray(values, float)
    used = np.flatnonzero(~np.isnan(values).all(1))
    used = used[traveler_mask(scans.iloc[used])]
    differences = np.full(values.shape, np.nan)
    table = scans.iloc[used].reset_index(drop=True)
    for _, visits in table.groupby("participant_id"):
        rows_of_visit = [used[visit.index] for _, visit in visits.groupby("scanner")]
        means = np.stack([values[visit].mean(0) for visit in rows_of_visit])
        for visit, mean in zip(rows_of_visit, means, strict=True):
            differences[visit] = values[visit] - (means.sum(0) - mean) / (len(means) - 1)
    return differences


def prediction_rmse(errors: np.ndarray, scans: pd.DataFrame, *, unit: np.ndarray | float = 1.0) -> JackknifeEstimate:
    """Compute the root mean square prediction error over features and visits; all visits have the same weight.

    A visit is all scans of a person on one scanner.

    Parameters
    ----------
    errors : (scan, feature) array
        Measured minus predicted values, such as from :func:`difference_from_others`; NaN in all features of scans without a
        prediction.
    scans : DataFrame
        With the columns `participant_id` and `scanner`.
    unit : (feature,) array or float
        Divisor of each feature, such as its sd; use the same for all methods.

    Raises
    ------
    InputError
        No scan has a prediction.
    """
    data = select_complete(errors, scans, unit=unit)
    return _average_visits(data, data.values**2, np.sqrt)


def interval_coverage(
    observed: np.ndarray,
    mean: np.ndarray,
    sd: np.ndarray,
    scans: pd.DataFrame,
    *,
    df: np.ndarray | float = np.inf,
    level: float = 0.9,
) -> JackknifeEstimate:
    """Compute the share of measured values within their prediction intervals; all visits have the same weight.

    Parameters
    ----------
    observed, mean, sd : (scan, feature) array
        Measured value, and mean and scale of its prediction; NaN in all features of scans without a prediction.
    scans : DataFrame
        With the columns `participant_id` and `scanner`.
    df : array that broadcasts to (scan, feature), or float
        Degrees of freedom of Student-t predictions; default: Gaussian.
    level : float
        Probability of the central intervals.

    Raises
    ------
    InputError
        No scan has a prediction, or the level is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise InputError("The level is not valid.", got=f"level={level}", expected="between 0 and 1", do="use 0.9")
    beyond = np.abs(np.asarray(observed) - mean) - stats.t.ppf((1 + level) / 2, df) * np.asarray(sd)
    data = select_complete(beyond, scans)
    return _average_visits(data, data.values <= 0)


def _average_visits(
    data: CompleteScans, numbers: np.ndarray, function: Callable[[float], float] = lambda mean: mean
) -> JackknifeEstimate:
    """Average (row, feature) numbers over features and visits, and apply a function to the mean."""
    by_scan = numbers.mean(1)

    def contribution(i: int) -> tuple[float, int]:
        visits = data.visits(i)
        return sum(by_scan[visit].mean() for visit in visits), len(visits)

    return jackknife(data, contribution, lambda total, n: function(total / n))[0]
