"""Numbers of one scan in a text file: a matrix or a row, with or without names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bayesharm.data.readers.files import cut, decode, read_bytes
from bayesharm.errors import InputError

MISSING = ("n/a", "nan", "NaN", "NA", "N/A", "")
LONGEST_LINE = 1 << 24  # bytes: a line of a matrix of 10,000 regions has less than 300 kB


@dataclass(frozen=True, eq=False)
class TextValues:
    """Numbers of a text file.

    Attributes
    ----------
    values : (row, column) array
    columns : list of str or None
        Names in the first line; None if the file has none.
    rows : list of str or None
        Names in the first column; None if the file has none.
    """

    values: np.ndarray
    columns: list[str] | None = None
    rows: list[str] | None = None


def read_text_values(path: Path, *, has_header: bool, separator: bytes | None = b"\t") -> TextValues:
    """Read a text file of numbers, in which every line has the same number of cells.

    Parameters
    ----------
    path : Path
    has_header : bool
        Whether the first line holds names. The first cells of the other lines are names too if the header names this
        column ``Node`` or leaves it empty.
    separator : bytes or None
        Separator of the cells; None for blanks of any number.

    Raises
    ------
    InputError
        The file cannot be read, is empty or cut off, or holds text where numbers are expected.
    """
    blank = b" " if separator == b"\t" else None  # a line of tabs is a row of empty cells
    lines = [line for line in read_bytes(path).split(b"\n") if line.strip(blank)]
    if len(lines) <= has_header:
        raise _damaged(path, "no numbers", "numbers")
    if max(map(len, lines)) > LONGEST_LINE:
        raise _damaged(path, f"a line of {max(map(len, lines)) / 1e6:,.0f} MB", "a line for each region or scan")
    columns = _split(lines.pop(0), separator) if has_header else None
    has_row_names = columns is not None and columns[0] in ("Node", "", "node")
    width = len(columns) if columns is not None else len(_split(lines[0], separator))
    if separator is None:
        lines = [b"\t".join(line.split()) for line in lines]
        separator = b"\t"
    counts = [line.count(separator) + 1 for line in lines]
    if wrong := [row for row, count in enumerate(counts) if count != width]:
        row = wrong[0]
        got = (
            f"{counts[row]:,} cells in line {row + 1 + has_header} of {len(lines) + has_header}, {width:,} in the first line"
        )
        raise _damaged(path, got, "the same number of cells in every line")
    rows = None
    if has_row_names:
        parts = [line.partition(separator) for line in lines]
        rows, lines = [_name(part[0]) for part in parts], [part[2] for part in parts]
        width -= 1
    values = _parse(path, b"\n".join(lines).replace(separator, b"\n"), len(lines) * width)
    return TextValues(values.reshape(len(lines), width), columns[has_row_names:] if columns is not None else None, rows)


def _parse(path: Path, cells: bytes, size: int) -> np.ndarray:
    """Convert cells, one a line, to numbers; Arrow does it three times as fast as numpy."""
    import pyarrow as pa
    import pyarrow.csv as pc

    if not size:
        return np.empty(0)
    try:
        table = pc.read_csv(
            pa.BufferReader(cells),
            read_options=pc.ReadOptions(column_names=["value"], use_threads=False, block_size=len(cells) + 1),
            parse_options=pc.ParseOptions(delimiter="\x1f", quote_char=False, ignore_empty_lines=False),
            convert_options=pc.ConvertOptions(column_types={"value": pa.float64()}, null_values=MISSING),
        )
    except (pa.ArrowException, ValueError, OSError) as error:
        invalid = re.search(r"invalid value '(.*)'", str(error), re.DOTALL)
        got = f"the text {cut(invalid[1])!r}" if invalid is not None else cut(error)
        raise _damaged(path, got, "numbers, or n/a where a value is missing") from None
    values: np.ndarray = table.column("value").to_numpy()
    if values.size == size - 1:  # an empty last cell ends the text without a line
        values = np.append(values, np.nan)
    if values.size != size:
        raise _damaged(path, f"{values.size:,} numbers", f"{size:,} numbers")
    return values


def _split(line: bytes, separator: bytes | None) -> list[str]:
    return [_name(cell) for cell in line.split(separator)]


def _name(cell: bytes) -> str:
    return decode(cell).strip().strip('"').strip()


def _damaged(path: Path, got: str, expected: str) -> InputError:
    return InputError(
        "A file is damaged, or of another kind.",
        got=f"{path}: {got}",
        expected=expected,
        do="write the file again with the tool that made it, or remove it",
    )
