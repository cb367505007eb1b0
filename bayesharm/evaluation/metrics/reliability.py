"""Reliability across scanners: between-scanner standard deviation, its noise floor, and intraclass correlation (ICC)."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from bayesharm.errors import InputError
from bayesharm.evaluation.metrics.jackknife import (
    CompleteScans,
    JackknifeEstimate,
    check_comparable,
    combine,
    jackknife,
    select_complete,
    traveler_mask,
)


def between_scanner_sd(values: np.ndarray, scans: pd.DataFrame, *, unit: np.ndarray | float = 1.0) -> JackknifeEstimate:
    """Compute the standard deviation between scans of a person on different scanners, root mean square over features.

    The variance is half the mean squared difference between two scans of a person on two scanners. Pairs of scanners have
    the same weight; people are weighted by their number of scanners minus one. Its expectation is the variance of scanner
    effects (including scanner × person interactions) plus the noise variance of one scan, for any number of scans. In a
    balanced study it is the sum of the variance components of a nested analysis of variance (Searle, Casella & McCulloch,
    *Variance Components*, 1992).

    Parameters
    ----------
    values : (scan, feature) array
        Scans with NaN in all features are not used.
    scans : DataFrame
        With the columns `participant_id` and `scanner`.
    unit : (feature,) array or float
        Divisor of each feature, such as its sd before harmonization; use the same for all methods.

    Returns
    -------
    JackknifeEstimate
        For people on several scanners.

    Raises
    ------
    InputError
        Nobody was scanned on several scanners.
    """
    data = select_complete(values, scans, unit=unit, subset=traveler_mask)

    def contribution(i: int) -> tuple[float, int]:
        visits = [data.values[of] for of in data.visits(i)]
        between = np.var([visit.mean(0) for visit in visits], axis=0, ddof=1).mean()
        within = np.mean([visit.var(0).mean() for visit in visits])
        return (len(visits) - 1) * (between + within), len(visits) - 1

    return jackknife(data, contribution, lambda square, df: np.sqrt(square / df))[0]


def noise_floor(
    values: np.ndarray,
    scans: pd.DataFrame,
    *,
    of: Literal["repeats", "residual"] = "repeats",
    unit: np.ndarray | float = 1.0,
) -> JackknifeEstimate:
    """Compute the noise floor: the value of :func:`between_scanner_sd` without scanner effects.

    Parameters
    ----------
    values : (scan, feature) array
        Values before harmonization.
    scans, unit
        As for :func:`between_scanner_sd`.
    of : {'repeats', 'residual'}
        'repeats': variance of repeated scans of a person on one scanner, averaged over scanners as in
        :func:`between_scanner_sd`; scanners without repeats get the pooled variance of the others. 'residual': residual
        variance of the least-squares model person + scanner in people on several scanners; it includes scanner × person
        interactions, which a scanner bias cannot explain.

    Raises
    ------
    InputError
        Nobody was scanned on several scanners, there are no repeats, or the model has no residual degrees of freedom.
    """
    if of == "residual":
        return _residual(select_complete(values, scans, unit=unit, subset=traveler_mask))
    if of != "repeats":
        raise InputError("Unknown noise floor.", got=f"of={of!r}", expected="'repeats' or 'residual'", do="choose one")
    data = select_complete(values, scans, unit=unit)
    traveler_mask(data.scans)

    def contribution(i: int) -> tuple[np.ndarray, ...]:
        visits = data.visits(i)
        square, df, weight = np.zeros((3, len(data.scanners)))
        for visit in visits:
            k = data.scanner[visit[0]]
            square[k], df[k] = data.values[visit].var(0).mean() * len(visit), len(visit) - 1
            weight[k] = (len(visits) - 1) / len(visits)
        return square, df, weight

    def floor(square: np.ndarray, df: np.ndarray, weight: np.ndarray) -> float:
        of_scanner = np.where(df > 0, square / df, square.sum() / df.sum())
        return np.sqrt(weight @ of_scanner / weight.sum())

    (estimate,) = jackknife(data, contribution, floor)
    if np.isnan(estimate.value):
        raise InputError(
            "There are no repeated scans.",
            got=f"{estimate.n_scans} scans, never two of one person on one scanner",
            expected="people scanned twice on a scanner",
            do="use the residual (of='residual'), or the noise estimate of a model",
        )
    return estimate


def _residual(data: CompleteScans) -> JackknifeEstimate:
    """Compute the residual sd of the model person + scanner; person effects are eliminated by centering each person."""
    dummies = np.eye(len(data.scanners))[data.scanner]

    def contribution(i: int) -> tuple[np.ndarray | float, ...]:
        x, y = (array[data.rows_of_person[i]] - array[data.rows_of_person[i]].mean(0) for array in (dummies, data.values))
        return x.T @ x, x.T @ y, (y**2).sum(), len(y) - 1.0

    def residual(gram: np.ndarray, cross: np.ndarray, square: float, df: float) -> float:
        inverse = np.linalg.pinv(gram, rcond=1e-10, hermitian=True)
        df = df - round(np.trace(inverse @ gram))
        left = square - (inverse * (cross @ cross.T)).sum()
        return np.sqrt(left / cross.shape[1] / df) if df > 0 else np.nan

    (estimate,) = jackknife(data, contribution, residual)
    if np.isnan(estimate.value):
        raise InputError(
            "The model person + scanner has no residual degrees of freedom.",
            got=f"{estimate.n_scans} scans of {len(data.people)} people on {len(data.scanners)} scanners",
            expected="more scans than people and scanners",
            do="use the noise estimate of a model",
        )
    return estimate


def share_removed(none: JackknifeEstimate, method: JackknifeEstimate, floor: JackknifeEstimate | float) -> JackknifeEstimate:
    """Compute the share of removable between-scanner variance that a method removes: 1 is all, below 0 is harm.

    Parameters
    ----------
    none, method : JackknifeEstimate
        From :func:`between_scanner_sd`, of the same scans, before and after harmonization.
    floor : JackknifeEstimate or float
        From :func:`noise_floor`, or a model's estimate of the noise sd of a scan, root mean square over features, in the
        same units.

    Returns
    -------
    JackknifeEstimate
        NaN if the data before harmonization are not above the floor, so that nothing can be removed.

    Raises
    ------
    InputError
        `none` and `method` are of different scans or features.
    """
    check_comparable(none, method)

    def share(none: np.ndarray, method: np.ndarray, floor: np.ndarray) -> np.ndarray:
        return (none**2 - method**2) / np.where(none > floor, none**2 - floor**2, np.nan)

    return combine(share, none, method, floor)


def participant_icc(values: np.ndarray, scans: pd.DataFrame) -> JackknifeEstimate:
    """Compute the intraclass correlation of the scans of a person, ICC(1), median over features.

    One-way random-effects model, estimated by unbalanced analysis of variance (Searle, Casella & McCulloch, *Variance
    Components*, 1992). The estimate of a feature may be below 0. The ICC decreases if a method removes differences between
    people, and if it leaves differences between scanners.

    Parameters
    ----------
    values : (scan, feature) array
        Scans with NaN in all features are not used.
    scans : DataFrame
        With the columns `participant_id` and `scanner`.

    Returns
    -------
    JackknifeEstimate
        For people on several scanners.

    Raises
    ------
    InputError
        Fewer than two people were scanned on several scanners.
    """
    data = select_complete(values, scans, subset=traveler_mask)
    if len(data.people) < 2:
        raise InputError(
            "The intraclass correlation needs two people.",
            got=f"only {data.people[0]!r} was scanned on several scanners",
            expected="two or more traveling subjects",
            do="evaluate more people",
        )
    centered = data.values - data.values.mean(0)

    def contribution(i: int) -> tuple[float | np.ndarray, ...]:
        y = centered[data.rows_of_person[i]]
        total = y.sum(0)
        return 1.0, len(y), len(y) ** 2, total, total**2 / len(y), ((y - y.mean(0)) ** 2).sum(0)

    def median(
        people: float, n: float, squared_n: float, total: np.ndarray, square: np.ndarray, within: np.ndarray
    ) -> float:
        between = (square - total**2 / n) / (people - 1)
        within = within / (n - people)
        variance = (between - within) / ((n - squared_n / n) / (people - 1))
        return float(np.median(variance / (variance + within)))

    return jackknife(data, contribution, median)[0]
