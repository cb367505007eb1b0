"""Times of trajectories that are no years: against the ages, longer than any study, or numbers of visits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from bayesharm.data.finding import Finding
from bayesharm.data.screening.ages import TOLERANCE
from bayesharm.data.screening.words import ages_in_years, is_age, tokens
from bayesharm.errors import shorten

LONGEST = 60.0  # years between the first and the last scan of a person, which no study has
AT_SCAN = frozenset("age ages years year yrs months days at of in scan mri visit test".split())  # words of ages at the scan
UNITS = {"days": 365.25, "day": 365.25, "weeks": 52.18, "week": 52.18, "months": 12.0, "month": 12.0}


def screen_times(scans: pd.DataFrame, times: Sequence[str]) -> Iterator[Finding]:
    """Find times on which trajectories depend that cannot be years, or may not be.

    Parameters
    ----------
    scans : DataFrame
    times : sequence of str
        Columns on which the effects of participants depend. Days, weeks and months are known by the column's name.
    """
    for name in dict.fromkeys(times):
        if (found := find_wrong_time(scans, name)) is not None:
            yield found
        elif _counts_visits(scans, name):
            yield Finding(
                "time-counts-visits",
                "caveat",
                f"The time {name!r} counts the scans of each person.",
                got=f"whole numbers from {scans[name].min():g} to {scans[name].max():g}, in order in every person",
                expected="years since any day",
                do="check that these are years and no numbers of visits, which are not equally far apart",
                columns=(name,),
            )


def find_wrong_time(scans: pd.DataFrame, name: str) -> Finding | None:
    """Return a finding on a time that cannot be in years: it contradicts the ages, or is too long; None for ages."""
    if is_age(name) or name not in scans or not pd.api.types.is_numeric_dtype(scans[name]):
        return None
    years, people = _years(scans, name), scans["participant_id"]
    span = years.groupby(people).agg(lambda values: values.max() - values.min())
    if len(wrong := span.index[span > LONGEST]):
        got = f"up to {span.max():,.0f} years within a person, in {shorten(wrong, 3)}"
        expected = f"years, at most {LONGEST:g} between the scans of a person"
        return _wrong(scans, name, "lasts longer than any study", got, expected, _advice(scans, name), wrong)
    age, apart = _nearest_age(scans, years)
    wrong = apart.index[apart > TOLERANCE]
    if not len(wrong):
        return None
    by_age = pd.Series(ages_in_years(age, scans[age]), scans.index).groupby(people).agg(lambda of: of.max() - of.min())
    first, advice = wrong[0], _advice(scans, name)
    if (by_age == 0).all():
        advice += f"; if {age} is the age at the first scan, name it baseline_age"
    got = (
        f"{len(wrong)} of {(span > 0).sum()} people, such as {first!r}: {name} changes by {span[first]:g} years, "
        f"{age} by {by_age[first]:g}"
    )
    return _wrong(scans, name, "does not fit the ages", got, f"years, within {TOLERANCE} years of the changes of {age}",
                  advice, wrong)  # fmt: skip


def _years(scans: pd.DataFrame, name: str) -> pd.Series:
    unit = next((UNITS[word] for word in sorted(tokens(name)) if word in UNITS), 1.0)
    return pd.Series(scans[name].to_numpy(float) / unit, scans.index)


def _nearest_age(scans: pd.DataFrame, years: pd.Series) -> tuple[str, pd.Series]:
    """Return the age that agrees with the time in most people, and how far apart both are in each person, in years."""
    best, fewest = ("", pd.Series(dtype=float)), np.inf
    for name in map(str, scans.columns):
        words = tokens(name)
        words = words - {max(words, key=len)} or words  # without all of them in one
        if not is_age(name) or not words <= AT_SCAN or not pd.api.types.is_numeric_dtype(scans[name]):
            continue
        born = (pd.Series(ages_in_years(name, scans[name]), scans.index) - years).groupby(scans["participant_id"])
        apart = born.max() - born.min()
        if (count := int((apart > TOLERANCE).sum())) < fewest:
            best, fewest = (name, apart), count
    return best


def _advice(scans: pd.DataFrame, name: str) -> str:
    ages = [str(age) for age in scans if is_age(str(age)) and (scans.groupby("participant_id")[age].nunique() > 1).any()]
    by_age = f"use --time {ages[0]}, " if ages else ""
    return f"{by_age}convert {name!r} to years, or name another model with --model"


def _wrong(scans: pd.DataFrame, name: str, what: str, got: str, expected: str, do: str, people: pd.Index) -> Finding:
    return Finding(
        "time-not-years",
        "error",
        f"The time {name!r}, in years, {what}.",
        got=got,
        expected=expected,
        do=do,
        scans=tuple(scans["scan_id"][scans["participant_id"].isin(people)]),
        participants=tuple(people.astype(str)),
        columns=(name,),
    )


def _counts_visits(scans: pd.DataFrame, name: str) -> bool:
    """Whether the values are 0, 1, 2, … or 1, 2, 3, … in everybody with several scans, and no age agrees."""
    if is_age(name) or name not in scans or not pd.api.types.is_numeric_dtype(scans[name]):
        return False
    values, people = scans[name], scans["participant_id"]
    repeated = people.duplicated(keep=False)
    if not repeated.any() or not (values[repeated] % 1 == 0).all():
        return False
    visits = values[repeated].groupby(people[repeated])
    in_order = (visits.max() - visits.min() == visits.nunique() - 1) & visits.min().isin((0, 1)) & (visits.nunique() > 1)
    return bool(in_order.all() and visits.nunique().max() > 2) and not _nearest_age(scans, _years(scans, name))[0]
