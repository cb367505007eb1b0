"""Matching of noise and gain: deviations are rescaled so that they are alike on all scanners."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayesharm.errors import InputError, shorten
from bayesharm.harmonization.corrections import Correction, distance_from_center, find_populations
from bayesharm.harmonization.scanner_ratios import ScannerRatios, read_feature_noise
from bayesharm.likelihood.definition import gain_of_scanners
from bayesharm.model.covariates import centered_covariates, covariate_sources, covariates_from_dict
from bayesharm.model.slopes import SlopeColumn
from bayesharm.results.nodes import read_populations, read_statistics
from bayesharm.results.posterior import Posterior

if TYPE_CHECKING:
    import xarray as xr


def noise_factors(
    posterior: Posterior,
    ratios: ScannerRatios,
    target: int,
    feature_indices: np.ndarray,
    log_noise: np.ndarray | float = 0.0,
) -> np.ndarray:
    """Return the factors that give deviations the same variance on every scanner, (…, scanner, feature).

    The deviation of a person scanned once is a difference between people plus noise, of variance
    ``g² tau² + sigma² lambda``. tau² is the sum of the variances of participants and of families with `scaled_by_gain`, such
    as siblings. Slopes do not count: the variance is that at the first scan of a participant, and at the mean of the column
    for other families. The factor of a scanner is the square root of this variance at the target's ratios (1 without a
    target) over that at its own. It does not depend on the participant, nor on the relative noise variance of a scan: all
    scans are rescaled by the same factor. Where gains are matched before, this is the factor of both steps together.

    Parameters
    ----------
    posterior : Posterior
    ratios : ScannerRatios
        log lambda and log g, (…, scanner).
    target : int
        Index of the target scanner, or -1.
    feature_indices : (feature,) int array
        Indices of the features in the posterior.
    log_noise : (scanner, feature) array, optional
        Log factors of lambda in each feature, :func:`~bayesharm.harmonization.scanner_ratios.read_feature_noise`.
    """
    spec, scales = posterior.spec, posterior.scales["q50"][:, feature_indices]
    noise = scales.sel(family="noise").values ** 2
    people = [family.name for family in spec.families if family.by == "participant" or family.scaled_by_gain]
    of_people = (scales.sel(family=scales["family"].isin(people)) ** 2).sum("family").values
    ratio, square_of_gain = (np.exp(part)[..., None] for part in (ratios.log_noise, 2 * ratios.log_gain))
    variance = square_of_gain * of_people + noise * ratio * np.exp(log_noise)
    # the target's own factor is exactly 1
    return np.sqrt((variance[..., [target], :] if target >= 0 else of_people + noise) / variance)


def scale_deviations(values: np.ndarray, expected: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Multiply the deviations of corrected values from their expected values; a factor of 1 changes no bit."""
    return np.where(factor == 1, values, factor * values + (1 - factor) * expected)


def unscale_deviations(values: np.ndarray, expected: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Invert :func:`scale_deviations`."""
    return np.where(factor == 1, values, (values - (1 - factor) * expected) / factor)


class Expectation:
    """The expected value of each scan after correction, whoever is scanned.

    It is the sum of the mean of all scans in the posterior and of the effects that stay in the data: diagnosis,
    covariates and population. Effects are contrasts with an average over levels, so that the mean of the scans contains
    their mean over scans, which is subtracted.

    Parameters
    ----------
    posterior : Posterior
    scans : DataFrame
    families : tuple of str
        Effects that are removed from the scans.
    feature_indices : (feature,) int array
        Indices of the features in the posterior.
    target : str, optional
        The target scanner.
    gain : (scan,) array, optional
        Factor on differences between people in each corrected scan; 1 by default.

    Raises
    ------
    InputError
        A covariate of the fit is absent or has no values.
    """

    def __init__(
        self,
        posterior: Posterior,
        scans: pd.DataFrame,
        families: tuple[str, ...],
        feature_indices: np.ndarray,
        target: str | None,
        gain: np.ndarray | None = None,
    ) -> None:
        statistics = read_statistics(posterior.sufficient_statistics, posterior.spec)
        design, gain_of_class = statistics.design, None
        if posterior.spec.gain != "none":
            gain_of_class = gain_of_scanners(design, posterior.variance_ratios(design.scanners))[design.class_scanner]
        shown = statistics.observed(gain_of_class, weighted=True)  # scans of each level, as far as gains show it
        n_scans = shown[0]  # of the mean, the first column
        columns = {group.name: group.columns for group in design.effects}
        chosen = feature_indices if statistics.has_missing else [0]
        gain = np.ones((len(scans), 1)) if gain is None else gain[:, None]
        self._indices = feature_indices
        self.mean = _mean_of_scans(posterior, feature_indices)
        self.terms: list[tuple[np.ndarray, np.ndarray]] = []  # (scan, level) weights and (level, feature) effects
        names = {family.name: family.slope_name for family in posterior.spec.slopes}
        slopes = {names[each.family]: each for each in design.standards.slopes}
        for name in posterior.effect_families:
            if name in posterior.spec.components and name != posterior.spec.removed_effect:
                continue  # the removed effect is the sum of all components
            effect = posterior.effect(name)
            dim, values = str(effect["n_scans"].dims[0]), effect["mean"].values[:, feature_indices]
            if dim == "covariate":
                self.terms.append((gain * _centered_covariates(posterior, scans), values))
                unit = np.array([covariate.unit for covariate in design.covariates])[:, None]
                sums = statistics.sums_of(np.flatnonzero(design.families == "covariate"), gain_of_class)
                self.mean -= ((unit * sums / n_scans)[:, chosen] * values).sum(axis=0)  # 0 where all scans count alike
                continue
            if (slope := slopes.get(name)) is not None:
                sums = statistics.sums_of(columns[name][:, 0], gain_of_class)
                self.mean -= ((slope.sd * sums / n_scans)[:, chosen] * values).sum(axis=0)
                self._add_slopes(posterior, scans, effect, slope, families, target, gain)
                continue
            n_levels = shown[columns[name]].min(axis=1)
            self.mean -= ((n_levels / n_scans)[:, chosen] * values).sum(axis=0)
            if name == families[0] and target is not None:
                self.mean += effect["mean"].sel(scanner=target).values[feature_indices]
            if name not in families and (levels := _levels(posterior, scans, effect, dim)) is not None:
                self.terms.append((gain * (levels[:, None] == np.arange(len(values))), values))

    def _add_slopes(
        self,
        posterior: Posterior,
        scans: pd.DataFrame,
        effect: xr.Dataset,
        slope: SlopeColumn,
        families: tuple[str, ...],
        target: str | None,
        gain: np.ndarray,
    ) -> None:
        """Add what stays in the data of effects that depend on a column: those of the target, and of diagnoses."""
        dim = str(effect["n_scans"].dims[0])
        effect = effect.isel(feature=self._indices)
        if dim == "scanner":
            levels = np.full(len(scans), -1 if target is None else list(effect[dim].values).index(target))
            if slope.family not in families:
                return
            gain = np.ones_like(gain)  # which does not multiply biases
        elif (found := _levels(posterior, scans, effect, dim)) is None:
            return
        else:
            levels = found
        distance = distance_from_center(scans, slope)
        weights = (levels[:, None] == np.arange(effect.sizes[dim])) * gain * distance[:, None]
        self.terms.append((weights, effect["mean"].values))

    def __call__(self, columns: slice, rows: slice) -> np.ndarray:
        """Return the expected values of some scans and features, (scan, feature)."""
        return self.mean[columns] + sum(weights[rows] @ values[:, columns] for weights, values in self.terms)


@dataclass(frozen=True, eq=False)
class NoiseMatching:
    """The rescaling of deviations that goes with a correction.

    Attributes
    ----------
    posterior : Posterior
    correction : Correction
    expectation : Expectation
    """

    posterior: Posterior
    correction: Correction
    expectation: Expectation

    def factors(self, columns: slice, draw: int | None = None) -> np.ndarray:
        """Return the factors of the scanners, (scanner, feature), at the means of log lambda and log g or at a draw."""
        ratios, indices = self.correction.ratios, self.correction.feature_indices[columns]
        effects = self.correction.effects
        log_noise = read_feature_noise(self.posterior, effects.levels[: effects.n_scanners], indices)
        factors = noise_factors(
            self.posterior, ratios.mean if draw is None else ratios.at(draw), self.correction.target, indices, log_noise
        )
        return factors / self.correction.gain_factors(draw)[:, None]


def _mean_of_scans(posterior: Posterior, feature_indices: np.ndarray) -> np.ndarray:
    """Return the weighted mean over all scans in the posterior, those of adaptation included, (feature,)."""
    scales, statistics = posterior.scales, posterior.sufficient_statistics
    n_scans = read_statistics(statistics, posterior.spec).observed(weighted=True)[0]
    intercept = statistics["dense_column"].values == 0
    standardized = statistics["dense"].values[intercept].sum(0) / n_scans  # 0 in a fit; adaptation adds scans
    return (scales["center"].values + scales["feature_scale"].values * standardized)[feature_indices]


def _levels(posterior: Posterior, scans: pd.DataFrame, effect: xr.Dataset, dim: str) -> np.ndarray | None:
    """Return the index of each scan's population or diagnosis, (scan,); -1 for none. None for other effects."""
    if dim == "population":
        place = {population: k for k, population in enumerate(read_populations(effect))}
        return np.array([-1 if each is None else place.get(each, -1) for each in find_populations(posterior, scans)])
    if dim == "diagnosis" and "diagnosis" in scans:
        return pd.Index(effect[dim].values).get_indexer(pd.Index(scans["diagnosis"]))
    return None


def notes_on_diagnoses(posterior: Posterior, scans: pd.DataFrame) -> list[str]:
    """Return a note on scans with a diagnosis that is not in the fit, or without one."""
    if not any(family.by == "diagnosis" for family in posterior.spec.families):
        return []
    names = [name for name in posterior.effect_families if posterior.spec.dimension_of(name) == "diagnosis"]
    if not names and "diagnosis" not in scans:  # a fit of one diagnosis, and scans that may be of the same
        return []
    known = {posterior.spec.reference, *(str(each) for name in names for each in posterior.effect(name)["diagnosis"].values)}
    given = scans["diagnosis"] if "diagnosis" in scans else pd.Series(np.nan, scans.index)
    unknown = given.isna() | ~given.astype(str).isin(known)
    if not unknown.any():
        return []
    new = sorted({str(each) for each in given[unknown].dropna()})
    what = f"Diagnoses not in the fit: {shorten(new)}" if new else "Scans without a diagnosis"
    return [
        f"{what}, in {unknown.sum():,} of {len(scans):,} scans ({shorten(scans['scan_id'][unknown], 3)}). Noise matching "
        f"takes them for scans of the reference diagnosis, {posterior.spec.reference!r}, in an average population."
    ]


def _centered_covariates(posterior: Posterior, scans: pd.DataFrame) -> np.ndarray:
    """Return the covariates minus their means over the scans of the fit, (scan, covariate)."""
    covariates = covariates_from_dict(posterior.sufficient_statistics.attrs)
    if absent := [name for name in covariate_sources(covariates) if name not in scans]:
        raise InputError(
            "Noise matching needs the covariates of the fit.",
            got=f"no column {shorten(absent)}",
            expected="all covariates of the fit as columns: deviations from the expected value are rescaled",
            do="add the columns, or leave match_noise out",
        )
    return centered_covariates(scans, covariates)
