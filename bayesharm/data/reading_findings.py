"""Findings about the reading of tables: encodings, sheets, and text that was read as numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bayesharm.data.features import Features
from bayesharm.data.finding import Finding
from bayesharm.errors import shorten
from bayesharm.io.tables import TableSource, is_table, reading_notes


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
