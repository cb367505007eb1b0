"""What is taken out of scans: effects of scanners, and of populations if wanted, with what is uncertain of them together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bayesharm.posterior import Posterior

if TYPE_CHECKING:
    import xarray as xr

STREAM = 12  # of random numbers, after those of the inference
TOGETHER = 256  # features whose random numbers are drawn together


class Effects(NamedTuple):
    """Effects that are removed, level by level; scanners first.

    Attributes
    ----------
    levels : list of str
        Scanners, and populations after them.
    n_scanners : int
    mean, sd : (level, feature) arrays
        In the features' units.
    correlation : (level, level) array
        Of what is uncertain of two levels; about the same for every feature.
    """

    levels: list[str]
    n_scanners: int
    mean: np.ndarray
    sd: np.ndarray
    correlation: np.ndarray


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
    levels = [str(name) for name in first["scanner"].values]
    n = len(levels)
    correlation = first["correlation"].values if "correlation" in first else np.eye(n)
    if len(nodes) > 1:
        levels += [str(name) for name in nodes[1]["population"].values]
        cross = nodes[1]["with_scanner"].values
        correlation = np.block([[correlation, cross.T], [cross, nodes[1]["correlation"].values]])
    return Effects(levels, n, mean, sd, correlation)


def add_unknown(effects: Effects, names: list[str], scale: xr.Dataset, at: np.ndarray, *, scanners: bool) -> Effects:
    """Levels that the fit has not seen: 0, and as uncertain as its prior says.

    An effect is counted from the mean of K that are known; for one that is not, that is tau² (1 + 1/K) in all.

    Parameters
    ----------
    effects : Effects
    names : list of str
    scale : Dataset
        `mean` and `sd` of the scales of the families that add up to the effect, (family, feature).
    at : (feature,) int array
    scanners : bool
        Whether they are scanners or populations.
    """
    if not names:
        return effects
    n_known = effects.n_scanners if scanners else len(effects.levels) - effects.n_scanners
    variance = ((scale["mean"] ** 2 + scale["sd"] ** 2).sum("family") * (1 + 1 / max(n_known, 1))).values[at]
    place = effects.n_scanners if scanners else len(effects.levels)

    def insert(values: np.ndarray, new: np.ndarray) -> np.ndarray:
        return np.insert(values, [place] * len(names), new, axis=0)

    correlation = insert(effects.correlation, np.zeros(len(effects.levels)))
    correlation = insert(correlation.T, np.zeros(len(correlation)))
    new = slice(place, place + len(names))
    correlation[new, new] = np.eye(len(names))
    return Effects(
        [*effects.levels[:place], *names, *effects.levels[place:]],
        effects.n_scanners + len(names) * scanners,
        insert(effects.mean, np.zeros(len(at))),
        insert(effects.sd, np.sqrt(variance)),
        correlation,
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

    def draw(self, part: slice, n_draws: int) -> np.ndarray:
        """Joint draws of it, (draw, kind, feature): the first ones are the same however many there are."""
        places = self.at[part]
        normal = np.empty((n_draws, len(self.effects.levels), len(places)))
        for block in np.unique(places // TOGETHER):
            rng = np.random.default_rng([self.seed, STREAM, int(block)])
            those = rng.standard_normal((n_draws, len(self.effects.levels), TOGETHER))
            own = places // TOGETHER == block
            normal[..., own] = those[..., places[own] % TOGETHER]
        variance, vectors = np.linalg.eigh(self.effects.correlation)  # singular: effects sum to 0
        root = vectors * np.sqrt(np.maximum(variance, 0))
        levels = self.effects.mean[:, part] + self.effects.sd[:, part] * (root @ normal)
        return self._add_up(levels)
