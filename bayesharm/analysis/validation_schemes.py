"""Folds of participants, visits and scanners for predictive comparison."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from bayesharm.errors import InputError
from bayesharm.fitting.context import FitContext

MOST_VALUES = 100  # of a fold that are not shared by people: with more, people of this fold stay with the others


class Scheme(NamedTuple):
    """Who is left out with whom.

    Attributes
    ----------
    folds, units : (scan,) int arrays
        Of each scan of the dataset; -1 is never left out.
    labels : (unit,) array
    """

    folds: np.ndarray
    units: np.ndarray
    labels: np.ndarray


def arrange_schemes(
    studies: tuple[FitContext, FitContext], n_folds: int, rng: np.random.Generator
) -> tuple[dict[str, Scheme], list[str]]:
    """Who is left out with whom, of the scans that both models use.

    Raises
    ------
    InputError
        There are fewer than two participants or scanners.
    """
    scans = studies[0].dataset.scans
    there = np.isin(np.arange(len(scans)), np.intersect1d(studies[0].design.rows, studies[1].design.rows))
    person, scanner = scans["participant_id"].astype(str), scans["scanner"].astype(str)
    repeated = (person.map(person.value_counts()) > 1).to_numpy()
    several = (scanner.groupby(person).transform("nunique") > 1).to_numpy()
    visit = person + " on " + scanner
    own = any(len(study.design.spec.covariates) for study in studies)  # then no two scans are alike
    shared = np.isin(scanner, scanner[there])  # also the scans on it that only one model uses are left out
    wanted = {
        "participants": (person.to_numpy(), there, repeated | own),
        "visits": (visit.to_numpy(), there & several, several),
        "scanners": (scanner.to_numpy(), shared, np.zeros(len(scans), bool)),
    }
    schemes, notes = {}, []
    for what, (label, use, apart) in wanted.items():
        names = np.unique(label[use])
        if len(names) < 2:
            notes.append(f"{what}: fewer than two, nothing is left out.")
            continue
        left, omitted = _deal(label, use, apart, visit.to_numpy(), min(n_folds, len(names)), rng)
        if omitted:
            notes.append(f"{what}: {omitted} of {len(names)} are never left out, since they are too many.")
        units = np.where((left >= 0) & there, np.searchsorted(names, label), -1)
        there_names, numbers = np.unique(units[units >= 0], return_inverse=True)
        units[units >= 0] = numbers
        schemes[what] = Scheme(left, units, names[there_names])
    if not schemes:
        raise InputError(
            "There is nobody to leave out.",
            got="fewer than two participants and scanners that both models use",
            expected="two participants or more",
            do="compare runs of a larger study",
        )
    return schemes, notes


def _deal(
    label: np.ndarray, own: np.ndarray, apart: np.ndarray, visit: np.ndarray, n_folds: int, rng: np.random.Generator
) -> tuple[np.ndarray, int]:
    """Folds of scans; those with values of their own and others dealt separately, so that each fold has some of both."""
    folds, omitted = np.full(len(label), -1), 0
    for some in (own & apart, own & ~apart):
        names = rng.permutation(np.unique(label[some]))
        number = pd.Series(np.arange(len(names)) % n_folds, index=names)
        if (some & apart).any():
            size = pd.Series(visit[some]).groupby(label[some]).nunique()[names]
            room = size.groupby(number).cumsum() <= np.maximum(MOST_VALUES, size.max())
            omitted += int((~room).sum())
            number = number[room]
        folds[some] = pd.Series(label[some]).map(number).fillna(-1).to_numpy(int)
    return folds, omitted
