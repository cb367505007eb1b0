"""Methods that subtract an effect of each scanner estimated by one regression; none, which subtracts nothing."""

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

N_SCANS = 1216  # of the 2019 study
REPEATED = "It takes every scan for another person's: that travelers are the same people is not used."


@dataclass(frozen=True, eq=False)
class Uncorrected:
    """Nothing is subtracted, so that any scanner will do (see `bayesharm.baselines.Fitted`)."""

    bias: pd.DataFrame
    scanners: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def apply(self, dataset: Dataset) -> Applied:
        check_features(dataset, self.bias.columns)
        return Applied(read_all(dataset))


def fit_none(train: Dataset, covariates: Sequence[str] = ()) -> Uncorrected:
    """No harmonization: bias 0, values as they are."""
    scanners = scanner_names(train)
    return Uncorrected(bias_table(train, np.zeros((len(scanners), train.features.n_features))), tuple(scanners))


def fit_glm(train: Dataset, covariates: Sequence[str] = ()) -> Subtraction:
    """Least squares of every feature on the scanners alone [1]_: the scanner's mean is subtracted.

    `covariates` have no part in it: what of them differs between scanners is removed.

    References
    ----------
    .. [1] Yamashita et al. (2019), *PLOS Biology* 17, e3000042, where it was fitted to the cohort only.
    """
    return _regress(train, ())


def fit_adjusted_glm(train: Dataset, covariates: Sequence[str] = ()) -> Subtraction:
    """Least squares of every feature on the scanners and the covariates; the effect of the scanner is subtracted.

    With diagnosis, age and sex the adjusted GLM of Yamashita et al. (2019), where it was fitted to the cohort only.
    """
    return _regress(train, covariates)


def _regress(train: Dataset, covariates: Sequence[str]) -> Subtraction:
    values, scanners = read_finite(train), scanner_names(train)
    columns = indicators(train.scans["scanner"], scanners)
    encoding = learn_encoding(train.scans, covariates, columns)
    slopes = encoding.encode(train.scans)
    slopes = slopes - slopes.mean(axis=0)
    found = np.linalg.lstsq(np.column_stack([columns, slopes]), values, rcond=None)[0]
    return Subtraction(bias_table(train, found[: len(scanners)]), (REPEATED, *encoding.notes))


def fit_yamashita2019(
    train: Dataset, covariates: Sequence[str] = (), *, ridge: float | None = None, reference: str | None = None
) -> Subtraction:
    """Measurement bias of the constrained ridge regression of the 2019 study (see :func:`yamashita2019`).

    Diagnosis is in it, and sites and travelers are; other covariates are not. Where nobody traveled it can correct nothing.
    Features are centered first: its penalty is on the constant too, and what is shrunk of a constant that is far from 0, as
    those of connectivity are not, would go into the scanners.

    Parameters
    ----------
    train, covariates
    ridge : float, optional
        The penalty; by default the study's, in proportion to the number of scans: 14 for its 1,216.
    reference
        As for :func:`yamashita2019`.
    """
    ridge = RIDGE * len(train.scans) / N_SCANS if ridge is None else ridge
    notes, values = [], read_finite(train)
    centered = replace(train, features=Features.from_array(values - values.mean(axis=0), train.features.names))
    if unused := [name for name in covariates if name != "diagnosis"]:
        notes.append(f"The regression of the study has no covariates: {listed(unused)} not used.")
    try:
        found = yamashita2019(centered, ridge=ridge, reference=reference).effects["measurement"]
    except ModelError as error:
        return Subtraction(no_bias(train), (*notes, f"It cannot be fitted to these scans: {error.what}"))
    return Subtraction(bias_table(train, found.to_numpy(), found.index), tuple(notes))
