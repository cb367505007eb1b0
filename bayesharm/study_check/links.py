"""Links between scanners: the travelers whom two scanners share, and people without whom the study falls apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from bayesharm.conditional.identifiability import sort_components
from bayesharm.data.scans import find_travelers


@dataclass(frozen=True, eq=False)
class Links:
    """The graph in which travelers link scanners.

    Attributes
    ----------
    shared : DataFrame, scanner × scanner
        Number of travelers with scans on both; the diagonal holds the travelers of a scanner.
    components : tuple of tuple of str
        Groups of scanners that travelers link, directly or through other scanners; the largest group first.
    bridges : dict
        Travelers without whom a component would fall apart: participant -> scanners that would be cut off.
    """

    shared: pd.DataFrame
    components: tuple[tuple[str, ...], ...]
    bridges: dict[str, tuple[str, ...]]

    @property
    def pairs(self) -> pd.DataFrame:
        """Pairs of scanners: `first`, `second` and the number of `travelers` whom they share."""
        i, j = np.triu_indices(len(self.shared), 1)
        names, count = self.shared.index.to_numpy(object), self.shared.to_numpy()
        return pd.DataFrame({"first": names[i], "second": names[j], "travelers": count[i, j]})


def find_links(scans: pd.DataFrame) -> Links:
    """Find which scanners travelers link, and who holds them together.

    Parameters
    ----------
    scans : DataFrame
        Canonical columns as in :class:`bayesharm.data.dataset.Dataset`.
    """
    travels = find_travelers(scans)
    scanner = pd.Categorical(scans.scanner, categories=sorted(scans.scanner.unique()))
    names = scanner.categories.to_numpy(object)
    person, people = pd.factorize(scans.participant_id[travels])
    visits = sparse.csr_array(
        (np.ones(len(person)), (person, scanner.codes[travels])), shape=(max(len(people), 1), len(names))
    )
    visits.data[:] = 1  # several scans on a scanner count once
    visits = (visits > 0).astype(int).tocsr()
    shared = (visits.T @ visits).toarray()
    label = connected_components(shared, directed=False)[1]
    bridges = {}
    for k, participant in enumerate(people):
        seen = visits.indices[visits.indptr[k] : visits.indptr[k + 1]]
        without = shared.copy()
        without[np.ix_(seen, seen)] -= 1
        if (shared[np.ix_(seen, seen)] == 1).any():  # otherwise somebody else links each pair
            parts = connected_components(without, directed=False)[1]
            if parts.max() > label.max():
                bridges[str(participant)] = _cut_off(names, label, parts)
    return Links(pd.DataFrame(shared, names, names).rename_axis("scanner"), sort_components(names, label), bridges)


def _cut_off(names: np.ndarray, before: np.ndarray, after: np.ndarray) -> tuple[str, ...]:
    """Scanners that leave the largest part of their component."""
    cut = []
    for component in np.unique(before):
        parts = sort_components(names[before == component], after[before == component])
        cut += [name for part in parts[1:] for name in part]
    return tuple(cut)
