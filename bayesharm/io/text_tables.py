"""Reading of text tables with Arrow: exact numbers, and the same number of cells in each line."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bayesharm.errors import InputError
from bayesharm.io.text_format import BLANKS, LONGEST_LINE, TextFormat, find_format, records_of


def read_text(path: Path, header: list[str], wanted: list[str], ids: list[str], what: str) -> pd.DataFrame:
    """Read the columns `wanted` of a text table; those of `ids` verbatim, as text."""
    import pyarrow as pa
    import pyarrow.csv as pc

    text_format = find_format(path, what)
    if not wanted or not text_format.has_rows:
        return pd.DataFrame(columns=wanted, dtype=float)
    missing = pc.ConvertOptions().null_values
    convert = pc.ConvertOptions(
        include_columns=wanted,
        column_types={name: pa.string() for name in ids},
        null_values=[*missing, "None"],  # affects numeric columns only; text columns follow below
    )
    separator = "\t" if text_format.separator == BLANKS else text_format.separator
    parse = pc.ParseOptions(delimiter=separator, newlines_in_values=True)
    skipped = text_format.skipped if text_format.is_plain else 0

    def read(use_threads: bool) -> Any:
        read = pc.ReadOptions(
            column_names=header, skip_rows=skipped, skip_rows_after_names=1, block_size=LONGEST_LINE, use_threads=use_threads
        )
        return pc.read_csv(_as_utf8(path, text_format), read_options=read, parse_options=parse, convert_options=convert)

    try:
        table = read(True)
    except pa.ArrowInvalid:
        table = read(False)  # in one thread, the error names the row
    frame = table.to_pandas()
    _check_quotes(path, text_format, frame, what)
    for field in table.schema:
        if pa.types.is_null(field.type):
            frame[field.name] = np.nan
        elif pa.types.is_string(field.type) and field.name not in ids:
            frame[field.name] = frame[field.name].mask(frame[field.name].isin(missing))
    return frame


def _as_utf8(path: Path, text_format: TextFormat) -> Any:
    """Return the file, or its text in UTF-8 with one character between cells."""
    import pyarrow as pa

    if text_format.is_plain:
        return path
    with path.open(encoding=text_format.encoding, errors="replace", newline="") as file:
        for _ in range(text_format.skipped):
            file.readline()
        text = file.read()
    if text_format.separator == BLANKS:
        buffer = io.StringIO()
        csv.writer(buffer, delimiter="\t", lineterminator="\n").writerows(records_of(text.splitlines(True), BLANKS))
        text = buffer.getvalue()
    return pa.BufferReader(text.removeprefix("\ufeff").encode())


def _check_quotes(path: Path, text_format: TextFormat, frame: pd.DataFrame, what: str) -> None:
    """Refuse a table whose last cell has swallowed lines because a quotation mark is not closed."""
    if text_format.n_quotes % 2 and len(frame):
        last = frame.iloc[-1]
        if any(isinstance(value, str) and ("\n" in value or "\r" in value) for value in last):
            raise InputError(
                f"A quotation mark in the file of {what} is not closed.",
                got=f"{path}: the last cell read goes on over several lines",
                expected="quotation marks in pairs",
                do="remove or close the quotation mark",
            )
