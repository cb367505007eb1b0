"""Folds of participants, visits and scanners for predictive comparison."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from bayesharm.errors import InputError
from bayesharm.fitting.context import FitContext

# Visits of repeatedly scanned people that one fold may hold out. Each is a latent value of its own, and the cost of a fold
# grows with the cube of their number; further people are never held out.
MAX_VISITS = 100


class Scheme(NamedTuple):
    """A way of dividing the scans: the fold and the unit of each.

    Attributes
    ----------
    folds, units : (scan,) int arrays
        Of each scan of the dataset; -1 where it is never held out (`folds`) or not scored (`units`).
    labels : (unit,) array
        Names of the units.
    """

    folds: np.ndarray
    units: np.ndarray
    labels: np.ndarray


def arrange_schemes(
    contexts: tuple[FitContext, FitContext], n_folds: int, rng: np.random.Generator
) -> tuple[dict[str, Scheme], list[str]]:
    """Divide the scans that both models use into folds of participants, of visits and of scanners.

    Returns
    -------
    schemes : dict
        By `participants`, `visits` and `scanners`, where there are at least two.
    notes : list of str
        Units that are never held out, and why.

    Raises
    ------
    InputError
        There are fewer than two participants and scanners.
    """
    scans = contexts[0].dataset.scans
    in_both = np.isin(np.arange(len(scans)), np.intersect1d(contexts[0].design.rows, contexts[1].design.rows))
    participant, scanner = scans["participant_id"].astype(str), scans["scanner"].astype(str)
    is_repeated = (participant.map(participant.value_counts()) > 1).to_numpy()
    travels = (scanner.groupby(participant).transform("nunique") > 1).to_numpy()
    visit = participant + " on " + scanner
    # with covariates no two scans are exchangeable: each has a latent value of its own
    has_covariates = any(len(context.design.covariates) for context in contexts)
    on_shared_scanner = np.isin(scanner, scanner[in_both])  # holds out also scans of it that only one model uses
    candidates = {  # label of each scan, scans to hold out, scans with a latent value of their own
        "participants": (participant.to_numpy(), in_both, is_repeated | has_covariates),
        "visits": (visit.to_numpy(), in_both & travels, travels),
        "scanners": (scanner.to_numpy(), on_shared_scanner, np.zeros(len(scans), bool)),
    }
    schemes, notes = {}, []
    for unit_type, (labels, candidate, is_distinct) in candidates.items():
        names = np.unique(labels[candidate])
        if len(names) < 2:
            notes.append(f"There are fewer than two {unit_type} to hold out: their prediction is not compared.")
            continue
        folds, n_omitted = _deal_folds(labels, candidate, is_distinct, visit.to_numpy(), min(n_folds, len(names)), rng)
        if n_omitted:
            notes.append(f"{n_omitted} of {len(names)} {unit_type} are never held out: the folds would be too large.")
        units = np.where((folds >= 0) & in_both, np.searchsorted(names, labels), -1)
        scored, numbers = np.unique(units[units >= 0], return_inverse=True)
        units[units >= 0] = numbers
        schemes[unit_type] = Scheme(folds, units, names[scored])
    if not schemes:
        raise InputError(
            "There is nobody to hold out.",
            got="fewer than two participants and two scanners that both models use",
            expected="at least two participants",
            do="compare runs of a larger study",
        )
    return schemes, notes


def _deal_folds(
    labels: np.ndarray,
    candidate: np.ndarray,
    is_distinct: np.ndarray,
    visit: np.ndarray,
    n_folds: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, int]:
    """Deal units to folds, those with latent values of their own apart from the others so that each fold has both.

    Returns the fold of each scan, -1 if it is never held out, and the number of omitted units.
    """
    folds, n_omitted = np.full(len(labels), -1), 0
    for subset in (candidate & is_distinct, candidate & ~is_distinct):
        names = rng.permutation(np.unique(labels[subset]))
        fold_of = pd.Series(np.arange(len(names)) % n_folds, index=names)
        if (subset & is_distinct).any():
            n_visits = pd.Series(visit[subset]).groupby(labels[subset]).nunique()[names]
            fits = n_visits.groupby(fold_of).cumsum() <= np.maximum(MAX_VISITS, n_visits.max())
            n_omitted += int((~fits).sum())
            fold_of = fold_of[fits]
        folds[subset] = pd.Series(labels[subset]).map(fold_of).fillna(-1).to_numpy(int)
    return folds, n_omitted
