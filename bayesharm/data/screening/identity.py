"""Identity in the scans table: who was scanned, and whether one identifier stands for one person."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pandas as pd

from bayesharm.data.finding import Finding
from bayesharm.data.scans import CANONICAL
from bayesharm.data.screening.words import CODE_WORDS, PLACEHOLDERS, folded, is_constant_by_name, meaning_of
from bayesharm.errors import shorten

MANY_PEOPLE = 6  # of whom constants agree, so that chance is unlikely

VISIT_SUFFIX = re.compile(r"[_\-. ]*(?:ses|session|visit|run|scan|timepoint|tp|acq)[-_ ]?[a-z0-9]+$", re.IGNORECASE)


def screen_identity(scans: pd.DataFrame) -> Iterator[Finding]:
    """Find identifiers of the scans table that cannot be those of people and scans."""
    yield from _placeholders(scans)
    yield from _spellings(scans)
    yield from _participants_named_after_scans(scans)
    yield from _many_scans(scans)
    yield from _contradictions(scans)
    yield from _diagnoses(scans)


def _placeholders(scans: pd.DataFrame) -> Iterator[Finding]:
    """One identifier in many rows that stands for nobody."""
    count = scans["participant_id"].value_counts()
    repeated = count.index[count > 1].astype(str)
    words = [name for name in repeated if folded(name) in PLACEHOLDERS or name.strip().casefold() in PLACEHOLDERS]
    codes = [name for name in repeated if name in CODE_WORDS and not _is_of_a_series(name, set(count.index.astype(str)))]
    for name in words + codes:
        rows = scans[scans["participant_id"] == name]
        yield Finding(
            "placeholder-participant",
            "error",
            "A participant_id seems to stand for unknown people, and would count as one traveling subject.",
            got=f"{name!r} in {len(rows)} scans on {shorten(sorted(rows['scanner'].unique()))}",
            expected="the identifier of a person; scans with the same identifier count as one person's",
            do="give each of these people an identifier of their own (for people scanned once any unique one will do), "
            "or remove the scans",
            scans=tuple(rows["scan_id"]),
            participants=(name,),
            columns=("participant_id",),
        )


def _is_of_a_series(name: str, names: set[str]) -> bool:
    """Whether neighboring numbers are identifiers too: 999 among 998 and 1000 is a person."""
    return any(str(int(name) + step) in names for step in (-1, 1))


def _spellings(scans: pd.DataFrame) -> Iterator[Finding]:
    """Identifiers that differ in how they are written only: one person or scan under two names."""
    for column, code, kind in (("participant_id", "participant-spelling", "people"), ("scan_id", "scan-spelling", "scans")):
        names = pd.Series(scans[column].unique().astype(str))
        same = names.map(folded).to_numpy()
        alike = names[pd.Series(same).duplicated(keep=False)]
        if len(alike):
            ordered = alike.iloc[np.argsort(same[alike.index], kind="stable")]
            yield Finding(
                code,
                "error" if kind == "people" else "caveat",
                f"Some {column} differ only in capitals, blanks, accents or punctuation.",
                got=shorten(ordered),
                expected="one spelling for each person and each scan",
                do=f"use one spelling if they are the same {kind}, and clearly different names if they are not",
                scans=tuple(scans["scan_id"][scans[column].isin(set(alike))]),
                participants=tuple(ordered) if kind == "people" else (),
                columns=(column,),
            )
            continue
        bare = names.map(_bare)
        alike = names[bare.duplicated(keep=False)]
        if len(alike):
            ordered = alike.iloc[np.argsort(bare[alike.index], kind="stable")]
            yield Finding(
                code,
                "caveat",
                f"Some {column} are the same but for a prefix or leading zeros.",
                got=shorten(ordered),
                expected="one spelling for each person and each scan",
                do=f"write the same {kind} the same way; rename them if they are different {kind}",
                scans=tuple(scans["scan_id"][scans[column].isin(set(alike))]),
                participants=tuple(ordered) if kind == "people" else (),
                columns=(column,),
            )


def _bare(name: str) -> str:
    """Return an identifier without the prefix ``sub-`` and leading zeros of its numbers."""
    return re.sub(r"(?<!\d)0+(?=\d)", "", re.sub(r"^(sub|subj|subject|participant)[-_ ]?(?=\w)", "", name.casefold()))


def _participants_named_after_scans(scans: pd.DataFrame) -> Iterator[Finding]:
    """A participant column that names scans, so that nobody seems to have traveled."""
    people = scans["participant_id"].astype(str)
    if not people.is_unique or len(people) < 4:
        return
    person = people.map(lambda name: VISIT_SUFFIX.sub("", name))
    group = scans.groupby(person.to_numpy())
    visits = group["scanner"].agg(["size", "nunique"])
    several = visits.index[(visits["size"] > 1) & (visits.index.str.len() > 1)]
    if len(several) >= 2 and (visits.loc[several, "nunique"] > 1).any() and visits.loc[several, "size"].median() < 30:
        is_visit = person.isin(several)
        yield Finding(
            "participant-is-scan",
            "error",
            "participant_id seems to name scans: it ends in a session and is different for every scan.",
            got=f"{shorten(people[person == several[0]], 3)}, which look like one person; {is_visit.sum()} scans in all",
            expected="the same participant_id in all scans of a person",
            do="name the column of the person with --participant, or take the session out of it",
            scans=tuple(scans["scan_id"][is_visit]),
            participants=tuple(people[is_visit]),
            columns=("participant_id",),
        )
        return
    travels = scans["traveling"] if "traveling" in scans else pd.Series(False, scans.index)
    if travels.any():
        yield Finding(
            "participant-is-scan",
            "error",
            "Travelers are marked, but participant_id is different for every scan.",
            got=f"{int(travels.sum())} scans of travelers, each of another participant: {shorten(people[travels], 3)}",
            expected="the same participant_id in all scans of a person",
            do="name the column of the person with --participant",
            scans=tuple(scans["scan_id"][travels]),
            participants=tuple(people[travels]),
            columns=("participant_id",),
        )
        return
    yield from _participants_with_scanner(scans, people)


def _participants_with_scanner(scans: pd.DataFrame, people: pd.Series) -> Iterator[Finding]:
    """Identifiers with the scanner at their end, such as ``T1_A``, of people who seem to have traveled.

    Sites that number their own people alike look the same, but for their constants, and as nearly everybody is repeated.
    """
    pairs = zip(people, scans["scanner"].astype(str), strict=True)
    bare = pd.Series([_without_scanner(name, scanner) for name, scanner in pairs], scans.index)
    visits = scans.groupby(bare)["scanner"].nunique()
    several = visits.index[(visits > 1) & (visits.index.str.len() > 1)]
    if len(several) < 2 or (bare == people).all():
        return
    constants = [name for name in scans if is_constant_by_name(str(name)) and scans[name].nunique() > 1]
    agree = all((scans[bare.isin(several)].groupby(bare)[name].nunique() <= 1).all() for name in constants)
    if not agree or not (len(several) <= 0.5 * len(visits) or (constants and len(several) >= MANY_PEOPLE)):
        return
    chosen = bare.isin(several)
    yield Finding(
        "participant-is-scan",
        "caveat",
        "participant_id ends in the scanner: people who traveled may count as several people.",
        got=f"{shorten(people[bare == several[0]], 3)}; {len(several)} such people in {int(chosen.sum())} scans",
        expected="the same participant_id in all scans of a person",
        do="if they are the same people, take the scanner out of participant_id",
        scans=tuple(scans["scan_id"][chosen]),
        participants=tuple(people[chosen]),
        columns=("participant_id",),
    )


def _without_scanner(name: str, scanner: str) -> str:
    """Return an identifier without the scanner of its scan at its end."""
    is_named = len(name) > len(scanner) + 1 and name.casefold().endswith(scanner.casefold())
    return name[: -len(scanner) - 1] if is_named and not name[-len(scanner) - 1].isalnum() else name


def _many_scans(scans: pd.DataFrame) -> Iterator[Finding]:
    """One participant with many scans on a scanner, where nearly everybody else has one."""
    count = scans.groupby(["participant_id", "scanner"]).size()
    most = count.groupby(level=0).max().sort_values()
    if len(most) < 10 or (most.iloc[:-1] == 1).mean() < 0.8 or most.iloc[-1] < 5 or most.iloc[-1] < 4 * most.iloc[-2]:
        return
    name = str(most.index[-1])
    rows = scans[scans["participant_id"] == name]
    yield Finding(
        "one-person-many-scans",
        "caveat",
        "One participant has many scans on a scanner, where nearly everybody else has one.",
        got=f"{name!r} with {len(rows)} scans, up to {most.iloc[-1]} on one scanner; "
        f"{(most == 1).mean():.0%} of the participants have one",
        expected="one participant_id for each person",
        do="check that all of them are of one person; give different people different identifiers",
        scans=tuple(rows["scan_id"]),
        participants=(name,),
        columns=("participant_id",),
    )


def _contradictions(scans: pd.DataFrame) -> Iterator[Finding]:
    """Columns that are constant in a person and contradict within one participant_id."""
    repeated = scans[scans["participant_id"].duplicated(keep=False)]
    n_people = repeated["participant_id"].nunique()
    for column in scans.columns.difference(CANONICAL, sort=False):
        by_name, is_text = is_constant_by_name(column), not pd.api.types.is_numeric_dtype(scans[column])
        if not n_people or not (by_name or is_text):
            continue
        values = repeated[column]
        words = values[values.notna()].map(lambda value: _as_value(value, column))  # noqa: B023
        kinds = words.groupby(repeated["participant_id"]).nunique()
        differ = kinds.index[kinds > 1].astype(str)
        if not len(differ) or not (by_name or (n_people >= 10 and len(differ) <= 0.1 * n_people)):
            continue
        first = scans[scans["participant_id"] == differ[0]]
        yield Finding(
            "constants-differ" if by_name else "column-contradicts",
            "error" if by_name else "caveat",
            f"The same participant_id has different values of {column!r}"
            + (": it stands for several people, or a value is wrong." if by_name else ", which nearly all others have not."),
            got=f"{len(differ)} of {n_people} people with several scans: {shorten(differ)}; {differ[0]!r} is "
            + ", ".join(f"{value} on {scanner}" for scanner, value in zip(first["scanner"], first[column], strict=True)),
            expected=f"one {column} for each person",
            do="give different people different identifiers (for example with the site in front), or correct the values",
            scans=tuple(repeated["scan_id"][repeated["participant_id"].isin(differ)]),
            participants=tuple(differ),
            columns=(str(column), "participant_id"),
        )


def _as_value(value: object, column: str) -> str:
    """Return a value so that other spellings of it are equal."""
    return f"{value:.6g}" if isinstance(value, (int, float, np.number)) else meaning_of(str(value), column)


def _diagnoses(scans: pd.DataFrame) -> Iterator[Finding]:
    """People with more than one diagnosis."""
    if "diagnosis" not in scans:
        return
    kinds = scans[scans["diagnosis"] != ""].groupby("participant_id")["diagnosis"].nunique()
    differ = kinds.index[kinds > 1].astype(str)
    if len(differ):
        yield Finding(
            "diagnosis-differs",
            "caveat",
            "Some people have more than one diagnosis; each scan counts under its own.",
            got=shorten(differ),
            expected="one diagnosis for each person, unless it changed between scans",
            do="check that these are single people whose diagnosis changed",
            scans=tuple(scans["scan_id"][scans["participant_id"].isin(differ)]),
            participants=tuple(differ),
            columns=("diagnosis", "participant_id"),
        )
