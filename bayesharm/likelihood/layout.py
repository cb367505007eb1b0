"""Index arrays of a design, in the order in which the likelihood works; private to this package.

The normal matrix A (line 3 of :mod:`bayesharm.likelihood.definition`) is a bordered block-diagonal, or *arrowhead*, matrix:
eliminated columns share no scan with one another, so that their block of A is diagonal; the dense columns are its border.
Almost all columns are eliminated ones, of participants, and many of these are equivalent. The index arrays say which.
"""

from __future__ import annotations

from functools import partial
from itertools import combinations_with_replacement
from typing import Any, NamedTuple

import numpy as np

from bayesharm.algorithms.linalg import positions
from bayesharm.likelihood.counts import CountLayout, index_counts, lay_out_counts
from bayesharm.likelihood.grams import Entries, Grams
from bayesharm.model.design import Design

# Pairs in a group. In larger groups, sums over pairs are kept for each dense column; in smaller ones the products are made
# each time, which takes less.
MAX_SMALL_GROUP = 16
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
    known. Most participants with the same numbers of scans on the same scanners are equivalent.

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
    """

    of_column: np.ndarray
    first: np.ndarray
    entries: np.ndarray
    of_entry: np.ndarray


class EntryPairs(NamedTuple):
    """Pairs of merged entries of one eliminated column; equivalent pairs make a group.

    Attributes
    ----------
    first, second : (pair,) int arrays
        Merged entries; the pair of an entry with itself is included.
    group : (pair,) int array
    example : (group,) int array
        The first pair of each group.
    """

    first: np.ndarray
    second: np.ndarray
    group: np.ndarray
    example: np.ndarray


class EffectEntries(NamedTuple):
    """Effects as sums over entries, dense effects first; a dense effect is an entry by itself.

    Attributes
    ----------
    column : (entry,) int array
        The effect to which each entry belongs.
    gain : (entry,) int array
        Which gain the entry has; gain 0 is that of the dense effects, 1.
    first, second : (pair,) int arrays
        Pairs of entries of one effect.
    gain_product : (pair,) int array
        Which product of two gains the pair has; product 0 is 1.
    residual : (column,) int array
        Which residual variance the effect has; variance 0 is that of the dense effects, 0.
    """

    column: np.ndarray
    gain: np.ndarray
    first: np.ndarray
    second: np.ndarray
    gain_product: np.ndarray
    residual: np.ndarray


class SmallGroups(NamedTuple):
    """Pairs in groups of at most `MAX_SMALL_GROUP` pairs.

    Attributes
    ----------
    entries : (small entry,) int array
        Merged entries of these pairs.
    with_itself : (small entry,) int array
        Group of the pair of each entry with itself.
    first, second, group : (small pair,) int arrays
        Pairs of two entries, as positions in `entries`, and their groups.
    """

    entries: np.ndarray
    with_itself: np.ndarray
    first: np.ndarray
    second: np.ndarray
    group: np.ndarray


class IndexLayout(NamedTuple):
    """Index arrays of a design in the order in which the likelihood works.

    All scans of repeat-scanned participants make one merged class (index 0), once they are weighted by the noise ratios of
    their scanners. Single-scan participants keep a class for each scanner, since their noise variance is
    sigma² lambda + tau².

    Attributes
    ----------
    grams : Grams
    class_scanner, class_single_scan, class_size : (class,) arrays
        Scanner of each noise class; whether its participants have a single scan; its number of scans.
    merged_class : (class,) int array
    n_merged : int
    dense, eliminated : MergedEntries
    column_classes : ColumnClasses
    pairs : EntryPairs
    column_scale, column_sd : (column,) arrays
        As in the design.
    column_scanner : (column,) int array
        The scanner whose kappa multiplies the prior variance of the column; -1 for none.
    n_scanners : int
    single_scan_scale : int
    counts : CountLayout or None
        Where features lack scans: how counts make the XᵀX of each feature. No columns are equivalent then.
    """

    grams: Grams
    class_scanner: np.ndarray
    class_single_scan: np.ndarray
    class_size: np.ndarray
    merged_class: np.ndarray
    n_merged: int
    dense: MergedEntries
    eliminated: MergedEntries
    column_classes: ColumnClasses
    pairs: EntryPairs
    column_scale: np.ndarray
    column_sd: np.ndarray
    column_scanner: np.ndarray
    n_scanners: int
    single_scan_scale: int
    counts: CountLayout | None

    @property
    def n_dense(self) -> int:
        return self.grams.dense_gram.shape[1]

    @property
    def representatives(self) -> np.ndarray:
        """The dense columns, and one column of each class of the eliminated ones."""
        return np.concatenate([np.arange(self.n_dense), self.n_dense + self.column_classes.first])

    @property
    def single_scan_merged(self) -> np.ndarray:
        """1 for merged classes of single-scan participants, 0 for that of the others, (merged class,)."""
        is_single = np.zeros(self.n_merged)
        is_single[self.merged_class[self.class_single_scan]] = 1.0
        return is_single

    def effect_entries(self) -> EffectEntries:
        """All effects as sums over entries."""
        dense, zeros = np.arange(self.n_dense, dtype=np.int32), np.zeros(self.n_dense, np.int32)
        return EffectEntries(
            np.concatenate([dense, self.n_dense + self.eliminated.columns]),
            np.concatenate([zeros, 1 + self.column_classes.of_entry]),
            np.concatenate([dense, self.n_dense + self.pairs.first]),
            np.concatenate([dense, self.n_dense + self.pairs.second]),
            np.concatenate([zeros, 1 + self.pairs.group]),
            np.concatenate([zeros, 1 + self.column_classes.of_column]),
        )

    def split_groups(self) -> tuple[np.ndarray, SmallGroups]:
        """Groups of more than `MAX_SMALL_GROUP` pairs, (large group,), and the pairs of all other groups."""
        i, j, group, example = self.pairs
        is_large = np.bincount(group, minlength=len(example)) > MAX_SMALL_GROUP
        is_small = ~is_large[group]
        with_itself, of_two = is_small & (i == j), is_small & (i != j)
        order = np.argsort(i[with_itself], kind="stable")  # every entry makes one pair with itself
        entries = i[with_itself][order]
        first, second = (np.searchsorted(entries, index[of_two]).astype(np.int32) for index in (i, j))
        small = SmallGroups(entries, group[with_itself][order], first, second, group[of_two])
        return np.flatnonzero(is_large), small


def lay_out(design: Design, grams: Grams, class_size: np.ndarray, has_missing: bool = False) -> IndexLayout:
    """Order a design for the likelihood.

    Integers are int32, which is the same in either precision. Code that takes floating-point arrays from here copies them
    (by ``astype`` or an index): JAX keeps an array that is a constant of a program in the precision of that program, also
    for later programs in the other precision.

    Parameters
    ----------
    design : Design
    grams : Grams
    class_size : (class,) int array
        Numbers of scans; those of the design, unless it stands for the scans of :class:`SufficientStatistics`.
    has_missing : bool
        Whether features lack scans.
    """
    merged_class = np.zeros(len(design.class_scanner), np.int32)
    merged_class[design.class_single_scan] = 1 + np.arange(design.class_single_scan.sum())
    eliminated = _merge(grams.eliminated, merged_class)
    entries_of_column: list[list[int]] = [[] for _ in range(len(design.columns) - design.n_dense)]
    for entry, column in enumerate(eliminated.columns):
        entries_of_column[column].append(entry)
    column_classes = _classify_columns(design, grams, eliminated, entries_of_column, has_missing)
    counts = None
    if has_missing:
        pairs = zip(eliminated.classes, eliminated.columns, strict=True)
        entry_of = {(int(c), int(column)): entry for entry, (c, column) in enumerate(pairs)}
        counts = lay_out_counts(index_counts(design), design.n_dense, positions(design.n_dense)[2], merged_class, entry_of)
    return IndexLayout(
        grams=grams,
        class_scanner=design.class_scanner.astype(np.int32),
        class_single_scan=design.class_single_scan,
        class_size=class_size.astype(np.int32),
        merged_class=merged_class,
        n_merged=int(merged_class.max()) + 1,
        dense=_merge(grams.dense, merged_class),
        eliminated=eliminated,
        column_classes=column_classes,
        pairs=_pair_entries(column_classes, entries_of_column),
        column_scale=design.column_scale.astype(np.int32),
        column_sd=design.column_sd,
        column_scanner=design.bias_ratio_of.astype(np.int32),
        n_scanners=len(design.scanners),
        single_scan_scale=design.single_scan_scale,
        counts=counts,
    )


def _merge(entries: Entries, merged_class: np.ndarray) -> MergedEntries:
    key = np.stack([merged_class[entries.classes], entries.columns])
    (classes, columns), merged = np.unique(key, axis=1, return_inverse=True)
    return MergedEntries(classes.astype(np.int32), columns.astype(np.int32), merged.reshape(-1).astype(np.int32))


def _classify_columns(
    design: Design, grams: Grams, eliminated: MergedEntries, entries_of_column: list[list[int]], is_unique: bool
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
    for column, (key, entries) in enumerate(zip(prior, entries_of_column, strict=True)):
        equal = (column,) if is_unique else (*key, *(tuple(squares[entry]) for entry in entries))
        number = numbers.setdefault(equal, len(numbers))
        if number == len(first):
            first.append(column)
            starts.append(len(class_entries))
            class_entries += entries
        of_column.append(number)
        of_entry[entries] = starts[number] + np.arange(len(entries))
    return ColumnClasses(_integers(of_column), _integers(first), _integers(class_entries), of_entry)


def _pair_entries(column_classes: ColumnClasses, entries_of_column: list[list[int]]) -> EntryPairs:
    """Pair the entries of each column; pairs at the same positions in equivalent columns make a group."""
    groups: dict[tuple[int, int, int], int] = {}
    pairs: list[tuple[int, int, int]] = []
    for number, entries in zip(column_classes.of_column, entries_of_column, strict=True):
        for i, j in combinations_with_replacement(range(len(entries)), 2):
            pairs.append((entries[i], entries[j], groups.setdefault((int(number), i, j), len(groups))))
    first, second, group = _integers(pairs).reshape(-1, 3).T
    return EntryPairs(first, second, group, np.unique(group, return_index=True)[1].astype(np.int32))
