"""Columns on which the effects of a family depend: the values that multiply the slopes of its levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bayesharm.data.scans import name_columns
from bayesharm.errors import InputError, ModelError, shorten
from bayesharm.model.spec import Family, ModelSpec

FIRST = "{} at the first scan"  # column of the scan patterns, for participants with several scans


@dataclass(frozen=True)
class SlopeColumn:
    """Standardization of the column on which the effects of a family depend.

    Attributes
    ----------
    family : str
        The family, not its slopes.
    column : str
    center : float
        Value from which slopes count; 0 for slopes by participant, which count from the participant's first scan.
    sd : float
        Root mean square distance from there, over the scans whose effects have a slope.
    """

    family: str
    column: str
    center: float
    sd: float


def find_slope_columns(used: pd.DataFrame, is_repeat_scanned: np.ndarray, spec: ModelSpec) -> tuple[SlopeColumn, ...]:
    """Standardize the column of each family with slopes, over the scans in the model.

    Parameters
    ----------
    used : DataFrame
        Scans in the model.
    is_repeat_scanned : (scan,) bool array
    spec : ModelSpec

    Raises
    ------
    ModelError
        The table lacks a column.
    InputError
        A column is not numeric, lacks values, or does not vary where slopes need it to.
    """
    columns = dict.fromkeys(family.slope for family in spec.slopes)
    if missing := [name for name in columns if name not in used]:
        raise ModelError(
            f"The model {spec.name!r} needs the column {shorten(missing)}.",
            got=name_columns(used),
            expected="the numeric column on which effects depend, such as years since the first visit",
            do="add the column, or name yours with --time (time= in Python)",
        )
    for name in columns:
        _check_values(used, name)
    return tuple(_standardize(used, is_repeat_scanned, family) for family in spec.slopes)


def slope_values(used: pd.DataFrame, family: Family, column: SlopeColumn) -> np.ndarray:
    """Return the standardized values that multiply the slopes of a family, (scan,)."""
    values = used[column.column].to_numpy(float)
    start = first_values(used, column.column) if family.by == "participant" else column.center
    return (values - start) / column.sd


def first_values(used: pd.DataFrame, name: str) -> np.ndarray:
    """Return the smallest value of a column over the scans of each participant, or that kept by a run, (scan,)."""
    first = used.groupby("participant_id")[name].transform("min").to_numpy(float)
    if FIRST.format(name) not in used:
        return first
    kept = pd.to_numeric(used[FIRST.format(name)], errors="coerce").groupby(used.participant_id).transform("first")
    return np.where(kept.isna(), first, kept)


def _check_values(used: pd.DataFrame, name: str) -> None:
    values = used[name]
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        raise InputError(
            f"The column {name!r} of a slope is not numeric.",
            got=shorten(values.unique()),
            expected="numbers",
            do="correct the column; for a date, use years since a day",
        )
    if (bad := values.isna() | values.isin([np.inf, -np.inf])).any():
        raise InputError(
            f"The column {name!r} of a slope has missing or infinite values.",
            got=f"no value for scans {shorten(used.scan_id[bad])}",
            expected="a value for every scan",
            do="complete the column or leave those scans out",
        )


def _standardize(used: pd.DataFrame, is_repeat_scanned: np.ndarray, family: Family) -> SlopeColumn:
    name, values = family.slope, used[family.slope].to_numpy(float)
    if family.by == "participant":
        away = (values - first_values(used, name))[is_repeat_scanned]
        center, where, expected = (
            0.0,
            "in all scans of each participant",
            "values that change between scans of a participant",
        )
    else:
        center, where, expected = float(values.mean()), "in all scans", "values that vary"
        away = values - center
    if not len(away) or np.ptp(away) == 0:
        raise InputError(
            f"The slopes of the family {family.name!r} depend on {name!r}, which is the same {where}.",
            got=shorten(np.unique(values)),
            expected=expected,
            do="correct the column, or choose a model without these slopes",
        )
    return SlopeColumn(family.name, name, center, float(np.sqrt((away**2).mean())))


def notes_on_slopes(used: pd.DataFrame, columns: Sequence[SlopeColumn], spec: ModelSpec) -> list[str]:
    """Say from where slopes count, and on which scanners a column does not vary."""
    by = {family.name: family.by for family in spec.families}
    notes = []
    for each in columns:
        if by[each.family] == "participant":
            notes.append(f"Slopes of {each.family} count {each.column} from the first scan of each participant.")
        elif by[each.family] == "scanner":
            constant = used.groupby("scanner")[each.column].nunique().loc[lambda n: n < 2].index
            if len(constant):
                notes.append(
                    f"{each.column} is the same in all scans of {shorten(constant)}: only the prior says how the bias "
                    "depends on it there."
                )
    return notes
