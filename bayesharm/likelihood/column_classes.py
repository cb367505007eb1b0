"""Entries of the design matrix, and which of its eliminated columns are equivalent; private to this package."""

from __future__ import annotations

from functools import partial
from itertools import combinations_with_replacement
from typing import Any, NamedTuple

import numpy as np

from bayesharm.likelihood.grams import Entries, Grams
from bayesharm.model.design import Design

_integers = partial(np.array, dtype=np.int32)  # JAX takes them as indices in either precision


class MergedEntries(NamedTuple):
    """Entries after the noise classes of repeat-scanned participants are merged.

    Attributes
    ----------
    classes, columns : (merged entry,) int arrays
    merged : (entry,) int array
        The merged entry to which each entry of the :class:`Grams` belongs.
    """

    classes: np.ndarray
    columns: np.ndarray
    merged: np.ndarray


class ColumnClasses(NamedTuple):
    """Classes of equivalent eliminated columns: one scale and equally many scans in every noise class.

    Equivalent columns have the same pivot at all scales, so that sums over them are computed once, before the scales are
    known. Most participants with the same numbers of scans on the same scanners are equivalent. Each partner is a class by
    itself.

    Attributes
    ----------
    of_column : (eliminated column,) int array
        The class of each column.
    first : (column class,) int array
        The first column of each class, which represents it.
    entries : (class entry,) int array
        Merged entries of the representatives.
    of_entry : (merged entry,) int array
        Position in `entries` of the equivalent entry.
    couples : (couple, 2) int array
        The classes of an intercept and its slope.
    """

    of_column: np.ndarray
    first: np.ndarray
    entries: np.ndarray
    of_entry: np.ndarray
    couples: np.ndarray


class EntryPairs(NamedTuple):
    """Pairs of merged entries of one block of E, a column or two partners; equivalent pairs make a group.

    Attributes
    ----------
    first, second : (pair,) int arrays
        Merged entries; the pair of an entry with itself is included.
    group : (pair,) int array
    example : (group,) int array
        The first pair of each group.
    inverse : (group,) int array
        Which entry of E⁻¹ the pairs have: its diagonal by column class first, then its entries between couples.
    """

    first: np.ndarray
    second: np.ndarray
    group: np.ndarray
    example: np.ndarray
    inverse: np.ndarray


def merge_entries(entries: Entries, merged_class: np.ndarray) -> MergedEntries:
    key = np.stack([merged_class[entries.classes], entries.columns])
    (classes, columns), merged = np.unique(key, axis=1, return_inverse=True)
    return MergedEntries(classes.astype(np.int32), columns.astype(np.int32), merged.reshape(-1).astype(np.int32))


def classify_columns(
    design: Design,
    grams: Grams,
    eliminated: MergedEntries,
    entries_of_column: list[list[int]],
    couples: np.ndarray,
    is_unique: bool,
) -> ColumnClasses:
    """Compare eliminated columns by their prior and by their sums of squares in each noise class, unless all are unique."""
    squares: list[list[tuple[int, float]]] = [[] for _ in eliminated.columns]  # of each merged entry, by noise class
    for entry, c, square in zip(eliminated.merged, grams.eliminated.classes, grams.eliminated_gram, strict=True):
        squares[entry].append((int(c), float(square)))
    prior = zip(
        *(part[design.n_dense :] for part in (design.column_scale, design.column_sd, design.bias_ratio_of)), strict=True
    )
    numbers: dict[tuple[Any, ...], int] = {}
    starts: list[int] = []  # of each class in class_entries
    first: list[int] = []
    of_column: list[int] = []
    class_entries: list[int] = []
    of_entry = np.zeros(len(eliminated.columns), np.int32)
    has_partner = set(couples.reshape(-1).tolist())
    for column, (key, entries) in enumerate(zip(prior, entries_of_column, strict=True)):
        alone = is_unique or column in has_partner
        equal = (column,) if alone else (*key, *(tuple(squares[entry]) for entry in entries))
        number = numbers.setdefault(equal, len(numbers))
        if number == len(first):
            first.append(column)
            starts.append(len(class_entries))
            class_entries += entries
        of_column.append(number)
        of_entry[entries] = starts[number] + np.arange(len(entries))
    of_columns = _integers(of_column)
    return ColumnClasses(of_columns, _integers(first), _integers(class_entries), of_entry, of_columns[couples])


def _blocks(n_columns: int, couples: np.ndarray) -> list[tuple[int, ...]]:
    """The eliminated columns of each block of E."""
    second = set(couples[:, 1].tolist())
    partner = dict(couples.tolist())
    return [(k, partner[k]) if k in partner else (k,) for k in range(n_columns) if k not in second]


def pair_entries(
    column_classes: ColumnClasses, eliminated: MergedEntries, entries_of_column: list[list[int]], couples: np.ndarray
) -> EntryPairs:
    """Pair the entries of each block; pairs at the same positions in equivalent columns make a group."""
    groups: dict[tuple[int, int, int], int] = {}
    pairs: list[tuple[int, int, int]] = []
    inverse: list[int] = []
    n_classes = len(column_classes.first)
    couple_of = {int(first): n_classes + number for number, first in enumerate(couples[:, 0])}
    for block in _blocks(len(entries_of_column), couples):
        entries, number = [entry for k in block for entry in entries_of_column[k]], int(column_classes.of_column[block[0]])
        for i, j in combinations_with_replacement(range(len(entries)), 2):
            group = groups.setdefault((number, i, j), len(groups))
            if group == len(inverse):
                one, other = eliminated.columns[entries[i]], eliminated.columns[entries[j]]
                inverse.append(column_classes.of_column[one] if one == other else couple_of[block[0]])
            pairs.append((entries[i], entries[j], group))
    first, second, group_of_pair = _integers(pairs).reshape(-1, 3).T
    example = np.unique(group_of_pair, return_index=True)[1].astype(np.int32)
    return EntryPairs(first, second, group_of_pair, example, _integers(inverse))
