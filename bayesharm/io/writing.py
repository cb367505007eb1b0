"""Writing scan × feature values in the form in which the user gave them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bayesharm.errors import InputError
from bayesharm.io.tables import SEPARATORS, TABLE_FORMATS

WRITTEN_FORMATS = (".npy", ".zarr", *TABLE_FORMATS)
ROWS_BYTES = 1 << 26  # of rows of a table that are written together
CHUNK_BYTES = 1 << 23  # of a chunk of a Zarr array


@contextmanager
def create_matrix(
    path: str | os.PathLike[str],
    *,
    scan_ids: Sequence[str] | np.ndarray,
    names: Sequence[str] | np.ndarray,
    dtype: Any,
    n_draws: int | None = None,
) -> Iterator[Any]:
    """An array to fill, feature by feature; its file appears under its name only once the block ends without error.

    It is (scan, feature), or (draw, scan, feature) where `n_draws` is given, and lies on the disk while it is filled. A .npy
    file is that array. A .zarr holds it as `features` (or `draws`), with `scan_id` and `names`; xarray opens it too. .csv,
    .tsv and .parquet have a row for each scan (of each draw, counted in a column ``draw``), which begins with ``scan_id``.
    `dtype` is kept if it is a floating type; harmonized integers need fractions and become float64.

    Raises
    ------
    InputError
        The file has an unknown format, no folder, or the name of a folder that is no Zarr.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    _check(path)
    dtype = np.dtype(dtype) if np.dtype(dtype).kind == "f" else np.dtype(np.float64)
    shape = (*([] if n_draws is None else [n_draws]), len(scan_ids), len(names))
    unfinished = path.with_name(f".{path.name}.unfinished")
    table = path.with_name(f".{path.name}.unfinished{suffix}")
    try:
        if suffix == ".zarr":
            shutil.rmtree(unfinished, ignore_errors=True)
            yield _create_zarr(unfinished, shape, dtype, scan_ids, names)
            if path.exists():
                shutil.rmtree(path)
            os.replace(unfinished, path)
            return
        array = np.lib.format.open_memmap(unfinished, mode="w+", dtype=dtype, shape=shape)
        yield array
        array.flush()
        if suffix == ".npy":
            os.replace(unfinished, path)
        else:
            _write_rows(table, array, scan_ids, names)
            os.replace(table, path)
    finally:
        table.unlink(missing_ok=True)
        shutil.rmtree(unfinished) if unfinished.is_dir() else unfinished.unlink(missing_ok=True)


def _check(path: Path) -> None:
    suffix = path.suffix.lower()
    if suffix not in WRITTEN_FORMATS or not path.parent.is_dir():
        raise InputError(
            "The output file cannot be written.",
            got=str(path),
            expected="an existing folder and a name ending in " + ", ".join(WRITTEN_FORMATS),
            do="create the folder, or choose another name",
        )
    if path.is_dir() and (suffix != ".zarr" or not (path / "zarr.json").exists()):
        raise InputError(
            "The output would replace a folder.",
            got=str(path),
            expected="a new name, or that of an earlier output",
            do="choose another name",
        )


def _create_zarr(path: Path, shape: tuple[int, ...], dtype: np.dtype, scan_ids: Any, names: Any) -> Any:
    import zarr

    group = zarr.open_group(path, mode="w")
    dims = ("draw", "scan", "feature")[-len(shape) :]
    width = max(1, min(shape[-1], CHUNK_BYTES // (shape[-2] * dtype.itemsize)))
    for name, labels, dim in (("scan_id", scan_ids, "scan"), ("names", names, "feature")):
        text = np.asarray(labels, dtype=str)
        group.create_array(name, data=text, dimension_names=(dim,))
    return group.create_array(
        "features" if len(shape) == 2 else "draws",
        shape=shape,
        dtype=dtype,
        chunks=(*[1] * (len(shape) - 2), shape[-2], width),
        dimension_names=dims,
        fill_value=np.nan,
    )


def _write_rows(path: Path, array: np.ndarray, scan_ids: Any, names: Any) -> None:
    """A table of an array, some rows at a time."""
    labels = pd.DataFrame({"scan_id": np.asarray(scan_ids, dtype=str).astype(object)})
    step = max(1, ROWS_BYTES // (array.shape[-1] * array.itemsize))
    columns, writer = pd.Index(list(names)), None
    draws = [(labels, array)] if array.ndim == 2 else [(_numbered(labels, k), part) for k, part in enumerate(array)]
    try:
        for first, values in draws:
            for start in range(0, len(first), step):
                rows = slice(start, start + step)
                frame = pd.DataFrame(np.asarray(values[rows]), columns=columns)
                frame = pd.concat([first[rows].reset_index(drop=True), frame], axis=1)
                writer = _append(path, frame, writer)
    finally:
        if writer is not None and hasattr(writer, "close"):
            writer.close()


def _numbered(labels: pd.DataFrame, draw: int) -> pd.DataFrame:
    return labels.assign(draw=draw)[["draw", "scan_id"]]


def _append(path: Path, frame: pd.DataFrame, writer: Any) -> Any:
    """Write rows after those that are there; returns what the next call needs."""
    suffix = path.suffix.lower()
    if suffix in SEPARATORS:
        frame.to_csv(path, sep=SEPARATORS[suffix], index=False, mode="a", header=writer is None)
        return path
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(frame, preserve_index=False)
    writer = writer or pq.ParquetWriter(path, table.schema)
    writer.write_table(table)
    return writer
