"""Error of estimated measurement bias, for studies with known ground truth."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import norm

from bayesharm.errors import InputError, shorten
from bayesharm.evaluation.metrics.jackknife import JackknifeEstimate, combine


class BiasError(NamedTuple):
    """Error of the measurement bias, centered over the scanners with an estimate.

    Attributes
    ----------
    rmse : JackknifeEstimate
        Root mean square error over scanners and features, in the units of the features.
    ratio : JackknifeEstimate or None
        `rmse` relative to that of the oracle for the same scanners.
    coverage : JackknifeEstimate or None
        Share of true biases within their intervals; only if all scanners have an estimate.
    by_scanner : Series
        Root mean square error of each scanner; NaN for scanners without an estimate.
    """

    rmse: JackknifeEstimate
    ratio: JackknifeEstimate | None
    coverage: JackknifeEstimate | None
    by_scanner: pd.Series


def bias_error(
    bias: pd.DataFrame,
    truth: pd.DataFrame,
    *,
    sd: pd.DataFrame | None = None,
    oracle: pd.DataFrame | None = None,
    level: float = 0.9,
) -> BiasError:
    """Compare estimated with true biases.

    Standard errors are from the jackknife over features, which are independent in simulated studies.

    Parameters
    ----------
    bias, truth : DataFrame, scanner × feature
        Estimated and true biases. Additive constants of a feature have no effect. Scanners without an estimate are absent
        from `bias` or NaN.
    sd : DataFrame, optional
        Standard deviation of the centered bias, for Gaussian intervals.
    oracle : DataFrame, optional
        Best possible estimate, from :func:`bayesharm.datasets.oracle.gaussian_oracle`.
    level : float
        Probability of the intervals.

    Raises
    ------
    InputError
        A scanner or feature is not in `truth`, or fewer than two scanners have an estimate.
    """
    estimated = bias.index[bias.notna().all(axis=1)]
    unknown = [*estimated.difference(truth.index), *bias.columns.difference(truth.columns)]
    if unknown or len(estimated) < 2:
        raise InputError(
            "The biases cannot be compared with the truth.",
            got=f"not in the truth: {shorten(unknown)}" if unknown else f"biases of {len(estimated)} scanners",
            expected="two or more scanners of the truth, and only features of the truth",
            do="pass both for the same study",
        )
    is_estimated = np.asarray(truth.index.isin(estimated))
    names, columns = truth.index[is_estimated], bias.columns

    def error(table: pd.DataFrame) -> np.ndarray:
        difference = table.loc[names, columns].to_numpy(float) - truth.loc[names, columns].to_numpy(float)
        return difference - difference.mean(0)

    def over_features(by_feature: np.ndarray) -> JackknifeEstimate:
        total, n = by_feature.sum(), len(by_feature)
        replicates = (total - by_feature) / (n - 1) if n > 1 else np.full(n, np.nan)
        return JackknifeEstimate(
            total / n, pd.Series(replicates, columns), is_estimated, np.asarray(truth.columns.isin(columns))
        )

    errors = error(bias)
    rmse = combine(np.sqrt, over_features((errors**2).mean(0)))
    oracle_rmse = None if oracle is None else combine(np.sqrt, over_features((error(oracle) ** 2).mean(0)))
    coverage = None
    if sd is not None and is_estimated.all():
        is_within = np.abs(errors) <= norm.ppf((1 + level) / 2) * sd.loc[names, columns].to_numpy(float)
        coverage = over_features(is_within.mean(0))
    return BiasError(
        rmse=rmse,
        ratio=None if oracle_rmse is None else combine(np.divide, rmse, oracle_rmse),
        coverage=coverage,
        by_scanner=pd.Series(np.sqrt((errors**2).mean(1)), names, name="rmse").reindex(truth.index),
    )
