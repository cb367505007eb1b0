"""Tables with one row per scan whose first column identifies the scan, as cells of text and as features."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from bayesharm.data.readers.files import cut, decode, open_file, read_bytes
from bayesharm.data.readers.text_values import MISSING
from bayesharm.errors import InputError

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
        raise refuse_table(path, str(error), "a table of text") from None
    rows = [[cell.strip() for cell in row] for row in rows]
    width = len(rows[0])
    if all(len(row) == width + 1 and not row[-1] for row in rows[1:]):
        rows[1:] = [row[:-1] for row in rows[1:]]  # each row ends with a delimiter
    if wrong := [k for k, row in enumerate(rows, 1) if len(row) != width]:
        got = f"{len(rows[wrong[0] - 1]):,} cells in line {wrong[0]:,} of {len(rows):,}, {width:,} in the first"
        raise refuse_table(path, got, "the same number of cells in every line")
    if len(rows) < 2 or width < 2:
        raise refuse_table(path, f"{len(rows) - 1:,} rows and {width - 1:,} columns beside the names", "a row for each scan")
    columns, cells = rows[0][1:], [row[1:] for row in rows[1:]]
    return LabelTable(path, rows[0][0], [row[0] for row in rows[1:]], columns, cells, *found)


def transpose(table: LabelTable) -> LabelTable:
    """Return the table with rows and columns exchanged."""
    cells = [list(column) for column in zip(*table.cells, strict=True)]
    return LabelTable(table.path, table.corner, table.columns, table.labels, cells, table.measure, table.atlas)


def to_numbers(table: LabelTable, names: Sequence[str]) -> np.ndarray:
    """Convert the cells of a table to numbers, (row, column), NaN where a value is missing.

    Raises
    ------
    InputError
        A cell is neither.
    """
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
            raise refuse_table(
                table.path, f"{got}, {int(wrong.sum()) - 1:,} more", "numbers, or NA where a value is missing"
            )
        values[:, column] = numbers
    return values


def refuse_table(path: Path, got: str, expected: str) -> InputError:
    """Return the error about a damaged table."""
    return InputError(
        "A table cannot be used.",
        got=f"{path}: {got}",
        expected=expected,
        do="write the table again with the tool that made it, or correct it",
    )
