"""XᵀX of a design within each noise class: the part of the normal equations that all features share."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy import sparse

from bayesharm.model.design import Design

_integers = partial(np.array, dtype=np.int32)  # JAX takes them as indices in either precision


class Entries(NamedTuple):
    """Pairs (noise class, column) that share scans: the nonzero blocks of the design matrix.

    Attributes
    ----------
    classes, columns : (entry,) int arrays
    """

    classes: np.ndarray
    columns: np.ndarray


class Grams(NamedTuple):
    """XᵀX within each noise class, where it is not 0: the part of the normal equations that all features share.

    Attributes
    ----------
    dense : Entries
        Of the dense columns.
    dense_gram : (class, dense, dense) array
    eliminated : Entries
        Of the eliminated columns, counted from the first eliminated one.
    eliminated_gram : (entry,) array
        Their sums of squares.
    cross_gram : (entry, dense) array
        Products of each eliminated column with the dense columns.
    coupled : Entries
        Of the first of two eliminated partners.
    coupled_gram : (coupled entry,) array
        Its product with the second.
    """

    dense: Entries
    dense_gram: np.ndarray
    eliminated: Entries
    eliminated_gram: np.ndarray
    cross_gram: np.ndarray
    coupled: Entries
    coupled_gram: np.ndarray


def compute_grams(design: Design) -> Grams:
    """Compute XᵀX within each noise class of a design."""
    by_class = np.split(np.argsort(design.scan_class, kind="stable"), np.cumsum(design.class_size)[:-1])
    weighted = sparse.diags_array(design.scan_weight) @ design.matrix
    grams = [(design.matrix[scans].T @ weighted[scans]).tocsr() for scans in by_class]
    return arrange_grams(grams, design.n_dense, design.eliminated_pairs)


def arrange_grams(grams: Sequence[sparse.csr_array], n_dense: int, pairs: np.ndarray) -> Grams:
    """Split the matrices XᵀX of each class, (column, column), into their dense and eliminated parts.

    Parameters
    ----------
    grams : sequence of sparse arrays
    n_dense : int
    pairs : (pair, 2) int array
        Eliminated partners, counted from the first eliminated column.
    """
    first, second = pairs.T
    dense_gram = np.zeros((len(grams), n_dense, n_dense))
    dense, eliminated, squares, cross, coupled, products = [], [], [], [], [], []
    for c, gram in enumerate(grams):
        dense_gram[c] = gram[:n_dense, :n_dense].toarray()
        columns = np.flatnonzero(gram.diagonal())
        eliminated_columns = columns[columns >= n_dense]
        dense += [(c, column) for column in columns[columns < n_dense]]
        eliminated += [(c, column - n_dense) for column in eliminated_columns]
        squares.append(gram.diagonal()[eliminated_columns])
        cross.append(gram[eliminated_columns, :n_dense].toarray())
        product = entries_of(gram, n_dense + first, n_dense + second)
        coupled += [(c, first[k]) for k in np.flatnonzero(product)]
        products.append(product[product != 0])
    return Grams(
        Entries(*_integers(dense).reshape(-1, 2).T),
        dense_gram,
        Entries(*_integers(eliminated).reshape(-1, 2).T),
        np.concatenate(squares),
        np.concatenate(cross),
        Entries(*_integers(coupled).reshape(-1, 2).T),
        np.concatenate(products),
    )


def entries_of(matrix: sparse.csr_array, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Entries of a sparse matrix at pairs of rows and columns, (pair,)."""
    return matrix[rows][:, columns].diagonal() if len(rows) else np.zeros(0)
