"""Methods that subtract scanner effects from one linear regression, and `none`, which subtracts nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from bayesharm.baselines.base import (
    Applied,
    Subtraction,
    bias_table,
    check_features,
    no_bias,
    read_all,
    read_finite,
    scanner_names,
)
from bayesharm.baselines.encoding import indicators, learn_encoding
from bayesharm.baselines.yamashita import RIDGE, yamashita2019
from bayesharm.data.dataset import Dataset
from bayesharm.data.features import Features
from bayesharm.errors import ModelError, listed

N_SCANS_2019 = 1216  # scans of the 2019 study, to which its ridge penalty belongs
REPEATED = "It treats every scan as a different person, and does not use that travelers were scanned repeatedly."


@dataclass(frozen=True, eq=False)
class Uncorrected:
    """No correction; applies to any scanner (see `bayesharm.baselines.Fitted`)."""

    bias: pd.DataFrame
    scanners: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def apply(self, dataset: Dataset) -> Applied:
        """Return the values unchanged."""
        check_features(dataset, self.bias.columns)
        return Applied(read_all(dataset))


def fit_none(train: Dataset, covariates: Sequence[str] = ()) -> Uncorrected:
    """Return the method without harmonization: bias 0, values unchanged."""
    scanners = scanner_names(train)
    return Uncorrected(bias_table(train, np.zeros((len(scanners), train.features.n_features))), tuple(scanners))


def fit_glm(train: Dataset, covariates: Sequence[str] = ()) -> Subtraction:
    """Fit the unadjusted GLM [1]_: regress each feature on the scanners alone, and subtract the scanner mean.

    `covariates` are ignored: their differences between scanners are removed too.

    References
    ----------
    .. [1] Yamashita et al. (2019), *PLOS Biology* 17, e3000042, where it was fitted to the cohort only.
    """
    return _regress(train, ())


def fit_adjusted_glm(train: Dataset, covariates: Sequence[str] = ()) -> Subtraction:
    """Fit the adjusted GLM: regress each feature on the scanners and the covariates, and subtract the scanner effect.

    With diagnosis, age and sex this is the adjusted GLM of Yamashita et al. (2019), where it was fitted to the cohort only.
    """
    return _regress(train, covariates)


def _regress(train: Dataset, covariates: Sequence[str]) -> Subtraction:
    values, scanners = read_finite(train), scanner_names(train)
    columns = indicators(train.scans["scanner"], scanners)
    encoding = learn_encoding(train.scans, covariates, columns)
    slopes = encoding.encode(train.scans)
    slopes = slopes - slopes.mean(axis=0)
    coefficients = np.linalg.lstsq(np.column_stack([columns, slopes]), values, rcond=None)[0]
    return Subtraction(bias_table(train, coefficients[: len(scanners)]), (REPEATED, *encoding.notes))


def fit_yamashita2019(
    train: Dataset, covariates: Sequence[str] = (), *, ridge: float | None = None, reference: str | None = None
) -> Subtraction:
    """Fit the constrained ridge regression of the 2019 study, and subtract its measurement bias (see :func:`yamashita2019`).

    The regression contains diagnosis, sites and travelers, but no other covariates. Without travelers it cannot be fitted.
    Features are centered first, because the penalty includes the constant. Connectivity has a constant near 0; for other
    features the shrinkage of the constant would bias the scanner effects.

    Parameters
    ----------
    train : Dataset
        Training scans.
    covariates : sequence of str
        Ignored except for diagnosis.
    ridge : float, optional
        Ridge penalty; default: that of the study in proportion to the number of scans, 14 for its 1,216 scans.
    reference : str, optional
        As for :func:`yamashita2019`.

    Returns
    -------
    Subtraction
        `bias` is NaN if the model cannot be fitted; `notes` says why.
    """
    ridge = RIDGE * len(train.scans) / N_SCANS_2019 if ridge is None else ridge
    notes, values = [], read_finite(train)
    centered = replace(train, features=Features.from_array(values - values.mean(axis=0), train.features.names))
    if unused := [name for name in covariates if name != "diagnosis"]:
        notes.append(f"This regression has no covariates other than diagnosis: {listed(unused)} not used.")
    try:
        bias = yamashita2019(centered, ridge=ridge, reference=reference).effects["measurement"]
    except ModelError as error:
        return Subtraction(no_bias(train), (*notes, f"It cannot be fitted to these scans: {error.brief}"))
    return Subtraction(bias_table(train, bias.to_numpy(), bias.index), tuple(notes))
