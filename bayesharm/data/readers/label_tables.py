"""Tables with one row per scan whose first column identifies the scan, as cells of text and as features."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bayesharm.data.readers.bids_names import parse_name
from bayesharm.data.readers.files import cut, decode, open_file, read_bytes
from bayesharm.data.readers.labels import checksum
from bayesharm.data.readers.matching import Record
from bayesharm.data.readers.options import ReaderOptions
from bayesharm.data.readers.reading import Reading, choose_records, drop_empty, match_all
from bayesharm.data.readers.text_values import MISSING
from bayesharm.errors import InputError, shorten
from bayesharm.io.arrays import as_matrix

SUFFIXES = (".txt", ".dat", ".tsv", ".csv", ".table")
HEADER_BYTES = 1 << 20


@dataclass(frozen=True, eq=False)
class LabelTable:
    """Cells of a table.

    Attributes
    ----------
    path : Path
    corner : str
        First cell.
    labels : list of str
        First cells of the other rows.
    columns : list of str
        Other cells of the first row.
    cells : list of list of str
        All other cells, row by row.
    measure, atlas : str
        What the table holds.
    """

    path: Path
    corner: str
    labels: list[str]
    columns: list[str]
    cells: list[list[str]]
    measure: str = ""
    atlas: str = ""


@dataclass(frozen=True)
class TableFormat:
    """A tool that writes tables with one row per scan.

    Attributes
    ----------
    name, title : str
        Name of the option, and of the tool.
    recognize : callable
        Cells of the first row -> measure and atlas; None if the tool does not write such a table.
    name_columns : callable
        Table -> names of its features.
    is_whole_brain : callable
        Name of a feature -> whether it is a measure of the whole brain, and not of a region.
    may_be_zero : callable
        Name of a feature -> whether a zero is a value; in other features it means that the region is missing.
    """

    name: str
    title: str
    recognize: Callable[[list[str]], tuple[str, str] | None]
    name_columns: Callable[[LabelTable], list[str]]
    is_whole_brain: Callable[[str], bool]
    may_be_zero: Callable[[str], bool]


def read_header(path: Path) -> list[str]:
    """Return the cells of the first line of a text file; empty if it is not text."""
    try:
        with open_file(path) as file:
            start = file.read(HEADER_BYTES)
    except InputError:
        return []
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        start = start.decode("utf-16", errors="replace").encode()
    if b"\0" in start:
        return []
    line = start.removeprefix(b"\xef\xbb\xbf").replace(b"\r", b"\n").partition(b"\n")[0]
    return split_line(decode(line))


def split_line(line: str) -> list[str]:
    """Return the cells of a line, separated by tabs, commas, semicolons or blanks, whichever comes first in this list."""
    delimiter = next((each for each in "\t,;" if each in line), None)
    try:
        cells = line.split() if delimiter is None else next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []
    return [cell.strip() for cell in cells]


def read_label_table(format: TableFormat, path: Path) -> LabelTable | None:
    """Read a table if it is one of this format.

    Raises
    ------
    InputError
        The table is damaged.
    """
    found = format.recognize(read_header(path))
    if found is None:
        return None
    lines = [line for line in decode(read_bytes(path)).split("\n") if line.strip()]
    delimiter = next((each for each in "\t,;" if each in lines[0]), None)
    try:
        rows = [line.split() for line in lines] if delimiter is None else list(csv.reader(lines, delimiter=delimiter))
    except csv.Error as error:
        raise _damaged(path, str(error), "a table of text") from None
    rows = [[cell.strip() for cell in row] for row in rows]
    width = len(rows[0])
    if all(len(row) == width + 1 and not row[-1] for row in rows[1:]):
        rows[1:] = [row[:-1] for row in rows[1:]]  # each row ends with a delimiter
    if wrong := [k for k, row in enumerate(rows, 1) if len(row) != width]:
        got = f"{len(rows[wrong[0] - 1]):,} cells in line {wrong[0]:,} of {len(rows):,}, {width:,} in the first"
        raise _damaged(path, got, "the same number of cells in every line")
    if len(rows) < 2 or width < 2:
        raise _damaged(path, f"{len(rows) - 1:,} rows and {width - 1:,} columns beside the names", "a row for each scan")
    columns, cells = rows[0][1:], [row[1:] for row in rows[1:]]
    return LabelTable(path, rows[0][0], [row[0] for row in rows[1:]], columns, cells, *found)


def transpose(table: LabelTable) -> LabelTable:
    """Return the table with rows and columns exchanged."""
    cells = [list(column) for column in zip(*table.cells, strict=True)]
    return LabelTable(table.path, table.corner, table.columns, table.labels, cells, table.measure, table.atlas)


def make_record(label: str, table: LabelTable) -> Record:
    """Return the record of a row. FreeSurfer adds ``.long.TEMPLATE`` to a label, and ENIGMA writes whole paths."""
    plain = label.rstrip("/\\").replace("\\", "/").rpartition("/")[2]
    short = plain.partition(".long.")[0]
    parsed = parse_name(short)
    source = parsed.source if parsed is not None and "sub" in parsed.entities else {"sub": short}
    aliases = tuple(dict.fromkeys((plain, short)))
    return Record(table.path, label, source, {}, table.measure, table.atlas, is_row=True, aliases=aliases)


def read_tables(
    format: TableFormat,
    tables: Sequence[LabelTable],
    scans: pd.DataFrame,
    has_scan_ids: bool,
    options: ReaderOptions,
    select: Sequence[str],
    join_all: bool,
) -> Reading:
    """Read the features of all scans from tables of one tool, joined by scan.

    Parameters
    ----------
    format : TableFormat
    tables : sequence of LabelTable
    scans : DataFrame
        The scans table.
    has_scan_ids : bool
        Whether the user's table has identifiers of scans.
    options : ReaderOptions
    select : sequence of str
        Names of features that the user wants; measures of the whole brain are features only if they are among them.
    join_all : bool
        Whether to join tables of several measures.

    Raises
    ------
    InputError
        The options do not lead to one row for each scan, or a table is damaged.
    """
    if not join_all or options.atlas or options.measure:
        records = [Record(table.path, "", {}, {}, table.measure, table.atlas) for table in tables]
        chosen = {record.path for record in choose_records(records, options)}
        tables = [table for table in tables if table.path in chosen]
    labels = set(scans["scan_id"]) | set(scans["participant_id"])
    tables = [transpose(each) if _is_transposed(each, labels) else each for each in tables]
    matched = [
        match_all([make_record(label, table) for label in table.labels], scans, has_scan_ids, options, lenient=True)
        for table in tables
    ]
    rows = np.flatnonzero(np.all([matching.records >= 0 for matching, _ in matched], axis=0))
    dropped = {name: reason for _, each in matched for name, reason in each.items()}
    ids = scans["scan_id"].to_numpy(str)[rows]
    parts, names, n_zero, n_absent = [], [], 0, 0
    for table, (matching, _) in zip(tables, matched, strict=True):
        own_names = format.name_columns(table)
        values = _to_numbers(table, own_names)[matching.records[rows]]
        is_code = (values == 0) & np.array([not format.may_be_zero(name) for name in own_names])
        n_absent += int(np.isnan(values).sum())
        n_zero += int(is_code.sum())
        parts.append(np.where(is_code, np.nan, values))
        names += own_names
    frame = pd.DataFrame(np.concatenate(parts, axis=1), columns=names)
    frame = frame.loc[:, ~_copies(frame, format)]
    if repeated := [name for name, count in Counter(frame.columns).items() if count > 1]:
        raise _damaged(
            tables[-1].path, f"a feature twice: {shorten(map(cut, repeated))}", "each feature in one table and column"
        )
    whole = [name for name in frame.columns if format.is_whole_brain(name) and name not in select]
    features = frame.drop(columns=whole)
    if not features.shape[1]:
        raise _damaged(tables[0].path, f"only measures of the whole brain: {shorten(whole)}", "measures of regions")
    is_empty = features.isna().all(axis=1).to_numpy()
    dropped |= drop_empty(is_empty, ids.tolist(), options)
    kept = np.flatnonzero(~is_empty)
    files = [str(table.path) for table in tables]
    provenance: dict[str, Any] = {
        "format": format.name, "tool": format.title, "measure": ", ".join(dict.fromkeys(table.measure for table in tables)),
        "atlas": ", ".join(dict.fromkeys(table.atlas for table in tables)), "regions": features.shape[1],
        "regions_sha256": checksum(list(features.columns)), "matched": matched[0][0].rule,
        "files": [os.path.basename(file) for file in files], "dropped": dropped, "columns": whole,
        "missing": {"missing in the file": n_absent, "zero (region missing)": n_zero},
    }  # fmt: skip
    return Reading(
        as_matrix(features.to_numpy()[kept], list(features.columns), ids[kept].tolist()),
        rows[kept],
        {name: frame[name].to_numpy()[kept] for name in whole},
        provenance,
        tuple(_notes(provenance, len(kept))),
    )


def _notes(provenance: dict[str, Any], n_scans: int) -> list[str]:
    notes = [
        f"{n_scans:,} scans were read from {', '.join(provenance['files'])} ({provenance['tool']}): "
        f"{provenance['regions']:,} measures of {provenance['atlas']}, {provenance['measure']}, "
        f"matched {provenance['matched']}."
    ]
    if provenance["columns"]:
        notes.append(
            "Measures of the whole brain are not features, but columns of the scans table: "
            f"{', '.join(provenance['columns'])}. "
            "To use one as a feature, name it with --features."
        )
    if any(provenance["missing"].values()):
        parts = [f"{count:,} {kind}" for kind, count in provenance["missing"].items() if count]
        notes.append(f"Values are missing: {', '.join(parts)}.")
    if provenance["dropped"]:
        notes.append(f"{len(provenance['dropped']):,} were left out: {shorten(provenance['dropped'], 3)}.")
    return notes


def _is_transposed(table: LabelTable, labels: set[str]) -> bool:
    """Whether more columns than rows are named after scans or participants."""

    def hits(names: Sequence[str]) -> int:
        records = [make_record(name, table) for name in names]
        people = [
            {record.identifier, *record.aliases, f"sub-{record.source['sub']}", record.source["sub"]} for record in records
        ]
        return sum(bool(each & labels) for each in people)

    return hits(table.columns) > hits(table.labels)


def _to_numbers(table: LabelTable, names: Sequence[str]) -> np.ndarray:
    text = np.array(table.cells, dtype=object)
    values = np.full(text.shape, np.nan)
    for column, name in enumerate(names):
        cells = pd.Series(text[:, column])
        missing = cells.isin(MISSING)
        numbers = pd.to_numeric(cells.mask(missing), errors="coerce").to_numpy(float)
        wrong = (~np.isfinite(numbers)) & ~missing.to_numpy()
        if wrong.any():
            k = int(np.flatnonzero(wrong)[0])
            got = f"{cut(text[k, column])!r} in column {cut(name)!r} of {cut(table.labels[k])!r}"
            raise _damaged(table.path, f"{got}, {int(wrong.sum()) - 1:,} more", "numbers, or NA where a value is missing")
        values[:, column] = numbers
    return values


def _copies(frame: pd.DataFrame, format: TableFormat) -> np.ndarray:
    """Mark measures of the whole brain that an earlier table has too, with the same values, such as the eTIV."""
    seen: dict[str, np.ndarray] = {}
    is_copy = np.zeros(frame.shape[1], bool)
    for k, name in enumerate(frame.columns):
        values = frame.iloc[:, k].to_numpy()
        if format.is_whole_brain(name) and name in seen:
            is_copy[k] = np.allclose(values, seen[name], rtol=1e-4, equal_nan=True)
        seen.setdefault(name, values)
    return is_copy


def _damaged(path: Path, got: str, expected: str) -> InputError:
    return InputError(
        "A table cannot be used.",
        got=f"{path}: {got}",
        expected=expected,
        do="write the table again with the tool that made it, or correct it",
    )
