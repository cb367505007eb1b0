"""Notes on a BIDS dataset and its scans table, for the person who checks the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from bayesharm.data.bids.tables import BidsTables
from bayesharm.data.bids.tree import BidsFile, BidsTree
from bayesharm.errors import listed, shorten


def notes_on_dataset(
    tree: BidsTree, tables: BidsTables, scans: Mapping[str, Sequence[BidsFile]], *, is_complete: bool
) -> list[str]:
    """Describe what the dataset lacks; `is_complete` if nothing was left out by choice."""
    notes = []
    if not (tree.root / "dataset_description.json").exists():
        notes.append("The dataset has no dataset_description.json, which BIDS requires.")
    if tables.participants is None:
        notes.append("There is no participants.tsv: age, sex and diagnosis are unknown.")
    files = [file for several in scans.values() for file in several]
    chosen = {f"sub-{file.name.entities['sub']}" for file in files}
    sessions = {(f"sub-{file.name.entities['sub']}", f"ses-{file.name.entities.get('ses', '')}") for file in files}
    for what, names in (
        ("Participants of participants.tsv", sorted((tables.participants or {}).keys() - chosen)),
        ("Folders of participants", sorted(set(tree.participants) - chosen)),
        ("Sessions of the tables", sorted("_".join(pair) for pair in tables.sessions.keys() - sessions)),
    ):
        if names and is_complete:
            notes.append(f"{what} without scans: {len(names)} ({shorten(names, 3)}).")
    if tables.scans and (absent := [scan for scan, several in scans.items() if several[0].path not in tables.scans]):
        notes.append(f"Scans that are in no scans.tsv: {len(absent)} ({shorten(absent, 3)}).")
    return notes


def notes_on_table(table: pd.DataFrame) -> list[str]:
    """Describe what a person should check in the scans table."""
    notes = []
    if "task" in table and table["task"].nunique() > 1:
        notes.append(
            f"The scans are of several tasks ({listed(sorted(table['task'].dropna().unique()))}). A scanner effect "
            "is that of one task; choose one with --task-id."
        )
    if "site" not in table:
        notes.append("No column says which site recruited each person; bayesharm then takes the scanner as the site.")
    if "session" in table and table["session"].nunique() > 1:
        scanners_of = table.groupby("session")["scanner"].nunique()
        if table["scanner"].nunique() > 1 and (scanners_of == 1).all():
            notes.append("Each session label is used on one scanner only: sessions and scanners go together.")
    if "diagnosis" not in table and (
        found := [name for name in ("group", "dx", "dx_group") if name in table.columns.str.lower()]
    ):
        notes.append(f"There is no column diagnosis; if {found[0]} is the diagnosis, fit with --diagnosis {found[0]}.")
    people = table["participant_id"].unique()
    plain = pd.Series(people).str.replace(r"-0*", "-", regex=True).str.casefold()
    if (alike := people[plain.duplicated(keep=False).to_numpy()]).size:
        notes.append(f"Some participants differ only in capitals or leading zeros: {shorten(alike)}. Are they one person?")
    if "acq_time" in table:
        timed = table[table["acq_time"].notna() & ~table["acq_time"].fillna("").str.contains(r"T00:00:00|^[\d-]+$")]
        twice = timed[timed.duplicated(["participant_id", "acq_time"], keep=False)]
        if len(twice):
            notes.append(
                f"{len(twice)} scans have the same acq_time as another scan of the person: {shorten(twice['scan_id'], 4)}."
            )
    if table["scanner"].nunique() == 1:
        notes.append("All scans are from one scanner: there is nothing to harmonize.")
    return notes
