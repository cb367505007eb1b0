"""Which effects are to be removed from which scans, and what must be said about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import pandas as pd

from bayesharm.data.dataset import Dataset
from bayesharm.data.scans import find_travelers
from bayesharm.errors import InputError, shorten
from bayesharm.harmonization.corrections import Effects, add_unknown, find_populations, read_effects
from bayesharm.model.labels import population_labels
from bayesharm.model.spec import ModelSpec
from bayesharm.results.nodes import NODE, read_kinds, read_populations
from bayesharm.results.posterior import Posterior

NewScanners = Literal["error", "prior", "adapt"]


def choose_families(spec: ModelSpec, remove: str | Sequence[str] | None) -> tuple[str, ...]:
    """The family by scanner, and perhaps that by population, that are to be removed.

    Raises
    ------
    InputError
        The model has no such effects, or they are no effects of scanners.
    """
    by_scanner = [
        spec.removed_effect,
        *(f.name for f in spec.families if f.grouping == "scanner" and f.name not in spec.components),
    ]
    by_population = [family.name for family in spec.families if family.grouping == "population"]
    wanted = (spec.removed_effect,) if remove is None else tuple(remove) if isinstance(remove, list | tuple) else (remove,)
    wanted = tuple(name.strip() for part in wanted for name in str(part).split(","))
    first = [name for name in wanted if name in by_scanner]
    others = [name for name in wanted if name in by_population]
    if len(first) != 1 or len(others) > 1 or len(wanted) != 1 + len(others):
        known = dict.fromkeys(by_scanner)
        raise InputError(
            f"{shorten([name for name in wanted if name not in (*first, *others)] or wanted)} effects cannot be removed.",
            got=f"remove={remove!r}",
            expected=f"a family of effects by scanner: {', '.join(known)}"
            + (f"; with {by_population[0]} if wanted" if by_population else ""),
            do="choose one of these",
        )
    return (*first, *others)


def find_target(posterior: Posterior, target: str | None) -> str | None:
    """The scanner that scans are brought to.

    Raises
    ------
    InputError
        The posterior knows no such scanner.
    """
    if target is not None and target not in posterior.scanners:
        raise InputError(
            "The target is not a scanner of the fit.",
            got=f"target={target!r}",
            expected=f"one of {shorten(posterior.scanners, 50)}",
            do="choose one of these, or leave it out for the average scanner",
        )
    return target


def adapt_to_new_scanners(
    posterior: Posterior, dataset: Dataset, new_scanners: NewScanners, *, inverse: bool = False
) -> tuple[Posterior, list[str]]:
    """The posterior once it has learned from scans of scanners that it has not seen, if it shall; and notes.

    Raises
    ------
    InputError
        There is no such choice, or nothing that could be learned.
    """
    if new_scanners not in get_args(NewScanners):
        raise InputError(
            "It is not said what to do about unseen scanners.",
            got=f"new_scanners={new_scanners!r}",
            expected=f"one of {', '.join(get_args(NewScanners))}",
            do="choose one of these",
        )
    scans = dataset.scans
    rows = np.flatnonzero(~scans["scanner"].isin(posterior.scanners))
    if new_scanners != "adapt" or not len(rows):
        return posterior, []
    if inverse:
        raise InputError(
            "Harmonized scans do not tell what their scanners did.",
            got="new_scanners='adapt' with inverse",
            expected="a posterior that knows the scanners",
            do="keep the posterior that bayesharm.adapt makes of the scans as they were measured, and use it both ways",
        )
    from bayesharm.harmonization.adaptation import update_posterior

    table = scans.assign(traveling=find_travelers(scans)).iloc[rows].reset_index(drop=True)
    learned, _ = update_posterior(posterior, replace(dataset, scans=table, features=dataset.features.align(rows)))
    notes = list(learned.run["notes"][len(posterior.run["notes"]) :])
    elsewhere = scans["participant_id"].drop(index=scans.index[rows])
    known = read_kinds(posterior.tree[NODE].to_dataset())["participant_id"]
    if more := sorted(set(table["participant_id"]) & set(elsewhere) - set(known)):
        notes.append(
            f"Scans of {shorten(more)} on known scanners may have been in the fit, and nothing was learned from them; if "
            "they are new, use bayesharm.adapt with all new scans."
        )
    return learned, notes


def place_scans(
    posterior: Posterior, scans: pd.DataFrame, families: tuple[str, ...], new_scanners: NewScanners, at: np.ndarray
) -> tuple[Effects, np.ndarray, np.ndarray, list[str]]:
    """Effects of the families, the places of each scan's scanner and population (-1: none) among them, and notes.

    Raises
    ------
    InputError
        A scanner or population is unknown, and that is to be refused.
    """
    effects, notes = read_effects(posterior, families, at), []
    known = posterior.scanners
    new = [str(name) for name in scans["scanner"].unique() if name not in known]
    if new:
        if new_scanners == "error":
            refused = scans["scanner"][scans["scanner"].isin(new)]
            raise InputError(
                "The fit knows nothing about some of the scanners.",
                got=f"{len(refused)} scans from {shorten(new)}",
                expected=f"scanners of the fit: {shorten(known, 50)}",
                do="leave these scans out, write the scanners as in the fit, fit again with scans of them, or say "
                "new_scanners='prior' or new_scanners='adapt' (--new-scanners in the shell)",
            )
        notes.append(
            f"Not seen in the fit: {shorten(new)}. Their scans are taken as those of the average scanner; the sd is that of "
            "the prior."
        )
        wider = float(np.exp(posterior.log_ratios())[len(posterior.scanners) :].mean())  # kappa of any scanner
        scale = _scales(posterior, posterior.spec.components or (families[0],)) * wider**0.5
        n_known = int(_in_fit(posterior, families[0]).sum())
        effects = add_unknown(effects, new, scale, at, n_known, scanners=True)
    population = np.full(len(scans), -1)
    if len(families) > 1:
        effects, population, about = _place_populations(posterior, scans, families[1], new_scanners, at, effects)
        notes += about
    scanner = pd.Index(effects.levels[: effects.n_scanners]).get_indexer(pd.Index(scans["scanner"].astype(str)))
    return effects, scanner, population, notes


def _scales(posterior: Posterior, terms: Sequence[str], group: str = ""):
    """Scales of some families: the common one, or that of a group."""
    scales = posterior.tree["scales"].to_dataset()
    return scales.isel(family=np.flatnonzero(np.isin(scales["term"], terms) & np.isin(scales["group"], ["", group])))


def _in_fit(posterior: Posterior, family: str) -> np.ndarray:
    """Of the levels of a family, which its effects are counted from, (level,)."""
    effect = posterior.effect(family)
    return effect["in_fit"].values if "in_fit" in effect else np.full(len(effect["mean"]), True)


def _place_populations(
    posterior: Posterior, scans: pd.DataFrame, family: str, new_scanners: NewScanners, at: np.ndarray, effects: Effects
) -> tuple[Effects, np.ndarray, list[str]]:
    """Travelers belong to no population, and nobody does whose diagnosis has only one in the fit."""
    known = read_populations(posterior.effect(family))
    populations = find_populations(posterior, scans)
    of_fit = {population.diagnosis for population in known}
    diagnosis = np.array(["" if each is None else each.diagnosis for each in populations], object)
    alone = np.array([each is not None and each.diagnosis not in of_fit for each in populations])
    if (without := alone & (diagnosis == "")).any():
        raise InputError(
            f"The {family} effects of people cannot be removed without their diagnosis.",
            got=f"no diagnosis for scans {shorten(scans['scan_id'][without])}",
            expected="a diagnosis of everybody but travelers",
            do="add it, leave these scans out, or remove the effects of scanners only",
        )
    names = shorten(population_labels(known))
    notes = [f"Real differences between the people recruited at different sites are removed too: {names}."]
    if alone.any():
        notes.append(
            f"{shorten(sorted(set(diagnosis[alone])))}: not recruited at two sites of the fit, so that nothing is "
            "removed for their populations."
        )
    is_new = np.array([each is not None and each not in known for each in populations]) & ~alone
    new = sorted({each for each, is_one in zip(populations, is_new, strict=True) if is_one and each is not None})
    new = sorted(new, key=str)
    if new and new_scanners == "error":
        raise InputError(
            "The fit knows nothing about some of the populations.",
            got=f"{is_new.sum()} scans of people from {shorten(population_labels(new))}",
            expected=f"populations of the fit: {shorten(population_labels(known), 50)}",
            do="leave these scans out, remove the effects of scanners only, or say "
            "new_scanners='prior' (--new-scanners in the shell)",
        )
    split = next(each.split for each in posterior.spec.families if each.name == family)
    counted_from = [each for each, in_fit in zip(known, _in_fit(posterior, family), strict=True) if in_fit]
    for group in sorted({each.diagnosis for each in new}):
        names_of_group = [each for each in new if each.diagnosis == group]
        contrast_group = [each for each in counted_from if not (split and group) or each.diagnosis == group]
        scale = _scales(posterior, [family], group)
        effects = add_unknown(effects, names_of_group, scale, at, max(len(contrast_group), 1), scanners=False)
    place = {level: k for k, level in enumerate(effects.levels[effects.n_scanners :], start=effects.n_scanners)}
    return effects, np.array([-1 if each is None else place.get(each, -1) for each in populations], int), notes


def interpretation_notes(spec: ModelSpec, families: tuple[str, ...]) -> list[str]:
    """Say what goes with the effect where the model does not separate measurement from sampling bias."""
    if spec.participants == "travelers" or any(family.grouping == "population" for family in spec.families):
        return []
    return [
        f"The {families[0]} effects of this model are measurement and sampling bias together: real "
        "differences between the people recruited at different sites are removed with them."
    ]
