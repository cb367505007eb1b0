"""Preservation of the effects of age, sex or diagnosis: effects after harmonization compared with within-scanner effects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from bayesharm.errors import InputError, listed, shorten
from bayesharm.evaluation.metrics.jackknife import CompleteScans, JackknifeEstimate, jackknife, select_complete


class EffectPreservation(NamedTuple):
    """Effect of one covariate in harmonized data compared with a reference effect, over features.

    Attributes
    ----------
    correlation : JackknifeEstimate
        Correlation of effect and reference. If the reference is the within-scanner effect, both are from the same people and
        share sampling error.
    slope : JackknifeEstimate
        Least-squares slope of the effect on the reference: below 1 if effects are shrunk or the reference is noisy.
    rms, rms_reference, rms_difference : JackknifeEstimate
        Root mean square of the effect, of the reference, and of their difference.
    """

    correlation: JackknifeEstimate
    slope: JackknifeEstimate
    rms: JackknifeEstimate
    rms_reference: JackknifeEstimate
    rms_difference: JackknifeEstimate


def effect_preservation(
    values: np.ndarray,
    scans: pd.DataFrame,
    covariates: Sequence[str],
    *,
    raw: np.ndarray,
    truth: Mapping[str, np.ndarray] | None = None,
    reference: str = "HC",
    unit: np.ndarray | float = 1.0,
) -> dict[str, EffectPreservation]:
    """Compare effects of covariates in harmonized data with within-scanner effects, which scanner bias cannot affect.

    Effects are from a linear regression of each feature on all covariates, in all scanners together; every person has the
    same weight, regardless of the number of scans. The reference is the same regression of the raw data with one
    intercept per scanner.

    Parameters
    ----------
    values : (scan, feature) array
        Harmonized values. Scans with NaN in all features or with a missing covariate are not used.
    scans : DataFrame
        With the columns `participant_id`, `scanner` and the covariates.
    covariates : sequence of str
        Columns of `scans`: numbers, or groups (such as `diagnosis`), with an effect of each group compared with a reference
        group.
    raw : (scan, feature) array
        Values before harmonization.
    truth : mapping, optional
        Name in the result -> true effects (feature,), as the reference instead of within-scanner effects.
    reference : str
        Reference group, if the covariate has it; otherwise the alphabetically first group is the reference.
    unit : (feature,) array or float
        Divisor of each feature.

    Returns
    -------
    dict of EffectPreservation
        By covariate, ``column: group`` for groups.

    Raises
    ------
    InputError
        Covariates are collinear with one another or with scanners.
    """
    if unknown := [name for name in covariates if name not in scans]:
        raise InputError(
            "The scans table lacks covariates.",
            got=shorten(unknown),
            expected=f"columns of the table: {shorten(scans.columns, 30)}",
            do="use column names of the table",
        )
    is_missing = np.isnan(np.asarray(raw)) | scans[list(covariates)].isna().any(axis=1).to_numpy()[:, None]
    data = select_complete(np.where(is_missing, np.nan, values), scans, unit=unit)
    columns = _covariate_columns(data.scans, covariates, reference)
    if not columns:
        raise InputError(
            "Covariates are constant.",
            got=f"{listed(covariates)} in {data.scan_mask.sum()} scans",
            expected="covariates that vary between people",
            do="omit them",
        )
    x, names = np.column_stack(list(columns.values())), list(columns)
    spread = x.std(0)
    x = (x - x.mean(0)) / np.where(spread > 0, spread, 1)
    pooled_design = np.column_stack([np.ones(len(x)), x])
    within_design = np.column_stack([np.eye(len(data.scanners))[data.scanner], x])
    _check_rank(pooled_design, "one another", names)
    regressions = [(pooled_design, _centered(data.values))]
    if truth is None:
        _check_rank(within_design, "scanners", names)
        divisor = np.broadcast_to(np.asarray(unit, float), data.feature_mask.shape)[data.feature_mask]
        raw_values = np.asarray(raw)[data.scan_mask][:, data.feature_mask] / divisor
        regressions.append((within_design, _centered(raw_values)))
        true_effects = None
    else:
        true_effects = (
            np.stack([np.asarray(truth[name], float) / unit for name in names])[:, data.feature_mask] * spread[:, None]
        )
    metrics = iter(_compare(data, regressions, true_effects, spread))
    return {name: EffectPreservation(*(next(metrics) for _ in EffectPreservation._fields)) for name in names}


def _centered(values: np.ndarray) -> np.ndarray:
    """Center the columns in place: the array is large, and the caller owns it."""
    values -= values.mean(0)
    return values


def _covariate_columns(scans: pd.DataFrame, covariates: Sequence[str], reference: str) -> dict[str, np.ndarray]:
    """Return numeric covariates and group indicators, by name."""
    columns: dict[str, np.ndarray] = {}
    for name in covariates:
        column = scans[name]
        if pd.api.types.is_numeric_dtype(column):
            columns[name] = column.to_numpy(float)
            continue
        groups = sorted(column.astype(str).unique())
        against = reference if reference in groups else groups[0]
        columns |= {f"{name}: {group}": (column == group).to_numpy(float) for group in groups if group != against}
    return columns


def _check_rank(x: np.ndarray, what: str, names: Sequence[str]) -> None:
    """Raise an `InputError` if the columns of `x` are collinear."""
    if np.linalg.matrix_rank(x) < x.shape[1]:
        raise InputError(
            f"Covariates are collinear with {what}.",
            got=f"{listed(names)} in {len(x)} scans",
            expected="covariates that vary between people, also within scanners, and independently of one another",
            do="omit covariates",
        )


def _compare(
    data: CompleteScans,
    regressions: list[tuple[np.ndarray, np.ndarray]],
    true_effects: np.ndarray | None,
    spread: np.ndarray,
) -> list[JackknifeEstimate]:
    """Compute all metrics of all covariates: effects of the first regression compared with the second, or with the truth.

    The regressions are (design, values) pairs; `spread` is the divisor of the standardized covariates.
    """

    def contribution(i: int) -> list[np.ndarray]:
        rows = data.rows_of_person[i]
        return [x[rows].T @ array[rows] / len(rows) for x, y in regressions for array in (x, y)]

    def compare(*sums: np.ndarray) -> list[float]:
        effects = [
            (np.linalg.pinv(gram, rcond=1e-10, hermitian=True) @ cross)[-len(spread) :]
            for gram, cross in zip(sums[::2], sums[1::2], strict=True)
        ]
        estimates, references = (
            effects[0] / spread[:, None],
            (effects[1] if true_effects is None else true_effects) / spread[:, None],
        )
        numbers: list[float] = []
        for a, b in zip(estimates, references, strict=True):
            u, v = a - a.mean(), b - b.mean()
            numbers += [u @ v / np.sqrt(u @ u * (v @ v)), u @ v / (v @ v)]
            numbers += [np.sqrt(np.mean(z**2)) for z in (a, b, a - b)]
        return numbers

    return jackknife(data, contribution, compare)
