"""Who is left out: people, and visits of people to scanners, in groups that are as alike as chance allows."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bayesharm.data.scans import find_travelers
from bayesharm.errors import InputError


def split_people(scans: pd.DataFrame, folds: int, rng: np.random.Generator) -> np.ndarray:
    """A fold for each scan, the same for all scans of a person; people of the same scanners and diagnosis are dealt out.

    Parameters
    ----------
    scans : DataFrame
        Canonical columns.
    folds : int
    rng : Generator

    Raises
    ------
    InputError
        There are fewer travelers than folds.
    """
    if (n := scans["participant_id"][find_travelers(scans)].nunique()) < folds:
        raise InputError(
            "There are too few traveling subjects to leave some of them out.",
            got=f"{n} travelers for {folds} folds",
            expected="at least one traveler in each fold",
            do="take fewer folds" if n > 1 else "evaluate on a study in which people were scanned on several scanners",
        )
    diagnosis = scans["diagnosis"] if "diagnosis" in scans else pd.Series("", scans.index)
    people = pd.DataFrame({"person": scans["participant_id"], "scanner": scans["scanner"], "diagnosis": diagnosis})
    kind = people.groupby("person").agg({"scanner": lambda names: "/".join(sorted(set(names))), "diagnosis": "first"})
    kind = kind.sample(frac=1, random_state=rng).sort_values(["scanner", "diagnosis"], kind="stable")
    fold = pd.Series((np.arange(len(kind)) + rng.integers(folds)) % folds, kind.index)
    return scans["participant_id"].map(fold).to_numpy()


def split_visits(scans: pd.DataFrame, folds: int, rng: np.random.Generator) -> np.ndarray:
    """A fold for each scan of a traveler, the same for all scans of a visit to a scanner; -1 for people who did not travel.

    The visits of a person are dealt out, and those to a scanner are as evenly as can be: each fold leaves most of a person's
    and of a scanner's visits to learn from.

    Parameters
    ----------
    scans : DataFrame
    folds : int
    rng : Generator
    """
    travels = find_travelers(scans)
    visits = scans.loc[travels, ["participant_id", "scanner"]].drop_duplicates().sample(frac=1, random_state=rng)
    fold = np.empty(len(visits), int)
    taken = {name: np.zeros(folds, int) for name in visits["scanner"].unique()}
    for places in visits.reset_index(drop=True).groupby("participant_id").indices.values():
        free = list(rng.permutation(np.resize(np.arange(folds), len(places))))
        for place in places:
            count = taken[visits["scanner"].iloc[place]]
            best = min(free, key=lambda k: count[k])
            free.remove(best)
            count[best] += 1
            fold[place] = best
    of_visit = {tuple(visit): k for visit, k in zip(visits.itertuples(index=False), fold, strict=True)}
    return np.array([
        of_visit.get(visit, -1) if travel else -1
        for visit, travel in zip(zip(scans["participant_id"], scans["scanner"], strict=True), travels, strict=True)
    ])  # fmt: skip
