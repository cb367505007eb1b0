"""Feature arrays, read block by block: in memory, .npy, .npz and .zarr, including square connectivity matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bayesharm.errors import InputError, shorten
from bayesharm.io.limits import MOST_FEATURES, refuse_zip_bomb
from bayesharm.io.tables import TABLE_FORMATS, existing_path, is_path, to_labels
from bayesharm.io.zarr_stores import check_store

ARRAY_FORMATS = (".npy", ".npz", ".zarr")
_LAYOUT = "(scan, feature), or (scan, region, region) for square matrices"


@dataclass(frozen=True, eq=False)
class Matrix:
    """Lazily read scan × feature values.

    Attributes
    ----------
    shape : (int, int)
        Number of scans and of features.
    dtype : numpy dtype
        Type of the stored values.
    read : callable
        Function of feature positions, a 1-d int array. Returns (scan, position) values, possibly a view.
    names : (feature,) str array or None
        Feature names; None if the source has none.
    scan_ids : (scan,) str array or None
        Scan identifiers of the rows; None if the source has none.
    chunk : int
        Number of features that are stored together: reading one of them takes as long as reading all.
    notes : tuple of str
        How text was read as numbers.
    """

    shape: tuple[int, int]
    dtype: np.dtype
    read: Callable[[np.ndarray], np.ndarray]
    names: np.ndarray | None = None
    scan_ids: np.ndarray | None = None
    chunk: int = 1
    notes: tuple[str, ...] = ()


def open_array(source: Any) -> Matrix:
    """Open an array in memory, or a .npy (memory-mapped), .npz or .zarr input, without reading all its values.

    A .npz file or zarr group contains the array `features` and optionally `names`, `scan_id` and, for square
    matrices, `regions`. A single array may have any name.

    Raises
    ------
    InputError
        The input is missing, unreadable, not numeric, of unknown format, or not of shape scans × features.
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
            refuse_zip_bomb(path)
            with np.load(path, allow_pickle=False) as archive:
                return _from_members(path, archive)
        matrix = _from_zarr(path)

    def read(at: np.ndarray) -> np.ndarray:
        with _reading(path):
            return matrix.read(at)

    return replace(matrix, read=read)


class _Mapped:
    """A .npy file, mapped anew for each read, because the pages of a map that stays open count as memory of the process."""

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
                "The features file changed while bayesharm was reading it.",
                got=f"{self.path}, which is now a different file",
                expected="an unchanged file during the whole analysis",
                do="start again, and do not change the file while bayesharm is running",
            )
        return np.load(self.path, mmap_mode="r", allow_pickle=False)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # numpy and zarr raise a dozen types of error for damaged files
        raise InputError(
            "The features cannot be read.",
            got=f"{path}: {'not an array of numbers' if 'allow_pickle' in str(error) else error}",
            expected=f"a readable {path.suffix.lower()} file of numbers, {_LAYOUT}",
            do="write the file again, complete and without pickled objects",
        ) from error


def _from_zarr(path: Path) -> Matrix:
    import zarr

    check_store(path, allow_links=True)
    # By default, zarr silently reads a missing chunk as zeros.
    with zarr.config.set({"array.read_missing_chunks": False}):
        node = zarr.open(path, mode="r")
        members = dict(node.arrays()) if isinstance(node, zarr.Group) else {"features": node}
        return _from_members(path, members)


def _from_members(path: Path, members: Mapping[str, Any]) -> Matrix:
    values = members.get("features", next(iter(members.values())) if len(members) == 1 else None)
    if values is None:
        raise InputError(
            "The file has no array of features.",
            got=f"{path} with arrays {shorten(members) or 'none'}",
            expected="an array named 'features' (and, if you have them, 'names' and 'scan_id')",
            do="rename the scans × features array to 'features'",
        )
    labels = {}
    for key in ("names", "scan_id", "regions"):
        if key in members:
            labels[key], missing = to_labels(members[key][:])
            if missing.any():
                raise InputError(
                    f"Labels are missing in the array '{key}'.",
                    got=f"{path}: {missing.sum()} of {missing.size} labels are empty",
                    expected="no empty labels",
                    do=f"fill in '{key}', or leave the array out",
                )
    return as_matrix(values, labels.get("names"), labels.get("scan_id"), labels.get("regions"))


def as_matrix(
    values: Any,
    names: Sequence[str] | np.ndarray | None = None,
    scan_ids: Sequence[str] | np.ndarray | None = None,
    regions: np.ndarray | None = None,
) -> Matrix:
    """Return the `Matrix` of an array (numpy, memory map or zarr) of shape (scan, feature) or (scan, region, region).

    The features of square matrices are the edges of the lower triangle, ``tril(-1)``, row by row, named
    ``edge_<row>_<column>``.
    """
    shape, kind = tuple(values.shape), np.dtype(values.dtype).kind
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[1] != shape[2]):
        scans_last = len(shape) == 3 and shape[0] == shape[1]
        raise InputError(
            "The features array does not have the shape scans × features.",
            got=f"shape {shape}",
            expected=_LAYOUT,
            do="put the scans first with np.moveaxis(array, -1, 0)" if scans_last else "reshape the array",
        )
    n_features = shape[1] if len(shape) == 2 else shape[1] * (shape[1] - 1) // 2
    if n_features > MOST_FEATURES or (len(shape) == 3 and not n_features):
        raise InputError(
            "There are too many features." if n_features else "There are no features.",
            got=f"shape {shape}",
            expected=f"1 to {MOST_FEATURES:,} features" + (", so two regions or more" if len(shape) == 3 else ""),
            do="check that this is the right file",
        )
    if kind not in "iufb":
        raise InputError(
            "The features array does not hold numbers.",
            got=f"dtype {values.dtype}" + _example(values),
            expected="real numbers (float or integer)",
            do="convert the array with array.astype(float); text and complex values cannot be harmonized",
        )
    if len(shape) == 2:
        stored = getattr(values, "shards", None) or getattr(values, "chunks", None) or (1, 1)
        width = stored[1] if isinstance(stored[1], int) else max(stored[1])  # dask lists the widths of all chunks
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
        matrix = np.asarray(values[scan], dtype=float)
        if not np.allclose(matrix, matrix.T, rtol=1e-3, atol=1e-6, equal_nan=True):
            asymmetry = np.nanmax(np.abs(matrix - matrix.T))
            raise InputError(
                "The square matrices are not symmetric.",
                got=f"the matrix of scan {scan} (from 0) differs from its transpose by up to {asymmetry:.3g}",
                expected="undirected connectivity: equal lower and upper triangles",
                do="for directed or incomplete matrices, pass scans × features, one column per value",
            )

    def read(at: np.ndarray) -> np.ndarray:
        if not len(at):
            return np.empty((n_scans, 0), values.dtype)
        low, high = row[at].min(), row[at].max() + 1  # edges are ordered by row, so a block needs a band of rows only
        return values[:, low:high, :][:, row[at] - low, column[at]]

    label = _label_array(regions, n_regions, "regions")
    parts = np.arange(n_regions).astype(str) if label is None else label
    names = np.array([f"edge_{parts[i]}_{parts[j]}" for i, j in zip(row, column, strict=True)], dtype=str)
    return Matrix((n_scans, row.size), np.dtype(values.dtype), read), names


def _columns(values: Any, at: np.ndarray) -> np.ndarray:
    """Return columns of a stored array; consecutive ones as a slice, which copies nothing for a memory map."""
    if len(at) and at[-1] - at[0] == len(at) - 1 and (np.diff(at) == 1).all():
        return values[:, int(at[0]) : int(at[-1]) + 1]
    return values.oindex[:, at] if hasattr(values, "oindex") else values[:, at]


def _example(values: Any) -> str:
    """Describe the first non-numeric value of an array, for an error message; empty if there is none."""
    if len(values.shape) == 2 and np.dtype(values.dtype).kind in "OUST" and isinstance(values, np.ndarray):
        for feature in range(values.shape[1]):
            column = pd.Series(values[:, feature].astype(object))
            bad = column[pd.to_numeric(column, errors="coerce").isna() & column.notna()]
            if len(bad):
                return f"; for example {bad.iloc[0]!r} in feature column {feature} (from 0)"
    return ""


def _label_array(labels: Sequence[str] | np.ndarray | None, size: int, key: str) -> np.ndarray | None:
    if labels is None:
        return None
    array = np.asarray(labels, dtype=str)
    if array.shape != (size,):
        raise InputError(
            f"The labels '{key}' do not match the features array.",
            got=f"{array.size} labels",
            expected=f"{size}, one for each {'scan' if key == 'scan_id' else key.rstrip('s')}",
            do="check that the array is scans × features, not transposed, and that the labels belong to this array",
        )
    return array
