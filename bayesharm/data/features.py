"""Features: named scan × feature values, aligned with the scans table and read in blocks."""

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

BLOCK_VALUES = 1 << 22  # values read at a time: 32 MiB as float64, which bounds memory


@dataclass(frozen=True, eq=False)
class Features:
    """Named scan × feature values; the values stay in their source until a block is read.

    Attributes
    ----------
    matrix : Matrix
        The source.
    names : (feature,) str array
        Unique feature names.
    rows : (scan,) int array or None
        Source row of each scan; None if the order is the same.
    columns : (feature,) int array or None
        Source column of each feature; None if all are used.
    transform : str or None
        The transform that the values have undergone (:mod:`bayesharm.data.transforms`); None for values as the user gave
        them.
    """

    matrix: Matrix
    names: np.ndarray
    rows: np.ndarray | None = None
    columns: np.ndarray | None = None
    transform: str | None = None

    @classmethod
    def from_array(cls, values: np.ndarray, names: Sequence[str] | np.ndarray | None = None) -> Features:
        """Return the features of an array in memory or memory-mapped, (scan, feature) or (scan, region, region)."""
        return cls.from_matrix(as_matrix(values, names))

    @classmethod
    def from_matrix(cls, matrix: Matrix) -> Features:
        """Return all features of a source, in its order; number them if they have no names."""
        if 0 in matrix.shape:
            raise InputError(
                "There are no features." if matrix.shape[0] else "The features have no rows.",
                got=f"shape {matrix.shape}",
                expected="at least one scan and one feature",
                do="check that this is the right file",
            )
        names = number_features(matrix.shape[1]) if matrix.names is None else matrix.names
        unique, count = np.unique(names, return_counts=True)
        if unique.size < names.size:
            raise InputError(
                "Some feature names occur more than once.",
                got=f"{(count > 1).sum()} repeated: {shorten(unique[count > 1])}",
                expected="a different name for every feature",
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
        """Type of the stored values."""
        return self.matrix.dtype

    def read(self, start: int, stop: int, dtype: Any = np.float64) -> np.ndarray:
        """Return the values of features `start` to `stop` (exclusive) as a new (scan, feature) array in C order."""
        block = self.stored(start, stop)
        return np.array(block if self.rows is None else block[self.rows], dtype=dtype, order="C")

    def stored(self, start: int, stop: int) -> np.ndarray:
        """Return stored values of the features `start` to `stop`, with the rows of the source; may be a view."""
        first, last, _ = slice(start, stop).indices(self.n_features)
        columns = np.arange(first, max(first, last)) if self.columns is None else self.columns[start:stop]
        return np.asarray(self.matrix.read(columns))

    @property
    def block_size(self) -> int:
        """Number of features read at a time: about 32 MiB of values, or a whole chunk of up to 128 MiB."""
        size, chunk = max(1, BLOCK_VALUES // self.n_scans), self.matrix.chunk if self.columns is None else 1
        if size >= chunk:
            return size - size % chunk
        return chunk if chunk * self.n_scans <= 4 * BLOCK_VALUES else size

    def blocks(self, values: int = 0) -> Iterator[tuple[int, int]]:
        """Iterate over the limits (start, stop) of consecutive blocks of features.

        Parameters
        ----------
        values : int
            Number of values wanted in a block; a block is a multiple of `block_size` features.
        """
        most = max(1, values // (self.block_size * self.n_scans))
        n_blocks = math.ceil(self.n_features / self.block_size)
        size = self.block_size * math.ceil(n_blocks / max(1, math.ceil(n_blocks / most)))  # blocks of about equal size
        return ((start, min(start + size, self.n_features)) for start in range(0, self.n_features, size))

    def align(self, rows: np.ndarray) -> Features:
        """Return the same features with the scans in rows `rows`, in this order."""
        rows = np.asarray(rows)
        if self.rows is None and np.array_equal(rows, np.arange(self.n_scans)):
            return self
        return replace(self, rows=rows if self.rows is None else self.rows[rows])

    def take(self, names: Sequence[str] | np.ndarray) -> Features:
        """Return the features with these names, in this order.

        Raises
        ------
        InputError
            A name does not exist.
        """
        wanted = np.asarray(names, dtype=str)
        if np.array_equal(wanted, self.names):
            return self
        position = {name: i for i, name in enumerate(self.names.tolist())}
        absent = [name for name in wanted.tolist() if name not in position]
        if absent:
            raise InputError(
                "Some features do not exist.",
                got=f"{self.n_features} features: {shorten(self.names)}",
                expected=f"{wanted.size} features; {len(absent)} are absent: {shorten(absent)}",
                do="provide features with the same names",
            )
        positions = np.array([position[name] for name in wanted.tolist()], dtype=int)
        return replace(self, names=wanted, columns=positions if self.columns is None else self.columns[positions])

    def fingerprint(self) -> str:
        """Return the sha256 of the shape, the names and the float64 values, feature by feature."""
        digest = hashlib.sha256(f"{self.n_scans} {self.n_features}".encode())
        for name in self.names.tolist():
            digest.update(name.encode() + b"\0")
        for start, stop in self.blocks():
            block = self.read(start, stop)
            block[np.isnan(block)] = np.nan  # one of many bit patterns
            digest.update(np.ascontiguousarray(block.T, dtype="<f8"))
        return digest.hexdigest()


def number_features(n_features: int) -> np.ndarray:
    """Return names ``feature_0000`` … of equal length for unnamed features."""
    width = max(4, len(str(n_features - 1)))
    return np.array([f"feature_{i:0{width}d}" for i in range(n_features)], dtype=str)


def match_names(names: Sequence[str] | np.ndarray, select: str | Sequence[str]) -> list[str]:
    """Return the names that match any of the shell globs, in the order of `names`.

    Raises
    ------
    InputError
        A glob matches nothing.
    """
    available = [str(name) for name in names]
    exact: set[str] = set(available)
    selected: set[str] = set()
    for pattern in [select] if isinstance(select, str) else select:
        matches = re.compile(fnmatch.translate(pattern)).match
        hits = [pattern] if pattern in exact else [name for name in available if matches(name)]
        if not hits:
            near = difflib.get_close_matches(pattern, available, n=3, cutoff=0.5)
            raise InputError(
                "No feature matches the pattern.",
                got=f"pattern {pattern!r} among {len(available)} columns: {shorten(available, 10)}",
                expected="a column name, or a glob such as 'thickness_*' that matches column names",
                do="correct the pattern, and quote it in the shell" + (f"; did you mean {shorten(near)}?" if near else ""),
            )
        selected.update(hits)
    return [name for name in available if name in selected]


@dataclass(frozen=True, eq=False)
class Flaws:
    """Missing and infinite values by feature and by scan, and constant features.

    Attributes
    ----------
    missing, infinite : (feature,) int array
        Number of scans with NaN, and with an infinite value.
    constant : (feature,) bool array
        Whether all finite values are equal up to rounding.
    level : (feature,) float array
        Value of each constant feature, in its own units.
    missing_by_scan, infinite_by_scan : (scan,) int array
        Number of features with NaN, and with an infinite value.
    """

    missing: np.ndarray
    infinite: np.ndarray
    constant: np.ndarray
    level: np.ndarray
    missing_by_scan: np.ndarray
    infinite_by_scan: np.ndarray

    @property
    def empty(self) -> np.ndarray:
        """(feature,) bool array: features without any value."""
        return self.missing == self.missing_by_scan.size

    @property
    def scarce(self) -> np.ndarray:
        """(feature,) bool array: features whose observed values are not even two different ones."""
        return self.empty | (self.constant & (self.missing > 0))

    @property
    def bad(self) -> np.ndarray:
        """(feature,) bool array: features with infinite values, and constant features without missing values."""
        return (self.infinite > 0) | (self.constant & (self.missing == 0))

    @property
    def unfit(self) -> np.ndarray:
        """(feature,) bool array: features that no model can use."""
        return self.scarce | self.bad

    def reasons(self, names: np.ndarray, chosen: np.ndarray) -> dict[str, str]:
        """Return the reason for each chosen feature, by name."""
        return {str(names[i]): self._reason(int(i)) for i in np.flatnonzero(chosen)}

    def _reason(self, i: int) -> str:
        total = self.missing_by_scan.size
        if self.infinite[i]:
            return f"infinite in {self.infinite[i]} of {total} scans"
        missing = f"missing in {self.missing[i]} of {total} scans"
        if not self.constant[i]:
            return missing
        constant = f"constant ({self.level[i]:g} in every scan"
        return f"{constant} that has it), {missing}" if self.missing[i] else f"{constant})"


def find_flaws(features: Features) -> Flaws:
    """Find missing, infinite and constant features, block by block."""
    n_scans, n_features = features.n_scans, features.n_features
    missing, infinite, level = np.zeros(n_features, int), np.zeros(n_features, int), np.zeros(n_features)
    constant = np.zeros(n_features, bool)
    missing_by_scan, infinite_by_scan = np.zeros((2, n_scans), int)
    resolution = np.finfo(features.dtype if features.dtype.kind == "f" else float).eps
    for start, stop in features.blocks():
        block = features.read(start, stop)
        is_missing, is_infinite = np.isnan(block), np.isinf(block)
        missing[start:stop], infinite[start:stop] = is_missing.sum(axis=0), is_infinite.sum(axis=0)
        missing_by_scan += is_missing.sum(axis=1)
        infinite_by_scan += is_infinite.sum(axis=1)
        is_finite = ~(is_missing | is_infinite)
        low = np.min(block, axis=0, where=is_finite, initial=np.inf)
        high = np.max(block, axis=0, where=is_finite, initial=-np.inf)
        has_values = low <= high
        low, high = np.where(has_values, low, 0.0), np.where(has_values, high, 0.0)
        constant[start:stop] = has_values & (high - low <= 4 * resolution * np.maximum(abs(low), abs(high)))
        level[start:stop] = low
    return Flaws(missing, infinite, constant, level, missing_by_scan, infinite_by_scan)
