"""Times of trajectories that are not in years: against the ages, longer than any study, or numbers of visits."""

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
LONG = 15.0  # years: in half of the people of a study, days are likelier
MAX_RATIO = 3.0  # of the changes of time and age; days, weeks and months are at least 12 to the year
OF_MONTHS = (1 / 18, 1 / 8)  # years of time for each unit of age, in infants whose ages are in months: 1 / 12
YEARS = frozenset("year years yrs".split())
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
    """Return a finding on a time that cannot be in years, or may not be; None for ages.

    An error if the time contradicts the ages or is too long, a caveat if it is long and the ages stay the same.
    """
    if is_age(name) or name not in scans or not pd.api.types.is_numeric_dtype(scans[name]):
        return None
    years = _years(scans, name)
    span = _spans(scans, years)
    if len(wrong := span.index[span > LONGEST]):
        got = f"up to {span.max():,.0f} years within a person, in {shorten(wrong, 3)}"
        expected = f"years, at most {LONGEST:g} between the scans of a person"
        return _wrong(scans, name, "lasts longer than any study", got, expected, _advice(scans, name), wrong)
    age, ages = _nearest_age(scans, years)
    if not age:
        return _beside_constant_ages(scans, name, span)
    apart = _spans(scans, ages - years)
    wrong = apart.index[apart > TOLERANCE]
    if not len(wrong):
        return None
    first, by_age = wrong[0], _spans(scans, ages)
    n_repeated = (scans["participant_id"].value_counts() > 1).sum()
    got = (
        f"{len(wrong)} of {n_repeated} people with several scans, such as {first!r}: {name} changes by {span[first]:g} "
        f"years, {age} by {by_age[first]:g}"
    )
    return _wrong(scans, name, "does not fit the ages", got, f"years, within {TOLERANCE} years of the changes of {age}",
                  _advice(scans, name), wrong)  # fmt: skip


def is_in_other_units(scans: pd.DataFrame, name: str) -> bool:
    """Whether the numbers of a time are too large for years, as days, weeks and months are.

    They are larger than any study is long, in most people larger than three times the change of the age, or beside constant
    ages larger than 15. Ages in steps of five years, and single wrong ages or times, do not count.
    """
    years = _years(scans, name)
    span = _spans(scans, years)
    age, ages = _nearest_age(scans, years)
    if span.max() > LONGEST:
        return True
    return _ratio(span, _spans(scans, ages)) > MAX_RATIO if age else bool(constant_ages(scans)) and _is_long(span)


def constant_ages(scans: pd.DataFrame) -> list[str]:
    """Return the columns of ages at the scan, by their names, if they stay the same in everybody; none if one changes."""
    ages = [name for name in _ages_at_scan(scans) if scans[name].notna().any()]
    return [] if any((scans.groupby("participant_id")[name].nunique() > 1).any() for name in ages) else ages


def _beside_constant_ages(scans: pd.DataFrame, name: str, span: pd.Series) -> Finding | None:
    ages = constant_ages(scans)
    if not ages or not _is_long(span):
        return None
    return Finding(
        "time-not-years",
        "caveat",
        f"The time {name!r} is long for years, and {ages[0]} does not change with it.",
        got=f"{span[span > 0].median():g} years in half of the people, up to {span.max():g}",
        expected="years since any day",
        do=f"convert days, weeks or months to years; if {ages[0]} is the age at the first scan, name it baseline_age",
        columns=(name,),
    )


def _is_long(span: pd.Series) -> bool:
    return bool(span[span > 0].median() > LONG)


def _years(scans: pd.DataFrame, name: str) -> pd.Series:
    words = tokens(name)
    unit = 1.0 if words & YEARS else next((UNITS[word] for word in sorted(words) if word in UNITS), 1.0)
    return pd.Series(scans[name].to_numpy(float) / unit, scans.index)


def _spans(scans: pd.DataFrame, values: pd.Series) -> pd.Series:
    by_person = values.groupby(scans["participant_id"])
    return by_person.max() - by_person.min()


def _ratio(span: pd.Series, by_age: pd.Series) -> float:
    """Return the usual ratio of the changes of the time and the age, in people whose age changes."""
    return float((span / by_age)[by_age > 0].median())


def _nearest_age(scans: pd.DataFrame, years: pd.Series) -> tuple[str, pd.Series]:
    """Return the age that agrees with the time in most people, and its values in years; no age that changes in nobody."""
    best, fewest = ("", pd.Series(dtype=float)), np.inf
    for name in _ages_at_scan(scans):
        ages = pd.Series(ages_in_years(name, scans[name]), scans.index)
        by_age = _spans(scans, ages)
        if not (by_age > 0).any():
            continue
        if OF_MONTHS[0] < _ratio(_spans(scans, years), by_age) < OF_MONTHS[1]:
            ages = ages / 12
        if (count := int((_spans(scans, ages - years) > TOLERANCE).sum())) < fewest:
            best, fewest = (name, ages), count
    return best


def _ages_at_scan(scans: pd.DataFrame) -> Iterator[str]:
    for name in map(str, scans.columns):
        words = tokens(name)
        words = words - {max(words, key=len)} or words  # without all of them in one
        if is_age(name) and words <= AT_SCAN and pd.api.types.is_numeric_dtype(scans[name]):
            yield name


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
