"""Findings about the reading of tables: encodings, sheets, and text that was read as numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bayesharm.data.features import Features
from bayesharm.data.finding import Finding
from bayesharm.errors import shorten
from bayesharm.io.tables import TableSource, is_table, reading_notes

# Usual columns of a scans table, in lower case and without blanks, points, dashes and underscores.
OF_SCANS = re.compile(
    "(scan|study|birth|acq|acquisition)?(year|date|time)|years|months|days|timepoint|visit|session|ses|run|wave"
    "|(baseline)?age|age(at)?(scan|mri|visit|baseline|years|months)|sex|gender|handedness|education|iq|group|batch"
)
FEW_VALUES = 10  # different values, up to which whole numbers are rather years, visits or codes than measurements
MANY_SCANS = 30  # from which on so few values say something


def find_in_reading(scans: TableSource, features: Any, rules: Mapping[str, str], aligned: Features) -> tuple[Finding, ...]:
    """Return caveats about the reading of both tables."""
    sources = [(scans, "the scans table"), *([(features, "the features")] if is_table(features) else [])]
    findings = []
    for code, note in dict.fromkeys(note for source, what in sources for note in reading_notes(source, what)):
        do = "check names with accents, and save the file as UTF-8" if code == "encoding" else "check that this is meant"
        findings.append(
            Finding(code, "caveat", "A table was read by a guess.", got=note, expected="one table of text in UTF-8", do=do)
        )
    for where, notes in (
        ("the scans table", [f"{name}: {rule}" for name, rule in rules.items()]),
        ("the features", list(aligned.matrix.notes)),
    ):
        if notes:
            findings.append(
                Finding(
                    "converted-numbers",
                    "caveat",
                    f"Text of {where} was read as numbers.",
                    got=f"{len(notes)} columns: {shorten(notes, 3)}",
                    expected="numbers with decimal points, without units",
                    do="check that these numbers are meant",
                )
            )
    return tuple(findings)


def find_columns_of_scans(features: Features, select: str | Sequence[str]) -> tuple[Finding, ...]:
    """Return a caveat about columns of the scans table that a glob took for features, such as the year of the scan.

    Parameters
    ----------
    features : Features
        Columns of the scans table, in the user's units.
    select : str or sequence of str
        Globs, and names of columns; columns that are named are meant.
    """
    named = {select} if isinstance(select, str) else set(select)
    by_name = [re.sub(r"[\W_]", "", name.lower()) for name in map(str, features.names)]
    known = np.array([OF_SCANS.fullmatch(name) is not None for name in by_name])
    whole = np.zeros(features.n_features, bool)
    for start, stop in features.blocks():
        values = features.read(start, stop)
        observed = np.isfinite(values)
        is_whole = (np.where(observed, values, 0) % 1 == 0).all(axis=0)
        for k in np.flatnonzero(is_whole):
            whole[start + k] = len(np.unique(values[observed[:, k], k])) <= FEW_VALUES
    if features.n_scans < MANY_SCANS or 2 * whole.sum() > len(whole):  # too few to tell, or measurements that are counts
        whole[:] = False
    found = [str(name) for name in features.names[known | whole] if name not in named]
    if not found:
        return ()
    return (
        Finding(
            "scans-column-feature",
            "caveat",
            "The pattern of the features also took columns that seem to describe the scans.",
            got=f"{shorten(found)}: usual names of such columns, or whole numbers of at most {FEW_VALUES} kinds",
            expected="features only",
            do=f"leave {'it' if len(found) == 1 else 'them'} out by a narrower --features, such as 'thickness_*' or "
            "'y[0-9]*'; columns that are named in full are taken as they are",
            columns=tuple(found),
        ),
    )
