"""The tables of a BIDS dataset: ``participants.tsv``, ``*_sessions.tsv`` and ``*_scans.tsv``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pandas as pd

from bayesharm.data.bids.tree import BidsTree
from bayesharm.errors import InputError, shorten
from bayesharm.io.tables import read_table, table_columns, to_labels

type Values = dict[str, str]  # column -> value; missing values are left out


@dataclass
class BidsTables:
    """The rows of all tables.

    Attributes
    ----------
    participants : dict or None
        ``participant_id`` -> its row; None without ``participants.tsv``.
    sessions : dict
        (``participant_id``, ``session_id``) -> its row.
    scans : dict
        Path of the file from the root -> its row.
    participant_columns : list of str
        All columns of ``participants.tsv`` after the identifier.
    problems : list of InputError
        Of the tables.
    """

    participants: dict[str, Values] | None = None
    sessions: dict[tuple[str, str], Values] = field(default_factory=dict)
    scans: dict[PurePosixPath, Values] = field(default_factory=dict)
    participant_columns: list[str] = field(default_factory=list)
    problems: list[InputError] = field(default_factory=list)


def read_tables(tree: BidsTree) -> BidsTables:
    """Read all tables of a dataset as text, without changing any value."""
    tables = BidsTables()
    participants = tree.root / "participants.tsv"
    if participants.exists():
        rows = _read(participants, PurePosixPath("participants.tsv"), "participant_id", tables.problems)
        tables.participants = {_with_prefix(key, "sub-"): row for key, row in rows.items()}
        tables.participant_columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    for file in tree.tables:
        participant = f"sub-{file.name.entities.get('sub', '')}"
        if file.name.suffix == "sessions":
            rows = _read(tree.root / file.path, file.path, "session_id", tables.problems)
            tables.sessions |= {(participant, _with_prefix(key, "ses-")): row for key, row in rows.items()}
        else:
            rows = _read(tree.root / file.path, file.path, "filename", tables.problems)
            tables.scans |= {file.folder / key: row for key, row in rows.items()}
    return tables


def _with_prefix(label: str, prefix: str) -> str:
    return label if label.startswith(prefix) else prefix + label


def _read(path: Path, name: PurePosixPath, key: str, problems: list[InputError]) -> dict[str, Values]:
    """Return the rows of a table by its identifier; add what is wrong with it to the problems."""
    try:
        header = table_columns(path, str(name))
        table = read_table(path, text=header, what=str(name))
    except InputError as error:
        problems.append(error)
        return {}
    if key not in header:
        near = [column for column in header if column.strip().casefold().replace("-", "_") in (key, key.removesuffix("_id"))]
        problems.append(
            InputError(
                f"{name} has no column '{key}'.",
                got=f"columns {shorten(header, 10)}",
                expected=f"a first column '{key}', as BIDS requires",
                do=f"rename column {shorten(near)}" if near else "add the column; columns of a .tsv are separated by tabs",
            )
        )
        return {}
    keys, is_missing = to_labels(table[key])
    repeated = pd.Index(keys[pd.Index(keys).duplicated()]).unique()
    for rows, what, got in (
        (is_missing, f"{name} has rows without '{key}'.", f"rows {shorten(is_missing.nonzero()[0] + 1)} below the heading"),
        (repeated, f"{name} has several rows for the same {key}.", shorten(repeated)),
    ):
        if any(rows):
            problems.append(InputError(what, got=got, expected="one row for each identifier", do="correct the table"))
    return {row_key: row for row_key, row in zip(keys, _rows(table.drop(columns=key)), strict=True) if row_key}


def _rows(table: pd.DataFrame) -> Iterable[Values]:
    """Return each row without its missing values; blanks around values, tabs and newlines in them are removed."""
    columns = {str(name): to_labels(table[name]) for name in table if not str(name).startswith("Unnamed:")}
    for row in range(len(table)):
        yield {name: " ".join(labels[row].split()) for name, (labels, is_missing) in columns.items() if not is_missing[row]}
