"""Are effects of age, sex or diagnosis still there after harmonization, as large as within a scanner?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from bayesharm.errors import InputError, listed, shorten
from bayesharm.evaluation.metrics.jackknife import Measure, Rows, jackknife, select


class Preservation(NamedTuple):
    """The effect of one covariate in harmonized data beside a reference, over features.

    Attributes
    ----------
    correlation : Measure
        Of both over features. Within-scanner effects are of the same people, and so share their chance with the others.
    slope : Measure
        Least squares of the effect on the reference over features: below 1 where effects are shrunk, and where the reference
        is noisy.
    rms, rms_reference, rms_difference : Measure
        Root mean squares over features of the effect, of the reference, and of their difference.
    """

    correlation: Measure
    slope: Measure
    rms: Measure
    rms_reference: Measure
    rms_difference: Measure


def effect_preservation(
    values: np.ndarray,
    scans: pd.DataFrame,
    covariates: Sequence[str],
    *,
    raw: np.ndarray,
    truth: Mapping[str, np.ndarray] | None = None,
    reference: str = "HC",
    unit: np.ndarray | float = 1.0,
) -> dict[str, Preservation]:
    """Effects of covariates in harmonized data, all scanners together, beside those that no bias of a scanner can touch.

    Linear regression of each feature on all covariates, every person weighing the same however often scanned; the reference
    is that of the raw data with a constant for each scanner.

    Parameters
    ----------
    values : (scan, feature) array
        Harmonized. Scans with NaN in all features, or without some covariate, are left out.
    scans : DataFrame
        `participant_id`, `scanner` and the covariates.
    covariates : sequence of str
        Columns of `scans`: numbers, or groups (such as `diagnosis`), each of which has an effect against one of them.
    raw : (scan, feature) array
        Not harmonized.
    truth : mapping, optional
        Where it is known, the true effects (feature,) by the names of the result, as the reference in place of
        within-scanner ones.
    reference : str
        The group that others are compared with, where a covariate has it; the first in alphabetical order where not.
    unit : (feature,) array or float
        What values are divided by.

    Returns
    -------
    dict of Preservation
        By covariate, ``column: group`` for groups.

    Raises
    ------
    InputError
        Covariates cannot be told from one another, or from scanners.
    """
    if unknown := [name for name in covariates if name not in scans]:
        raise InputError(
            "The scans table has no such covariate.",
            got=shorten(unknown),
            expected=f"some of {shorten(scans.columns, 30)}",
            do="name columns that are there",
        )
    lacking = np.isnan(np.asarray(raw)) | scans[list(covariates)].isna().any(axis=1).to_numpy()[:, None]
    rows = select(np.where(lacking, np.nan, values), scans, unit=unit)
    columns = _columns(rows.scans, covariates, reference)
    if not columns:
        raise InputError(
            "Covariates are the same for everybody.",
            got=f"{listed(covariates)} in {len(rows.used)} scans",
            expected="covariates that differ between people",
            do="leave them out",
        )
    x, names = np.column_stack(list(columns.values())), list(columns)
    spread = x.std(0)
    x = (x - x.mean(0)) / np.where(spread > 0, spread, 1)
    of_all = np.column_stack([np.ones(len(x)), x])
    of_scanners = np.column_stack([np.eye(len(rows.scanners))[rows.scanner], x])
    _check(of_all, "one another", names)
    regressions = [(of_all, _centered(rows.values))]
    if truth is None:
        _check(of_scanners, "scanners", names)
        divide = np.broadcast_to(np.asarray(unit, float), rows.features.shape)[rows.features]
        before = np.asarray(raw)[rows.used][:, rows.features] / divide
        regressions.append((of_scanners, _centered(before)))
        given = None
    else:
        given = np.stack([np.asarray(truth[name], float) / unit for name in names])[:, rows.features] * spread[:, None]
    measures = iter(_compare(rows, regressions, given, spread))
    return {name: Preservation(*(next(measures) for _ in Preservation._fields)) for name in names}


def _centered(values: np.ndarray) -> np.ndarray:
    """In place: these are large, and nobody else has them."""
    values -= values.mean(0)
    return values


def _columns(scans: pd.DataFrame, covariates: Sequence[str], reference: str) -> dict[str, np.ndarray]:
    found = {}
    for name in covariates:
        column = scans[name]
        if pd.api.types.is_numeric_dtype(column):
            found[name] = column.to_numpy(float)
            continue
        groups = sorted(column.astype(str).unique())
        against = reference if reference in groups else groups[0]
        found |= {f"{name}: {group}": (column == group).to_numpy(float) for group in groups if group != against}
    return found


def _check(x: np.ndarray, what: str, names: Sequence[str]) -> None:
    if np.linalg.matrix_rank(x) < x.shape[1]:
        raise InputError(
            f"Covariates cannot be told from {what}.",
            got=f"{listed(names)} in {len(x)} scans",
            expected="covariates that differ between people, also between those of one scanner",
            do="leave out covariates, or scans of people that are all alike",
        )


def _compare(
    rows: Rows, regressions: list[tuple[np.ndarray, np.ndarray]], truth: np.ndarray | None, spread: np.ndarray
) -> list[Measure]:
    """All numbers of all covariates: effects of the first regression beside those of the second, or the truth."""

    def part(i: int) -> list[np.ndarray]:
        of = rows.of_person[i]
        return [x[of].T @ array[of] / len(of) for x, y in regressions for array in (x, y)]

    def compare(*sums: np.ndarray) -> list[float]:
        effects = [
            (np.linalg.pinv(gram, rcond=1e-10, hermitian=True) @ cross)[-len(spread) :]
            for gram, cross in zip(sums[::2], sums[1::2], strict=True)
        ]
        found, beside = effects[0] / spread[:, None], (effects[1] if truth is None else truth) / spread[:, None]
        numbers: list[float] = []
        for a, b in zip(found, beside, strict=True):
            u, v = a - a.mean(), b - b.mean()
            numbers += [u @ v / np.sqrt(u @ u * (v @ v)), u @ v / (v @ v)]
            numbers += [np.sqrt(np.mean(z**2)) for z in (a, b, a - b)]
        return numbers

    return jackknife(rows, part, compare)
