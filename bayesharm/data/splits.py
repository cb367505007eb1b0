"""Balanced cross-validation folds of people, and of travelers' visits to scanners."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bayesharm.data.scans import find_travelers
from bayesharm.errors import InputError


def split_people(scans: pd.DataFrame, folds: int, rng: np.random.Generator) -> np.ndarray:
    """Assign people to folds, stratified by their scanners and diagnosis; all scans of a person are in the same fold.

    Parameters
    ----------
    scans : DataFrame
        As from :func:`bayesharm.data.scans.read_scans`.
    folds : int
        Number of folds.
    rng : Generator
        Random stream.

    Returns
    -------
    (scan,) int array
        Fold of each scan.

    Raises
    ------
    InputError
        There are fewer travelers than folds.
    """
    if (n_travelers := scans["participant_id"][find_travelers(scans)].nunique()) < folds:
        raise InputError(
            "There are too few traveling subjects for cross-validation.",
            got=f"{n_travelers} travelers for {folds} folds",
            expected="at least one traveler in each fold",
            do="use fewer folds" if n_travelers > 1 else "evaluate a study with people scanned on several scanners",
        )
    diagnosis = scans["diagnosis"] if "diagnosis" in scans else pd.Series("", scans.index)
    people = pd.DataFrame({"person": scans["participant_id"], "scanner": scans["scanner"], "diagnosis": diagnosis})
    strata = people.groupby("person").agg({"scanner": lambda names: "/".join(sorted(set(names))), "diagnosis": "first"})
    strata = strata.sample(frac=1, random_state=rng).sort_values(["scanner", "diagnosis"], kind="stable")
    fold = pd.Series((np.arange(len(strata)) + rng.integers(folds)) % folds, strata.index)
    return scans["participant_id"].map(fold).to_numpy()


def split_visits(scans: pd.DataFrame, folds: int, rng: np.random.Generator) -> np.ndarray:
    """Assign travelers' visits to folds; all scans of one traveler on one scanner are one visit.

    The visits of each traveler, and those to each scanner, are spread evenly over the folds, so that the training data of
    every fold contain most visits of each traveler and to each scanner.

    Parameters
    ----------
    scans : DataFrame
        As from :func:`bayesharm.data.scans.read_scans`.
    folds : int
        Number of folds.
    rng : Generator
        Random stream.

    Returns
    -------
    (scan,) int array
        Fold of each scan; -1 for people who do not travel.
    """
    is_traveler_scan = find_travelers(scans)
    visits = scans.loc[is_traveler_scan, ["participant_id", "scanner"]].drop_duplicates().sample(frac=1, random_state=rng)
    fold = np.empty(len(visits), int)
    counts = {name: np.zeros(folds, int) for name in visits["scanner"].unique()}
    for visit_indices in visits.reset_index(drop=True).groupby("participant_id").indices.values():
        available = list(rng.permutation(np.resize(np.arange(folds), len(visit_indices))))
        for visit_index in visit_indices:
            scanner_counts = counts[visits["scanner"].iloc[visit_index]]
            best = min(available, key=lambda k: scanner_counts[k])
            available.remove(best)
            scanner_counts[best] += 1
            fold[visit_index] = best
    fold_of_visit = {tuple(visit): k for visit, k in zip(visits.itertuples(index=False), fold, strict=True)}
    visit_of_scan = zip(scans["participant_id"], scans["scanner"], strict=True)
    return np.array([
        fold_of_visit.get(visit, -1) if is_traveler else -1
        for visit, is_traveler in zip(visit_of_scan, is_traveler_scan, strict=True)
    ])  # fmt: skip
