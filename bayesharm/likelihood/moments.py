"""Sufficient statistics of the features: sums of products of columns and features within each noise class.

They are all that the likelihood needs from the scans, and are computed once. Products are kept only where a column and a
noise class share scans (an *entry*). XᵀX is the same for all features (:class:`~bayesharm.likelihood.grams.Grams`); Xᵀy and
yᵀy of each feature are its :class:`Moments`, the feature axis last. Where features lack scans, all sums are over the
observed scans of each feature, and its :mod:`counts <bayesharm.likelihood.counts>` make its own XᵀX.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from threading import Lock
from typing import NamedTuple

import numpy as np
from scipy import sparse

from bayesharm.data.features import Features
from bayesharm.likelihood.counts import count_scans, index_counts
from bayesharm.likelihood.grams import Grams, compute_grams
from bayesharm.model.design import Design

MAX_CANCELLATION = 1e4  # mean square over variance of a feature, from which on sums are taken around the mean
N_WINDOWS = 2  # windows of features in memory: two blocks at work at once may belong to two windows


class Moments(NamedTuple):
    """Sums of products of the standardized features, by noise class; feature axis last.

    Attributes
    ----------
    dense : (dense entry, feature) array
        xᵀy of the dense columns.
    eliminated : (eliminated entry, feature) array
        xᵀy of the eliminated columns.
    squares : (class, feature) array
        yᵀy.
    counts : (count, feature) array, or None
        Counts of the observed scans; None where every feature has all scans.
    class_counts : (class, feature) array, or None
        Numbers of observed scans, where scans have weights: all other sums are weighted then, counts too.
    """

    dense: np.ndarray
    eliminated: np.ndarray
    squares: np.ndarray
    counts: np.ndarray | None = None
    class_counts: np.ndarray | None = None

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self.squares.shape[-1]

    def take(self, features: np.ndarray | slice) -> Moments:
        """Moments of some features, by their positions."""
        return self._replace(**{name: part[..., features] for name, part in self.to_arrays().items()})

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name, without counts where there are none."""
        return {name: part for name, part in self._asdict().items() if part is not None}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Moments:
        """Find the moments among arrays by name; others are ignored."""
        return cls(**{name: arrays[name] for name in cls._fields if name in arrays})


def join_moments(parts: Sequence[Moments]) -> Moments:
    """Join the moments of features that follow each other."""
    arrays = [part.to_arrays() for part in parts]
    return Moments(**{name: np.concatenate([each[name] for each in arrays], axis=-1) for name in arrays[0]})


class Standardization(NamedTuple):
    """Center and sd of each feature over the scans in the model, in the user's units; (feature,)."""

    center: np.ndarray
    sd: np.ndarray


class ScanSums(NamedTuple):
    """Sums over scans from which moments are made: identical scans of a noise class are added first.

    Attributes
    ----------
    order : (scan,) int array
        The scans in the model, class after class.
    weight : (scan,) array
        Their weights, in this order.
    limits : tuple of slices
        Of each class in this order.
    adders : tuple of (sum, scan of the class) sparse arrays
        Of each class: one sum for scans with identical indicator columns, and one for each numeric column.
    of_class : (class, sum) sparse array
        Which sums add up to that of a class.
    class_size, size : (class,), (sum,) arrays
        Sums of a feature of ones.
    dense, eliminated : (entry, sum) sparse arrays
        The sums that make each product.
    counts : (count, scan in this order) sparse array, or None
        Makes the counts of the observed scans; None where every feature has all scans.
    """

    order: np.ndarray
    weight: np.ndarray
    limits: tuple[slice, ...]
    adders: tuple[sparse.csr_array, ...]
    of_class: sparse.csr_array
    class_size: np.ndarray
    size: np.ndarray
    dense: sparse.csr_array
    eliminated: sparse.csr_array
    counts: sparse.csr_array | None


def arrange_sums(design: Design, grams: Grams, has_missing: bool = False) -> ScanSums:
    """Group the scans of each class with identical indicators, so that each scan is read once for all its columns."""
    matrix = design.matrix.tocsr()
    numeric = np.unique(matrix.tocoo().coords[1][matrix.tocoo().data != 1])
    indicator = ~np.isin(np.arange(matrix.shape[1]), numeric)
    _, pattern = np.unique(number_rows(matrix[:, indicator]), return_inverse=True)
    order = np.lexsort([np.arange(design.n_scans), pattern, design.scan_class])
    stop = np.cumsum(design.class_size)
    limits = tuple(slice(int(a), int(b)) for a, b in zip(stop - design.class_size, stop, strict=True))
    adders, weights, n_patterns = [], [], []
    for limit in limits:
        scans = order[limit]
        of_class = numeric[np.diff(matrix[scans][:, numeric].tocsc().indptr) > 0]
        first, group = np.unique(pattern[scans], return_index=True, return_inverse=True)[1:]
        position = np.arange(len(scans))
        by_pattern = sparse.csr_array((np.ones(len(scans)), (group, position)), shape=(len(first), len(scans)))
        adder = sparse.vstack([by_pattern, matrix[scans][:, of_class].T])
        adders.append((adder @ sparse.diags_array(design.scan_weight[scans])).tocsr())
        # the sum of a pattern enters the indicator columns of its first scan, that of a numeric column this column alone
        of_numeric = sparse.eye_array(matrix.shape[1], format="csr")[of_class]
        of_pattern = matrix[scans[first]] @ sparse.diags_array(indicator.astype(float))
        weights.append(sparse.vstack([of_pattern, of_numeric]).tocsr())
        n_patterns.append(len(first))
    n_sums = np.array([adder.shape[0] for adder in adders])
    class_of_sum = np.repeat(np.arange(len(limits)), n_sums)
    in_class = sparse.csr_array(class_of_sum == np.arange(len(limits))[:, None], dtype=float)
    is_pattern = np.concatenate([np.arange(k) < n for k, n in zip(n_sums, n_patterns, strict=True)])
    weight = sparse.vstack(weights).T.tocsr()  # (column, sum)
    dense, eliminated = (
        in_class[entries.classes].multiply(weight[entries.columns + offset]).tocsr()
        for entries, offset in ((grams.dense, 0), (grams.eliminated, design.n_dense))
    )
    size = np.concatenate([np.asarray(adder.sum(axis=1)).reshape(-1) for adder in adders])
    total = (in_class @ sparse.diags_array(is_pattern.astype(float))).tocsr()
    counts = count_scans(design, index_counts(design))[:, order].tocsr() if has_missing else None
    return ScanSums(
        order, design.scan_weight[order], limits, tuple(adders), total, design.class_size, size, dense, eliminated, counts
    )


def number_rows(matrix: sparse.csr_array) -> np.ndarray:
    """Number the rows of a matrix; identical rows have the same number."""
    matrix = matrix.tocsr().sorted_indices()
    numbers: dict[bytes, int] = {}
    limits = zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True)
    rows = (matrix.indices[a:b].tobytes() + matrix.data[a:b].tobytes() for a, b in limits)
    return np.array([numbers.setdefault(row, len(numbers)) for row in rows])


def compute_moments(design: Design, features: np.ndarray, sd: float | None = None) -> tuple[Moments, Standardization]:
    """Compute the moments of a block of features in one pass over the scans.

    Parameters
    ----------
    design : Design
    features : (scan, feature) array of numbers
        All rows of the scans table, in the user's units; NaN where a feature lacks a scan.
    sd : float, optional
        Divide every feature by this; by default each by its own sd.

    Returns
    -------
    Moments, Standardization
    """
    has_missing = bool(np.isnan(features[design.rows]).any())
    sums = arrange_sums(design, compute_grams(design), has_missing)
    return _add_up(sums, features, design.rows[sums.order], sd)


def _add_up(
    sums: ScanSums, values: np.ndarray, rows: np.ndarray, common_sd: float | None, center: np.ndarray | None = None
) -> tuple[Moments, Standardization]:
    """Moments of values as they are stored; `rows` brings them into the order of the sums."""
    if sums.counts is not None or (sums.weight != 1).any():
        return _add_up_one_by_one(sums, values, rows, common_sd)
    by_class, squares = [], np.empty((len(sums.limits), values.shape[1]))
    for limit, adder, square in zip(sums.limits, sums.adders, squares, strict=True):
        y = values[rows[limit]].astype(float)  # one class at a time is small enough for the processor's cache
        if center is not None:
            y -= center
        by_class.append(adder @ y)
        np.einsum("sf,sf->f", y, y, out=square)
    total = np.concatenate(by_class)
    of_class, n = sums.of_class @ total, len(rows)
    mean, square = of_class.sum(axis=0) / n, squares.sum(axis=0) / n
    if center is None and not (square < MAX_CANCELLATION * (square - mean**2)).all():
        return _add_up(sums, values, rows, common_sd, mean)
    sd = np.sqrt(np.maximum(square - mean**2, 0.0)) if common_sd is None else np.full(len(mean), common_sd)
    squares -= (2 * of_class - sums.class_size[:, None] * mean) * mean
    squares /= sd**2
    total -= sums.size[:, None] * mean
    total /= sd
    standard = Standardization(mean if center is None else center + mean, sd)
    return Moments(sums.dense @ total, sums.eliminated @ total, squares), standard


def _add_up_one_by_one(
    sums: ScanSums, values: np.ndarray, rows: np.ndarray, common_sd: float | None
) -> tuple[Moments, Standardization]:
    """Moments of the observed scans of each feature, or of weighted scans; center and sd are those of plain scans."""
    y = values[rows].astype(float)
    observed = ~np.isnan(y)
    n = np.maximum(observed.sum(axis=0), 1)
    mean = np.where(observed, y, 0.0).sum(axis=0) / n
    y = np.where(observed, y - mean, 0.0)
    sd = np.sqrt((y**2).sum(axis=0) / n) if common_sd is None else np.full(len(mean), common_sd)
    y /= sd
    total = np.concatenate([adder @ y[limit] for limit, adder in zip(sums.limits, sums.adders, strict=True)])
    squares = np.stack([np.einsum("s,sf,sf->f", sums.weight[limit], y[limit], y[limit]) for limit in sums.limits])
    counts = None if sums.counts is None else sums.counts @ observed.astype(float)
    return Moments(sums.dense @ total, sums.eliminated @ total, squares, counts), Standardization(mean, sd)


class MomentReader:
    """Moments of any features, read in windows of neighbors; the last windows are kept for the blocks that follow.

    A file is so read in wide pieces, and once for all blocks of a window. Safe to call from several threads.

    Parameters
    ----------
    features : Features
        Aligned with the scans table.
    design : Design
    sd : float, optional
        As for :func:`compute_moments`.
    has_missing : bool
        Whether some feature lacks some scan of the design.
    """

    def __init__(self, features: Features, design: Design, sd: float | None = None, has_missing: bool = False):
        self.sums, self.sd = arrange_sums(design, compute_grams(design), has_missing), sd
        self.features = features
        rows = design.rows[self.sums.order]
        self.rows = rows if features.rows is None else features.rows[rows]
        self.design_rows = design.rows if features.rows is None else features.rows[design.rows]
        self.windows: dict[int, tuple[Moments, Standardization, np.ndarray]] = {}
        self.lock = Lock()

    def __call__(self, features: np.ndarray) -> tuple[Moments, Standardization]:
        """Moments of features by their positions, in any order."""
        runs = [(moments.take(columns), standard, columns) for columns, (moments, standard, _) in self._runs(features)]
        standards = [tuple(part[columns] for part in standard) for _, standard, columns in runs]
        center, sd = (np.concatenate(part) for part in zip(*standards, strict=True))
        return join_moments([moments for moments, _, _ in runs]), Standardization(center, sd)

    def values(self, features: np.ndarray) -> np.ndarray:
        """Features in the user's units, (scan, feature), the scans in the order of the design."""
        blocks = [values[:, columns][self.design_rows] for columns, (_, _, values) in self._runs(features)]
        return np.concatenate(blocks, axis=1)

    def _runs(self, features: np.ndarray) -> Iterator[tuple[np.ndarray, tuple[Moments, Standardization, np.ndarray]]]:
        """Features of one window after another: their positions in the window, and its content."""
        size = self.features.block_size
        for run in np.split(features, np.flatnonzero(np.diff(features // size)) + 1):
            start = int(run[0]) // size * size
            yield run - start, self._window(start)

    def _window(self, start: int) -> tuple[Moments, Standardization, np.ndarray]:
        with self.lock:
            if start not in self.windows:
                while len(self.windows) >= N_WINDOWS:
                    del self.windows[next(iter(self.windows))]
                values = self.features.stored(start, start + self.features.block_size)
                self.windows[start] = (*_add_up(self.sums, values, self.rows, self.sd), values)
            return self.windows[start]
