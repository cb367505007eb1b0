"""Ages that cannot be those of one person: too far apart, or against the dates of the scans."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import pandas as pd

from bayesharm.data.finding import Finding
from bayesharm.data.scans import CANONICAL
from bayesharm.data.screening.words import DATES, MISSING_CODES, VISITS, ages_in_years, is_age, to_days, tokens
from bayesharm.errors import shorten

OLDEST = 125  # years
TOLERANCE = 1.5  # years between an age and the dates: ages are often rounded down
FOLLOW_UP, LONG_FOLLOW_UP = 2, 10  # years between scans of a person that are usual, and that need visits or dates


def screen_ages(scans: pd.DataFrame, covariates: Sequence[str] = ()) -> Iterator[Finding]:
    """Find impossible ages, and people whose ages contradict one another or the dates of their scans."""
    others = [str(name) for name in scans.columns if name not in CANONICAL]
    birth = _first_dates(scans, [name for name in others if tokens(name) & {"dob", "birth", "birthdate", "birthday"}])
    scanned = _first_dates(scans, [name for name in others if tokens(name) & DATES and not tokens(name) & {"birth", "dob"}])
    for column in others:
        if is_age(column) and pd.api.types.is_numeric_dtype(scans[column]) and scans[column].notna().any():
            ages = pd.Series(ages_in_years(column, scans[column]), scans.index)
            if column in covariates:
                yield from _impossible(scans, column, ages.where(~scans[column].isin(MISSING_CODES)))
            if birth is not None and scanned is not None:
                yield from _against_birth(scans, column, ages, (scanned - birth) / 365.25)
            yield from _within_people(scans, column, ages, scanned)


def _first_dates(scans: pd.DataFrame, columns: list[str]) -> pd.Series | None:
    for column in columns:
        if (days := to_days(scans[column])) is not None:
            return pd.Series(days, scans.index)
    return None


def _impossible(scans: pd.DataFrame, column: str, ages: pd.Series) -> Iterator[Finding]:
    if (wrong := (ages < 0) | (ages > OLDEST)).any():
        values = scans[column][wrong]
        yield Finding(
            "impossible-age",
            "error",
            f"Some values of {column!r} are no ages.",
            got=", ".join(
                f"{value:g} (scan {scan!r})" for scan, value in zip(scans["scan_id"][wrong][:5], values, strict=False)
            ),
            expected=f"0 to {OLDEST} years",
            do="correct the values; leave cells without an age empty, or remove these scans",
            scans=tuple(scans["scan_id"][wrong]),
            columns=(column,),
        )


def _against_birth(scans: pd.DataFrame, column: str, ages: pd.Series, by_dates: pd.Series) -> Iterator[Finding]:
    wrong = (ages - by_dates).abs() > TOLERANCE
    if wrong.any():
        first = wrong.idxmax()
        yield Finding(
            "age-against-dates",
            "error",
            f"Some values of {column!r} do not fit the dates of birth and of the scans.",
            got=f"{wrong.sum()} scans: {shorten(scans['scan_id'][wrong])}; the first has age {ages[first]:.1f}, "
            f"and {by_dates[first]:.1f} by its dates",
            expected=f"ages within {TOLERANCE} years of the dates",
            do="correct the age or the dates",
            scans=tuple(scans["scan_id"][wrong]),
            columns=(column,),
        )


def _within_people(scans: pd.DataFrame, column: str, ages: pd.Series, days: pd.Series | None) -> Iterator[Finding]:
    """People whose ages differ more than the time between their scans allows."""
    person = scans["participant_id"]
    ages = ages.where(ages.between(0, OLDEST))
    if days is not None:
        born = (ages - days / 365.25).groupby(person)
        if len(wrong := _wider_than(born, TOLERANCE)):
            yield _differ(scans, column, wrong, "age-against-dates", "error", "do not fit the dates of the scans")
        return
    width = ages.groupby(person).agg(lambda values: values.max() - values.min())[person.value_counts() > 1].dropna()
    unusual = width.index[width > FOLLOW_UP].astype(str)
    unexplained = [name for name in width.index[width > LONG_FOLLOW_UP].astype(str) if not _in_order(scans, ages, name)]
    if unexplained:
        yield _differ(
            scans, column, unexplained, "ages-differ", "error", "are years apart, without visits or dates that say so"
        )
    elif len(unusual) and len(unusual) <= 0.25 * len(width):
        yield _differ(scans, column, unusual, "ages-differ", "caveat", "are further apart than those of nearly all others")


def _wider_than(groups: pd.api.typing.SeriesGroupBy, limit: float) -> list[str]:
    width = groups.max() - groups.min()
    return [str(name) for name in width.index[width > limit]]


def _in_order(scans: pd.DataFrame, ages: pd.Series, person: str) -> bool:
    """Whether a column of visits orders the scans of a person by age."""
    rows = scans["participant_id"] == person
    for column in scans.columns.difference(CANONICAL, sort=False):
        if tokens(column) & VISITS and scans[column][rows].nunique() > 1:
            by_visit = ages[rows].groupby(scans[column][rows].astype(str).str.zfill(12)).agg(["min", "max"])
            if (by_visit["max"] - by_visit["min"] <= FOLLOW_UP).all() and by_visit["min"].is_monotonic_increasing:
                return True
    return False


def _differ(scans: pd.DataFrame, column: str, people: Iterable[str], code: str, severity: str, how: str) -> Finding:
    people = list(people)
    first = scans[scans["participant_id"] == people[0]]
    total = int((scans["participant_id"].value_counts() > 1).sum())
    return Finding(
        code,
        "error" if severity == "error" else "caveat",
        f"The ages of one participant_id {how}.",
        got=f"{len(people)} of {total} people with several scans: {shorten(people)}; {people[0]!r} has {column} "
        + ", ".join(f"{age:g} on {scanner}" for scanner, age in zip(first["scanner"], first[column], strict=True)),
        expected="ages of one person that differ by the time between the scans",
        do="give different people different identifiers, correct the ages, or add a column of visits (session) or dates",
        scans=tuple(scans["scan_id"][scans["participant_id"].isin(people)]),
        participants=tuple(people),
        columns=(column, "participant_id"),
    )
