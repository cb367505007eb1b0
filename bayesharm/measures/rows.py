"""The scans that a measure can use, by participant and scanner, and the jackknife over participants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bayesharm.errors import InputError
from bayesharm.measures.measure import Measure


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
