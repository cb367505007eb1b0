"""Tables of Excel (.xlsx) and SPSS (.sav), read by the optional libraries openpyxl and pyreadstat."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from bayesharm.errors import InputError
from bayesharm.io.limits import refuse_zip_bomb

SHEET_FORMATS = (".xlsx", ".sav")
MOST_CELLS = 20_000_000  # of a workbook or a file of SPSS; a cell takes some 50 bytes
MOST_ROWS = 1 << 20  # of a sheet, as in Excel
LARGEST = 1 << 28  # bytes of a workbook, decompressed
_READERS = {".xlsx": "openpyxl", ".sav": "pyreadstat"}


def sheet_header(path: Path, what: str) -> list[str]:
    """Return the names of the columns."""
    return list(_read(path, what)[0].columns)


def read_sheet(path: Path, wanted: list[str], header: list[str], what: str) -> pd.DataFrame:
    """Return the columns `wanted`, whose names are in `header`."""
    return _read(path, what)[0].set_axis(header, axis=1)[wanted].copy()


def sheet_notes(path: Path, what: str) -> tuple[str, ...]:
    """Return remarks on what was left out."""
    return _read(path, what)[1]


def _read(path: Path, what: str) -> tuple[pd.DataFrame, tuple[str, ...]]:
    suffix = path.suffix.lower()
    if find_spec(_READERS[suffix]) is None:
        raise InputError(
            f"Reading {suffix} files needs {_READERS[suffix]}.",
            got=str(path),
            expected="an installed library",
            do="pip install 'bayesharm[tables]', or save the table as .csv",
        )
    status = path.stat()
    try:
        return _read_once(path, status.st_size, status.st_mtime_ns)
    except InputError:
        raise
    except Exception as error:  # the libraries raise a dozen types of error for damaged files
        raise InputError(
            f"The file of {what} cannot be read.",
            got=f"{path}: {error}",
            expected=f"a readable {suffix} file",
            do="open it in the program that wrote it, and save it again",
        ) from error


@lru_cache(maxsize=2)
def _read_once(path: Path, size: int, mtime: int) -> tuple[pd.DataFrame, tuple[str, ...]]:
    return _read_excel(path) if path.suffix.lower() == ".xlsx" else _read_spss(path)


def _read_excel(path: Path) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Read the first sheet that is visible and not empty."""
    import openpyxl

    refuse_zip_bomb(path, LARGEST)
    workbook = openpyxl.load_workbook(path, read_only=True, data_only=True)
    try:
        sheets: list[tuple[str, list[list[Any]]]] = []
        for sheet in workbook.worksheets:
            rows = list(_rows(sheet))
            while rows and not rows[-1]:
                rows.pop()
            while rows and not rows[0]:
                rows.pop(0)
            if rows and sheet.sheet_state == "visible":
                sheets.append((sheet.title, rows))
    finally:
        workbook.close()
    if not sheets:
        return pd.DataFrame(), ()
    title, rows = sheets[0]
    width = max(map(len, rows))
    if width * len(rows) > MOST_CELLS:
        raise ValueError(f"{len(rows):,} rows of {width:,} cells, of at most {MOST_CELLS:,}")
    rows = [row + [None] * (width - len(row)) for row in rows]
    names = ["" if name is None else str(name).strip() for name in rows[0]]
    frame = pd.DataFrame(rows[1:], columns=range(width), dtype=object).infer_objects().set_axis(names, axis=1)
    others = [name for name, _ in sheets[1:]]
    notes = (f"sheet {title!r} of {path.name} was read; others hold data too: {', '.join(map(repr, others))}",)
    return frame, notes if others else ()


def _rows(sheet: Any) -> Iterator[list[Any]]:
    """Read the rows of a sheet without the empty cells at their end."""
    sheet.reset_dimensions()  # a few bytes may declare a billion cells
    n_cells = 0
    for number, row in enumerate(sheet.iter_rows(values_only=True), 1):
        width = next((k for k in range(len(row), 0, -1) if row[k - 1] is not None), 0)
        n_cells += len(row)
        if number > MOST_ROWS or n_cells > MOST_CELLS:
            raise ValueError(f"more than {MOST_ROWS:,} rows, or than {MOST_CELLS:,} cells")
        yield list(row[:width])


def _read_spss(path: Path) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Read a file of SPSS. A variable whose values all have a label becomes text; values declared as missing are missing."""
    import pyreadstat

    _, about = pyreadstat.read_sav(str(path), metadataonly=True)
    width = sum(about.variable_storage_width.values())  # bytes of a row
    most = LARGEST // max(width, 1)
    frame, about = pyreadstat.read_sav(str(path), row_limit=most)
    if len(frame) == most:
        raise ValueError(f"{most:,} rows or more, of {width:,} bytes each: too large")
    notes = []
    for name, labels in about.variable_value_labels.items():
        if name not in frame:
            continue
        present = frame[name].dropna().unique()
        if len(present) and set(present) <= set(labels):
            frame[name] = frame[name].map(labels, na_action="ignore").astype(object)
        elif used := [f"{value:g} ({labels[value]})" if isinstance(value, float) else f"{value} ({labels[value]})"
                      for value in present if value in labels]:  # fmt: skip
            notes.append(f"{name}: numbers kept, of which some have labels: {', '.join(used[:3])}")
    return frame.rename(columns=str.strip), tuple(notes)
