"""Features in the columns of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bayesharm.errors import InputError, shorten
from bayesharm.io.arrays import Matrix, as_matrix
from bayesharm.io.numbers import parse_numbers, read_numbers
from bayesharm.io.tables import TableSource, is_path, read_table, refuse_parquet_bomb, suffix_of, to_labels


def open_table(source: TableSource, names: Sequence[str], label: str | None = None) -> Matrix:
    """Open the columns `names` of a table as features; the column `label` identifies the scans.

    Parquet columns of numbers are read on demand; other tables are read at once. Text that is all numbers is read as numbers
    (see :mod:`bayesharm.io.numbers`).

    Raises
    ------
    InputError
        A row has no scan identifier, or a column is not numeric.
    """
    scan_ids = None
    if label is not None:
        labels = read_table(source, text=[label], columns=[label], what="the features")[label]
        scan_ids, missing = to_labels(labels)
        if missing.any():
            raise InputError(
                f"The features table has rows without '{label}'.",
                got=f"no value in row(s) {shorten(np.flatnonzero(missing))} (from 0)",
                expected="a scan identifier in every row",
                do=f"fill in '{label}' or remove these rows",
            )
    columns = np.asarray(names, dtype=str)
    if is_path(source) and suffix_of(source) == ".parquet" and (matrix := _parquet_columns(Path(source), columns, scan_ids)):
        return matrix
    frame = read_table(source, columns=columns, what="the features")[list(columns)].infer_objects()
    frame, rules = read_numbers(frame)
    for name in columns:
        if not pd.api.types.is_numeric_dtype(frame[name]) or frame[name].dtype.kind == "c":
            raise _not_numeric(name, frame[name])
    dtypes = {np.dtype(getattr(column_dtype, "numpy_dtype", column_dtype)) for column_dtype in frame.dtypes}
    dtype = np.result_type(*dtypes) if dtypes else np.dtype(float)
    if dtype.kind != "f" and bool(frame.isna().to_numpy().any()):
        dtype = np.dtype(float)
    fill: dict[str, Any] = {"na_value": np.nan} if dtype.kind == "f" else {}
    matrix = as_matrix(frame.to_numpy(dtype=dtype, **fill), columns, scan_ids)
    return replace(matrix, notes=tuple(f"{name}: {rule}" for name, rule in rules.items()))


def _parquet_columns(path: Path, names: np.ndarray, scan_ids: np.ndarray | None) -> Matrix | None:
    """Open columns of a parquet file; None if some are no numbers."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    refuse_parquet_bomb(path, names.tolist())
    parquet = pq.ParquetFile(path)
    schema, dtypes = parquet.schema_arrow, set()
    for name in names:
        arrow_type = schema.field(name).type
        if not (pa.types.is_integer(arrow_type) or pa.types.is_floating(arrow_type) or pa.types.is_boolean(arrow_type)):
            return None
        dtypes.add(np.dtype(arrow_type.to_pandas_dtype()))

    def read(at: np.ndarray) -> np.ndarray:
        table = parquet.read(columns=[str(name) for name in names[at]])
        block = np.empty((len(at), table.num_rows))
        for position, name in enumerate(names[at]):
            block[position] = table.column(str(name)).to_numpy()
        return block.T

    dtype = np.result_type(*dtypes) if dtypes else np.dtype(float)
    return Matrix((parquet.metadata.num_rows, len(names)), dtype, read, names, scan_ids)


def _not_numeric(name: str, values: pd.Series) -> InputError:
    bad, doubt = values[values.notna()], ""
    if values.dtype.kind not in "cmM":
        doubt = parse_numbers(bad).doubt
        bad = bad if doubt else bad[pd.to_numeric(bad, errors="coerce").isna()]
    example = next(iter(bad if len(bad) else values), "nothing")
    return InputError(
        f"Feature '{name}' is not numeric.",
        got=f"for example {example!r:.60}, in {max(len(bad), 1)} of {len(values)} scans, row "
        f"{shorten(bad.index[:5] + 1)} below the heading{': ' + doubt if doubt else ''}",
        expected="numbers in every feature, with decimal points",
        do="correct the values, or choose the numeric columns with `select` (--features in the shell)",
    )
