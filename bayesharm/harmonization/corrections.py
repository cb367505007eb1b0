"""What is taken out of scans: effects of scanners, and of populations if wanted, with what is uncertain of them together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from bayesharm.algorithms.random_streams import Stage
from bayesharm.data.scans import find_travelers
from bayesharm.model.labels import Population
from bayesharm.results.nodes import NODE, read_populations
from bayesharm.results.posterior import Posterior

if TYPE_CHECKING:
    import xarray as xr


class Effects(NamedTuple):
    """Effects that are removed, level by level; scanners first.

    Attributes
    ----------
    levels : list of str and Population
        Scanners, and populations after them.
    n_scanners : int
    mean, sd : (level, feature) arrays
        In the features' units.
    correlation : (level, level) array
        Of what is uncertain of two levels; about the same for every feature.
    seen : (level,) bool array
        Whether the posterior knows them.
    """

    levels: list[str | Population]
    n_scanners: int
    mean: np.ndarray
    sd: np.ndarray
    correlation: np.ndarray
    seen: np.ndarray


def read_effects(posterior: Posterior, families: tuple[str, ...], at: np.ndarray) -> Effects:
    """Effects of scanners and perhaps of populations, of the features at some places.

    Parameters
    ----------
    posterior : Posterior
    families : tuple of str
        A family by scanner, and perhaps one by population.
    at : (feature,) int array
    """
    nodes = [posterior.effect(name) for name in families]
    mean, sd = (np.concatenate([node[name].values for node in nodes])[:, at] for name in ("mean", "sd"))
    first = nodes[0]
    levels: list[str | Population] = [str(name) for name in first["scanner"].values]
    n = len(levels)
    correlation = first["correlation"].values if "correlation" in first else np.eye(n)
    if len(nodes) > 1:
        levels += read_populations(nodes[1])
        cross = nodes[1]["with_scanner"].values
        correlation = np.block([[correlation, cross.T], [cross, nodes[1]["correlation"].values]])
    return Effects(levels, n, mean, sd, correlation, np.full(len(levels), True))


def find_populations(posterior: Posterior, scans: pd.DataFrame) -> list[Population | None]:
    """Return the population of each scan, which may be absent from the fit; None for travelers.

    Parameters
    ----------
    posterior : Posterior
    scans : DataFrame
        A scan without a diagnosis, in a study with diagnoses, has a population without a diagnosis.
    """
    travelers = find_travelers(scans) | scans["participant_id"].isin(posterior.tree["design"].attrs["travelers"])
    has_diagnosis = "diagnosis" in posterior.tree[NODE].to_dataset()["kind_column"].values and "diagnosis" in scans
    diagnoses = scans["diagnosis"] if has_diagnosis else [""] * len(scans)
    rows = zip(travelers, scans["site"], diagnoses, strict=True)
    return [None if travels else Population(str(site), str(diagnosis)) for travels, site, diagnosis in rows]


def add_unknown(
    effects: Effects, names: Sequence[str | Population], scale: xr.Dataset, at: np.ndarray, n_known: int, *, scanners: bool
) -> Effects:
    """Levels that the fit has not seen: 0, and as uncertain as its prior says.

    An effect is counted from the mean of K that are known; for one that is not, that is tau² (1 + 1/K) in all, of which
    tau² / K is common to all of them.

    Parameters
    ----------
    effects : Effects
    names : sequence of str or Population
    scale : Dataset
        `mean` and `sd` of the scales of the families that add up to the effect, (family, feature).
    at : (feature,) int array
    n_known : int
        K.
    scanners : bool
        Whether they are scanners or populations.
    """
    variance = ((scale["mean"] ** 2 + scale["sd"] ** 2).sum("family") * (1 + 1 / n_known)).values[at]
    place = effects.n_scanners if scanners else len(effects.levels)
    n_new = len(names)

    def insert(values: np.ndarray, new: np.ndarray | bool) -> np.ndarray:
        return np.insert(values, [place] * n_new, new, axis=0)

    correlation = insert(effects.correlation, np.zeros(len(effects.levels)))
    correlation = insert(correlation.T, np.zeros(len(correlation)))
    new = slice(place, place + n_new)
    correlation[new, new] = (np.ones((n_new, n_new)) + n_known * np.eye(n_new)) / (n_known + 1)
    return Effects(
        [*effects.levels[:place], *names, *effects.levels[place:]],
        effects.n_scanners + n_new * scanners,
        insert(effects.mean, np.zeros(len(at))),
        insert(effects.sd, np.sqrt(variance)),
        correlation,
        insert(effects.seen, False),
    )


@dataclass(frozen=True, eq=False)
class Correction:
    """Which effects are taken out of which scans.

    Attributes
    ----------
    effects : Effects
    scanner, population : (scan,) int arrays
        Places of their levels; -1 has none.
    target : int
        Place of the scanner that scans are brought to, or -1 for the average one.
    at : (feature,) int array
        Places of the features in the posterior.
    seed : int
    """

    effects: Effects
    scanner: np.ndarray
    population: np.ndarray
    target: int
    at: np.ndarray
    seed: int = 0

    @cached_property
    def _kinds(self) -> tuple[np.ndarray, np.ndarray]:
        """Scans from which the same is taken: which levels, with a sign, and the kind of each scan."""
        pairs, kind = np.unique(np.stack([self.scanner, self.population], axis=1), axis=0, return_inverse=True)
        forms = np.zeros((len(pairs), len(self.effects.levels)))
        for form, (scanner, population) in zip(forms, pairs, strict=True):
            form[scanner] += 1
            if population >= 0:
                form[population] += 1
            if self.target >= 0:
                form[self.target] -= 1
        return forms, kind.reshape(-1)

    @property
    def kind(self) -> np.ndarray:
        """Kind of each scan, (scan,)."""
        return self._kinds[1]

    def mean(self, part: slice) -> np.ndarray:
        """What is taken from each kind, (kind, feature)."""
        return self._add_up(self.effects.mean[:, part])

    def _add_up(self, levels: np.ndarray) -> np.ndarray:
        """Sums of levels, (…, level, feature) -> (…, kind, feature); of none they are 0, whatever the levels are."""
        found = np.zeros((*levels.shape[:-2], len(self._kinds[0]), levels.shape[-1]))
        for k, form in enumerate(self._kinds[0]):
            for level in np.flatnonzero(form):
                found[..., k, :] += form[level] * levels[..., level, :]
        return found

    def sd(self, part: slice) -> np.ndarray:
        """Its posterior sd, (kind, feature)."""
        sd = self.effects.sd[:, part]
        found = np.empty((len(self._kinds[0]), sd.shape[1]))
        for row, form in zip(found, self._kinds[0], strict=True):
            own = np.flatnonzero(form)
            scaled = form[own, None] * sd[own]
            row[:] = np.einsum("if,ij,jf->f", scaled, self.effects.correlation[np.ix_(own, own)], scaled)
        return np.sqrt(np.maximum(found, 0))

    def draw(self, part: slice, number: int) -> np.ndarray:
        """One of its joint draws, (kind, feature); the number says which.

        Those of levels that the posterior knows do not depend on levels that it does not know, so that parts of a study
        that are harmonized apart have lost the same in a draw.
        """
        places, seen = self.at[part], self.effects.seen
        normal = np.empty((len(seen), len(places)))
        for known in (True, False):
            some = seen == known
            rng = np.random.default_rng([self.seed, Stage.HARMONIZE, 1 + number, known])  # trailing zeros say nothing
            normal[some] = rng.standard_normal((some.sum(), len(self.at)))[:, places]
        variance, vectors = np.linalg.eigh(self.effects.correlation)  # singular: effects sum to 0
        root = (vectors * np.sqrt(np.maximum(variance, 0))) @ vectors.T
        levels = self.effects.mean[:, part] + self.effects.sd[:, part] * (root @ normal)
        return self._add_up(levels)
