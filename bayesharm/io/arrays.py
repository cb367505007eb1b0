"""Feature arrays, read in blocks of features: in memory, npy, npz, zarr; square matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bayesharm.errors import InputError, shorten
from bayesharm.io.tables import TABLE_FORMATS, existing_path, is_path, to_labels

ARRAY_FORMATS = (".npy", ".npz", ".zarr")
_LAYOUT = "(scan, feature), or (scan, region, region) for square matrices"


@dataclass(frozen=True, eq=False)
class Matrix:
    """Scan × feature values where they are stored, read by columns.

    Attributes
    ----------
    shape : (int, int)
        Number of scans and of features.
    dtype : numpy dtype
        Of the stored values.
    read : callable
        Takes feature positions (1-d int array) and returns values (scan, position); the array may be a view.
    names : (feature,) str array or None
        None when the source does not name its features.
    scan_ids : (scan,) str array or None
        None when the source does not say which row is which scan.
    chunk : int
        How many features are stored together, so that reading one of them takes as long as reading all.
    """

    shape: tuple[int, int]
    dtype: np.dtype
    read: Callable[[np.ndarray], np.ndarray]
    names: np.ndarray | None = None
    scan_ids: np.ndarray | None = None
    chunk: int = 1


def open_array(source: Any) -> Matrix:
    """Open an array in memory, or a .npy (memory-mapped), .npz or .zarr input, without reading all of it.

    A .npz file or zarr group holds `features` and may hold `names`, `scan_id` and, for square matrices,
    `regions`; with a single array in it, its name does not matter.

    Raises
    ------
    InputError
        Missing, of unknown format, unreadable, not numeric or of a shape that is not scans × features.
    """
    if not is_path(source):
        if isinstance(source, np.ma.MaskedArray):
            source = np.ma.filled(source.astype(float), np.nan)
        return as_matrix(source if hasattr(source, "shape") else np.asarray(source))
    path = existing_path(source, (*ARRAY_FORMATS, *TABLE_FORMATS), "the features")
    with _reading(path):
        if path.suffix.lower() == ".npy":
            return as_matrix(_Mapped(path.resolve()))
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return _from_members(path, archive)
        matrix = _from_zarr(path)

    def read(at: np.ndarray) -> np.ndarray:
        with _reading(path):
            return matrix.read(at)

    return replace(matrix, read=read)


class _Mapped:
    """A .npy file, mapped anew for every reading: pages of a map that stays open count as memory of the process."""

    def __init__(self, path: Path):
        self.path, self.identity = path, self._identify(path)
        values = self._open()
        self.shape, self.dtype = values.shape, values.dtype

    def __getitem__(self, at: Any) -> np.ndarray:
        with _reading(self.path):
            return self._open()[at]

    @staticmethod
    def _identify(path: Path) -> tuple[int, int, int]:
        status = path.stat()
        return status.st_ino, status.st_size, status.st_mtime_ns

    def _open(self) -> np.ndarray:
        if self._identify(self.path) != self.identity:
            raise InputError(
                "The features have changed while they were read.",
                got=f"{self.path}, which is another file than a moment ago",
                expected="the same file from beginning to end",
                do="leave the file alone while bayesharm works, and start again",
            )
        return np.load(self.path, mmap_mode="r", allow_pickle=False)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # numpy and zarr raise a dozen kinds on a damaged file
        raise InputError(
            "The features cannot be read.",
            got=f"{path}: {'no array of numbers' if 'allow_pickle' in str(error) else error}",
            expected=f"a readable {path.suffix.lower()} of numbers, {_LAYOUT}",
            do="write the file again, complete and without pickled objects",
        ) from error


def _from_zarr(path: Path) -> Matrix:
    import zarr

    # A chunk that is missing would otherwise be read as zeros without a word.
    with zarr.config.set({"array.read_missing_chunks": False}):
        node = zarr.open(path, mode="r")
        members = dict(node.arrays()) if isinstance(node, zarr.Group) else {"features": node}
        return _from_members(path, members)


def _from_members(path: Path, members: Mapping[str, Any]) -> Matrix:
    values = members.get("features", next(iter(members.values())) if len(members) == 1 else None)
    if values is None:
        raise InputError(
            "The features are not found among the arrays of the file.",
            got=f"{path} with arrays {shorten(members) or 'none'}",
            expected="an array named 'features' (and, if you have them, 'names' and 'scan_id')",
            do="rename the array that holds scans × features to 'features'",
        )
    labels = {}
    for key in ("names", "scan_id", "regions"):
        if key in members:
            labels[key], missing = to_labels(members[key][:])
            if missing.any():
                raise InputError(
                    f"Labels are missing in the array '{key}'.",
                    got=f"{path}: {missing.sum()} empty of {missing.size}",
                    expected="a label for each",
                    do=f"fill in '{key}', or leave the array out",
                )
    return as_matrix(values, labels.get("names"), labels.get("scan_id"), labels.get("regions"))


def as_matrix(
    values: Any,
    names: Sequence[str] | np.ndarray | None = None,
    scan_ids: Sequence[str] | np.ndarray | None = None,
    regions: np.ndarray | None = None,
) -> Matrix:
    """Scan × feature view of an array: numpy, memory map or zarr; (scan, feature) or (scan, region, region).

    Square matrices give their lower triangle ``tril(-1)`` by rows, with names ``edge_<row>_<column>``.
    """
    shape, kind = tuple(values.shape), np.dtype(values.dtype).kind
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[1] != shape[2]):
        turned = len(shape) == 3 and shape[0] == shape[1]
        raise InputError(
            "The features array does not have the shape scans × features.",
            got=f"shape {shape}",
            expected=_LAYOUT,
            do="put the scans first with np.moveaxis(array, -1, 0)" if turned else "reshape the array",
        )
    if kind not in "iufb":
        raise InputError(
            "The features array does not hold numbers.",
            got=f"dtype {values.dtype}" + _example(values),
            expected="real numbers (float or integer)",
            do="convert it with array.astype(float); text and complex values cannot be harmonized",
        )
    if len(shape) == 2:
        stored = getattr(values, "shards", None) or getattr(values, "chunks", None) or (1, 1)
        width = stored[1] if isinstance(stored[1], int) else max(stored[1])  # dask tells the width of each
        matrix = Matrix(shape, np.dtype(values.dtype), lambda at: _columns(values, at), chunk=int(width))
        given = _label_array(names, shape[1], "names")
    else:
        matrix, edge_names = _lower_triangle(values, regions)
        given = edge_names if names is None else _label_array(names, matrix.shape[1], "names")
    return replace(matrix, names=given, scan_ids=_label_array(scan_ids, shape[0], "scan_id"))


def _lower_triangle(values: Any, regions: np.ndarray | None) -> tuple[Matrix, np.ndarray]:
    n_scans, n_regions = values.shape[:2]
    row, column = np.tril_indices(n_regions, -1)
    for scan in range(n_scans):
        one = np.asarray(values[scan], dtype=float)
        if not np.allclose(one, one.T, rtol=1e-3, atol=1e-6, equal_nan=True):
            gap = np.nanmax(np.abs(one - one.T))
            raise InputError(
                "The square matrices are not symmetric.",
                got=f"the one of scan {scan} (from 0) differs from its transpose by up to {gap:.3g}",
                expected="undirected connectivity: the lower triangle equals the upper",
                do="give directed or incomplete matrices as scans × features, one column per value",
            )

    def read(at: np.ndarray) -> np.ndarray:
        if not len(at):
            return np.empty((n_scans, 0), values.dtype)
        low, high = row[at].min(), row[at].max() + 1  # edges go by rows: a block needs a band of rows
        return values[:, low:high, :][:, row[at] - low, column[at]]

    label = _label_array(regions, n_regions, "regions")
    parts = np.arange(n_regions).astype(str) if label is None else label
    names = np.array([f"edge_{parts[i]}_{parts[j]}" for i, j in zip(row, column, strict=True)], dtype=str)
    return Matrix((n_scans, row.size), np.dtype(values.dtype), read), names


def _columns(values: Any, at: np.ndarray) -> np.ndarray:
    """Columns of a stored array; a run of neighbors is a slice, which for a memory map copies nothing."""
    if len(at) and at[-1] - at[0] == len(at) - 1 and (np.diff(at) == 1).all():
        return values[:, int(at[0]) : int(at[-1]) + 1]
    return values.oindex[:, at] if hasattr(values, "oindex") else values[:, at]


def _example(values: Any) -> str:
    """Where an array that is not numeric stops being so."""
    if len(values.shape) == 2 and np.dtype(values.dtype).kind in "OUST" and isinstance(values, np.ndarray):
        for feature in range(values.shape[1]):
            column = pd.Series(values[:, feature].astype(object))
            bad = column[pd.to_numeric(column, errors="coerce").isna() & column.notna()]
            if len(bad):
                return f"; for example {bad.iloc[0]!r} in the feature of column {feature} (from 0)"
    return ""


def _label_array(labels: Sequence[str] | np.ndarray | None, size: int, key: str) -> np.ndarray | None:
    if labels is None:
        return None
    array = np.asarray(labels, dtype=str)
    if array.shape != (size,):
        raise InputError(
            f"The labels '{key}' do not fit the features array.",
            got=f"{array.size} labels",
            expected=f"{size}, one for each {'scan' if key == 'scan_id' else key.rstrip('s')}",
            do="check that the array is scans × features, not transposed, and that the labels belong to it",
        )
    return array
