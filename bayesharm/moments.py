"""All that the likelihood needs from the scans, computed once: sums of products within each noise class.

Products are kept only where a column and a noise class share scans (an *entry*). The constants that no
feature changes are in :class:`Layout`; what each feature adds is in :class:`Moments`, the feature axis last.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
from scipy import sparse

from bayesharm.design import Design


class Entries(NamedTuple):
    """Pairs (noise class, column) that share scans.

    Attributes
    ----------
    classes, columns : (entry,) int arrays
    """

    classes: np.ndarray
    columns: np.ndarray


class Layout(NamedTuple):
    """Constants of a design, shared by all features.

    Attributes
    ----------
    dense : Entries
        Dense columns within classes.
    dense_gram : (class, dense, dense) array
        XᵀX of the dense columns within each class.
    eliminated : Entries
        Eliminated columns within classes (columns counted from the first eliminated one).
    eliminated_gram : (entry,) array
        Their sums of squares.
    cross_gram : (entry, dense) array
        Products of each eliminated column with the dense ones within the class.
    """

    dense: Entries
    dense_gram: np.ndarray
    eliminated: Entries
    eliminated_gram: np.ndarray
    cross_gram: np.ndarray


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


class Standard(NamedTuple):
    """Centre and sd of each feature over the scans that the model uses, in the user's units; (feature,)."""

    centre: np.ndarray
    sd: np.ndarray


def lay_out(design: Design) -> Layout:
    """Compute the constants of a design."""
    n_classes, n_dense = len(design.class_scanner), design.n_dense
    members = _members(design)
    dense_gram = np.zeros((n_classes, n_dense, n_dense))
    dense, eliminated, squares, cross = [], [], [], []
    for c in range(n_classes):
        x = design.matrix[members[[c]].indices]
        gram = (x.T @ x).tocsr()
        dense_gram[c] = gram[:n_dense, :n_dense].toarray()
        there = np.flatnonzero(gram.diagonal())
        own = there[there >= n_dense]
        dense += [(c, column) for column in there[there < n_dense]]
        eliminated += [(c, column - n_dense) for column in own]
        squares.append(gram.diagonal()[own])
        cross.append(gram[own, :n_dense].toarray())
    whole = partial(np.array, dtype=np.int32)  # so that JAX takes them as indices in either precision
    return Layout(
        Entries(*whole(dense).reshape(-1, 2).T),
        dense_gram,
        Entries(*whole(eliminated).reshape(-1, 2).T),
        np.concatenate(squares),
        np.concatenate(cross),
    )


def compute_moments(
    design: Design, layout: Layout, features: np.ndarray, unit: float | None = None
) -> tuple[Moments, Standard]:
    """One pass over a block of features.

    Parameters
    ----------
    design : Design
    layout : Layout
        From :func:`lay_out`.
    features : (scan, feature) float64 array
        All rows of the scans table, in the user's units.
    unit : float, optional
        Divide every feature by this; by default each by its own sd.

    Returns
    -------
    Moments, Standard
    """
    y = np.asarray(features, float)[design.rows]
    standard = Standard(y.mean(axis=0), y.std(axis=0) if unit is None else np.full(y.shape[1], unit))
    y = (y - standard.centre) / standard.sd
    members = _members(design)
    dense, eliminated = (
        _products(design.matrix, members, entries, offset) @ y
        for entries, offset in ((layout.dense, 0), (layout.eliminated, design.n_dense))
    )
    return Moments(dense, eliminated, members @ y**2), standard


def _members(design: Design) -> sparse.csr_array:
    """Indicators of the scans of each noise class, (class, scan)."""
    scan = np.arange(design.n_scans)
    shape = (len(design.class_scanner), design.n_scans)
    return sparse.csr_array((np.ones(design.n_scans), (design.scan_class, scan)), shape=shape)


def _products(
    matrix: sparse.csr_array, members: sparse.csr_array, entries: Entries, offset: int
) -> sparse.csr_array:
    """Rows that sum a column over the scans of a class, (entry, scan)."""
    return members[entries.classes].multiply(matrix.T.tocsr()[entries.columns + offset]).tocsr()
