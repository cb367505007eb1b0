"""Metrics with jackknife replicates, for standard errors of metrics and of their differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from bayesharm.errors import InputError


@dataclass(frozen=True, eq=False)
class JackknifeEstimate:
    """A metric of one method, with jackknife replicates.

    Attributes
    ----------
    value : float
        The metric.
    replicates : Series
        The metric without each participant, by `participant_id`; for comparisons with a simulated truth, without each
        feature.
    scan_mask : (scan,) bool array
        Scans in the metric: those that the method could correct and that are informative.
    feature_mask : (feature,) bool array
        Features in the metric: those without missing values in these scans.
    chance, chance_sd : float
        Mean and standard deviation of the metric at chance level; NaN for metrics without a chance level.
    """

    value: float
    replicates: pd.Series
    scan_mask: np.ndarray
    feature_mask: np.ndarray
    chance: float = np.nan
    chance_sd: float = np.nan

    @property
    def se(self) -> float:
        """Jackknife standard error over people (Efron & Stein, *Annals of Statistics* 9, 1981).

        It is conditional on the scanners and on the fitted method, and does not include the variability of the training
        data. NaN if a replicate is not defined.
        """
        n = len(self.replicates)
        if n < 2:
            return np.nan
        replicates = self.replicates.to_numpy(float)
        return float(np.sqrt((n - 1) / n * ((replicates - replicates.mean()) ** 2).sum()))

    @property
    def n_scans(self) -> int:
        """Number of scans in the metric."""
        return int(self.scan_mask.sum())

    @property
    def n_features(self) -> int:
        """Number of features in the metric."""
        return int(self.feature_mask.sum())


def combine(function: Callable[..., Any], *metrics: JackknifeEstimate | float) -> JackknifeEstimate:
    """Apply a function to metrics and to their replicates; the result has its own standard error.

    A participant who is not in a metric leaves it unchanged.

    Parameters
    ----------
    function : callable
        Elementwise function of one argument for each metric.
    metrics : JackknifeEstimate or float
        At least one JackknifeEstimate.

    Returns
    -------
    JackknifeEstimate
        With the scans and features of the first metric.

    Examples
    --------
    The relative change compared with no harmonization:

    >>> combine(lambda method, none: method / none - 1, method, none)
    """
    estimates = [metric for metric in metrics if isinstance(metric, JackknifeEstimate)]
    index = estimates[0].replicates.index
    for estimate in estimates[1:]:
        index = index.union(estimate.replicates.index)
    values = [metric.value if isinstance(metric, JackknifeEstimate) else metric for metric in metrics]
    aligned = [
        metric.replicates.reindex(index, fill_value=metric.value).to_numpy(float)
        if isinstance(metric, JackknifeEstimate)
        else metric
        for metric in metrics
    ]
    with np.errstate(divide="ignore", invalid="ignore"):
        value, replicates = (np.asarray(function(*numbers), float) for numbers in (np.array(values, float), aligned))
    return JackknifeEstimate(float(value), pd.Series(replicates, index), estimates[0].scan_mask, estimates[0].feature_mask)


def average(*metrics: JackknifeEstimate) -> JackknifeEstimate:
    """Average the same metric over parts of a study, such as the held-out people of each fold, or over repetitions.

    Parameters
    ----------
    metrics : JackknifeEstimate
        Metrics of values for all scans of the study, with NaN for scans in other parts.
    """
    mean = combine(lambda *numbers: sum(numbers) / len(numbers), *metrics)
    masks = np.stack([metric.scan_mask for metric in metrics])
    sd = np.array([metric.chance_sd for metric in metrics])
    # Parts without common scans are independent. Repetitions are not: averaging hardly reduces their sd.
    are_disjoint = masks.sum(0).max() <= 1
    return replace(
        mean,
        scan_mask=masks.any(0),
        feature_mask=np.all([metric.feature_mask for metric in metrics], axis=0),
        chance=float(np.mean([metric.chance for metric in metrics])),
        chance_sd=float(np.sqrt((sd**2).sum()) / len(sd) if are_disjoint else sd.mean()),
    )


def difference(one: JackknifeEstimate, other: JackknifeEstimate) -> JackknifeEstimate:
    """Return `one` - `other`, the difference of a metric between two methods, paired by person.

    Raises
    ------
    InputError
        The metrics are of different scans or features.
    """
    check_comparable(one, other)
    return combine(np.subtract, one, other)


def check_comparable(one: JackknifeEstimate, other: JackknifeEstimate) -> None:
    """Check that two metrics are of the same scans and features.

    Raises
    ------
    InputError
        They are not.
    """
    have_same_scans = np.array_equal(one.scan_mask, other.scan_mask)
    if not (have_same_scans and np.array_equal(one.feature_mask, other.feature_mask)):
        raise InputError(
            "Metrics of different scans or features cannot be compared.",
            got=f"{one.n_scans} scans × {one.n_features} features against {other.n_scans} × {other.n_features}",
            expected="the same scans and features for every method",
            do="set the scans that either method cannot correct to NaN for both",
        )


@dataclass(frozen=True, eq=False)
class CompleteScans:
    """Complete values of a subset of scans and features.

    Attributes
    ----------
    values : (row, feature) float64 array
        Values without NaN; each row is a scan of the subset.
    scans : DataFrame
        Rows of the scans table.
    people, scanners : Index
        Participants and scanners of the subset.
    person, scanner : (row,) int arrays
        Positions in `people` and `scanners`.
    rows_of_person : list of int arrays
        Rows of each person.
    scan_mask, feature_mask : bool arrays
        The subset, among all scans and all features.
    """

    values: np.ndarray
    scans: pd.DataFrame
    people: pd.Index
    scanners: pd.Index
    person: np.ndarray
    scanner: np.ndarray
    rows_of_person: list[np.ndarray]
    scan_mask: np.ndarray
    feature_mask: np.ndarray

    def visits(self, person: int) -> list[np.ndarray]:
        """Return the rows of each visit of a person: one array for each of their scanners."""
        rows = self.rows_of_person[person]
        return [rows[self.scanner[rows] == k] for k in np.unique(self.scanner[rows])]

    def to_estimate(self, value: float, replicates: Any, **chance: float) -> JackknifeEstimate:
        """Label a metric and its replicates without each person."""
        by_person = pd.Series(np.asarray(replicates, float), self.people)
        return JackknifeEstimate(float(value), by_person, self.scan_mask, self.feature_mask, **chance)


def select_complete(
    values: np.ndarray,
    scans: pd.DataFrame,
    *,
    unit: np.ndarray | float = 1.0,
    subset: Callable[[pd.DataFrame], np.ndarray] | None = None,
) -> CompleteScans:
    """Select the scans with values and the features that are complete in them, and divide by `unit`.

    Parameters
    ----------
    values : (scan, feature) array
        Values; scans with NaN in all features are omitted.
    scans : DataFrame
        The scans table.
    unit : (feature,) array or float
        Divisor of each feature; features with a divisor of 0 or below are omitted.
    subset : callable, optional
        Maps the scans table to a (scan,) bool mask of the scans to use.

    Returns
    -------
    CompleteScans

    Raises
    ------
    InputError
        Values and scans do not match, or no scan or feature remains.
    """
    values = np.asarray(values)
    if values.ndim != 2 or len(values) != len(scans):
        raise InputError(
            "Values and scans do not match.",
            got=f"values of shape {values.shape} and {len(scans)} scans",
            expected="a row of values for each scan",
            do="pass both for the same scans, in the same order",
        )
    scan_mask = ~np.isnan(values).all(1)
    if subset is not None and scan_mask.any():
        scan_mask[scan_mask] = subset(scans[scan_mask])
    selected, divisor = values[scan_mask], np.broadcast_to(np.asarray(unit, float), values.shape[1:])
    feature_mask = np.isfinite(selected).all(0) & (divisor > 0)
    if not (scan_mask.any() and feature_mask.any()):
        raise InputError(
            "No complete data are left for the metric.",
            got=f"{scan_mask.sum()} scans with values, {feature_mask.sum()} features complete in all of them",
            expected="at least one scan and one feature",
            do="omit features with missing values, or scans with many missing values",
        )
    table = scans[scan_mask]
    person, people = pd.factorize(table["participant_id"].astype(str), sort=True)
    scanner, scanners = pd.factorize(table["scanner"].astype(str), sort=True)
    order = np.argsort(person, kind="stable")
    return CompleteScans(
        values=selected[:, feature_mask].astype(float) / divisor[feature_mask],
        scans=table,
        people=pd.Index(people, name="participant_id"),
        scanners=pd.Index(scanners, name="scanner"),
        person=person,
        scanner=scanner,
        rows_of_person=np.split(order, np.cumsum(np.bincount(person))[:-1]),
        scan_mask=scan_mask,
        feature_mask=feature_mask,
    )


def traveler_mask(scans: pd.DataFrame) -> np.ndarray:
    """Return a (scan,) bool mask of the scans of people on two or more scanners.

    Raises
    ------
    InputError
        There are no such people.
    """
    mask = (scans.groupby("participant_id")["scanner"].transform("nunique") > 1).to_numpy(bool)
    if not mask.any():
        raise InputError(
            "Nobody was scanned on several scanners.",
            got=f"{len(scans)} scans of {scans['participant_id'].nunique()} people, each on one scanner",
            expected="traveling subjects: people with scans on two or more scanners that the method can correct",
            do="evaluate a study with traveling subjects",
        )
    return mask


def jackknife(
    data: CompleteScans, contribution: Callable[[int], Sequence[Any]], function: Callable[..., float | Sequence[float]]
) -> list[JackknifeEstimate]:
    """Compute metrics that are functions of sums over people, with jackknife replicates.

    Parameters
    ----------
    data : CompleteScans
        Values of the metrics.
    contribution : callable
        Maps the position of a person to their contribution to each sum, arrays or numbers.
    function : callable
        Maps the sums to one or several numbers.

    Returns
    -------
    list of JackknifeEstimate
        One for each number.
    """
    n = len(data.people)
    sums = [np.array(summand, float) for summand in contribution(0)]
    for i in range(1, n):
        for partial_sum, summand in zip(sums, contribution(i), strict=True):
            partial_sum += summand
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.atleast_1d(function(*sums))
        replicates = np.array([
            np.atleast_1d(function(*(total - summand for total, summand in zip(sums, contribution(i), strict=True))))
            for i in range(n)
        ])  # fmt: skip
    return [data.to_estimate(value, column) for value, column in zip(values, replicates.T, strict=True)]
