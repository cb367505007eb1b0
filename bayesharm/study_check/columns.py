"""Columns of the scans table that may go with the scanner: age, sex, dates, covariates and protocol factors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import pandas as pd

from bayesharm.data.scans import CANONICAL
from bayesharm.data.screening.words import is_age, to_days
from bayesharm.model.catalog import load_model

# Names of columns, in lower case and without blanks, points and underscores.
AGE = re.compile(r"age|age(at)?(scan|mri|visit|test|years)?|years|alter")
SEX = re.compile(r"sex|gender|male|female|geschlecht")
TIME = re.compile(r"(acq|scan|study|session|visit|mri|acquisition)?(date|time|datetime)(of)?(scan|mri|acquisition)?|acqtime")
OTHER = re.compile(r"handedness|education|iq|fiq|(mean)?fd(mean)?|(head)?motion|e?tiv|icv|meanfd|timepoint|medication")
MAX_CATEGORIES = 20


class Kind(Enum):
    """Scale on which the values of a column are compared."""

    NUMBER = "number"
    CATEGORY = "category"
    TIME = "time"


@dataclass(frozen=True, eq=False)
class Described:
    """A column of the scans table.

    Attributes
    ----------
    name : str
    kind : Kind
    values : Series
        Numbers, categories as text, or dates; missing values are NaN.
    """

    name: str
    kind: Kind
    values: pd.Series

    @property
    def numbers(self) -> dict[str, pd.Series]:
        """The column as numbers: itself, days, or the indicator of each category, by label."""
        if self.kind is Kind.NUMBER:
            return {self.name: self.values}
        if self.kind is Kind.TIME:
            return {self.name: (self.values - self.values.min()) / pd.Timedelta(days=1)}
        levels = sorted(self.values.dropna().unique())
        known = self.values.notna()
        return {f"{self.name} {level}": (self.values == level).where(known).astype(float) for level in levels}


def describe_columns(scans: pd.DataFrame, covariates: Sequence[str] = ()) -> tuple[Described, ...]:
    """Find the covariates, and columns with usual names of age, sex, dates, motion and head size.

    Parameters
    ----------
    scans : DataFrame
        Canonical columns as in :class:`bayesharm.data.dataset.Dataset`.
    covariates : sequence of str
        Always included.
    """
    names = [name for name in covariates if name in scans]
    for pattern in (AGE, SEX, TIME, OTHER):
        names += [str(name) for name in scans if name not in CANONICAL and pattern.fullmatch(_plain(str(name)))]
    found = (_describe(scans[name], name) for name in dict.fromkeys(names))
    return tuple(each for each in found if each is not None)


def usual_covariates(scans: pd.DataFrame, times: Sequence[str] = ()) -> list[str]:
    """Return the columns of age and sex that can be covariates as they are: complete, and not the same for everybody.

    Parameters
    ----------
    scans : DataFrame
    times : sequence of str
        Columns on which trajectories depend. The age beside them is that at the first scan, the same in all scans of a
        person, or none if the time is an age itself.
    """
    names = [str(name) for name in scans if name not in (*CANONICAL, *times)]
    usable = [name for name in names if scans[name].notna().all() and scans[name].nunique() > 1]
    ages = [name for name in usable if AGE.fullmatch(_plain(name)) or (times and is_age(name))]
    if times:
        ages = [] if any(map(is_age, times)) else [name for name in ages if not _grows(scans, name)]
    return ages[:1] + [name for name in usable if SEX.fullmatch(_plain(name))][:1]


def growing_ages(scans: pd.DataFrame, times: Sequence[str]) -> list[str]:
    """Return the ages that grow with the time of trajectories, unless this is an age itself."""
    if not times or any(map(is_age, times)):
        return []
    return [name for name in map(str, scans) if is_age(name) and _grows(scans, name)]


def _grows(scans: pd.DataFrame, name: str) -> bool:
    return bool((scans.groupby("participant_id")[name].nunique() > 1).any())


def protocol_columns(scans: pd.DataFrame, protocol: Sequence[str] = ()) -> list[str]:
    """Return the columns that describe scanners: the chosen ones, or those that the model `protocol` looks for."""
    usual = [family.by for family in load_model("protocol").factors]
    chosen = [name for name in (protocol or usual) if name in scans]
    return [name for name in chosen if scans[name].notna().all() and scans.groupby("scanner")[name].nunique().max() == 1]


def _plain(name: str) -> str:
    return re.sub(r"[\s._\-()\[\]]", "", name.lower())


def _describe(values: pd.Series, name: str) -> Described | None:
    if TIME.fullmatch(_plain(name)):
        days = to_days(values)
        dates = pd.Series(pd.NaT if days is None else pd.to_datetime(days, unit="D"), values.index)
        if dates.nunique() > 1:
            return Described(name, Kind.TIME, dates)
    if pd.api.types.is_bool_dtype(values):
        values = values.astype(str)
    if pd.api.types.is_numeric_dtype(values):
        is_code = SEX.fullmatch(_plain(name)) and values.nunique() <= 3
        numbers = values.astype(float).where(np.isfinite(values.astype(float)))
        if is_code:
            return Described(name, Kind.CATEGORY, numbers.map("{:g}".format, na_action="ignore"))
        return Described(name, Kind.NUMBER, numbers) if numbers.nunique() > 1 else None
    labels = values.astype(object).where(values.notna(), None).map(lambda v: None if v is None else str(v).strip() or None)
    return Described(name, Kind.CATEGORY, labels) if 1 < labels.nunique() <= MAX_CATEGORIES else None
