"""How much one person's scans differ between scanners, how little they could, and how alike they are beside others'."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from bayesharm.errors import InputError
from bayesharm.evaluation.metrics.jackknife import Measure, Rows, check_same, combine, jackknife, select, travel


def between_scanner_sd(values: np.ndarray, scans: pd.DataFrame, *, unit: np.ndarray | float = 1.0) -> Measure:
    """Standard deviation between single scans of a person on different scanners, root mean square over features.

    The expected square is the variance of scanner effects (and of how scanners differ in how they measure a person) plus
    that of the noise of a scan, whatever the numbers of scans: half the mean squared difference of two scans of a person on
    two scanners, all pairs of scanners alike, and people weighted by the number of their scanners less one. In a balanced
    study these are the components of variance of a nested analysis of variance (Searle, Casella & McCulloch, *Variance
    Components*, 1992).

    Parameters
    ----------
    values : (scan, feature) array
        Scans with NaN in all features are left out.
    scans : DataFrame
        `participant_id`, `scanner`.
    unit : (feature,) array or float
        What values are divided by, such as the sd of each feature in data that are not harmonized: the same for all methods.

    Returns
    -------
    Measure
        Of people on several scanners.

    Raises
    ------
    InputError
        Nobody was scanned on several scanners.
    """
    rows = select(values, scans, unit=unit, who=travel)

    def part(i: int) -> tuple[float, int]:
        visits = [rows.values[of] for of in rows.visits(i)]
        between = np.var([visit.mean(0) for visit in visits], axis=0, ddof=1).mean()
        within = np.mean([visit.var(0).mean() for visit in visits])
        return (len(visits) - 1) * (between + within), len(visits) - 1

    return jackknife(rows, part, lambda square, df: np.sqrt(square / df))[0]


def noise_floor(
    values: np.ndarray,
    scans: pd.DataFrame,
    *,
    of: Literal["repeats", "residual"] = "repeats",
    unit: np.ndarray | float = 1.0,
) -> Measure:
    """What :func:`between_scanner_sd` is when nothing but noise is left.

    Parameters
    ----------
    values : (scan, feature) array
        Not harmonized.
    scans, unit
        As for :func:`between_scanner_sd`.
    of : {'repeats', 'residual'}
        Scans of one person on one scanner: the variance of each scanner, averaged over scanners as there; scanners without
        repeats have that of the others. Or what is left of the model person + scanner, fitted by least squares to people on
        several scanners: this includes how scanners differ in how they measure a person, which no bias of a scanner
        explains.

    Raises
    ------
    InputError
        Nobody was scanned on several scanners, there are no repeats, or the model leaves nothing over.
    """
    if of == "residual":
        return _residual(select(values, scans, unit=unit, who=travel))
    if of != "repeats":
        raise InputError("This floor is not known.", got=f"of={of!r}", expected="'repeats' or 'residual'", do="choose one")
    rows = select(values, scans, unit=unit)
    travel(rows.scans)

    def part(i: int) -> tuple[np.ndarray, ...]:
        visits = rows.visits(i)
        square, df, weight = np.zeros((3, len(rows.scanners)))
        for visit in visits:
            k = rows.scanner[visit[0]]
            square[k], df[k] = rows.values[visit].var(0).mean() * len(visit), len(visit) - 1
            weight[k] = (len(visits) - 1) / len(visits)
        return square, df, weight

    def floor(square: np.ndarray, df: np.ndarray, weight: np.ndarray) -> float:
        of_scanner = np.where(df > 0, square / df, square.sum() / df.sum())
        return np.sqrt(weight @ of_scanner / weight.sum())

    (found,) = jackknife(rows, part, floor)
    if np.isnan(found.value):
        raise InputError(
            "There are no repeats.",
            got=f"{found.n_scans} scans, never two of one person on one scanner",
            expected="people scanned twice on a scanner",
            do="take the residual (of='residual'), or the noise that a model says",
        )
    return found


def _residual(rows: Rows) -> Measure:
    """Root mean square of what people and scanners leave over; people are eliminated by taking their means away."""
    dummies = np.eye(len(rows.scanners))[rows.scanner]

    def part(i: int) -> tuple[np.ndarray | float, ...]:
        x, y = (array[rows.of_person[i]] - array[rows.of_person[i]].mean(0) for array in (dummies, rows.values))
        return x.T @ x, x.T @ y, (y**2).sum(), len(y) - 1.0

    def residual(gram: np.ndarray, cross: np.ndarray, square: float, df: float) -> float:
        inverse = np.linalg.pinv(gram, rcond=1e-10, hermitian=True)
        df = df - round(np.trace(inverse @ gram))
        left = square - (inverse * (cross @ cross.T)).sum()
        return np.sqrt(left / cross.shape[1] / df) if df > 0 else np.nan

    (found,) = jackknife(rows, part, residual)
    if np.isnan(found.value):
        raise InputError(
            "People and scanners leave nothing over, from which noise could be told.",
            got=f"{found.n_scans} scans of {len(rows.people)} people on {len(rows.scanners)} scanners",
            expected="more scans than people and scanners",
            do="take the noise that a model says",
        )
    return found


def share_removed(none: Measure, method: Measure, floor: Measure | float) -> Measure:
    """How much of the removable variance between scanners a method has removed: 1 is all, below 0 is harm.

    Parameters
    ----------
    none, method : Measure
        From :func:`between_scanner_sd`, of the same scans: not harmonized, and harmonized.
    floor : Measure or float
        From :func:`noise_floor`, or the noise of a scan (sd, root mean square over features, in the same unit) that a model
        says.

    Returns
    -------
    Measure
        NaN where data that are not harmonized are not above the floor: nothing can be removed.

    Raises
    ------
    InputError
        `none` and `method` are not of the same scans and features.
    """
    check_same(none, method)

    def share(none, method, floor):
        return (none**2 - method**2) / np.where(none > floor, none**2 - floor**2, np.nan)

    return combine(share, none, method, floor)


def participant_icc(values: np.ndarray, scans: pd.DataFrame) -> Measure:
    """Intraclass correlation of the scans of a person, median over features.

    One-way random effects, by the unbalanced analysis of variance (Searle, Casella & McCulloch, *Variance Components*,
    1992). The estimate of a feature may be below 0. A method that takes people's differences away lowers it, and so does one
    that leaves those of scanners.

    Parameters
    ----------
    values : (scan, feature) array
        Scans with NaN in all features are left out.
    scans : DataFrame
        `participant_id`, `scanner`.

    Returns
    -------
    Measure
        Of people on several scanners.

    Raises
    ------
    InputError
        Fewer than two people were scanned on several scanners.
    """
    rows = select(values, scans, who=travel)
    if len(rows.people) < 2:
        raise InputError(
            "One person has nobody to be compared with.",
            got=f"{rows.people[0]!r} alone was scanned on several scanners",
            expected="two traveling subjects or more",
            do="evaluate on more people",
        )
    centered = rows.values - rows.values.mean(0)

    def part(i: int) -> tuple[float | np.ndarray, ...]:
        y = centered[rows.of_person[i]]
        total = y.sum(0)
        return 1.0, len(y), len(y) ** 2, total, total**2 / len(y), ((y - y.mean(0)) ** 2).sum(0)

    def median(people, n, squared_n, total, square, within):
        between = (square - total**2 / n) / (people - 1)
        within = within / (n - people)
        variance = (between - within) / ((n - squared_n / n) / (people - 1))
        return np.median(variance / (variance + within))

    return jackknife(rows, part, median)[0]
