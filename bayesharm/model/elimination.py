"""The order in which the likelihood solves the effects: the largest set of columns that share no scan comes first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from bayesharm.model.spec import ModelSpec
from bayesharm.model.terms import Term

MANY_DENSE = 60  # dense columns from which on their number sets the time of a fit


def choose_eliminated(terms: Sequence[Term], spec: ModelSpec) -> np.ndarray:
    """Choose columns that share no scan with one another, (column,) bool array in the order of the terms.

    One family after another gives the columns that share no scan with those before, larger families first. Each family is
    tried as the very first, and the largest set is taken. An intercept and its slope stay together. Components of the
    scanner effect stay dense: the moments of their sum need the products of all of them.
    """
    n_columns = [len(term.columns) for term in terms]
    start = dict(zip([term.name for term in terms], np.cumsum([0, *n_columns]), strict=False))
    slope_of = {term.slope_of: term.name for term in terms if term.slope_of}
    names = {family.name for family in spec.families} - (set(spec.components) if len(spec.components) > 1 else set())
    by_size = sorted((term for term in terms if term.name in names), key=lambda term: -len(term.columns))
    columns_of = {term.name: term.matrix.tocsc() for term in by_size}
    best = np.zeros(sum(n_columns), bool)
    for first in by_size:
        chosen, is_covered = np.zeros_like(best), np.zeros(terms[0].matrix.shape[0], bool)
        for term in (first, *(other for other in by_size if other is not first)):
            columns = columns_of[term.name]
            for level, scans in enumerate(np.split(columns.indices, columns.indptr[1:-1])):
                if not is_covered[scans].any():
                    is_covered[scans] = True
                    for name in filter(None, (term.name, slope_of.get(term.name))):
                        chosen[start[name] + level] = True
        if chosen.sum() > best.sum():
            best = chosen
    return best


def notes_on_cost(families: Sequence[str]) -> list[str]:
    """Say what families cost that overlap with larger ones, given the family of each dense column."""
    if len(families) <= MANY_DENSE:
        return []
    largest, n_largest = Counter(families).most_common(1)[0]
    return [
        f"{len(families)} effects are solved together, {n_largest} of them {largest} effects, which share scans with larger "
        f"families. The time of a fit grows with the square of this number at least: about "
        f"{(len(families) / 20) ** 2:,.0f} times that of 20 effects."
    ]
