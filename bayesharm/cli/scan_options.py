"""Options of the commands that read BIDS datasets, and the summary of a dataset in words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from bayesharm.cli import options as opt
from bayesharm.errors import listed

BidsArgument = Annotated[Path, opt.argument("BIDS_DIR", "Root folder of a raw BIDS dataset.")]
ParticipantLabelOption = Annotated[
    list[str] | None,
    opt.text("--participant-label", "LABELS", "Participants to use, for example 01,02. [dim]Default: all.[/dim]"),
]
SessionIdOption = Annotated[
    list[str] | None, opt.text("--session-id", "LABELS", "Sessions to use. [dim]Default: all.[/dim]")
]
TaskIdOption = Annotated[list[str] | None, opt.text("--task-id", "LABELS", "Tasks to use. [dim]Default: all.[/dim]")]
ScannerByOption = Annotated[
    list[str] | None,
    opt.text(
        "--scanner-by",
        "FIELDS",
        "Fields of the sidecars, or columns of the tables, that tell scanners apart, for example "
        "ManufacturersModelName,InstitutionName. [dim]Default: all protocol fields but SoftwareVersions.[/dim]",
    ),
]


def describe_scans(found: Any) -> list[str]:
    """Return the summary of a BIDS dataset as lines of text."""
    table = found.table
    by_person = table.groupby("participant_id")["scanner"]
    travelers = by_person.nunique()[lambda n: n > 1].index
    lines = [
        f"{_count(len(table), 'scan')} of {_count(table['participant_id'].nunique(), 'person', 'people')}, "
        f"{_count(len(travelers), 'traveler')}, {_count(table['scanner'].nunique(), 'scanner')}",
        "",
    ]
    counts = table.groupby("scanner")["participant_id"].agg(["size", "nunique"])
    counts.columns = ["scans", "people"]
    of_travelers = table[table["participant_id"].isin(travelers)].groupby("scanner")["participant_id"].nunique()
    counts["travelers"] = of_travelers.reindex(counts.index, fill_value=0)
    lines += [counts.rename_axis(None).to_string(), ""]
    if len(counts) > 1:
        lines += ["Differences between scanners:", *_describe_differences(found.scanners.differing), ""]
    lines += [f"Scanners are told apart by {','.join(found.scanners.key)}.", ""]
    if found.ignored:
        lines += ["Left out:"]
        lines += [f"  {reason}: {len(paths):,}, such as {paths[0]!r}" for reason, paths in sorted(found.ignored.items())]
        lines += [""]
    return lines + [f"Note: {note}" for note in found.notes]


def _count(n: int, noun: str, plural: str | None = None) -> str:
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def _describe_differences(differing: Any) -> list[str]:
    """Return one line for each field: its values, each with its scanners."""
    lines = []
    for name, values in differing.items():
        scanners_of = values.groupby(values).groups
        lines.append(f"  {name}: " + "; ".join(f"{value} ({listed(scanners_of[value], 3)})" for value in scanners_of))
    return lines
