"""Effects to remove from scans, of scanners and perhaps of populations, with their joint uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from bayesharm.algorithms.random_streams import Stage
from bayesharm.data.scans import find_site_travelers
from bayesharm.errors import InputError, shorten
from bayesharm.harmonization.scanner_ratios import ScannerRatios
from bayesharm.model.labels import Population
from bayesharm.model.slopes import SlopeColumn
from bayesharm.model.spec import ModelSpec
from bayesharm.results.nodes import read_populations
from bayesharm.results.posterior import Posterior

if TYPE_CHECKING:
    import xarray as xr


class SlopeOf(NamedTuple):
    """Name of the slope of a scanner's bias, among the levels of effects to remove."""

    scanner: str


class Effects(NamedTuple):
    """Posterior of the effects to remove, by level: scanners first, then the slopes of their biases, then populations.

    Attributes
    ----------
    levels : list of str, SlopeOf and Population
    n_scanners, n_slopes : int
        Number of scanners among the levels, and of slopes: as many, or 0.
    mean, sd : (level, feature) arrays
        Posterior mean and sd, in the features' units.
    correlation : (level, level) array
        Posterior correlation between levels, taken to be the same for every feature.
    in_posterior : (level,) bool array
        False for levels that only have the prior.
    """

    levels: list[str | SlopeOf | Population]
    n_scanners: int
    n_slopes: int
    mean: np.ndarray
    sd: np.ndarray
    correlation: np.ndarray
    in_posterior: np.ndarray


def read_effects(posterior: Posterior, families: tuple[str, ...], feature_indices: np.ndarray) -> Effects:
    """Read the effects to remove from a posterior.

    Parameters
    ----------
    posterior : Posterior
    families : tuple of str
        A family by scanner, and perhaps one by population.
    feature_indices : (feature,) int array
        Indices of the features in the posterior.
    """
    by_scanner = posterior.effect(families[0])
    nodes = [by_scanner, *map(posterior.effect, slope_names(posterior.spec, families)), *map(posterior.effect, families[1:])]
    mean, sd = (np.concatenate([node[name].values for node in nodes])[:, feature_indices] for name in ("mean", "sd"))
    scanners = [str(name) for name in by_scanner["scanner"].values]
    levels: list[str | SlopeOf | Population] = [*scanners]
    correlation = by_scanner["correlation"].values if "correlation" in by_scanner else np.eye(len(scanners))
    for node in nodes[1:]:
        is_slope = "population" not in node.dims
        levels += map(SlopeOf, scanners) if is_slope else read_populations(node)
        cross = node["with_scanner"].values
        if "with_slope" in node:
            cross = np.concatenate([cross, node["with_slope"].values], axis=1)
        correlation = np.block([[correlation, cross.T], [cross, node["correlation"].values]])
    n_slopes = sum(isinstance(level, SlopeOf) for level in levels)
    return Effects(levels, len(scanners), n_slopes, mean, sd, correlation, np.full(len(levels), True))


def slope_names(spec: ModelSpec, families: Sequence[str]) -> list[str]:
    """Return the name of the slopes of the effects to remove, if they have any; at most one."""
    return [family.slope_name for family in spec.slopes if family.name == families[0]]


def slope_values(posterior: Posterior, scans: pd.DataFrame, families: Sequence[str]) -> np.ndarray | None:
    """Return the distance of each scan from the value from which slopes of the removed effects count, (scan,).

    None where these effects have no slopes.

    Raises
    ------
    InputError
        The column is absent, is not numeric, or lacks values.
    """
    if not slope_names(posterior.spec, families):
        return None
    columns = (SlopeColumn(**each) for each in posterior.sufficient_statistics.attrs["slopes"])
    return distance_from_center(scans, next(each for each in columns if each.family == families[0]))


def distance_from_center(scans: pd.DataFrame, slope: SlopeColumn) -> np.ndarray:
    """Return the distance of each scan from the value from which slopes count, (scan,); not those of participants.

    Raises
    ------
    InputError
        The column is absent, is not numeric, or lacks values.
    """
    name = slope.column
    values = pd.to_numeric(scans[name], errors="coerce").to_numpy(float) if name in scans else np.full(len(scans), np.nan)
    if (bad := ~np.isfinite(values)).any():
        raise InputError(
            f"The {slope.family} effects of the fit depend on {name}; some scans have no value of it.",
            got=f"no number in the column {name!r} for scans {shorten(scans['scan_id'][bad])}",
            expected="a number for every scan",
            do="complete the column, or leave these scans out",
        )
    return values - slope.center


def find_populations(posterior: Posterior, scans: pd.DataFrame) -> list[Population | None]:
    """Return the population of each scan, which may be absent from the fit; None for travelers between sites.

    Parameters
    ----------
    posterior : Posterior
    scans : DataFrame
        A scan without a diagnosis, in a study with diagnoses, has a population without a diagnosis.
    """
    travelers = find_site_travelers(scans) | scans["participant_id"].isin(posterior.design.attrs["site_travelers"])
    has_diagnosis = "diagnosis" in posterior.sufficient_statistics["table_column"].values and "diagnosis" in scans
    diagnoses = scans["diagnosis"] if has_diagnosis else [""] * len(scans)
    rows = zip(travelers, scans["site"], diagnoses, strict=True)
    return [None if travels else Population(str(site), str(diagnosis)) for travels, site, diagnosis in rows]


def add_unknown(
    effects: Effects,
    names: Sequence[str | SlopeOf | Population],
    scale: xr.Dataset,
    feature_indices: np.ndarray,
    n_known: int,
) -> Effects:
    """Add levels that are not in the fit: mean 0, and the uncertainty of the prior.

    Effects are contrasts with the mean of the K levels of the fit. That of a new level therefore has the prior variance
    tau² (1 + 1/K), of which tau² / K, the variance of that mean, is common to all new levels.

    Parameters
    ----------
    effects : Effects
    names : sequence of str, SlopeOf or Population
        The new levels, all of one kind.
    scale : Dataset
        `mean` and `sd` of tau for the families whose sum is the effect, (family, feature).
    feature_indices : (feature,) int array
    n_known : int
        K.
    """
    variance = ((scale["mean"] ** 2 + scale["sd"] ** 2).sum("family") * (1 + 1 / n_known)).values[feature_indices]
    kind, n_new = type(names[0]), len(names)
    ends = {str: effects.n_scanners, SlopeOf: effects.n_scanners + effects.n_slopes, Population: len(effects.levels)}
    start = ends[kind]

    def insert(values: np.ndarray, new: np.ndarray | bool) -> np.ndarray:
        return np.insert(values, [start] * n_new, new, axis=0)

    correlation = insert(effects.correlation, np.zeros(len(effects.levels)))
    correlation = insert(correlation.T, np.zeros(len(correlation)))
    new = slice(start, start + n_new)
    correlation[new, new] = (np.ones((n_new, n_new)) + n_known * np.eye(n_new)) / (n_known + 1)
    return Effects(
        [*effects.levels[:start], *names, *effects.levels[start:]],
        effects.n_scanners + n_new * (kind is str),
        effects.n_slopes + n_new * (kind is SlopeOf),
        insert(effects.mean, np.zeros(len(feature_indices))),
        insert(effects.sd, np.sqrt(variance)),
        correlation,
        insert(effects.in_posterior, False),
    )


def correlate_unknown_slopes(effects: Effects, n_new: int, correlation: float) -> Effects:
    """Correlate the last scanners, which are not in the fit, with their slopes: rho, as the prior does within a scanner."""
    scanners, slopes = (slice(stop - n_new, stop) for stop in (effects.n_scanners, effects.n_scanners + effects.n_slopes))
    correlations = effects.correlation.copy()
    correlations[scanners, slopes] = correlations[slopes, scanners] = correlation * correlations[scanners, scanners]
    return effects._replace(correlation=correlations)


@dataclass(frozen=True, eq=False)
class Correction:
    """The sum of effects to subtract from each scan.

    Scans on the same scanner, of the same population, and of the same value on which biases depend, are corrected alike:
    they have the same correction pattern. All quantities are computed once for each pattern. Effects of populations are
    subtracted as the scanner shows them, multiplied by its gain.

    Attributes
    ----------
    effects : Effects
    scanner, population : (scan,) int arrays
        Index of each scan's scanner and population among the levels of the effects; -1 for no population.
    slope : (scan,) array
        The value that multiplies the slope of the scanner's bias; 0 without slopes.
    target : int
        Index of the target scanner among the levels, or -1 for the average scanner.
    ratios : ScannerRatios
        Draws, of the scanners among the levels.
    match_gain : bool
        Whether gains are matched after the subtraction. The bias of the target is then added in the units of each scanner.
    feature_indices : (feature,) int array
        Indices of the features in the posterior.
    error_pattern : (entry, feature) array
        Error patterns of the features of the posterior.
    seed : int
        Seed of the draws.
    """

    effects: Effects
    scanner: np.ndarray
    population: np.ndarray
    slope: np.ndarray
    target: int
    ratios: ScannerRatios
    match_gain: bool
    feature_indices: np.ndarray
    error_pattern: np.ndarray
    seed: int = 0

    @cached_property
    def _patterns(self) -> tuple[np.ndarray, np.ndarray]:
        """Scanner, population and slope of each pattern, (pattern, 3), and the pattern of each scan."""
        kinds = np.stack([self.scanner, self.population, self.slope], axis=1)
        kinds, pattern = np.unique(kinds, axis=0, return_inverse=True)
        return kinds, pattern.reshape(-1)

    @property
    def correction_pattern(self) -> np.ndarray:
        """The correction pattern of each scan, (scan,)."""
        return self._patterns[1]

    def gain_factors(self, draw: int | None = None) -> np.ndarray:
        """Return the factors that match the gain of each scanner, (scanner,), at the mean or at a draw of log g.

        That of the target is exactly 1.
        """
        log_gain = (self.ratios.mean if draw is None else self.ratios.at(draw)).log_gain
        return np.exp(self._log_gain_factors(log_gain))

    @cached_property
    def gain_sd(self) -> np.ndarray:
        """Posterior sd of the logarithms of the `gain_factors`, (scanner,)."""
        return self._log_gain_factors(self.ratios.log_gain).std(0)

    def _log_gain_factors(self, log_gain: np.ndarray) -> np.ndarray:
        """Return log g of the target (0 for the average scanner) minus that of each scanner, (…, scanner)."""
        return self.match_gain * ((log_gain[..., [self.target]] if self.target >= 0 else 0.0) - log_gain)

    def mean(self, columns: slice) -> np.ndarray:
        """Return the posterior mean of the correction, (pattern, feature)."""
        return _combine(self._weights(), self.effects.mean[:, columns])

    def mean_bias(self, columns: slice) -> np.ndarray:
        """Return the posterior mean of the bias of the scan's own scanner alone, (pattern, feature)."""
        return _combine(self._weights(only_own=True), self.effects.mean[:, columns])

    def _weights(self, draw: int | None = None, only_own: bool = False) -> np.ndarray:
        """Return the weights of the levels in each pattern, (pattern, level)."""
        # gains that are not matched only tell how much of a population a scanner shows: their means are enough
        ratios = self.ratios.mean if draw is None or not self.match_gain else self.ratios.at(draw)
        gain, factors, kinds = np.exp(ratios.log_gain), self.gain_factors(draw), self._patterns[0]
        weights = np.zeros((len(kinds), len(self.effects.levels)))
        for row, (scanner, population, slope) in zip(weights, kinds, strict=True):
            own = int(scanner)
            ends = [(own, 1.0)]
            if self.target >= 0 and not only_own:
                ends.append((self.target, -1 / factors[own]))
            for level, weight in ends:
                row[level] += weight
                if self.effects.n_slopes:
                    row[self.effects.n_scanners + level] += weight * slope
            if population >= 0 and not only_own:
                row[int(population)] += gain[own]
        return weights

    def sd(self, columns: slice) -> np.ndarray:
        """Return the posterior sd of the correction, (pattern, feature)."""
        sd, weights = self.effects.sd[:, columns], self._weights()
        variance = np.empty((len(weights), sd.shape[1]))
        for pattern, row in enumerate(weights):
            levels = np.flatnonzero(row)
            weighted = row[levels, None] * sd[levels]
            correlation = self.effects.correlation[np.ix_(levels, levels)]
            variance[pattern] = np.einsum("if,ij,jf->f", weighted, correlation, weighted)
        return np.sqrt(np.maximum(variance, 0))

    def draw(self, columns: slice, draw: int) -> np.ndarray:
        """Return one joint posterior draw of the correction, (pattern, feature).

        Errors are correlated over features as their error patterns are. Levels of the posterior use another stream of random
        numbers than new levels. Scans harmonized separately thus get the same correction in the same draw, whichever new
        levels are among them.
        """
        in_posterior = self.effects.in_posterior
        weights = np.empty((len(in_posterior), len(self.error_pattern)), np.float32)
        for is_known in (True, False):
            rows = in_posterior == is_known
            rng = np.random.default_rng([self.seed, Stage.HARMONIZE, 1 + draw, is_known])  # NumPy ignores final zeros
            weights[rows] = rng.standard_normal((rows.sum(), len(self.error_pattern)))
        normal = weights @ self.error_pattern[:, self.feature_indices[columns]]
        variance, vectors = np.linalg.eigh(self.effects.correlation)  # singular, since effects sum to 0
        root = (vectors * np.sqrt(np.maximum(variance, 0))) @ vectors.T
        level_effects = self.effects.mean[:, columns] + self.effects.sd[:, columns] * (root @ normal)
        return _combine(self._weights(draw), level_effects)


def _combine(weights: np.ndarray, level_effects: np.ndarray) -> np.ndarray:
    """Sum effects over the levels of each pattern: (level, feature) -> (pattern, feature).

    Levels of weight 0 are left out, so that a scan on the target scanner gets a correction of exactly 0.
    """
    combined = np.zeros((len(weights), level_effects.shape[-1]))
    for pattern, row in enumerate(weights):
        for level in np.flatnonzero(row):
            combined[pattern] += row[level] * level_effects[level]
    return combined
