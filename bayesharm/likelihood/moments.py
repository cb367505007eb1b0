"""All that the likelihood needs from the scans, computed once: sums of products within each noise class.

Products are kept only where a column and a noise class share scans (an *entry*). The constants that no
feature changes are in :class:`Layout`; what each feature adds is in :class:`Moments`, the feature axis last.
"""

from __future__ import annotations

from collections.abc import Iterator
from threading import Lock
from typing import NamedTuple

import numpy as np
from scipy import sparse

from bayesharm.data.features import Features
from bayesharm.likelihood.layout import Layout
from bayesharm.model.design import Design

MOST_CANCELLATION = 1e4  # of sums of squares, before they are taken around the mean
N_WINDOWS = 2  # of features whose moments are kept: blocks at work at once may be of two


class Moments(NamedTuple):
    """Sums of products of the standardized features; feature axis last.

    Attributes
    ----------
    dense : (dense entry, feature) array
    eliminated : (eliminated entry, feature) array
    squares : (class, feature) array
    """

    dense: np.ndarray
    eliminated: np.ndarray
    squares: np.ndarray


class Standardization(NamedTuple):
    """Center and sd of each feature over the scans that the model uses, in the user's units; (feature,)."""

    center: np.ndarray
    sd: np.ndarray


class Sums(NamedTuple):
    """How scans are added up: scans of one noise class that are alike first, in one sum for all columns that they share.

    Attributes
    ----------
    order : (scan,) int array
        Scans used, class after class.
    limits : tuple of slices
        Of each class in this order.
    adders : tuple of (sum, scan of the class) sparse arrays
        Of each class: one sum for scans whose indicators are alike, one for each column that is not of indicators.
    of_class : (class, sum) sparse array
        Which sums add up to that of a class.
    class_size, size : (class,), (sum,) arrays
        Sums of a feature of ones.
    dense, eliminated : (entry, sum) sparse arrays
        How sums make products.
    """

    order: np.ndarray
    limits: tuple[slice, ...]
    adders: tuple[sparse.csr_array, ...]
    of_class: sparse.csr_array
    class_size: np.ndarray
    size: np.ndarray
    dense: sparse.csr_array
    eliminated: sparse.csr_array


def arrange_sums(design: Design, layout: Layout) -> Sums:
    """Compare the scans of each class: however many are alike, they are read once."""
    matrix = design.matrix.tocsr()
    numeric = np.unique(matrix.tocoo().coords[1][matrix.tocoo().data != 1])
    indicator = ~np.isin(np.arange(matrix.shape[1]), numeric)
    _, alike = np.unique(number_rows(matrix[:, indicator]), return_inverse=True)
    order = np.lexsort([np.arange(design.n_scans), alike, design.scan_class])
    stop = np.cumsum(design.class_size)
    limits = tuple(slice(int(a), int(b)) for a, b in zip(stop - design.class_size, stop, strict=True))
    adders, weights, n_alike = [], [], []
    for limit in limits:
        scans = order[limit]
        first, group = np.unique(alike[scans], return_index=True, return_inverse=True)[1:]
        place = np.arange(len(scans))
        together = sparse.csr_array((np.ones(len(scans)), (group, place)), shape=(len(first), len(scans)))
        adders.append(sparse.vstack([together, matrix[scans][:, numeric].T]).tocsr())
        # a sum of indicators counts for the columns that its first scan has, one of numbers for its own
        own = sparse.eye_array(matrix.shape[1], format="csr")[numeric]
        weights.append(sparse.vstack([matrix[scans[first]] @ sparse.diags_array(indicator.astype(float)), own]).tocsr())
        n_alike.append(len(first))
    n_sums = np.array([adder.shape[0] for adder in adders])
    class_of = np.repeat(np.arange(len(limits)), n_sums)
    whole = sparse.csr_array(class_of == np.arange(len(limits))[:, None], dtype=float)
    plain = np.concatenate([np.arange(k) < n for k, n in zip(n_sums, n_alike, strict=True)])
    weight = sparse.vstack(weights).T.tocsr()  # (column, sum)
    dense, eliminated = (
        whole[entries.classes].multiply(weight[entries.columns + offset]).tocsr()
        for entries, offset in ((layout.dense, 0), (layout.eliminated, design.n_dense))
    )
    size = np.concatenate([np.asarray(adder.sum(axis=1)).reshape(-1) for adder in adders])
    of_class = (whole @ sparse.diags_array(plain.astype(float))).tocsr()
    return Sums(order, limits, tuple(adders), of_class, design.class_size, size, dense, eliminated)


def number_rows(matrix: sparse.csr_array) -> np.ndarray:
    """The same number for rows that are the same."""
    matrix = matrix.tocsr().sorted_indices()
    numbers: dict[bytes, int] = {}
    limits = zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True)
    rows = (matrix.indices[a:b].tobytes() + matrix.data[a:b].tobytes() for a, b in limits)
    return np.array([numbers.setdefault(row, len(numbers)) for row in rows])


def compute_moments(
    design: Design, layout: Layout, features: np.ndarray, unit: float | None = None
) -> tuple[Moments, Standardization]:
    """One pass over a block of features.

    Parameters
    ----------
    design : Design
    layout : Layout
        From :func:`lay_out`.
    features : (scan, feature) array of numbers
        All rows of the scans table, in the user's units.
    unit : float, optional
        Divide every feature by this; by default each by its own sd.

    Returns
    -------
    Moments, Standardization
    """
    sums = arrange_sums(design, layout)
    return _add_up(sums, features, design.rows[sums.order], unit)


def _add_up(
    sums: Sums, values: np.ndarray, rows: np.ndarray, unit: float | None, center: np.ndarray | None = None
) -> tuple[Moments, Standardization]:
    """Moments of values as they are stored; rows brings them into the order of the sums."""
    by_class, squares = [], np.empty((len(sums.limits), values.shape[1]))
    for limit, adder, square in zip(sums.limits, sums.adders, squares, strict=True):
        y = values[rows[limit]].astype(float)  # of one class: small enough for the processor's cache
        if center is not None:
            y -= center
        by_class.append(adder @ y)
        np.einsum("sf,sf->f", y, y, out=square)
    total = np.concatenate(by_class)
    of_class, n = sums.of_class @ total, len(rows)
    mean, square = of_class.sum(axis=0) / n, squares.sum(axis=0) / n
    if center is None and not (square < MOST_CANCELLATION * (square - mean**2)).all():
        return _add_up(sums, values, rows, unit, mean)
    sd = np.sqrt(np.maximum(square - mean**2, 0.0)) if unit is None else np.full(len(mean), unit)
    squares -= (2 * of_class - sums.class_size[:, None] * mean) * mean
    squares /= sd**2
    total -= sums.size[:, None] * mean
    total /= sd
    standard = Standardization(mean if center is None else center + mean, sd)
    return Moments(sums.dense @ total, sums.eliminated @ total, squares), standard


class MomentReader:
    """Moments of any features, computed in windows of neighbors: the last ones are kept for the blocks that follow.

    A file is so read in wide pieces, and once for all the blocks of a window. Safe to call from several threads.

    Parameters
    ----------
    features : Features
        Aligned with the scans table.
    design : Design
    layout : Layout
    unit : float, optional
        As for :func:`compute_moments`.
    """

    def __init__(self, features: Features, design: Design, layout: Layout, unit: float | None):
        self.sums, self.unit = arrange_sums(design, layout), unit
        self.features = features
        rows = design.rows[self.sums.order]
        self.rows = rows if features.rows is None else features.rows[rows]
        self.design_rows = design.rows if features.rows is None else features.rows[design.rows]
        self.windows: dict[int, tuple[Moments, Standardization, np.ndarray]] = {}
        self.lock = Lock()

    def __call__(self, features: np.ndarray) -> tuple[Moments, Standardization]:
        """Moments of features by their positions, in any order."""
        parts = []
        for at, (moments, standard, _) in self._runs(features):
            parts.append((*(part[..., at] for part in moments), *(part[at] for part in standard)))
        dense, eliminated, squares, center, sd = (np.concatenate(part, axis=-1) for part in zip(*parts, strict=True))
        return Moments(dense, eliminated, squares), Standardization(center, sd)

    def values(self, features: np.ndarray) -> np.ndarray:
        """Features as they are, (scan, feature), the scans in the order of the design."""
        return np.concatenate([values[:, at][self.design_rows] for at, (_, _, values) in self._runs(features)], axis=1)

    def _runs(self, features: np.ndarray) -> Iterator[tuple[np.ndarray, tuple[Moments, Standardization, np.ndarray]]]:
        """Neighbors among the features: where they are in their window, and what is kept of it."""
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
                self.windows[start] = (*_add_up(self.sums, values, self.rows, self.unit), values)
            return self.windows[start]
