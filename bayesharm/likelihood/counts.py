"""Counts of the observed scans of each feature, where features lack scans.

XᵀX of the observed scans of a feature is linear in the numbers of its scans of each kind. A *count* is one such number:

- the number of observed scans of one *pattern*, scans of a noise class with the same indicator columns; it enters the
  product of every two of these columns;
- the sum over the observed scans of a noise class of a numeric column times another column, which is one product.

The counts of a feature take a few hundred numbers, its matrix XᵀX many more.
"""

from __future__ import annotations

from functools import partial
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
from scipy import sparse

from bayesharm.model.design import Design

_integers = partial(np.array, dtype=np.int32)  # JAX takes them as indices in either precision


class CountIndex(NamedTuple):
    """The meaning of each count: patterns first, then products of numeric columns.

    Attributes
    ----------
    pattern_class : (pattern,) int array
    patterns : tuple of tuples of int
        Indicator columns of each pattern.
    product_class, numeric, other : (product,) int arrays
        Noise class, numeric column and other column of each product; of two numeric columns the smaller comes first.
    """

    pattern_class: np.ndarray
    patterns: tuple[tuple[int, ...], ...]
    product_class: np.ndarray
    numeric: np.ndarray
    other: np.ndarray

    @property
    def classes(self) -> np.ndarray:
        """Noise class of each count, (count,)."""
        return np.concatenate([self.pattern_class, self.product_class])

    def column_pairs(self) -> np.ndarray:
        """Products of columns that each count enters: rows of (count, first column, second column), first ≤ second."""
        pairs = [(k, i, j) for k, columns in enumerate(self.patterns) for i, j in combinations_with_replacement(columns, 2)]
        first, second = np.minimum(self.numeric, self.other), np.maximum(self.numeric, self.other)
        products = np.stack([len(self.patterns) + np.arange(len(first)), first, second], axis=1)
        return np.concatenate([_integers(pairs).reshape(-1, 3), products.astype(np.int32)])


def numeric_columns(design: Design) -> np.ndarray:
    """Columns that are not indicators: the covariates, which are standardized."""
    return np.flatnonzero(design.families == "covariate")


def index_counts(design: Design) -> CountIndex:
    """List the counts of a design, in an order that depends on its noise classes and columns only."""
    numeric, patterns = numeric_columns(design), _scan_patterns(design)
    distinct = sorted(set(patterns))
    products = []
    for c in range(len(design.class_scanner)):
        active = sorted({column for number, columns in distinct if number == c for column in columns})
        for position, column in enumerate(numeric):
            products += [(c, column, other) for other in (*active, *numeric[position:])]
    classes, first, other = _integers(products).reshape(-1, 3).T
    return CountIndex(_integers([c for c, _ in distinct]), tuple(columns for _, columns in distinct), classes, first, other)


def count_scans(design: Design, index: CountIndex) -> sparse.csr_array:
    """Make the matrix that turns the observed scans of a feature into its counts, (count, scan of the design)."""
    place = {(int(c), columns): k for k, (c, columns) in enumerate(zip(index.pattern_class, index.patterns, strict=True))}
    pattern = np.array([place[key] for key in _scan_patterns(design)], int)
    scans = np.arange(design.n_scans)
    of_patterns = sparse.csr_array((np.ones(len(scans)), (pattern, scans)), shape=(len(index.patterns), len(scans)))
    if not len(index.numeric):
        return of_patterns
    columns = design.matrix.tocsc()
    products = columns[:, index.numeric].multiply(columns[:, index.other]).T
    in_class = sparse.csr_array(index.product_class[:, None] == design.scan_class, dtype=float)
    return sparse.vstack([of_patterns, products.multiply(in_class)]).tocsr()


def place_counts(old: Design, new: Design, place: sparse.csr_array, class_of: np.ndarray) -> sparse.csr_array:
    """Make the matrix that turns counts of one design into those of another, (new count, old count).

    Parameters
    ----------
    old, new : Design
    place : (old column, new column) sparse array
        Old columns as sums of the new ones.
    class_of : (old class,) int array
        The new number of each noise class.
    """
    before, after = index_counts(old), index_counts(new)
    patterns = zip(after.pattern_class, after.patterns, strict=True)
    pattern_of = {(int(c), columns): k for k, (c, columns) in enumerate(patterns)}
    products = zip(after.product_class, after.numeric, after.other, strict=True)
    product_of = {(int(c), frozenset((int(i), int(j)))): len(after.patterns) + k for k, (c, i, j) in enumerate(products)}
    terms = []
    for k, (c, columns) in enumerate(zip(before.pattern_class, before.patterns, strict=True)):
        row = np.asarray(place[list(columns)].sum(axis=0)).reshape(-1)
        terms.append((pattern_of[int(class_of[c]), tuple(np.flatnonzero(row).tolist())], k, 1.0))
    for k, (c, i, j) in enumerate(zip(before.product_class, before.numeric, before.other, strict=True)):
        first, second = place[[i]].tocoo(), place[[j]].tocoo()
        for new_first, one in zip(first.coords[1], first.data, strict=True):
            for new_second, other in zip(second.coords[1], second.data, strict=True):
                key = int(class_of[c]), frozenset((int(new_first), int(new_second)))
                if key in product_of:  # else no scan of the class has these columns any more
                    terms.append((product_of[key], len(before.patterns) + k, one * other))
    target, source, weight = np.array(terms).reshape(-1, 3).T
    shape = (len(after.classes), len(before.classes))
    return sparse.csr_array((weight, (target.astype(int), source.astype(int))), shape=shape)


def _scan_patterns(design: Design) -> list[tuple[int, tuple[int, ...]]]:
    """Noise class and indicator columns of each scan."""
    is_indicator = np.ones(len(design.columns))
    is_indicator[numeric_columns(design)] = 0
    matrix = (design.matrix @ sparse.diags_array(is_indicator)).tocsr()
    matrix.eliminate_zeros()
    matrix.sort_indices()
    rows = np.split(matrix.indices, matrix.indptr[1:-1])
    return [(int(c), tuple(row.tolist())) for c, row in zip(design.scan_class, rows, strict=True)]


class Additions(NamedTuple):
    """Counts that are added up to numbers: ``target[k]`` is the number that ``source[k]`` enters.

    Attributes
    ----------
    source, target : (addition,) int arrays
    """

    source: np.ndarray
    target: np.ndarray


class CountLayout(NamedTuple):
    """Sums of products of columns as sums of counts, in the order of :class:`bayesharm.likelihood.layout.IndexLayout`.

    Attributes
    ----------
    classes : (count,) int array
    size : Additions
        To the number of scans of each noise class.
    dense : Additions
        To products of dense columns: packed × merged class.
    cross : Additions
        To products of eliminated columns with dense ones: merged entry × dense column.
    squares : Additions
        To squares of eliminated columns: merged entry.
    shares : (merged class, packed) bool array
        Where scans of a merged class have two dense columns.
    touches : (merged entry, dense) bool array
        Where an eliminated column shares scans of a merged class with a dense one.
    """

    classes: np.ndarray
    size: Additions
    dense: Additions
    cross: Additions
    squares: Additions
    shares: np.ndarray
    touches: np.ndarray


def lay_out_counts(
    index: CountIndex, n_dense: int, packed: np.ndarray, merged_class: np.ndarray, entry_of: dict[tuple[int, int], int]
) -> CountLayout:
    """Arrange counts for the likelihood.

    Parameters
    ----------
    index : CountIndex
    n_dense : int
    packed : (dense, dense) int array
        Packed position of each row and column.
    merged_class : (class,) int array
    entry_of : dict
        (merged class, eliminated column) -> merged entry.
    """
    count, first, second = index.column_pairs().T
    merged, n_merged = merged_class[index.classes[count]], int(merged_class.max()) + 1
    entry = np.array([entry_of.get((int(c), int(j) - n_dense), -1) for c, j in zip(merged, second, strict=True)], np.int32)
    # a pattern of scans that are not counted, as those to be predicted, has no entry
    is_dense, is_cross, is_square = second < n_dense, (first < n_dense) & (entry >= 0), (first >= n_dense) & (entry >= 0)
    position = packed[first[is_dense], second[is_dense]]
    shares = np.zeros((n_merged, int(packed.max(initial=-1)) + 1), bool)
    shares[merged[is_dense], position] = True

    cross_entry, cross_column = entry[is_cross], first[is_cross]
    touches = np.zeros((len(entry_of), n_dense), bool)
    touches[cross_entry, cross_column] = True
    patterns = np.arange(len(index.patterns), dtype=np.int32)
    return CountLayout(
        classes=index.classes,
        size=Additions(patterns, index.pattern_class),
        dense=Additions(count[is_dense], position * n_merged + merged[is_dense]),
        cross=Additions(count[is_cross], (cross_entry * n_dense + cross_column).astype(np.int32)),
        squares=Additions(count[is_square], entry[is_square]),
        shares=shares,
        touches=touches,
    )
