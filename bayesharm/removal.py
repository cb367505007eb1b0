"""Which effects are to be removed from which scans, and what must be said about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import pandas as pd

from bayesharm.corrections import Effects, add_unknown, read_effects
from bayesharm.dataset import Dataset
from bayesharm.design import find_travelers
from bayesharm.errors import InputError, shorten
from bayesharm.posterior import Posterior
from bayesharm.spec import ModelSpec

Unseen = Literal["error", "prior", "adapt"]


def choose_families(spec: ModelSpec, remove: str | Sequence[str] | None) -> tuple[str, ...]:
    """The family by scanner, and perhaps that by population, that are to be removed.

    Raises
    ------
    InputError
        The model has no such effects, or they are no effects of scanners.
    """
    by_scanner = [spec.removes, *(f.name for f in spec.families if f.by == "scanner" and f.name not in spec.parts)]
    by_population = [family.name for family in spec.families if family.by == "population"]
    wanted = (spec.removes,) if remove is None else (remove,) if isinstance(remove, str) else tuple(remove)
    wanted = tuple(name.strip() for part in wanted for name in part.split(","))
    first = [name for name in wanted if name in by_scanner]
    others = [name for name in wanted if name in by_population]
    if len(first) != 1 or len(others) > 1 or len(wanted) != 1 + len(others):
        known = dict.fromkeys(by_scanner)
        raise InputError(
            f"{shorten(wanted)} effects cannot be removed.",
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
        The fit has no such scanner.
    """
    if target is not None and target not in posterior.scanners:
        raise InputError(
            "The target is not a scanner of the fit.",
            got=f"target={target!r}",
            expected=f"one of {shorten(posterior.scanners, 50)}",
            do="choose one of these, or leave it out for the average scanner",
        )
    return target


def adapt_to_unseen(posterior: Posterior, dataset: Dataset, unseen: Unseen) -> tuple[Posterior, list[str]]:
    """The posterior once it has learned from scans of scanners that it has not seen, if it shall; and notes."""
    if unseen not in get_args(Unseen):
        raise InputError(
            "It is not said what to do about unseen scanners.",
            got=f"unseen={unseen!r}",
            expected=f"one of {', '.join(get_args(Unseen))}",
            do="choose one of these",
        )
    rows = np.flatnonzero(~dataset.scans["scanner"].isin(posterior.scanners))
    if unseen != "adapt" or not len(rows):
        return posterior, []
    from bayesharm.adapt import adapt

    new = replace(dataset, scans=dataset.scans.iloc[rows].reset_index(drop=True), features=dataset.features.align(rows))
    learned = adapt(posterior, new)
    return learned, list(learned.run["notes"][len(posterior.run["notes"]) :])


def place_scans(
    posterior: Posterior, scans: pd.DataFrame, families: tuple[str, ...], unseen: Unseen, at: np.ndarray
) -> tuple[Effects, np.ndarray, np.ndarray, list[str]]:
    """Effects of the families, the places of each scan's scanner and population (-1: none) among them, and notes.

    Raises
    ------
    InputError
        A scanner or population is unknown, and that is to be refused.
    """
    effects, notes = read_effects(posterior, families, at), []
    new = [str(name) for name in scans["scanner"].unique() if name not in effects.levels[: effects.n_scanners]]
    if new:
        if unseen == "error":
            refused = scans["scanner"][scans["scanner"].isin(new)]
            raise InputError(
                "The fit knows nothing about some of the scanners.",
                got=f"{len(refused)} scans from {shorten(new)}",
                expected=f"scanners of the fit: {shorten(effects.levels[: effects.n_scanners], 50)}",
                do="leave these scans out, write the scanners as in the fit, fit again with scans of them, or say "
                "unseen='prior' or unseen='adapt' (--unseen in the shell)",
            )
        notes.append(f"Not seen in the fit: {shorten(new)}. Their scans are as they were; the sd is that of the prior.")
        wider = float(np.exp(posterior.log_ratios())[len(posterior.scanners) :].mean())  # kappa of any scanner
        scale = _scales(posterior, posterior.spec.parts) * wider**0.5
        effects = add_unknown(effects, new, scale, at, scanners=True)
    population = np.full(len(scans), -1)
    if len(families) > 1:
        effects, population, about = _place_populations(posterior, scans, families[1], unseen, at, effects)
        notes += about
    scanner = pd.Index(effects.levels[: effects.n_scanners]).get_indexer(pd.Index(scans["scanner"].astype(str)))
    return effects, scanner, population, notes


def _scales(posterior: Posterior, names: Sequence[str]):
    scales = posterior.tree["scales"].to_dataset()
    return scales.sel(family=[name for name in names if name in scales["family"]])


def _place_populations(
    posterior: Posterior, scans: pd.DataFrame, family: str, unseen: Unseen, at: np.ndarray, effects: Effects
) -> tuple[Effects, np.ndarray, list[str]]:
    """Travelers belong to no population, and nobody does whose diagnosis has only one in the fit."""
    known = effects.levels[effects.n_scanners :]
    by_diagnosis = any("/" in level for level in known)
    if by_diagnosis and "diagnosis" not in scans:
        raise InputError(
            f"The {family} effects of people cannot be removed without their diagnosis.",
            got=f"columns {shorten(scans.columns, 30)}",
            expected="a column 'diagnosis'",
            do="add it, or remove the effects of scanners only",
        )
    label = scans["site"] + "/" + scans["diagnosis"] if by_diagnosis else scans["site"]
    split = {level.rpartition("/")[2] if by_diagnosis else "" for level in known}
    diagnosis = scans["diagnosis"] if by_diagnosis else pd.Series("", scans.index)
    travelers = find_travelers(scans) | scans["participant_id"].isin(posterior.tree["design"].attrs["travelers"]).to_numpy()
    member = diagnosis.isin(split).to_numpy() & ~travelers
    notes = [f"Real differences between the people recruited at different sites are removed too: {shorten(known)}."]
    if alone := sorted(set(diagnosis[~travelers]) - split):
        notes.append(f"{shorten(alone)}: recruited at one site in the fit; nothing is removed for their populations.")
    new = sorted(set(label[member]) - set(known))
    if new and unseen == "error":
        raise InputError(
            "The fit knows nothing about some of the populations.",
            got=f"{int(label[member].isin(new).sum())} scans of people from {shorten(new)}",
            expected=f"populations of the fit: {shorten(known, 50)}",
            do="leave these scans out, remove the effects of scanners only, or say unseen='prior' (--unseen in the shell)",
        )
    for name in new:
        own = name.rpartition("/")[2]
        scale = _scales(posterior, [f"{family}_{own}" if by_diagnosis else family, family])
        effects = add_unknown(effects, [name], scale, at, scanners=False)
    place = pd.Index(effects.levels[effects.n_scanners :]).get_indexer(pd.Index(label))
    return effects, np.where(member, effects.n_scanners + place, -1), notes


def on_meaning(spec: ModelSpec, families: tuple[str, ...]) -> list[str]:
    """Say what goes with the effect where the model does not separate measurement from sampling bias."""
    if spec.people == "travelers" or any(family.by == "population" for family in spec.families):
        return []
    return [
        f"The {families[0]} effects of this model are measurement and sampling bias together: real "
        "differences between the people recruited at different sites are removed with them."
    ]
