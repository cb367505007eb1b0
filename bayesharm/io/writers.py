"""Writing scan × feature values in the form in which the user gave them."""

from __future__ import annotations

import errno
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bayesharm.errors import InputError
from bayesharm.io.tables import SEPARATORS, TABLE_FORMATS
from bayesharm.progress import Progress, no_progress

WRITTEN_FORMATS = (".npy", ".zarr", *TABLE_FORMATS)
ROWS_BYTES = 1 << 26  # of rows of a table that are written together
CHUNK_BYTES = 1 << 23  # of a chunk of a Zarr array
SETTLED_BYTES = 1 << 27  # of new draws that go to the disk together
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Output:
    """A file of scan × feature values, or of several draws of them.

    A .npy file is the array. A .zarr holds it as `features` (or `draws`), with `scan_id` and `names`; xarray opens it too.
    .csv, .tsv and .parquet have a row for each scan (of each draw, counted in a column ``draw``), which begins with
    ``scan_id``.

    Attributes
    ----------
    path : path
    scan_ids, names : sequences of str
    dtype : numpy dtype
        Kept if it is a floating type; harmonized integers need fractions and become float64.
    n_draws : int, optional
        The array is (draw, scan, feature) then, else (scan, feature).
    preview_notice : str
        What must be said of it lies beside it as ``<file>.PREVIEW.txt``: arrays have no room for words.
    """

    path: str | os.PathLike[str]
    scan_ids: Sequence[str] | np.ndarray
    names: Sequence[str] | np.ndarray
    dtype: Any
    n_draws: int | None = None
    preview_notice: str = ""

    @property
    def final(self) -> Path:
        return Path(self.path)

    @property
    def suffix(self) -> str:
        return self.final.suffix.lower()

    @property
    def unfinished(self) -> Path:
        """The array while it is filled."""
        return self.final.with_name(f".{self.final.name}.unfinished")

    @property
    def table(self) -> Path:
        """The table that is made of it."""
        return self.unfinished.with_name(f"{self.unfinished.name}{self.suffix}")

    @property
    def labels(self) -> tuple[Path, Path]:
        """Where the preview notice is written, and where it belongs."""
        aside, name = self.unfinished, self.final.name
        return aside.with_name(f"{aside.name}.txt"), self.final.with_name(f"{name}.PREVIEW.txt")

    @property
    def shape(self) -> tuple[int, ...]:
        return (*([] if self.n_draws is None else [self.n_draws]), len(self.scan_ids), len(self.names))

    @property
    def kept_dtype(self) -> np.dtype:
        return np.dtype(self.dtype) if np.dtype(self.dtype).kind == "f" else np.dtype(np.float64)


@contextmanager
def create_matrices(*outputs: Output, inputs: Sequence[Path] = (), progress: Progress = no_progress) -> Iterator[list[Any]]:
    """Arrays to fill, feature by feature; the files appear under their names only once the block ends without error.

    They lie on the disk while they are filled, where there is room for them from the beginning. Either all files appear or
    none.

    Parameters
    ----------
    *outputs : Output
    inputs : sequence of Path
        Resolved; files that may not be replaced.
    progress : callable
        Receives (stage, done, total, note) while rows of tables are written.

    Raises
    ------
    InputError
        A file has an unknown format, no folder, the name of a folder that is no Zarr, or that of another one or of an input.
    """
    for output in outputs:
        _check(output, [other.final.resolve() for other in outputs if other is not output], inputs)
    arrays: list[Any] = []
    try:
        for output in outputs:
            arrays.append(_start(output))
        yield arrays
        ready = [_finish(output, array, progress) for output, array in zip(outputs, arrays, strict=True)]
        for output, path in zip(outputs, ready, strict=True):
            if output.final.is_dir():
                shutil.rmtree(output.final)
            os.replace(path, output.final)
            aside, label = output.labels
            os.replace(aside, label) if output.preview_notice else label.unlink(
                missing_ok=True
            )  # of an earlier file of this name
    finally:
        try:
            for array in arrays:
                if isinstance(array, _Columns):
                    array.close()
        finally:
            for output in outputs:
                for path in (output.table, output.labels[0]):
                    path.unlink(missing_ok=True)
                unfinished = output.unfinished
                shutil.rmtree(unfinished) if unfinished.is_dir() else unfinished.unlink(missing_ok=True)


def _check(output: Output, others: Sequence[Path], inputs: Sequence[Path]) -> None:
    path = output.final
    if output.suffix not in WRITTEN_FORMATS or not path.parent.is_dir():
        raise InputError(
            "The output file cannot be written.",
            got=str(path),
            expected="an existing folder and a name ending in " + ", ".join(WRITTEN_FORMATS),
            do="create the folder, or choose another name",
        )
    if inside := [folder for folder in path.absolute().resolve().parents if (folder / "zarr.json").exists()]:
        raise InputError(
            "The output would lie inside a Zarr store.",
            got=f"{path}, in {inside[-1]}",
            expected="a name outside of it",
            do="choose another name",
        )
    if (path.is_dir() and not _is_ours(path, output)) or (output.suffix == ".zarr" and path.is_file()):
        raise InputError(
            "The output would replace a folder that is none of ours, or a file.",
            got=str(path),
            expected="a new name, or that of an earlier output",
            do="choose another name",
        )
    if (place := path.resolve()) in (*inputs, *others):
        raise InputError(
            "The output would overwrite an input." if place in inputs else "Two outputs have the same name.",
            got=str(path),
            expected="a file of its own for each",
            do="choose another name for one of them",
        )


def _is_ours(path: Path, output: Output) -> bool:
    """Whether a folder is what an earlier output of this kind left."""
    there = {inside.name for inside in path.iterdir()} - {"zarr.json"}
    return output.suffix == ".zarr" and there in ({"scan_id", "names", "features"}, {"scan_id", "names", "draws"})


def _start(output: Output) -> Any:
    """An array on the disk, if there is room for its values; a Zarr may need half of that."""
    size = math.prod(output.shape) * output.kept_dtype.itemsize // (2 if output.suffix == ".zarr" else 1)
    if size > (free := shutil.disk_usage(output.final.parent).free):
        raise OSError(errno.ENOSPC, f"{output.final.name} needs {size / 1e9:,.1f} GB, {free / 1e9:,.1f} GB are free")
    if output.suffix == ".zarr":
        return _create_zarr(output.unfinished, output.shape, output.kept_dtype, output.scan_ids, output.names)
    return _Columns(output.unfinished, output.kept_dtype, output.shape)


class _Columns:
    """A .npy file that is filled some columns at a time, by writing: mapped, most of the time would go into page faults."""

    def __init__(self, path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        self.path, self.dtype, self.shape, self.offset = path, dtype, shape, array.offset
        del array
        _reserve(path)
        self.file = path.open("r+b", buffering=0)
        self.new_bytes, self.beside, self.settling = 0, ThreadPoolExecutor(1), Future[None]()
        self.settling.set_result(None)

    def __setitem__(self, key: tuple[Any, ...], values: Any) -> None:
        """``[:, columns]``, or ``[draw, :, columns]``."""
        *draw, _, columns = key
        n_scans, n_features = self.shape[-2:]
        start, stop, _ = columns.indices(n_features)
        rows = np.ascontiguousarray(np.broadcast_to(values, (n_scans, stop - start)), self.dtype)
        first = (draw[0] if draw else 0) * n_scans * n_features + start
        whole = rows.shape[1] == n_features
        pieces = [rows] if whole else rows
        for k, piece in enumerate(pieces):
            self.file.seek(self.offset + (first + k * n_features) * self.dtype.itemsize)
            left = memoryview(piece).cast("B")
            while left:
                left = left[self.file.write(left) :]
        self.new_bytes += rows.nbytes
        if whole and self.new_bytes >= SETTLED_BYTES:
            self._settle()

    def _settle(self) -> None:
        """Send what was written to the disk and out of memory, beside what comes next.

        A file that stays in memory until there is no more takes three times as long, and that memory from others.
        """
        self.settling.result()  # or its error
        self.settling, self.new_bytes = self.beside.submit(_put_down, self.file.fileno()), 0

    def read(self) -> np.ndarray:
        """All of it, mapped, once it is on the disk."""
        self.flush()
        return np.load(self.path, mmap_mode="r")

    def flush(self) -> None:
        """Wait until it is on the disk."""
        self.settling.result()
        os.fsync(self.file.fileno())

    def close(self) -> None:
        try:
            self.beside.shutdown()
        finally:
            self.file.close()


def _put_down(file: int) -> None:
    """Where the system can do so."""
    if hasattr(os, "posix_fadvise"):
        os.fdatasync(file)
        with suppress(OSError):  # it is only advice
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)


def _reserve(path: Path) -> None:
    """Take the room on the disk that a file will need: writing to a map of it where there is none ends the process."""
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno in FULL:
                raise

            # other file systems cannot do that


def _finish(output: Output, array: Any, progress: Progress) -> Path:
    """All that was written, on the disk under a name of its own."""
    if output.preview_notice:
        output.labels[0].write_text(f"{output.final.name}: {output.preview_notice}\n", encoding="utf-8")
    if output.suffix == ".zarr":
        return output.unfinished
    if output.suffix == ".npy":
        array.flush()
        return output.unfinished
    _write_rows(output, array.read(), progress)
    return output.table


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


def _write_rows(output: Output, array: np.ndarray, progress: Progress) -> None:
    """A table of an array, some rows at a time."""
    labels = pd.DataFrame({"scan_id": np.asarray(output.scan_ids, dtype=str).astype(object)})
    step = max(1, ROWS_BYTES // (array.shape[-1] * array.itemsize))
    columns, writer, done = pd.Index(list(output.names)), None, 0
    draws = [(labels, array)] if array.ndim == 2 else [(_numbered(labels, k), part) for k, part in enumerate(array)]
    try:
        for first, values in draws:
            for start in range(0, len(first), step):
                rows = slice(start, start + step)
                frame = pd.DataFrame(np.asarray(values[rows]), columns=columns)
                frame = pd.concat([first[rows].reset_index(drop=True), frame], axis=1)
                writer = _append(output.table, frame, writer)
                done += len(frame)
                progress(f"writing {output.final.name}", done, array.size // array.shape[-1], "")
    finally:
        if writer is not None and hasattr(writer, "close"):
            writer.close()


def _numbered(labels: pd.DataFrame, draw: int) -> pd.DataFrame:
    return labels.assign(draw=draw)[["draw", "scan_id"]]


def _append(path: Path, frame: pd.DataFrame, writer: Any) -> Any:
    """Write rows after those that are there; returns what the next call needs."""
    suffix = path.suffix.lower()
    if suffix in SEPARATORS:
        first = writer is None
        frame.to_csv(path, sep=SEPARATORS[suffix], index=False, mode="w" if first else "a", header=first)
        return path
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(frame, preserve_index=False)
    writer = writer or pq.ParquetWriter(path, table.schema)
    writer.write_table(table)
    return writer
