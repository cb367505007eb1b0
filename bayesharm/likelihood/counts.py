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

    Where scans have weights, the plain numbers of scans of the patterns precede the weighted ones; products are weighted.

    Attributes
    ----------
    pattern_class : (pattern,) int array
    patterns : tuple of tuples of int
        Indicator columns of each pattern.
    product_class, numeric, other : (product,) int arrays
        Noise class, numeric column and other column of each product; of two numeric columns the smaller comes first.
    is_weighted : bool
        Whether scans have weights.
    """

    pattern_class: np.ndarray
    patterns: tuple[tuple[int, ...], ...]
    product_class: np.ndarray
    numeric: np.ndarray
    other: np.ndarray
    is_weighted: bool

    @property
    def classes(self) -> np.ndarray:
        """Noise class of each count, (count,)."""
        return np.concatenate([*[self.pattern_class] * (1 + self.is_weighted), self.product_class])

    @property
    def first_pattern(self) -> int:
        """Position of the first pattern whose count enters products of columns."""
        return len(self.patterns) * self.is_weighted

    @property
    def first_product(self) -> int:
        """Position of the first product."""
        return len(self.patterns) * (1 + self.is_weighted)

    def column_pairs(self) -> np.ndarray:
        """Products of columns that each count enters: rows of (count, first column, second column), first ≤ second."""
        pairs = [
            (k, i, j)
            for k, columns in enumerate(self.patterns, start=self.first_pattern)
            for i, j in combinations_with_replacement(columns, 2)
        ]
        first, second = np.minimum(self.numeric, self.other), np.maximum(self.numeric, self.other)
        products = np.stack([self.first_product + np.arange(len(first)), first, second], axis=1)
        return np.concatenate([_integers(pairs).reshape(-1, 3), products.astype(np.int32)])


def numeric_columns(design: Design) -> np.ndarray:
    """Columns that are not indicators: the covariates, which are standardized, and slopes."""
    slopes = [family.slope_name for family in design.spec.slopes]
    return np.flatnonzero(np.isin(design.families, ["covariate", *slopes]))


def _indicator_of(design: Design, numeric: np.ndarray) -> np.ndarray:
    """The indicator column of whose scans alone a numeric column is not 0: the intercept of a slope; 0 for covariates."""
    return np.where(design.partner[numeric] >= 0, design.partner[numeric], 0)


def index_counts(design: Design) -> CountIndex:
    """List the counts of a design, in an order that depends on its noise classes and columns only."""
    numeric, patterns = numeric_columns(design), _scan_patterns(design)
    distinct = sorted(set(patterns))
    indicator = _indicator_of(design, numeric)
    products = []
    for c in range(len(design.class_scanner)):
        within_class = [set(columns) for number, columns in distinct if number == c]
        for position, (column, within) in enumerate(zip(numeric, indicator, strict=True)):
            shared = [columns for columns in within_class if within in columns]
            active = set().union(*shared)
            products += [(c, column, other) for other in sorted(active)]
            later = zip(numeric[position:], indicator[position:], strict=True)
            products += [(c, column, other) for other, other_within in later if other_within in active]
    classes, first, other = _integers(products).reshape(-1, 3).T
    of_class, columns_of = _integers([c for c, _ in distinct]), tuple(columns for _, columns in distinct)
    return CountIndex(of_class, columns_of, classes, first, other, bool(design.spec.noise_weight))


def count_scans(design: Design, index: CountIndex) -> sparse.csr_array:
    """Make the matrix that turns the observed scans of a feature into its counts, (count, scan of the design)."""
    place = {(int(c), columns): k for k, (c, columns) in enumerate(zip(index.pattern_class, index.patterns, strict=True))}
    pattern = np.array([place[key] for key in _scan_patterns(design)], int)
    scans, weight = np.arange(design.n_scans), sparse.diags_array(design.scan_weight)
    of_patterns = sparse.csr_array((np.ones(len(scans)), (pattern, scans)), shape=(len(index.patterns), len(scans)))
    parts = [of_patterns, of_patterns @ weight] if index.is_weighted else [of_patterns]
    if len(index.numeric):
        columns = design.matrix.tocsc()
        products = columns[:, index.numeric].multiply(columns[:, index.other]).T
        in_class = sparse.csr_array(index.product_class[:, None] == design.scan_class, dtype=float)
        parts.append(products.multiply(in_class) @ weight)
    return sparse.vstack(parts).tocsr()


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
    product_of = {(int(c), frozenset((int(i), int(j)))): after.first_product + k for k, (c, i, j) in enumerate(products)}
    terms = []
    for k, (c, columns) in enumerate(zip(before.pattern_class, before.patterns, strict=True)):
        row = np.asarray(place[list(columns)].sum(axis=0)).reshape(-1)
        position = pattern_of[int(class_of[c]), tuple(np.flatnonzero(row).tolist())]
        terms += [(position + after.first_pattern * part, k + before.first_pattern * part, 1.0)
                  for part in range(1 + before.is_weighted)]  # fmt: skip
    for k, (c, i, j) in enumerate(zip(before.product_class, before.numeric, before.other, strict=True)):
        first, second = place[[i]].tocoo(), place[[j]].tocoo()
        for new_first, one in zip(first.coords[1], first.data, strict=True):
            for new_second, other in zip(second.coords[1], second.data, strict=True):
                key = int(class_of[c]), frozenset((int(new_first), int(new_second)))
                if key in product_of:  # else no scan of the class has these columns any more
                    terms.append((product_of[key], before.first_product + k, one * other))
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
    power : (addition,) int array
        Power of the gain of the scanner in the product: 1 for each of its columns that has one.
    """

    source: np.ndarray
    target: np.ndarray
    power: np.ndarray


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
    coupled : Additions
        To products of two eliminated partners: coupled entry, of the merged class and the couple.
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
    coupled: Additions
    shares: np.ndarray
    touches: np.ndarray


def lay_out_counts(
    index: CountIndex,
    n_dense: int,
    packed: np.ndarray,
    merged_class: np.ndarray,
    entry_of: dict[tuple[int, int], int],
    coupled_entry_of: dict[tuple[int, int], int],
    has_gain: np.ndarray,
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
    coupled_entry_of : dict
        (merged class, first eliminated column of a couple) -> coupled entry.
    has_gain : (column,) int array
        1 for columns that the gain multiplies.
    """
    count, first, second = index.column_pairs().T
    merged, n_merged = merged_class[index.classes[count]], int(merged_class.max()) + 1
    entry = np.array([entry_of.get((int(c), int(j) - n_dense), -1) for c, j in zip(merged, second, strict=True)], np.int32)
    # a pattern of scans that are not counted, as those to be predicted, has no entry
    is_dense, is_cross = second < n_dense, (first < n_dense) & (entry >= 0)
    is_square, is_coupled = (first >= n_dense) & (first == second) & (entry >= 0), (first >= n_dense) & (first != second)
    keys = [(int(c), int(j) - n_dense) for c, j in zip(merged[is_coupled], first[is_coupled], strict=True)]
    coupled = np.array([coupled_entry_of.get(key, -1) for key in keys], np.int32).reshape(-1)
    power = has_gain[first] + has_gain[second]
    position = packed[first[is_dense], second[is_dense]]
    shares = np.zeros((n_merged, int(packed.max(initial=-1)) + 1), bool)
    shares[merged[is_dense], position] = True

    cross_entry, cross_column = entry[is_cross], first[is_cross]
    touches = np.zeros((len(entry_of), n_dense), bool)
    touches[cross_entry, cross_column] = True
    patterns = np.arange(len(index.patterns), dtype=np.int32)
    return CountLayout(
        classes=index.classes,
        size=Additions(patterns, index.pattern_class, 0 * patterns),
        dense=Additions(count[is_dense], position * n_merged + merged[is_dense], power[is_dense]),
        cross=Additions(count[is_cross], (cross_entry * n_dense + cross_column).astype(np.int32), power[is_cross]),
        squares=Additions(count[is_square], entry[is_square], power[is_square]),
        coupled=Additions(count[is_coupled][coupled >= 0], coupled[coupled >= 0], power[is_coupled][coupled >= 0]),
        shares=shares,
        touches=touches,
    )
