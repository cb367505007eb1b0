"""One number about harmonized data, and what it would be without each participant: standard errors, also of differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


@dataclass(frozen=True, eq=False)
class Rows:
    """Values that are all there.

    Attributes
    ----------
    values : (row, feature) float64 array
    scans : DataFrame
        Their rows of the scans table.
    people, scanners : Index
    person, scanner : (row,) int arrays
        Places in these.
    of_person : list of (row of a person,) int arrays
    used, features : bool arrays
        Which scans and features of those given these are.
    """

    values: np.ndarray
    scans: pd.DataFrame
    people: pd.Index
    scanners: pd.Index
    person: np.ndarray
    scanner: np.ndarray
    of_person: list[np.ndarray]
    used: np.ndarray
    features: np.ndarray

    def visits(self, person: int) -> list[np.ndarray]:
        """Rows of a person on each of their scanners."""
        rows = self.of_person[person]
        return [rows[self.scanner[rows] == k] for k in np.unique(self.scanner[rows])]

    def measure(self, value: float, without: Any, **chance: float) -> Measure:
        return Measure(float(value), pd.Series(np.asarray(without, float), self.people), self.used, self.features, **chance)


def select(
    values: np.ndarray,
    scans: pd.DataFrame,
    *,
    unit: np.ndarray | float = 1.0,
    who: Callable[[pd.DataFrame], np.ndarray] | None = None,
) -> Rows:
    """Scans that have values, and features that none of them lacks, in the given units.

    Parameters
    ----------
    values : (scan, feature) array
    scans : DataFrame
    unit : (feature,) array or float
        What values are divided by; features for which it is not above 0 are left out.
    who : callable, optional
        Which of these scans are used: from their table to a (row,) bool array.

    Raises
    ------
    InputError
        Values and scans do not go together, or nothing is left.
    """
    values = np.asarray(values)
    if values.ndim != 2 or len(values) != len(scans):
        raise InputError(
            "Values and scans do not go together.",
            got=f"values of shape {values.shape} and {len(scans)} scans",
            expected="a row of values for each scan",
            do="give both for the same scans, in the same order",
        )
    used = ~np.isnan(values).all(1)
    if who is not None and used.any():
        used[used] = who(scans[used])
    chosen, divide = values[used], np.broadcast_to(np.asarray(unit, float), values.shape[1:])
    features = np.isfinite(chosen).all(0) & (divide > 0)
    if not (used.any() and features.any()):
        raise InputError(
            "Nothing is left to measure.",
            got=f"{used.sum()} scans with values, {features.sum()} features that none of them lacks",
            expected="one of each or more",
            do="leave out features with missing values, or scans that lack many",
        )
    table = scans[used]
    person, people = pd.factorize(table["participant_id"].astype(str), sort=True)
    scanner, scanners = pd.factorize(table["scanner"].astype(str), sort=True)
    order = np.argsort(person, kind="stable")
    return Rows(
        values=chosen[:, features].astype(float) / divide[features],
        scans=table,
        people=pd.Index(people, name="participant_id"),
        scanners=pd.Index(scanners, name="scanner"),
        person=person,
        scanner=scanner,
        of_person=np.split(order, np.cumsum(np.bincount(person))[:-1]),
        used=used,
        features=features,
    )


def travel(scans: pd.DataFrame) -> np.ndarray:
    """Scans of people on two scanners or more, (scan,) bool.

    Raises
    ------
    InputError
        There are none.
    """
    found = (scans.groupby("participant_id")["scanner"].transform("nunique") > 1).to_numpy(bool)
    if not found.any():
        raise InputError(
            "Nobody was scanned on several scanners.",
            got=f"{len(scans)} scans of {scans['participant_id'].nunique()} people, each on one scanner",
            expected="traveling subjects: people with scans on two scanners or more that the method can correct",
            do="evaluate on a study with traveling subjects",
        )
    return found


def jackknife(
    rows: Rows, part: Callable[[int], Sequence[Any]], function: Callable[..., float | Sequence[float]]
) -> list[Measure]:
    """Measures that are functions of sums over people.

    Parameters
    ----------
    rows : Rows
    part : callable
        From the place of a person to what they add to each of the sums, arrays or numbers.
    function : callable
        From these sums to one number, or several.

    Returns
    -------
    list of Measure
    """
    n = len(rows.people)
    total = [np.array(some, float) for some in part(0)]
    for i in range(1, n):
        for so_far, more in zip(total, part(i), strict=True):
            so_far += more
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.atleast_1d(function(*total))
        without = np.array([
            np.atleast_1d(function(*(every - own for every, own in zip(total, part(i), strict=True)))) for i in range(n)
        ])  # fmt: skip
    return [rows.measure(value, column) for value, column in zip(values, without.T, strict=True)]
