"""Tables of any kind (csv, tsv, parquet, DataFrame), read by pandas with identifiers kept as text."""

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

type TableSource = str | os.PathLike[str] | pd.DataFrame
SEPARATORS = {".csv": ",", ".tsv": "\t"}
TABLE_FORMATS = (*SEPARATORS, ".parquet")
_BLOCK_BYTES = 1 << 26  # a line of a text file must fit into one block
_INDEX = "__index_level_"  # what parquet calls an index without a name
_MISSING = ("", "n/a", "#n/a", "nan", "<na>")


def is_table(source: object) -> bool:
    """Whether `source` is a DataFrame or the path of a csv, tsv or parquet file."""
    return isinstance(source, pd.DataFrame) or (is_path(source) and suffix_of(source) in TABLE_FORMATS)


def is_path(source: object) -> bool:
    """Whether `source` names a file or folder rather than being the data."""
    return isinstance(source, (str, os.PathLike))


def suffix_of(path: Any) -> str:
    """The ending that tells the format, in lower case."""
    return Path(path).suffix.lower()


def existing_path(source: Any, formats: Collection[str], what: str) -> Path:
    """The path of an input that exists and has a known ending, or an `InputError` naming it as `what`."""
    path = Path(source)
    if path.suffix.lower() not in formats:
        raise InputError(
            f"The format of {what} is not known.",
            got=str(path),
            expected="a name ending in " + ", ".join(formats),
            do="convert it to one of these formats; compressed files must be unpacked first",
        )
    if not path.exists():
        raise InputError(
            f"There is no such file for {what}.",
            got=str(path),
            expected="a file that exists",
            do=f"check the path; it was looked for from the folder {Path.cwd()}",
        )
    return path


def table_columns(source: TableSource, what: str = "the table") -> list[str]:
    """Names of the columns of a table, in order, without reading its rows.

    A named index of a DataFrame counts as its first column. A column without a heading (an index written by
    pandas or R) gets a name that starts with ``Unnamed:``.

    Raises
    ------
    InputError
        The file is missing, of unknown format, unreadable or empty, or two columns have the same name.
    """
    if isinstance(source, pd.DataFrame):
        names = [*(name for name in source.index.names if name is not None), *source.columns]
    else:
        path = existing_path(source, TABLE_FORMATS, what)
        with _readable(path, what):
            if path.suffix.lower() == ".parquet":
                names = [n for n in _parquet_schema(path).names if not n.startswith(_INDEX)]
            else:
                with path.open(encoding="utf-8-sig", newline="") as file:
                    names = next(csv.reader(file, delimiter=_separator(path)), [])
        if not names:
            raise InputError(
                f"The file of {what} is empty.",
                got=str(path),
                expected="a heading and one row per scan",
                do="write the file again, and check that the right one was given",
            )
    header = [str(name) if str(name).strip() else f"Unnamed: {i}" for i, name in enumerate(names)]
    repeated = pd.Index(header)[pd.Index(header).duplicated()].unique()
    if len(repeated):
        raise InputError(
            f"Column names of {what} occur more than once.",
            got=shorten(repeated),
            expected="every column (scan variable or feature) to have its own name",
            do="rename or remove the repeated columns",
        )
    return header


def index_name(source: TableSource) -> str | None:
    """Name of the single named index that a DataFrame has, or had when it was written as parquet."""
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
    """Read a table, or some of its columns; the input is never modified.

    Parameters
    ----------
    source : path or DataFrame
        csv, tsv (UTF-8, with or without byte-order mark), parquet, or a table in memory.
    text : collection of str
        Columns holding identifiers: taken from text files as they are written, so that ``001`` stays.
    columns : collection of str, optional
        Columns to read (default: all); their order is that of the table.
    what : str
        What to call the table in errors.

    Returns
    -------
    DataFrame
        With a `RangeIndex`; columns as in `table_columns`.
    """
    header = table_columns(source, what)
    keep = set(header if columns is None else columns)
    wanted = [name for name in header if name in keep]
    if isinstance(source, pd.DataFrame):
        named = [name for name in source.index.names if name is not None]
        frame = source.reset_index(level=named) if named else source
        return frame.set_axis(header, axis=1)[wanted].reset_index(drop=True)
    path = Path(source)
    with _readable(path, what):
        if path.suffix.lower() == ".parquet":
            import pyarrow.parquet as pq

            # The exact names are selected again, because parquet takes 'a' to mean 'a.b' as well.
            return pq.read_table(path, columns=wanted).select(wanted).to_pandas(ignore_metadata=True)
        return _read_text(path, header, wanted, [name for name in wanted if name in set(text)])


def _read_text(path: Path, header: list[str], wanted: list[str], ids: list[str]) -> pd.DataFrame:
    """Columns of a csv or tsv file, by Arrow: exact, and strict about the number of cells in a line."""
    import pyarrow as pa
    import pyarrow.csv as pc

    missing = pc.ConvertOptions().null_values
    with path.open("rb") as file:
        if not wanted or not (file.readline() and file.readline()):
            return pd.DataFrame(columns=wanted, dtype=float)
    table = pc.read_csv(
        path,
        read_options=pc.ReadOptions(column_names=header, skip_rows_after_names=1, block_size=_BLOCK_BYTES),
        parse_options=pc.ParseOptions(delimiter=_separator(path), newlines_in_values=True),
        convert_options=pc.ConvertOptions(
            include_columns=wanted,
            column_types={name: pa.string() for name in ids},
            null_values=[*missing, "None"],  # in columns of numbers; text stays as it is for now
        ),
    )
    binary = [field.name for field in table.schema if pa.types.is_binary(field.type)]
    if binary:
        raise UnicodeError(f"column '{binary[0]}'")
    frame = table.to_pandas()
    for field in table.schema:
        if pa.types.is_null(field.type):
            frame[field.name] = np.nan
        elif pa.types.is_string(field.type) and field.name not in ids:
            frame[field.name] = frame[field.name].mask(frame[field.name].isin(missing))
    return frame


def to_labels(values: Any) -> tuple[np.ndarray, np.ndarray]:
    """Text labels of identifiers of any type, and which of them are missing.

    Whole numbers lose a trailing ``.0`` and text its surrounding blanks. Missing are empty cells, ``n/a``
    (as in BIDS) and not-a-number; ``NA`` and ``None`` written as text are labels like any other.

    Returns
    -------
    labels : (n,) str array
    missing : (n,) bool array
    """
    array = values if isinstance(values, (pd.Series, pd.Index)) else np.asarray(values)
    if isinstance(array, np.ndarray) and array.dtype.kind in "ST":  # bytes, and text of any length as in zarr
        array = array.astype(object if array.dtype.kind == "T" else str)
    series = pd.Series(array)
    if pd.api.types.is_float_dtype(series) and bool((series.dropna() % 1 == 0).all()):
        series = series.astype("Int64")
    labels = np.array([str(value).strip() for value in series], dtype=str)
    missing = series.isna().to_numpy() | np.isin(np.char.lower(labels), _MISSING)
    return labels, missing


def _separator(path: Path) -> str:
    return SEPARATORS[path.suffix.lower()]


def _parquet_schema(path: Path) -> Any:
    import pyarrow.parquet as pq

    return pq.read_schema(path)


@contextmanager
def _readable(path: Path, what: str) -> Iterator[None]:
    """Turn what the readers raise into an `InputError`."""
    expected = f"a readable {path.suffix.lower()[1:]} file"
    do = "write the file again and check that it opens elsewhere"
    try:
        yield
    except UnicodeError as error:
        raise InputError(
            f"The file of {what} is not in UTF-8.",
            got=f"{path}: {error}",
            expected="text in UTF-8",
            do="save it as UTF-8",
        ) from None
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"The file of {what} cannot be read.", got=f"{path}: {error}", expected=expected, do=do) from error
