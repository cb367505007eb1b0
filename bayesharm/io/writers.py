"""Writing of scan × feature values in the user's formats."""

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
from bayesharm.io.atomic import make_anew
from bayesharm.progress import Progress, no_progress

SEPARATORS = {".csv": ",", ".tsv": "\t"}
WRITTEN_FORMATS = (".npy", ".zarr", *SEPARATORS, ".parquet")
ROWS_BYTES = 1 << 26  # bytes of a table that are formatted at a time, which bounds memory
CHUNK_BYTES = 1 << 23  # bytes of a Zarr chunk: 8 MiB reads and compresses efficiently
SYNC_BYTES = 1 << 27  # bytes written between two syncs to disk, so that the page cache stays small
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # error codes of a full disk


@dataclass(frozen=True)
class Output:
    """An output file of scan × feature values, or of several draws of them.

    A .npy file contains the array alone. A .zarr store contains the arrays `features` (or `draws`), `scan_id` and `names`;
    xarray can open it. A .csv, .tsv or .parquet file has one row per scan, with ``scan_id`` first; with draws, one row per
    draw and scan, with the number of the draw in the column ``draw``.

    Attributes
    ----------
    path : path
    scan_ids, names : sequences of str
    dtype : numpy dtype
        Type of the input. A floating type is kept; integers become float64, because harmonized values have fractions.
    n_draws : int, optional
        If given, the array is (draw, scan, feature), otherwise (scan, feature).
    preview_notice : str
        Warning for values from a preview, written next to the output as ``<file>.PREVIEW.txt``: an array file cannot
        contain it.
    """

    path: str | os.PathLike[str]
    scan_ids: Sequence[str] | np.ndarray
    names: Sequence[str] | np.ndarray
    dtype: Any
    n_draws: int | None = None
    preview_notice: str = ""

    @property
    def final(self) -> Path:
        """The output path."""
        return Path(self.path)

    @property
    def suffix(self) -> str:
        """File extension in lower case."""
        return self.final.suffix.lower()

    @property
    def unfinished(self) -> Path:
        """Temporary path of the array."""
        return self.final.with_name(f".{self.final.name}.unfinished")

    @property
    def table(self) -> Path:
        """Temporary path of the table."""
        return self.unfinished.with_name(f"{self.unfinished.name}{self.suffix}")

    @property
    def notices(self) -> tuple[Path, Path]:
        """Temporary and final path of the preview notice."""
        temporary = self.unfinished.with_name(f"{self.unfinished.name}.txt")
        return temporary, self.final.with_name(f"{self.final.name}.PREVIEW.txt")

    @property
    def shape(self) -> tuple[int, ...]:
        """(scan, feature) or (draw, scan, feature)."""
        return (*([] if self.n_draws is None else [self.n_draws]), len(self.scan_ids), len(self.names))

    @property
    def stored_dtype(self) -> np.dtype:
        """Type of the stored values."""
        return np.dtype(self.dtype) if np.dtype(self.dtype).kind == "f" else np.dtype(np.float64)


@contextmanager
def create_matrices(*outputs: Output, inputs: Sequence[Path] = (), progress: Progress = no_progress) -> Iterator[list[Any]]:
    """Context manager: create arrays on disk to be filled by blocks of features, and turn them into the output files.

    Disk space is reserved at the beginning. The files appear under their names only if the ``with`` block ends without an
    error: all of them or none.

    Parameters
    ----------
    *outputs : Output
    inputs : sequence of Path
        Resolved paths of files that must not be overwritten.
    progress : Progress
        Called while rows of tables are written.

    Yields
    ------
    list of array-like
        One for each output; assign to ``[:, columns]``, or to ``[draw, :, columns]``.

    Raises
    ------
    InputError
        A path has an unknown format or no folder, or it is that of an input, of another output, or of a folder that is not
        a Zarr store.
    OSError
        The disk has too little space.
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
            temporary, notice = output.notices
            if output.preview_notice:
                os.replace(temporary, notice)
            else:
                notice.unlink(missing_ok=True)  # left by an earlier file of this name
    finally:
        try:
            for array in arrays:
                if isinstance(array, _Columns):
                    array.close()
        finally:
            for output in outputs:
                for path in (output.table, output.notices[0]):
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
    if stores := [folder for folder in path.absolute().resolve().parents if (folder / "zarr.json").exists()]:
        raise InputError(
            "The output path is inside a Zarr store.",
            got=f"{path}, in {stores[-1]}",
            expected="a path outside the store",
            do="choose another path",
        )
    if (path.is_dir() and not _is_earlier_output(path, output)) or (output.suffix == ".zarr" and path.is_file()):
        raise InputError(
            "The output would replace a folder that bayesharm did not write, or a file.",
            got=str(path),
            expected="a new name, or the name of an earlier output",
            do="choose another name",
        )
    if (resolved := path.resolve()) in (*inputs, *others):
        raise InputError(
            "The output would overwrite an input." if resolved in inputs else "Two outputs have the same name.",
            got=str(path),
            expected="a separate file for each output",
            do="choose another name for one of them",
        )


def _is_earlier_output(path: Path, output: Output) -> bool:
    """Whether a folder is the Zarr store of an earlier output."""
    members = {member.name for member in path.iterdir()} - {"zarr.json"}
    return output.suffix == ".zarr" and members in ({"scan_id", "names", "features"}, {"scan_id", "names", "draws"})


def _start(output: Output) -> Any:
    """Create an array on disk after checking for free space; compressed Zarr needs about half the bytes of its values."""
    size = math.prod(output.shape) * output.stored_dtype.itemsize // (2 if output.suffix == ".zarr" else 1)
    if size > (free := shutil.disk_usage(output.final.parent).free):
        raise OSError(errno.ENOSPC, f"{output.final.name} needs {size / 1e9:,.1f} GB, {free / 1e9:,.1f} GB are free")
    if output.suffix == ".zarr":
        return _create_zarr(output.unfinished, output.shape, output.stored_dtype, output.scan_ids, output.names)
    return _Columns(output.unfinished, output.stored_dtype, output.shape)


class _Columns:
    """A .npy file, filled some columns at a time by writing: a memory map would spend most of the time on page faults."""

    def __init__(self, path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        make_anew(path).close()
        self.path, self.dtype, self.shape = path, dtype, shape
        self.offset = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape).offset
        _reserve(path)
        self.file = path.open("r+b", buffering=0)
        self.unsynced_bytes, self.executor, self.syncing = 0, ThreadPoolExecutor(1), Future[None]()
        self.syncing.set_result(None)

    def __setitem__(self, key: tuple[Any, ...], values: Any) -> None:
        """Write ``[:, columns]``, or ``[draw, :, columns]``."""
        *draw, _, columns = key
        n_scans, n_features = self.shape[-2:]
        start, stop, _ = columns.indices(n_features)
        rows = np.ascontiguousarray(np.broadcast_to(values, (n_scans, stop - start)), self.dtype)
        first = (draw[0] if draw else 0) * n_scans * n_features + start
        is_complete = rows.shape[1] == n_features
        pieces = [rows] if is_complete else rows
        for k, piece in enumerate(pieces):
            self.file.seek(self.offset + (first + k * n_features) * self.dtype.itemsize)
            remaining = memoryview(piece).cast("B")
            while remaining:
                remaining = remaining[self.file.write(remaining) :]
        self.unsynced_bytes += rows.nbytes
        if is_complete and self.unsynced_bytes >= SYNC_BYTES:
            self._start_sync()

    def _start_sync(self) -> None:
        """Sync the written data to disk in the background and drop them from the page cache.

        Without this, the file fills the page cache: writing then takes three times as long, and other programs lack the
        memory.
        """
        self.syncing.result()  # raises the error of the last sync, if any
        self.syncing, self.unsynced_bytes = self.executor.submit(_sync, self.file.fileno()), 0

    def read(self) -> np.ndarray:
        """Return all values as a memory map, after syncing to disk."""
        self.flush()
        return np.load(self.path, mmap_mode="r", allow_pickle=False)

    def flush(self) -> None:
        """Wait until all data are on disk."""
        self.syncing.result()
        os.fsync(self.file.fileno())

    def close(self) -> None:
        """Stop the background thread and close the file."""
        try:
            self.executor.shutdown()
        finally:
            self.file.close()


def _sync(file: int) -> None:
    """Sync a file and drop it from the page cache, on systems that support it."""
    if hasattr(os, "posix_fadvise"):
        os.fdatasync(file)
        with suppress(OSError):  # dropping the cache is optional
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)


def _reserve(path: Path) -> None:
    """Reserve disk space for a file now, so that a full disk is an error at the beginning and not in the middle."""
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno in FULL:
                raise  # other errors: the file system cannot reserve space


def _finish(output: Output, array: Any, progress: Progress) -> Path:
    """Complete the temporary files of an output on disk and return the one to be renamed to the output path."""
    if output.preview_notice:
        with make_anew(output.notices[0]) as file:
            file.write(f"{output.final.name}: {output.preview_notice}\n".encode())
    if output.suffix == ".zarr":
        return output.unfinished
    if output.suffix == ".npy":
        array.flush()
        return output.unfinished
    make_anew(output.table).close()
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
    """Write an array as a table, some rows at a time."""
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
    """Append rows to a table file, and return the writer for the next call."""
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
