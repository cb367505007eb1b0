"""One number about harmonized data, and what it would be without each participant: standard errors, also of differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from bayesharm.errors import InputError


@dataclass(frozen=True, eq=False)
class Measure:
    """A measure of the values of one method.

    Attributes
    ----------
    value : float
    without : Series
        What it would be without each participant, by `participant_id`. In measures of a simulated truth: without each
        feature.
    used : (scan,) bool array
        The scans that it is of: a method could correct them, and they say something about it.
    features : (feature,) bool array
        The features that it is of: those that no used scan lacks.
    chance, chance_sd : float
        What is expected of data that know nothing, and its standard deviation; NaN for measures without.
    """

    value: float
    without: pd.Series
    used: np.ndarray
    features: np.ndarray
    chance: float = np.nan
    chance_sd: float = np.nan

    @property
    def se(self) -> float:
        """Standard error by the jackknife over whole people (Efron & Stein, *Annals of Statistics* 9, 1981).

        Scanners and methods are taken as they are: what other training people would have given is not in it. NaN where the
        measure does not exist without some participant.
        """
        n = len(self.without)
        if n < 2:
            return np.nan
        without = self.without.to_numpy(float)
        return float(np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum()))

    @property
    def n_scans(self) -> int:
        return int(self.used.sum())

    @property
    def n_features(self) -> int:
        return int(self.features.sum())


def combine(function: Callable[..., Any], *measures: Measure | float) -> Measure:
    """A function of measures as a measure, with its standard error; scans and features are those of the first.

    Who has no part in a measure leaves it as it is.

    Parameters
    ----------
    function : callable
        Of as many numbers, or of arrays of them, elementwise.
    measures : Measure or float
        At least one Measure.

    Examples
    --------
    The change against no harmonization:

    >>> combine(lambda method, none: method / none - 1, method, none)
    """
    given = [measure for measure in measures if isinstance(measure, Measure)]
    index = given[0].without.index
    for measure in given[1:]:
        index = index.union(measure.without.index)
    values = [measure.value if isinstance(measure, Measure) else measure for measure in measures]
    without = [
        measure.without.reindex(index, fill_value=measure.value).to_numpy(float) if isinstance(measure, Measure) else measure
        for measure in measures
    ]
    with np.errstate(divide="ignore", invalid="ignore"):
        value, replicates = (np.asarray(function(*numbers), float) for numbers in (np.array(values, float), without))
    return Measure(float(value), pd.Series(replicates, index), given[0].used, given[0].features)


def average(*measures: Measure) -> Measure:
    """Mean of the same measure of several parts of a study, such as the held-out people of several fits, or of repeats.

    Parameters
    ----------
    measures : Measure
        Of values for all scans of the study, with NaN for those that are in other parts.
    """
    found = combine(lambda *numbers: sum(numbers) / len(numbers), *measures)
    together = np.stack([measure.used for measure in measures])
    sd = np.array([measure.chance_sd for measure in measures])
    apart = together.sum(0).max() <= 1  # and so independent; sds of repeats are hardly smaller in the mean
    return replace(
        found,
        used=together.any(0),
        features=np.all([measure.features for measure in measures], axis=0),
        chance=float(np.mean([measure.chance for measure in measures])),
        chance_sd=float(np.sqrt((sd**2).sum()) / len(sd) if apart else sd.mean()),
    )


def difference(one: Measure, other: Measure) -> Measure:
    """`one` - `other`, of two methods: paired, person by person.

    Raises
    ------
    InputError
        They are not of the same scans and features.
    """
    check_same(one, other)
    return combine(np.subtract, one, other)


def check_same(one: Measure, other: Measure) -> None:
    """Refuse to compare measures of different scans or features.

    Raises
    ------
    InputError
    """
    if not (np.array_equal(one.used, other.used) and np.array_equal(one.features, other.features)):
        raise InputError(
            "Measures of different scans or features cannot be compared.",
            got=f"{one.n_scans} scans × {one.n_features} features against {other.n_scans} × {other.n_features}",
            expected="the same rows and columns for every method",
            do="set the scans that one of the methods cannot correct to NaN for the other too",
        )
