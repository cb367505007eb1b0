"""Index arrays of a design in the order the likelihood works, and which of its columns are alike."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
from scipy import sparse

from bayesharm.model.design import Design


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


def lay_out(design: Design) -> Layout:
    """Compute the constants of a design."""
    by_class = np.split(np.argsort(design.scan_class, kind="stable"), np.cumsum(design.class_size)[:-1])
    matrices = [design.matrix[scans] for scans in by_class]
    return arrange_layout([(x.T @ x).tocsr() for x in matrices], design.n_dense)


def arrange_layout(grams: Sequence[sparse.csr_array], n_dense: int) -> Layout:
    """Constants from the products of all columns within each class, (column, column)."""
    dense_gram = np.zeros((len(grams), n_dense, n_dense))
    dense, eliminated, squares, cross = [], [], [], []
    for c, gram in enumerate(grams):
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


class Kinds(NamedTuple):
    """Eliminated columns that are alike: with equally many scans in every noise class, and of one scale.

    Whatever the scales are, columns of a kind have the same pivot, so that what depends on it can be added up over them
    beforehand. Most people with the same numbers of scans on the same scanners are of one kind.

    Attributes
    ----------
    of_column : (column,) int array
    first : (kind,) int array
        First column of each kind.
    entries : (kind entry,) int array
        Entries of these first columns.
    of_entry : (entry,) int array
        Which of `entries` each entry is like.
    """

    of_column: np.ndarray
    first: np.ndarray
    entries: np.ndarray
    of_entry: np.ndarray


class Pairs(NamedTuple):
    """Pairs of entries of one column, those of like entries in one group.

    Attributes
    ----------
    first, second : (pair,) int arrays
        Entries.
    group : (pair,) int array
    example : (group,) int array
        A pair of each group.
    """

    first: np.ndarray
    second: np.ndarray
    group: np.ndarray
    example: np.ndarray


class Plan(NamedTuple):
    """Index arrays of a design in the order the likelihood works.

    All scans of people scanned repeatedly make one class (index 0) once they are weighted by the noise ratio;
    people scanned once keep a class for each scanner.

    Attributes
    ----------
    layout : Layout
    scanner, once, size : (class,) arrays
    merged : (class,) int array
        Merged class of each class.
    n_merged : int
    dense, eliminated : (merged classes, columns, index of each entry in the merged ones)
    kinds : Kinds
    pairs : Pairs
    column_scale, column_sd : arrays over columns
    column_bias : (column,) int array
        The scanner whose kappa the column's prior variance has; -1 where it has none.
    n_scanners : int
    single_scan_scale : int
    """

    layout: Layout
    scanner: np.ndarray
    once: np.ndarray
    size: np.ndarray
    merged: np.ndarray
    n_merged: int
    dense: tuple[np.ndarray, np.ndarray, np.ndarray]
    eliminated: tuple[np.ndarray, np.ndarray, np.ndarray]
    kinds: Kinds
    pairs: Pairs
    column_scale: np.ndarray
    column_sd: np.ndarray
    column_bias: np.ndarray
    n_scanners: int
    single_scan_scale: int


def make_plan(design: Design, layout: Layout) -> Plan:
    """Order a design for the likelihood.

    Integers are int32, which is the same in either precision, and whoever takes floating-point arrays from a plan copies
    them (by ``astype`` or an index): JAX keeps an array that it met as a constant of a program in that program's precision,
    for programs of the other one too.
    """
    merged = np.zeros(len(design.class_scanner), np.int32)
    merged[design.class_single_scan] = 1 + np.arange(design.class_single_scan.sum())

    def merge(entries) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        key = np.stack([merged[entries.classes], entries.columns])
        unique, index = np.unique(key, axis=1, return_inverse=True)
        return unique[0].astype(np.int32), unique[1].astype(np.int32), index.reshape(-1).astype(np.int32)

    eliminated = merge(layout.eliminated)
    return Plan(
        layout,
        design.class_scanner.astype(np.int32),
        design.class_single_scan,
        design.class_size.astype(np.int32),
        merged,
        int(merged.max()) + 1,
        merge(layout.dense),
        eliminated,
        *_find_kinds(design, layout, eliminated),
        design.column_scale.astype(np.int32),
        design.column_sd,
        _find_biases(design),
        len(design.scanners),
        design.single_scan_scale,
    )


def _find_biases(design: Design) -> np.ndarray:
    """The scanner whose kappa the prior variance of each column has; -1 without one."""
    return design.bias_ratio_of.astype(np.int32)


def _find_kinds(design: Design, layout: Layout, eliminated) -> tuple[Kinds, Pairs]:
    """Compare eliminated columns by scale and by their sums of squares in each noise class."""
    _, columns, merged = eliminated
    contents: list[list[tuple[int, float]]] = [[] for _ in columns]
    for entry, c, square in zip(merged, layout.eliminated.classes, layout.eliminated_gram, strict=True):
        contents[entry].append((int(c), float(square)))
    n_dense = layout.dense_gram.shape[1]
    own: list[list[int]] = [[] for _ in range(len(design.columns) - n_dense)]  # entries, by merged class
    for entry, column in enumerate(columns):
        own[column].append(entry)
    bias = _find_biases(design)[n_dense:]
    numbers: dict[tuple, int] = {}
    groups: dict[tuple, int] = {}
    of_entry = np.zeros(len(columns), np.int32)
    of_column: list[int] = []
    first: list[int] = []
    kind_entries: list[int] = []
    start: list[int] = []  # of each kind in kind_entries
    pairs: list[tuple[int, int, int]] = []
    for column, entries in enumerate(own):
        scale, sd = design.column_scale[n_dense + column], design.column_sd[n_dense + column]
        kind = numbers.setdefault((scale, sd, bias[column], *(tuple(contents[entry]) for entry in entries)), len(numbers))
        if kind == len(first):
            first.append(column)
            start.append(len(kind_entries))
            kind_entries += entries
        of_column.append(kind)
        of_entry[entries] = start[kind] + np.arange(len(entries))
        for i, j in combinations_with_replacement(range(len(entries)), 2):
            pairs.append((entries[i], entries[j], groups.setdefault((kind, i, j), len(groups))))
    one, other, group = np.array(pairs, np.int32).reshape(-1, 3).T
    example = np.unique(group, return_index=True)[1].astype(np.int32)
    whole = partial(np.array, dtype=np.int32)
    return Kinds(whole(of_column), whole(first), whole(kind_entries), of_entry), Pairs(one, other, group, example)
