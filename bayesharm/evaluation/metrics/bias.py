"""How far estimated measurement bias is from the truth, where that is known."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import norm

from bayesharm.errors import InputError, shorten
from bayesharm.evaluation.metrics.jackknife import Measure, combine


class BiasError(NamedTuple):
    """Error of the measurement bias, which counts from the mean of the scanners that a method can do.

    Attributes
    ----------
    rmse : Measure
        Root mean square over scanners and features, in the features' units.
    ratio : Measure or None
        That over the oracle's, of the same scanners.
    coverage : Measure or None
        Share of the true biases within intervals; only where a method can do all scanners.
    by_scanner : Series
        The root mean square of each; NaN for those that it cannot do.
    """

    rmse: Measure
    ratio: Measure | None
    coverage: Measure | None
    by_scanner: pd.Series


def bias_error(
    bias: pd.DataFrame,
    truth: pd.DataFrame,
    *,
    sd: pd.DataFrame | None = None,
    oracle: pd.DataFrame | None = None,
    level: float = 0.9,
) -> BiasError:
    """Compare estimated with true biases. Standard errors are over features, which simulated studies draw independently.

    Parameters
    ----------
    bias, truth : DataFrame, scanner × feature
        Any constant may be added to a feature; scanners that a method cannot do are absent from `bias` or NaN.
    sd : DataFrame, optional
        Of the centered bias, for Gaussian intervals.
    oracle : DataFrame, optional
        What the best possible estimate is.
    level : float
        Of the intervals.

    Raises
    ------
    InputError
        Scanners or features are unknown to the truth, or fewer than two scanners are left.
    """
    there = bias.index[bias.notna().all(axis=1)]
    strange = [*there.difference(truth.index), *bias.columns.difference(truth.columns)]
    if strange or len(there) < 2:
        raise InputError(
            "The biases cannot be compared with the truth.",
            got=f"unknown to it: {shorten(strange)}" if strange else f"biases of {len(there)} scanners",
            expected="biases of two scanners of the truth or more, and of its features",
            do="give both for the same study",
        )
    used = np.asarray(truth.index.isin(there))
    names, columns = truth.index[used], bias.columns

    def error(table: pd.DataFrame) -> np.ndarray:
        difference = table.loc[names, columns].to_numpy(float) - truth.loc[names, columns].to_numpy(float)
        return difference - difference.mean(0)

    def over_features(by_feature: np.ndarray) -> Measure:
        total, n = by_feature.sum(), len(by_feature)
        without = (total - by_feature) / (n - 1) if n > 1 else np.full(n, np.nan)
        return Measure(total / n, pd.Series(without, columns), used, np.asarray(truth.columns.isin(columns)))

    wrong = error(bias)
    rmse = combine(np.sqrt, over_features((wrong**2).mean(0)))
    best = None if oracle is None else combine(np.sqrt, over_features((error(oracle) ** 2).mean(0)))
    coverage = None
    if sd is not None and used.all():
        within = np.abs(wrong) <= norm.ppf((1 + level) / 2) * sd.loc[names, columns].to_numpy(float)
        coverage = over_features(within.mean(0))
    return BiasError(
        rmse=rmse,
        ratio=None if best is None else combine(np.divide, rmse, best),
        coverage=coverage,
        by_scanner=pd.Series(np.sqrt((wrong**2).mean(1)), names, name="rmse").reindex(truth.index),
    )
