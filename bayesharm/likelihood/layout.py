"""Index arrays of a design, in the order in which the likelihood works; private to this package.

The normal matrix A (line 3 of :mod:`bayesharm.likelihood.definition`) is a bordered block-diagonal, or *arrowhead*, matrix:
eliminated columns share no scan with one another, so that their block E of A is diagonal, but for the intercepts and slopes
that are partners; the dense columns are its border. Almost all columns are eliminated ones, of participants, and many of
these are equivalent. The index arrays say which.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np

from bayesharm.algorithms.linalg import positions
from bayesharm.likelihood.column_classes import (
    ColumnClasses,
    EntryPairs,
    MergedEntries,
    classify_columns,
    merge_entries,
    pair_entries,
)
from bayesharm.likelihood.counts import CountLayout, index_counts, lay_out_counts
from bayesharm.likelihood.effect_entries import EffectEntries, list_effect_entries
from bayesharm.likelihood.grams import Grams
from bayesharm.model.design import Design

# Pairs in a group. In larger groups, sums over pairs are kept for each dense column; in smaller ones the products are made
# each time, which takes less.
MAX_SMALL_GROUP = 16
_integers = partial(np.array, dtype=np.int32)  # JAX takes them as indices in either precision


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
    their scanners, unless each feature has ratios of its own. Single-scan participants keep a class for each scanner, since
    their noise variance is sigma² lambda + g² tau².

    Attributes
    ----------
    grams : Grams
    class_scanner, class_single_scan, class_size, class_variance : (class,) arrays
        Scanner of each noise class; whether its participants have a single scan; its number of scans; its relative noise
        variance.
    merged_class : (class,) int array
    n_merged : int
    merged_noise_scale : (merged class,) int array
        The scale that multiplies the noise sd; -1 for none.
    dense, eliminated : MergedEntries
    coupled : MergedEntries
        Of the first of two eliminated partners.
    column_classes : ColumnClasses
    pairs : EntryPairs
    column_scale, column_sd : (column,) arrays
        As in the design.
    column_scanner : (column,) int array
        The scanner whose kappa multiplies the prior variance of the column; -1 for none.
    correlation_of : (column,) int array
        As in the design.
    couples, dense_couples : (couple, 2) int arrays
        Eliminated intercepts and slopes, counted from the first eliminated column; dense ones that are correlated.
    has_gain : (column,) bool array
        Whether the gain multiplies the effect; all False in a model without gains.
    gain_is_known : (scanner,) bool array
    n_scanners : int
    single_scan_scale : int
    counts : CountLayout or None
        Where features lack scans: how counts make the XᵀX of each feature. No columns are equivalent then.
    """

    grams: Grams
    class_scanner: np.ndarray
    class_single_scan: np.ndarray
    class_size: np.ndarray
    class_variance: np.ndarray
    merged_class: np.ndarray
    n_merged: int
    merged_noise_scale: np.ndarray
    dense: MergedEntries
    eliminated: MergedEntries
    coupled: MergedEntries
    column_classes: ColumnClasses
    pairs: EntryPairs
    column_scale: np.ndarray
    column_sd: np.ndarray
    column_scanner: np.ndarray
    correlation_of: np.ndarray
    couples: np.ndarray
    dense_couples: np.ndarray
    has_gain: np.ndarray
    gain_is_known: np.ndarray
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
        return list_effect_entries(self.n_dense, self.eliminated, self.column_classes, self.couples)

    def split_groups(self) -> tuple[np.ndarray, SmallGroups]:
        """Groups of more than `MAX_SMALL_GROUP` pairs, (large group,), and the pairs of all other groups."""
        i, j, group, example, _ = self.pairs
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
    merged_class = _merge_classes(design)
    n_merged = int(merged_class.max()) + 1
    merged_noise_scale = np.full(n_merged, -1, np.int32)
    merged_noise_scale[merged_class] = design.class_noise_scale
    eliminated = merge_entries(grams.eliminated, merged_class)
    entries_of_column: list[list[int]] = [[] for _ in range(len(design.columns) - design.n_dense)]
    for entry, column in enumerate(eliminated.columns):
        entries_of_column[column].append(entry)
    couples = design.eliminated_pairs
    coupled = merge_entries(grams.coupled, merged_class)
    column_classes = classify_columns(design, grams, eliminated, entries_of_column, couples, has_missing)
    has_gain = design.has_gain & (design.spec.gain != "none")
    counts = None
    if has_missing:
        entry_of, coupled_entry_of = (
            {(int(c), int(column)): entry for entry, (c, column) in enumerate(zip(part.classes, part.columns, strict=True))}
            for part in (eliminated, coupled)
        )
        packed = positions(design.n_dense)[2]
        counts = lay_out_counts(
            index_counts(design), design.n_dense, packed, merged_class, entry_of, coupled_entry_of, has_gain.astype(int)
        )
    partner = design.partner[: design.n_dense]
    dense_first = np.flatnonzero((partner > np.arange(len(partner))) & (design.correlation_of[: design.n_dense] >= 0))
    return IndexLayout(
        grams=grams,
        class_scanner=design.class_scanner.astype(np.int32),
        class_single_scan=design.class_single_scan,
        class_size=class_size.astype(np.int32),
        class_variance=design.class_variance,
        merged_class=merged_class,
        n_merged=n_merged,
        merged_noise_scale=merged_noise_scale,
        dense=merge_entries(grams.dense, merged_class),
        eliminated=eliminated,
        coupled=coupled,
        column_classes=column_classes,
        pairs=pair_entries(column_classes, eliminated, entries_of_column, couples),
        column_scale=design.column_scale.astype(np.int32),
        column_sd=design.column_sd,
        column_scanner=design.bias_ratio_of.astype(np.int32),
        correlation_of=design.correlation_of.astype(np.int32),
        couples=couples.astype(np.int32),
        dense_couples=np.stack([dense_first, partner[dense_first]], axis=1).astype(np.int32),
        has_gain=has_gain,
        gain_is_known=design.gain_is_known & (design.spec.gain != "none"),
        n_scanners=len(design.scanners),
        single_scan_scale=design.single_scan_scale,
        counts=counts,
    )


def _merge_classes(design: Design) -> np.ndarray:
    """The merged class of each noise class, (class,)."""
    if (design.class_noise_scale >= 0).any():
        return np.arange(len(design.class_scanner), dtype=np.int32)
    merged_class = np.zeros(len(design.class_scanner), np.int32)
    merged_class[design.class_single_scan] = 1 + np.arange(design.class_single_scan.sum())
    return merged_class
