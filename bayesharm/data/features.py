"""Features: the measured numbers of every scan, named, aligned with the scans, read in blocks."""

from __future__ import annotations

import difflib
import fnmatch
import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bayesharm.errors import InputError, shorten
from bayesharm.io.arrays import Matrix, as_matrix

BLOCK_VALUES = 1 << 22
"""Values held at a time while streaming (32 MiB as float64)."""


@dataclass(frozen=True, eq=False)
class Features:
    """Scan × feature values with names; the values stay where they are until a block is read.

    Attributes
    ----------
    matrix : Matrix
        The source.
    names : (feature,) str array
        Unique.
    rows : (scan,) int array or None
        Row of the source for each scan; None when the order is the same.
    columns : (feature,) int array or None
        Column of the source for each feature; None when all are used.
    """

    matrix: Matrix
    names: np.ndarray
    rows: np.ndarray | None = None
    columns: np.ndarray | None = None

    @classmethod
    def from_array(cls, values: np.ndarray, names: Sequence[str] | np.ndarray | None = None) -> Features:
        """Features of an array in memory or memory-mapped, (scan, feature) or (scan, region, region)."""
        return cls.from_matrix(as_matrix(values, names))

    @classmethod
    def from_matrix(cls, matrix: Matrix) -> Features:
        """All features of a source, in its order; those without a name are numbered."""
        if 0 in matrix.shape:
            raise InputError(
                "There are no features." if matrix.shape[0] else "The features have no rows.",
                got=f"shape {matrix.shape}",
                expected="at least one scan and one feature",
                do="check that the right file was given",
            )
        names = number_features(matrix.shape[1]) if matrix.names is None else matrix.names
        unique, count = np.unique(names, return_counts=True)
        if unique.size < names.size:
            raise InputError(
                "Feature names occur more than once.",
                got=f"{(count > 1).sum()} repeated: {shorten(unique[count > 1])}",
                expected="every feature to have its own name",
                do="rename the repeated features",
            )
        return cls(matrix, names)

    @property
    def n_scans(self) -> int:
        """Number of scans."""
        return self.matrix.shape[0] if self.rows is None else self.rows.size

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self.names.size

    @property
    def dtype(self) -> np.dtype:
        """Type of the values in the source."""
        return self.matrix.dtype

    def read(self, start: int, stop: int, dtype: Any = np.float64) -> np.ndarray:
        """Values of features `start` to `stop` (exclusive): a new (scan, feature) array, C order."""
        block = self.stored(start, stop)
        return np.array(block if self.rows is None else block[self.rows], dtype=dtype, order="C")

    def stored(self, start: int, stop: int) -> np.ndarray:
        """The same as they are stored, with the rows of the source; may be a view."""
        first, last, _ = slice(start, stop).indices(self.n_features)
        columns = np.arange(first, max(first, last)) if self.columns is None else self.columns[start:stop]
        return np.asarray(self.matrix.read(columns))

    @property
    def block_size(self) -> int:
        """Features of a block that is read at a time: about 32 MiB, in whole chunks up to four times that."""
        size, chunk = max(1, BLOCK_VALUES // self.n_scans), self.matrix.chunk if self.columns is None else 1
        if size >= chunk:
            return size - size % chunk
        return chunk if chunk * self.n_scans <= 4 * BLOCK_VALUES else size

    def blocks(self, values: int = 0) -> Iterator[tuple[int, int]]:
        """Limits (start, stop) of consecutive blocks of `block_size` features, or of several with about `values` values."""
        most = max(1, values // (self.block_size * self.n_scans))
        n_blocks = math.ceil(self.n_features / self.block_size)
        size = self.block_size * math.ceil(n_blocks / max(1, math.ceil(n_blocks / most)))  # all blocks about as wide
        return ((start, min(start + size, self.n_features)) for start in range(0, self.n_features, size))

    def align(self, rows: np.ndarray) -> Features:
        """The same features with scan n taken from row ``rows[n]``."""
        rows = np.asarray(rows)
        if self.rows is None and np.array_equal(rows, np.arange(self.n_scans)):
            return self
        return replace(self, rows=rows if self.rows is None else self.rows[rows])

    def take(self, names: Sequence[str] | np.ndarray) -> Features:
        """The features called `names`, in that order.

        Raises
        ------
        InputError
            Some of them do not exist.
        """
        wanted = np.asarray(names, dtype=str)
        if np.array_equal(wanted, self.names):
            return self
        position = {name: i for i, name in enumerate(self.names.tolist())}
        absent = [name for name in wanted.tolist() if name not in position]
        if absent:
            raise InputError(
                "Some features are not there.",
                got=f"{self.n_features} features: {shorten(self.names)}",
                expected=f"{wanted.size} features, of which {len(absent)} are absent: {shorten(absent)}",
                do="give features with the same names",
            )
        at = np.array([position[name] for name in wanted.tolist()], dtype=int)
        return replace(self, names=wanted, columns=at if self.columns is None else self.columns[at])

    def fingerprint(self) -> str:
        """sha256 over the shape, the names and the float64 values, feature by feature."""
        digest = hashlib.sha256(f"{self.n_scans} {self.n_features}".encode())
        for name in self.names.tolist():
            digest.update(name.encode() + b"\0")
        for start, stop in self.blocks():
            digest.update(np.ascontiguousarray(self.read(start, stop).T, dtype="<f8"))
        return digest.hexdigest()


def number_features(n_features: int) -> np.ndarray:
    """Names ``feature_0000`` … for features that have none, of equal length."""
    width = max(4, len(str(n_features - 1)))
    return np.array([f"feature_{i:0{width}d}" for i in range(n_features)], dtype=str)


def match_names(names: Sequence[str] | np.ndarray, select: str | Sequence[str]) -> list[str]:
    """The names that match a shell glob, or any of several, in the order of `names`.

    Raises
    ------
    InputError
        A glob matches nothing.
    """
    there = [str(name) for name in names]
    exact, chosen = set(there), set()
    for pattern in [select] if isinstance(select, str) else select:
        matches = re.compile(fnmatch.translate(pattern)).match
        hits = [pattern] if pattern in exact else [name for name in there if matches(name)]
        if not hits:
            near = difflib.get_close_matches(pattern, there, n=3, cutoff=0.5)
            raise InputError(
                "No feature matches the pattern.",
                got=f"pattern {pattern!r} among {len(there)} columns: {shorten(there, 10)}",
                expected="the name of a column, or a glob such as 'thickness_*' that matches some",
                do="correct the pattern, and quote it in the shell" + (f"; did you mean {shorten(near)}?" if near else ""),
            )
        chosen.update(hits)
    return [name for name in there if name in chosen]


@dataclass(frozen=True, eq=False)
class Flaws:
    """What makes features unfit for a model: for each feature, and over all of them for each scan.

    Attributes
    ----------
    missing : (feature,) int array
        Number of scans in which the value is NaN or infinite.
    constant : (feature,) bool array
        The finite values are all the same, up to rounding.
    level : (feature,) float array
        A value of each constant feature, in its own unit.
    scans : (scan,) int array
        Number of features that are NaN or infinite.
    """

    missing: np.ndarray
    constant: np.ndarray
    level: np.ndarray
    scans: np.ndarray

    @property
    def unfit(self) -> np.ndarray:
        """Which features are unfit."""
        return (self.missing > 0) | self.constant

    def reasons(self, names: np.ndarray) -> dict[str, str]:
        """Why each unfit feature is unfit, by name."""
        total = self.scans.size
        return {
            str(names[i]): f"missing or infinite in {self.missing[i]} of {total} scans"
            if self.missing[i]
            else f"constant ({self.level[i]:g} in every scan)"
            for i in np.flatnonzero(self.unfit)
        }


def find_flaws(features: Features) -> Flaws:
    """Look for missing, infinite and constant features, a block at a time."""
    missing, level = np.zeros(features.n_features, int), np.zeros(features.n_features)
    constant, scans = np.zeros(features.n_features, bool), np.zeros(features.n_scans, int)
    resolution = np.finfo(features.dtype if features.dtype.kind == "f" else float).eps
    for start, stop in features.blocks():
        block = features.read(start, stop)
        finite = np.isfinite(block)
        missing[start:stop] = (~finite).sum(axis=0)
        scans += (~finite).sum(axis=1)
        low = np.min(block, axis=0, where=finite, initial=np.inf)
        high = np.max(block, axis=0, where=finite, initial=-np.inf)
        filled = low <= high
        low, high = np.where(filled, low, 0.0), np.where(filled, high, 0.0)
        constant[start:stop] = filled & (high - low <= 4 * resolution * np.maximum(abs(low), abs(high)))
        level[start:stop] = low
    return Flaws(missing, constant, level, scans)
