"""Names of the regions of an atlas, from the user's label file."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bayesharm.data.readers.files import cut, decode, read_bytes
from bayesharm.errors import InputError, shorten

NAME_COLUMNS = ("name", "label", "region", "roi", "node", "roi_name", "parcel")
INDEX_COLUMNS = ("index", "id", "value", "number", "roi_number")


def read_labels(path: Any) -> dict[str, str]:
    """Read the names of the regions, in the order of their numbers in the atlas.

    The file is a BIDS table (``…_dseg.tsv`` with the columns ``index`` and ``name``; also .csv), a lookup table with lines
    such as ``1 LH_Vis_1 120 18 131 0``, or a list with one name per line, which are numbered from 1.

    Returns
    -------
    dict
        Number of the region in the atlas -> its name.

    Raises
    ------
    InputError
        The file cannot be read, has no names, or a name or a number repeats.
    """
    path = Path(path)
    text = decode(read_bytes(path))
    lines = [line for line in text.split("\n") if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        raise _refuse(path, "no lines", "a name of each region")
    delimiter = "\t" if "\t" in lines[0] else "," if "," in lines[0] else None
    try:
        rows = [line.split() for line in lines] if delimiter is None else list(csv.reader(lines, delimiter=delimiter))
    except csv.Error as error:
        raise _refuse(path, str(error), "a table with the columns index and name") from None
    pairs = _pairs(path, [[cell.strip().strip('"') for cell in row] for row in rows], [line.strip() for line in lines])
    pairs = [(number, name) for number, name in pairs if number != "0"]  # the background
    for what, values in (("numbers", [pair[0] for pair in pairs]), ("names", [pair[1] for pair in pairs])):
        if repeated := [value for value, count in Counter(values).items() if count > 1]:
            raise _refuse(path, f"{what} that occur more than once: {shorten(map(cut, repeated))}", "each region once")
    if any(not name for _, name in pairs) or not pairs:
        raise _refuse(path, "a region without a name", "a name of each region")
    if all(number.isdecimal() for number, _ in pairs):
        pairs.sort(key=lambda pair: int(pair[0]))
    return dict(pairs)


def _pairs(path: Path, rows: list[list[str]], lines: list[str]) -> list[tuple[str, str]]:
    """Return the number and the name of each region."""
    header = [cell.lower() for cell in rows[0]]
    name = next((header.index(each) for each in NAME_COLUMNS if each in header), None)
    if name is not None and len(rows) > 1:
        index = next((header.index(each) for each in INDEX_COLUMNS if each in header), None)
        if short := [k for k, row in enumerate(rows, 1) if len(row) <= max(name, index or 0)]:
            raise _refuse(path, f"too few cells in line {short[0]}", f"a cell below '{rows[0][name]}'")
        return [(row[index] if index is not None else str(k), row[name]) for k, row in enumerate(rows[1:], 1)]
    if all(len(row) >= 2 and row[0].isdecimal() for row in rows):
        return [(row[0], row[1]) for row in rows]
    return [(str(k), line.strip('"')) for k, line in enumerate(lines, 1)]


def checksum(regions: Sequence[str]) -> str:
    """Return the sha256 of the names of the regions, in their order."""
    return hashlib.sha256("\n".join(regions).encode()).hexdigest()


def _refuse(path: Path, got: str, expected: str) -> InputError:
    return InputError(
        "The label file cannot be used.",
        got=f"{path}: {got}",
        expected=expected,
        do="give the label file of the atlas, such as atlas-…_dseg.tsv, or a list with one name per line",
    )
