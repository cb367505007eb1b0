"""Reading of tables (text, parquet, Excel, SPSS, DataFrame), with identifiers kept as text."""

from __future__ import annotations

import csv
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bayesharm.errors import InputError, shorten
from bayesharm.io.limits import FREE, refuse_expansion
from bayesharm.io.spreadsheets import SHEET_FORMATS, read_sheet, sheet_header, sheet_notes
from bayesharm.io.text_format import TEXT_FORMATS, find_format
from bayesharm.io.text_tables import read_text

type TableSource = str | os.PathLike[str] | pd.DataFrame
TABLE_FORMATS = (*TEXT_FORMATS, ".parquet", *SHEET_FORMATS)
_INDEX = "__index_level_"  # parquet's name for an unnamed index starts with this
_MISSING = ("", "n/a", "#n/a", "nan", "<na>")


def is_table(source: object) -> bool:
    """Whether `source` is a DataFrame or the path of a table."""
    return isinstance(source, pd.DataFrame) or (is_path(source) and suffix_of(source) in TABLE_FORMATS)


def is_path(source: object) -> bool:
    """Whether `source` is a path, and not the data themselves."""
    return isinstance(source, (str, os.PathLike))


def suffix_of(path: Any) -> str:
    """Return the file extension in lower case; it determines the format."""
    return Path(path).suffix.lower()


def existing_path(source: Any, formats: Collection[str], what: str) -> Path:
    """Return the path of an input file; raise an `InputError` about `what` if its format is unknown or it does not exist."""
    path = Path(source)
    if path.suffix.lower() not in formats:
        raise InputError(
            f"The format of {what} is unknown.",
            got=str(path),
            expected="a name ending in " + ", ".join(formats),
            do="convert the file to one of these formats; decompress compressed files first",
        )
    if not path.exists():
        raise InputError(
            f"The file of {what} does not exist.",
            got=str(path),
            expected="an existing file",
            do=f"check the path; the current folder is {Path.cwd()}",
        )
    if path.suffix.lower() != ".zarr" and not path.is_file():
        raise InputError(
            f"The file of {what} is no file.",
            got=f"{path}, which is {'a folder' if path.is_dir() else 'a device or a pipe'}",
            expected="a file",
            do="name the file itself",
        )
    return path


def table_columns(source: TableSource, what: str = "the table") -> list[str]:
    """Return the column names of a table, in order, without reading its rows.

    A named index of a DataFrame counts as the first column. A column without a heading (an index written by
    pandas or R) gets a name that starts with ``Unnamed:``.

    Raises
    ------
    InputError
        The file is missing, unreadable, empty or of unknown format, or two columns have the same name.
    """
    if isinstance(source, pd.DataFrame):
        names = [*(name for name in source.index.names if name is not None), *source.columns]
    else:
        path = existing_path(source, TABLE_FORMATS, what)
        with _readable(path, what):
            suffix = path.suffix.lower()
            if suffix == ".parquet":
                names = [n for n in _parquet_schema(path).names if not n.startswith(_INDEX)]
            else:
                names = sheet_header(path, what) if suffix in SHEET_FORMATS else list(find_format(path, what).header)
        if not names:
            raise InputError(
                f"The file of {what} is empty.",
                got=str(path),
                expected="a heading and one row per scan",
                do="check that this is the right file, or write it again",
            )
    header = [str(name) if str(name).strip() else _name_of_blank(i, names) for i, name in enumerate(names)]
    folded = pd.Index(header if isinstance(source, pd.DataFrame) else [name.casefold() for name in header])
    repeated = pd.Index(header)[folded.duplicated(keep=False)].unique()
    if len(repeated):
        raise InputError(
            f"Some column names of {what} occur more than once.",
            got=shorten(repeated),
            expected="a different name for every column (scan variable or feature), also without regard to capitals",
            do="rename or remove the repeated columns",
        )
    return header


def _name_of_blank(column: int, names: Sequence[Any]) -> str:
    """Return a name for a column without a heading, as pandas does; it may be taken in a table that pandas wrote."""
    name = f"Unnamed: {column}"
    while name in names:
        name += ".1"
    return name


def index_name(source: TableSource) -> str | None:
    """Return the name of the index of a DataFrame, also of one stored as parquet; None unless there is exactly one."""
    if isinstance(source, pd.DataFrame):
        names: Sequence[Any] = source.index.names
    elif suffix_of(source) == ".parquet":
        names = (_parquet_schema(Path(source)).pandas_metadata or {}).get("index_columns", [])
        names = [name for name in names if isinstance(name, str) and not name.startswith(_INDEX)]
    else:
        names = []
    return str(names[0]) if len(names) == 1 and names[0] is not None else None


def read_table(
    source: TableSource,
    *,
    text: Collection[str] = (),
    columns: Collection[str] | None = None,
    what: str = "the table",
) -> pd.DataFrame:
    """Read a table, or a subset of its columns. The input is never modified.

    Parameters
    ----------
    source : path or DataFrame
        Text (.csv, .tsv, .txt, .dat; see :mod:`bayesharm.io.text_format`), .parquet, .xlsx, .sav, or a table in memory.
    text : collection of str
        Columns of identifiers, read from text files verbatim, so that ``001`` stays ``001``.
    columns : collection of str, optional
        Columns to read, in the order of the table; default: all.
    what : str
        Name of the table in error messages.

    Returns
    -------
    DataFrame
        With a `RangeIndex`; columns as in `table_columns`.

    Raises
    ------
    InputError
        As in `table_columns`.
    """
    header = table_columns(source, what)
    requested = set(header if columns is None else columns)
    wanted = [name for name in header if name in requested]
    if isinstance(source, pd.DataFrame):
        index_names = [name for name in source.index.names if name is not None]
        frame = source.reset_index(level=index_names) if index_names else source
        return frame.set_axis(header, axis=1)[wanted].reset_index(drop=True)
    path = Path(source)
    with _readable(path, what):
        if path.suffix.lower() == ".parquet":
            return _read_parquet(path, wanted)
        if path.suffix.lower() in SHEET_FORMATS:
            return read_sheet(path, wanted, header, what)
        return read_text(path, header, wanted, [name for name in wanted if name in set(text)], what)


def reading_notes(source: TableSource, what: str = "the table") -> list[tuple[str, str]]:
    """Return the code of a finding and a remark for each doubtful step of reading a table: its encoding, its sheets."""
    if isinstance(source, pd.DataFrame):
        return []
    path = Path(source)
    if path.suffix.lower() in SHEET_FORMATS:
        code = "sheets" if path.suffix.lower() == ".xlsx" else "value-labels"
        return [(code, note) for note in sheet_notes(path, what)]
    if path.suffix.lower() in TEXT_FORMATS and find_format(path, what).encoding == "cp1252":
        return [("encoding", f"{path.name} is not in UTF-8, and was read as Windows-1252 (Latin-1)")]
    return []


def to_labels(values: Any) -> tuple[np.ndarray, np.ndarray]:
    """Convert identifiers of any type to text labels, and mark the missing ones.

    Whole numbers lose a trailing ``.0``; text loses surrounding blanks. Empty cells, ``n/a`` (the BIDS code)
    and not-a-number are missing. ``NA`` and ``None`` written as text are ordinary labels.

    Returns
    -------
    labels : (n,) str array
    missing : (n,) bool array
    """
    values_array = values if isinstance(values, (pd.Series, pd.Index)) else np.asarray(values)
    if isinstance(values_array, np.ndarray) and values_array.dtype.kind in "ST":  # bytes, and text of any length as in zarr
        values_array = values_array.astype(object if values_array.dtype.kind == "T" else str)
    series = pd.Series(values_array)
    texts = [_label(value) for value in series]
    longest = max(map(len, texts), default=0)
    if 4 * longest * len(texts) > FREE:  # arrays of text have the width of the longest
        raise InputError(
            "A label is too long.",
            got=f"{longest:,} characters: {max(texts, key=len)[:60]!r}…",
            expected="identifiers and short texts",
            do="correct the value, or leave the column out",
        )
    labels = np.array(texts, dtype=str)
    missing = series.isna().to_numpy() | np.isin(np.char.lower(labels), _MISSING)
    return labels, missing


def _label(value: Any) -> str:
    is_whole = isinstance(value, (float, np.floating)) and value % 1 == 0
    return str(int(value)) if is_whole else str(value).strip()


def _parquet_schema(path: Path) -> Any:
    import pyarrow.parquet as pq

    return pq.read_schema(path)


def refuse_parquet_bomb(path: Path, columns: Collection[str]) -> None:
    """Refuse a parquet file whose columns repeat values far more often than tables do.

    Raises
    ------
    InputError
    """
    import pyarrow.parquet as pq

    about, wanted, unpacked = pq.read_metadata(path), set(columns), 0
    for group in map(about.row_group, range(about.num_row_groups)):
        for chunk, column in ((group.column(k), about.schema.column(k)) for k in range(group.num_columns)):
            is_nested = column.path not in wanted
            if is_nested and column.path.partition(".")[0] not in wanted:
                continue
            # text in lists does not stay encoded, and each may be as long as the whole
            in_memory = chunk.total_uncompressed_size if is_nested and column.physical_type == "BYTE_ARRAY" else 8
            unpacked += max(chunk.total_uncompressed_size, chunk.num_values * max(in_memory, column.length))
    refuse_expansion(path, path.stat().st_size, max(unpacked, 8 * len(wanted) * about.num_rows))


def _read_parquet(path: Path, wanted: list[str]) -> pd.DataFrame:
    """Read columns; text stays encoded, so that one which is stored once and repeated a million times needs memory once."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    refuse_parquet_bomb(path, wanted)
    fields, kinds = [field for field in pq.read_schema(path) if field.name in set(wanted)], pa.types
    is_text = (
        kinds.is_string, kinds.is_large_string, kinds.is_string_view, kinds.is_binary, kinds.is_large_binary,
        kinds.is_binary_view,
    )  # fmt: skip
    text = [each.name for each in fields if any(kind(each.type) for kind in is_text)]
    # Selected once more by exact name, because parquet also reads the nested column 'a.b' for 'a'.
    table = pq.read_table(path, columns=wanted, read_dictionary=text).select(wanted)
    return table.to_pandas(ignore_metadata=True).astype(dict.fromkeys(text, object))


@contextmanager
def _readable(path: Path, what: str) -> Iterator[None]:
    """Convert exceptions of the readers to an `InputError`."""
    expected = f"a readable {path.suffix.lower()[1:]} file"
    do = "write the file again and check that it opens elsewhere"
    try:
        yield
    except InputError:
        raise
    except UnicodeError as error:
        raise InputError(
            f"The file of {what} is not in UTF-8.",
            got=f"{path}: {error}",
            expected="text in UTF-8",
            do="save the file as UTF-8",
        ) from None
    except (OSError, ValueError, MemoryError, RecursionError, csv.Error) as error:
        raise InputError(f"The file of {what} cannot be read.", got=f"{path}: {error}", expected=expected, do=do) from error
