"""Selection of the effects to remove from each scan, and the notes that go with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayesharm.errors import InputError, shorten
from bayesharm.harmonization.corrections import (
    Effects,
    SlopeOf,
    add_unknown,
    correlate_unknown_slopes,
    find_populations,
    read_effects,
    slope_names,
    slope_values,
)
from bayesharm.harmonization.mean_level import MeanLevel
from bayesharm.harmonization.options import NewScanners
from bayesharm.model.labels import Population, population_labels
from bayesharm.model.spec import ModelSpec
from bayesharm.results.nodes import read_populations
from bayesharm.results.posterior import Posterior

if TYPE_CHECKING:
    import xarray as xr


def choose_families(spec: ModelSpec, remove: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the families to remove: one by scanner, and perhaps one by population.

    Parameters
    ----------
    spec : ModelSpec
    remove : str or sequence of str, optional
        Names of families, also separated by commas; by default the effect that the model is made to remove.

    Raises
    ------
    InputError
        The model has no such family, or not this combination can be removed.
    """
    by_scanner = [
        spec.removed_effect,
        *(f.name for f in spec.families if f.by == "scanner" and f.name not in spec.components),
    ]
    by_population = [family.name for family in spec.families if family.by == "population"]
    given = (spec.removed_effect,) if remove is None else tuple(remove) if isinstance(remove, list | tuple) else (remove,)
    names = tuple(name.strip() for item in given for name in str(item).split(","))
    of_scanners = [name for name in names if name in by_scanner]
    of_populations = [name for name in names if name in by_population]
    if len(of_scanners) != 1 or len(of_populations) > 1 or len(names) != 1 + len(of_populations):
        refused = [name for name in names if name not in (*of_scanners, *of_populations)] or names
        optional = f", alone or with {by_population[0]}" if by_population else ""
        raise InputError(
            f"{shorten(refused)} effects cannot be removed.",
            got=f"remove={remove!r}",
            expected=f"a family of effects by scanner ({', '.join(dict.fromkeys(by_scanner))}){optional}",
            do="choose one of these",
        )
    return (*of_scanners, *of_populations)


def check_target(posterior: Posterior, target: str | None) -> None:
    """Check that the target scanner is in the posterior.

    Raises
    ------
    InputError
        It is not.
    """
    if target is not None and target not in posterior.scanners:
        raise InputError(
            "The target is not a scanner of the fit.",
            got=f"target={target!r}",
            expected=f"one of {shorten(posterior.scanners, 50)}",
            do="choose one of these, or leave it out for the average scanner",
        )


def place_scans(
    posterior: Posterior,
    scans: pd.DataFrame,
    families: tuple[str, ...],
    new_scanners: NewScanners,
    feature_indices: np.ndarray,
    level: MeanLevel | None = None,
) -> tuple[Effects, np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Match scans with the levels of the effects to remove; new levels are added to the effects.

    With a mean level of the features, biases are those at this level, about which gains are matched.

    Returns
    -------
    effects : Effects
    scanner, population : (scan,) int arrays
        Index of each scan's scanner and population among the levels of the effects; -1 for no population.
    slope : (scan,) array
        The value that multiplies the slope of the scanner's bias; 0 without slopes.
    notes : list of str

    Raises
    ------
    InputError
        A scanner or population is not in the fit, and `new_scanners` is 'error'.
    """
    effects, notes = read_effects(posterior, families, feature_indices), []
    effects = effects if level is None else level.shift(effects)
    slope = slope_values(posterior, scans, families)
    known = posterior.scanners
    new = [str(name) for name in scans["scanner"].unique() if name not in known]
    if new and new_scanners == "error":
        _refuse_scanners(scans["scanner"], new, known)
    if new:
        notes.append(
            f"Scanners not in the fit: {shorten(new)}. They are taken as average scanners, with the sd of the prior."
        )
        mean_bias_ratio = float(posterior.variance_ratios().bias.mean())  # kappa
        scale = _scales(posterior, posterior.spec.components or (families[0],)) * mean_bias_ratio**0.5
        n_known = int(_in_fit(posterior, families[0]).sum())
        effects = add_unknown(effects, new, scale, feature_indices, n_known)
        if effects.n_slopes:
            of_slopes = _scales(posterior, slope_names(posterior.spec, families)) / _slope_sd(posterior, families)
            effects = add_unknown(effects, [SlopeOf(name) for name in new], of_slopes, feature_indices, n_known)
            rho = posterior.hyper["slope_correlation"].sel(slope_family=families[0])
            effects = correlate_unknown_slopes(effects, len(new), float(np.tanh(np.arctanh(rho).mean())))
    population = np.full(len(scans), -1)
    if len(families) > 1:
        effects, population, population_notes = _place_populations(
            posterior, scans, families[1], new_scanners, feature_indices, effects
        )
        notes += population_notes
    scanner = pd.Index(effects.levels[: effects.n_scanners]).get_indexer(pd.Index(scans["scanner"].astype(str)))
    return effects, scanner, population, np.zeros(len(scans)) if slope is None else slope, notes


def _slope_sd(posterior: Posterior, families: Sequence[str]) -> float:
    """Return the divisor of the column on which the effects depend: scales are for one sd of it."""
    return next(each["sd"] for each in posterior.sufficient_statistics.attrs["slopes"] if each["family"] == families[0])


def _refuse_scanners(scanner: pd.Series, new: Sequence[str], known: Sequence[str]) -> None:
    raise InputError(
        "Some scanners are not in the fit.",
        got=f"{scanner.isin(new).sum()} scans from {shorten(new)}",
        expected=f"scanners of the fit: {shorten(known, 50)}",
        do="leave these scans out, write scanners as in the fit, fit again with these scans, adapt the posterior to them "
        "(bayesharm.adapt, or --new-scanners adapt in the shell), or use the prior (new_scanners='prior')",
    )


def _scales(posterior: Posterior, terms: Sequence[str], group: str = "") -> xr.Dataset:
    """Select the scales of some families: the common one, or that of a diagnosis."""
    scales = posterior.scales
    return scales.isel(family=np.flatnonzero(np.isin(scales["term"], terms) & np.isin(scales["group"], ["", group])))


def _in_fit(posterior: Posterior, family: str) -> np.ndarray:
    """Return which levels of a family were in the fit, (level,); effects are contrasts with the mean of these."""
    effect = posterior.effect(family)
    return effect["in_fit"].values if "in_fit" in effect else np.full(len(effect["mean"]), True)


def _place_populations(
    posterior: Posterior, scans: pd.DataFrame, family: str, new_scanners: NewScanners, at: np.ndarray, effects: Effects
) -> tuple[Effects, np.ndarray, list[str]]:
    """Match scans with populations; travelers and people whose diagnosis has a single population in the fit have none."""
    known = read_populations(posterior.effect(family))
    populations = find_populations(posterior, scans)
    in_fit = {population.diagnosis for population in known}
    diagnosis = np.array(["" if each is None else each.diagnosis for each in populations], object)
    alone = np.array([each is not None and each.diagnosis not in in_fit for each in populations])
    if (without := alone & (diagnosis == "")).any():
        raise InputError(
            f"Removing {family} effects needs diagnoses.",
            got=f"no diagnosis for scans {shorten(scans['scan_id'][without])}",
            expected="a diagnosis for everyone except travelers between sites",
            do="add it, leave these scans out, or remove the effects of scanners only",
        )
    names = shorten(population_labels(known))
    notes = [f"Real differences between the people recruited at different sites are removed too: {names}."]
    if alone.any():
        notes.append(
            f"{shorten(sorted(set(diagnosis[alone])))}: recruited at fewer than two sites of the fit, so no {family} "
            "effects are removed from these scans."
        )
    is_new = np.array([each is not None and each not in known for each in populations]) & ~alone
    new = sorted({each for each, is_one in zip(populations, is_new, strict=True) if is_one and each is not None}, key=str)
    if new and new_scanners == "error":
        raise InputError(
            "Some populations are not in the fit.",
            got=f"{is_new.sum()} scans of people from {shorten(population_labels(new))}",
            expected=f"populations of the fit: {shorten(population_labels(known), 50)}",
            do="leave these scans out, remove the effects of scanners only, or use the prior "
            "(new_scanners='prior', or --new-scanners prior in the shell)",
        )
    if new:
        notes.append(
            f"Populations not in the fit: {shorten(population_labels(new))}. They are taken as average populations, with "
            "the sd of the prior."
        )
    split = next(each.split for each in posterior.spec.families if each.name == family)
    counted_from = [each for each, in_fit in zip(known, _in_fit(posterior, family), strict=True) if in_fit]
    for group in sorted({each.diagnosis for each in new}):
        names_of_group = [each for each in new if each.diagnosis == group]
        contrast_group = [each for each in counted_from if not (split and group) or each.diagnosis == group]
        scale = _scales(posterior, [family], group)
        effects = add_unknown(effects, names_of_group, scale, at, max(len(contrast_group), 1))
    place = {level: k for k, level in enumerate(effects.levels) if isinstance(level, Population)}
    return effects, np.array([-1 if each is None else place.get(each, -1) for each in populations], int), notes


def interpretation_notes(spec: ModelSpec, families: tuple[str, ...], has_missing: bool = False) -> list[str]:
    """Warn where the model does not separate both biases, and where sds of sums are approximate."""
    if has_missing and len(families) > 1:
        return [
            "Some features lack scans: the sd of measurement and sampling bias together uses the correlation of both in "
            "features that have all scans, and is approximate in the others."
        ]
    if spec.participants == "travelers" or any(family.by == "population" for family in spec.families):
        return []
    return [
        f"The {families[0]} effects of this model are measurement and sampling bias together: removing them also removes "
        "real differences between the people recruited at different sites."
    ]
