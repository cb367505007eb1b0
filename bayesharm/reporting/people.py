"""The scans of people on each scanner, as means, from the sums that a run keeps: no data are needed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bayesharm.likelihood.counts import CountIndex, index_counts
from bayesharm.likelihood.sufficient_statistics import SufficientStatistics
from bayesharm.results.nodes import read_statistics
from bayesharm.results.posterior import Posterior

EVERYBODY = "mean of all scans"


@dataclass(frozen=True, eq=False)
class PeopleMeans:
    """Mean of the scans of each person on each scanner, a *cell*; or of all scans on it, where nobody traveled.

    Attributes
    ----------
    people, scanners : list of str
    person, scanner : (cell,) int arrays
    n_scans : (cell,) array
    weight : (cell, feature or 1) array
        Sum of the weights of these scans; their number, unless scans weigh less in the fit.
    values : (cell, feature) array
        In sd of the feature, from its mean over the scans; NaN where a feature lacks all scans of a cell.
    """

    people: list[str]
    scanners: list[str]
    person: np.ndarray
    scanner: np.ndarray
    n_scans: np.ndarray
    weight: np.ndarray
    values: np.ndarray

    @property
    def has_travelers(self) -> bool:
        """Whether the cells are those of people on several scanners."""
        return self.people != [EVERYBODY]


def people_means(posterior: Posterior) -> PeopleMeans | None:
    """Read the means of travelers on each scanner from a run; None for a run without sums.

    Scans that weigh less in the fit, by `--noise-weight` or heavy tails, weigh less in the means.
    """
    if "sufficient_statistics" not in posterior.tree.children:
        return None
    statistics = read_statistics(posterior.sufficient_statistics, posterior.spec)
    people = [family.name for family in posterior.spec.families if family.by == "participant"]
    design = statistics.design
    cells = [
        (int(design.class_scanner[c]), design.columns[k].level, c, k, row)
        for c, k, row in _entries(statistics)
        if design.columns[k].family in people
    ]
    scanners_of: dict[str, set[int]] = {}
    for scanner, person, *_ in cells:
        scanners_of.setdefault(person, set()).add(scanner)
    cells = [cell for cell in cells if len(scanners_of[cell[1]]) > 1]
    if not cells:
        cells = [(int(design.class_scanner[c]), EVERYBODY, c, k, row) for c, k, row in _entries(statistics) if k == 0]
    return _means(statistics, cells)


def _entries(statistics: SufficientStatistics) -> list[tuple[int, int, np.ndarray]]:
    """List noise class, column and sums of each column in each class."""
    grams, moments, n_dense = statistics.grams, statistics.moments, statistics.design.n_dense
    entries = []
    for where, sums, first in ((grams.dense, moments.dense, 0), (grams.eliminated, moments.eliminated, n_dense)):
        entries += list(zip(map(int, where.classes), (int(k) + first for k in where.columns), sums, strict=True))
    return entries


def _means(statistics: SufficientStatistics, cells: list[tuple[int, str, int, int, np.ndarray]]) -> PeopleMeans:
    people = list(dict.fromkeys(person for _, person, *_ in cells))
    keys = sorted({(people.index(person), scanner) for scanner, person, *_ in cells})
    index, counts = index_counts(statistics.design), statistics.moments.counts
    of_feature = statistics.counts[:, None] if counts is None else counts
    total = np.zeros((len(keys), statistics.moments.n_features))
    size, n_scans = np.zeros((len(keys), of_feature.shape[1])), np.zeros(len(keys))
    for scanner, person, noise_class, column, sums in cells:
        k = keys.index((people.index(person), scanner))
        total[k] += sums
        size[k] += of_feature[_counts_of(index, noise_class, column)].sum(axis=0)
        n_scans[k] += statistics.counts[_counts_of(index, noise_class, column, plain=True)].sum()
    with np.errstate(invalid="ignore", divide="ignore"):
        values = np.where(size > 0, total / size, np.nan)
    person, scanner = np.array(keys).T
    return PeopleMeans(people, list(statistics.design.scanners), person, scanner, n_scans, size, values)


def _counts_of(index: CountIndex, noise_class: int, column: int, plain: bool = False) -> list[int]:
    """Find the counts of the scans of a class that have an indicator column."""
    first = 0 if plain else index.first_pattern
    return [
        first + k
        for k, (c, columns) in enumerate(zip(index.pattern_class, index.patterns, strict=True))
        if c == noise_class and column in columns
    ]
