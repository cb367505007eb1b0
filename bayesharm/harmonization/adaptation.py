"""Teach a posterior scanners that it has not seen, from their scans alone.

Given the scales, the posterior of all effects is Gaussian, and follows from sums over the old and the new scans.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pandas as pd
from scipy import sparse

from bayesharm.algorithms.devices import find_devices
from bayesharm.conditional.effects import average_effects
from bayesharm.conditional.gaussian import condition_effects, linear_combinations, variance_of_combinations
from bayesharm.conditional.identifiability import identify
from bayesharm.data.dataset import Dataset, sort_dataset
from bayesharm.errors import InputError, check_kind, shorten
from bayesharm.harmonization.feature_matching import compare_units, match_features, root_mean_square
from bayesharm.inference.variance_ratios import fit_unseen_ratios
from bayesharm.likelihood.merging import append_scans
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.problem import Problem, make_problem
from bayesharm.likelihood.sufficient_statistics import SufficientStatistics
from bayesharm.model.contrasts import EffectGroup, add_columns
from bayesharm.model.design import FIXED, Design
from bayesharm.results.nodes import NODE, label_effects, level_coordinates, read_statistics, write_statistics
from bayesharm.results.posterior import Posterior

BLOCK = 2048  # features at once


def adapt(posterior: Posterior, dataset: Dataset) -> Posterior:
    """Learn from new scans, most of all from scanners that the fit has not seen; the old scans are not needed.

    The scales stay at their posterior medians, and the ratios of known scanners at their means: what comes out is the
    posterior of all effects, given these, that a fit to all scans would have. The ratios of a new scanner are where they
    maximize the marginal likelihood. Harmonized data stay comparable: effects of scanners and of populations, of the new
    ones too, are counted from the mean of those that the fit had.

    Parameters
    ----------
    posterior : Posterior
        From :func:`bayesharm.fit` or from here.
    dataset : Dataset
        Scans that were not in the fit, with the columns that it used: of travelers of the fit under their
        ``participant_id``, of new travelers, of people scanned once. Who was scanned once in the fit is not known any more,
        and is taken as a new person.

    Returns
    -------
    Posterior
        Knows the new scanners and people; to be saved like any other. It says nothing about sizes of sources.

    Warns
    -----
    UserWarning
        Features seem to be in other units than in the fit.

    Raises
    ------
    InputError
        Columns or features of the fit are absent, values are missing, or the scans are of a kind that the model knows
        nothing about.
    RunFolderError
        The posterior keeps no statistics.
    """
    learned, doubts = update_posterior(posterior, dataset)
    for doubt in doubts:
        warnings.warn(doubt, stacklevel=2)
    return learned


def update_posterior(posterior: Posterior, dataset: Dataset) -> tuple[Posterior, list[str]]:
    """The same without warnings; what they would say comes with the posterior."""
    check_kind(posterior, Posterior, "adapt", "load_posterior")
    check_kind(dataset, Dataset, "adapt", "load_dataset")
    fingerprint = sort_dataset(dataset).features.fingerprint()
    learned = [*filter(None, [posterior.run.get("fingerprint")]), *posterior.run.get("learned", [])]
    if fingerprint in learned:
        raise InputError(
            "The posterior has learned from these scans before.",
            got=f"the same {len(dataset.scans):,} scans again",
            expected="scans that were not in the fit, or learned from since",
            do="give new scans only: what is counted twice looks more certain than it is",
        )
    old = read_statistics(posterior)
    scales = posterior.tree["scales"].to_dataset()
    values, left_out, doubts = _values(posterior, dataset)
    standard = (values - scales["center"].values) / scales["unit"].values
    both, without = append_scans(old, dataset, standard)
    design = both.design
    problem = make_problem(design, both.plan)
    log_scales = np.log(scales["q50"].values / scales["unit"].values)
    there = np.isin(design.scanners, posterior.scanners)
    log_ratio = posterior.log_ratios(design.scanners)
    in_fit = _find_those_of_fit(posterior, design)
    n_effective = posterior.tree["hyper"].attrs["features_effective"]
    with find_devices().in_use("float64"):
        log_ratio = fit_unseen_ratios(problem, both.moments, log_scales, log_ratio, n_effective, ~there)
        effects = _summarize(problem, both, in_fit, log_ratio, log_scales, scales["unit"].values)
        told = _describe(problem, both, in_fit, log_ratio, np.nanmedian(log_scales, axis=1)[:, None])
    by_scanner = _count_scans(both)
    notes = [*left_out, *doubts, *_on_new(both, old, len(dataset.scans), by_scanner["n_travelers"]), *without]
    adapted = _label(posterior, both, effects, told, in_fit, log_ratio, by_scanner, notes)
    return replace(adapted, run={**adapted.run, "learned": [*learned, fingerprint]}), doubts


def _values(posterior: Posterior, dataset: Dataset) -> tuple[np.ndarray, list[str], list[str]]:
    """New features in the order of the posterior's; which others there are, and doubts about their units."""
    features, at, left_out = match_features(posterior, dataset.features)
    values = np.empty((len(dataset.scans), len(at)))
    for start, stop in features.blocks():
        values[:, at[start:stop]] = features.read(start, stop)
    names = np.array(posterior.features)
    if (missing := ~np.isfinite(values)).any():
        raise InputError(
            "A posterior cannot learn from missing or infinite values.",
            got=f"{missing.sum():,} of them, in features {shorten(names[missing.any(0)])}, "
            f"in scans {shorten(dataset.scans['scan_id'][missing.any(1)])}",
            expected="a finite number for every scan and feature",
            do="adapt to the other scans (bayesharm.adapt), and harmonize all with what comes out",
        )
    scanner, scanners = pd.factorize(dataset.scans["scanner"])
    return values, left_out, compare_units(posterior, np.arange(len(at)), root_mean_square(values, scanner), names, scanners)


def _find_those_of_fit(posterior: Posterior, design: Design) -> dict[str, np.ndarray]:
    """Which scanners and populations the fit had, by group."""
    found = {}
    for group in design.effects:
        if group.name == design.spec.removed_effect or group.dim == "population":
            levels = _level_names(
                group.dim, {name: values for name, (_, values) in level_coordinates(design, group).items()}
            )
            of_fit: list[tuple[str, ...]] = []
            if group.name in posterior.tree["effects"]:
                node = posterior.effect(group.name)
                in_fit = node.get("in_fit", node["n_scans"] > -1).values
                of_fit = _level_names(group.dim, node.isel({group.dim: in_fit}).coords)
            found[group.name] = np.array([level in of_fit for level in levels])
    return found


def _level_names(dim: str, coordinates: Mapping[Any, Any]) -> list[tuple[str, ...]]:
    """Names of scanners, or sites and diagnoses of populations."""
    parts = ("site", "diagnosis") if dim == "population" else (dim,)
    return list(zip(*(np.asarray(coordinates[name]).astype(str).tolist() for name in parts), strict=True))


def _count_from(group: EffectGroup, in_fit: np.ndarray) -> sparse.csr_array:
    """Effects from the mean of their mates that were in the fit, if there were any, (level, column)."""
    effect = add_columns(group.columns, group.n_columns).toarray()
    forms = effect.copy()
    for label in np.unique(group.contrast_group):
        contrast_group = group.contrast_group == label
        base = contrast_group & in_fit if (contrast_group & in_fit).any() else contrast_group
        forms[contrast_group] -= effect[base].mean(0)
    return sparse.csr_array(forms)


def _summarize(
    problem: Problem,
    both: SufficientStatistics,
    in_fit: dict[str, np.ndarray],
    log_ratio: np.ndarray,
    log_scales: np.ndarray,
    unit: np.ndarray,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and sd of the effects of each group, in the features' units."""
    groups, n_features = both.design.effects, log_scales.shape[1]
    forms = {group.name: _count_from(group, in_fit[group.name]) for group in groups if group.name in in_fit}
    found = {group.name: np.empty((2, len(group.levels), n_features)) for group in groups}
    width = min(BLOCK, n_features)
    for start in range(0, n_features, width):
        block = np.minimum(np.arange(start, start + width), n_features - 1)  # one program for all
        own = slice(start, min(start + width, n_features))
        moments, first = Moments(*(part[:, block] for part in both.moments)), 0
        plain = np.stack(average_effects(problem, log_ratio, moments, log_scales[None, :, block]))
        known = jax.tree.map(np.asarray, condition_effects(problem, log_ratio, moments, log_scales[None, :, block]))
        for group in groups:
            some = plain[:, first : (first := first + len(group.levels))]
            if group.name in forms:
                mean, variance = variance_of_combinations(known, forms[group.name])
                some = np.stack([mean[0].T, np.sqrt(variance[0].T)])
            found[group.name][..., own] = (some * unit[block])[..., : own.stop - own.start]
    return {name: (mean, sd) for name, (mean, sd) in found.items()}


def _describe(
    problem: Problem, both: SufficientStatistics, in_fit: dict[str, np.ndarray], log_ratio: np.ndarray, typical: np.ndarray
) -> dict[str, Any]:
    """What follows from the scans alone, at typical scales: contraction of each group, correlations of what is removed."""
    design = both.design
    nothing = Moments(*(np.zeros((len(part), 1)) for part in both.moments))
    known = jax.tree.map(np.asarray, condition_effects(problem, log_ratio, nothing, typical[None]))
    prior = np.where(design.column_scale == FIXED, design.column_sd**2, np.exp(2 * typical[design.column_scale, 0]))
    own = design.bias_ratio_of
    prior *= np.where(own >= 0, np.exp(log_ratio[len(design.scanners) + own]), 1.0)
    found: dict[str, Any] = {}
    removable = []
    for group in sorted(design.effects, key=lambda group: group.name != design.spec.removed_effect):  # scanners first
        if group.name in in_fit:
            removable.append(forms := _count_from(group, in_fit[group.name]))
        else:
            forms = sparse.csr_array(group.contrasts)
        found[group.name] = 1 - variance_of_combinations(known, forms)[1][0, 0] / (forms.power(2) @ prior)
    covariance = linear_combinations(known, sparse.vstack(removable).tocsr())[1][0, 0]
    sd = np.sqrt(np.diag(covariance))
    sd = np.where(sd > 0, sd, 1.0)  # the only population that the fit had is known: it is what others are counted from
    found["correlation"] = covariance / sd / sd[:, None]
    return found


def _count_scans(both: SufficientStatistics) -> dict[str, np.ndarray]:
    """As the node `/design` has it, for each scanner."""
    design, n_scanners = both.design, len(both.design.scanners)
    scanners = identify(design).scanners.loc[list(design.scanners)]
    return {
        "component": scanners["component"].to_numpy(),
        "n_travelers": scanners["n_travelers"].to_numpy(),
        "n_scans": np.bincount(design.class_scanner, both.size, n_scanners).astype(int),
        "n_once": np.bincount(design.class_scanner, both.size * design.class_single_scan, n_scanners).astype(int),
    }


def _on_new(both: SufficientStatistics, old: SufficientStatistics, n_given: int, n_travelers: np.ndarray) -> list[str]:
    """What was learned from."""
    used = int(both.size.sum() - old.size.sum())
    new = [name not in old.design.scanners for name in both.design.scanners]
    names = np.array(both.design.scanners, object)
    told = f", of the new scanners {shorten(names[new])}" if any(new) else ""
    notes = [
        f"Adapted to {used:,} scans that were not in the fit{told}: effects are those given the posterior medians of the "
        "scales."
    ]
    if used < n_given:
        notes.append(f"{n_given - used:,} scans of people who did not travel are not used by this model.")
    alone = names[new & (n_travelers == 0)]
    if len(alone) and any(family.grouping == "population" for family in both.design.spec.families):
        notes.append(
            f"No traveler was scanned on {shorten(alone)}: what is known of it rests on the priors of how people differ."
        )
    return notes


def _label(
    posterior: Posterior,
    both: SufficientStatistics,
    effects: dict[str, tuple[np.ndarray, np.ndarray]],
    told: dict[str, Any],
    in_fit: dict[str, np.ndarray],
    log_ratio: np.ndarray,
    by_scanner: dict[str, np.ndarray],
    notes: list[str],
) -> Posterior:
    """The posterior with new effects, and without sizes of sources."""
    import xarray as xr

    design, tree = both.design, posterior.tree.copy()
    feature = tree["scales"]["feature"]
    scanner = ("scanner", np.array(design.scanners, object))
    for name in ("effects", "sources", "draws"):
        if name in tree.children:
            del tree[name]
    n_scans = {group.name: both.count[group.columns].min(1) for group in design.effects}
    names = np.array(posterior.features, object)
    for group, node in label_effects(design, effects, told, n_scans, told["correlation"], names).items():
        if group in in_fit:
            node = node.assign(in_fit=(node["n_scans"].dims, in_fit[group]))
            node.attrs |= {"contrast": "minus the mean of the levels that share a scale and were in the fit"}
        tree[f"/effects/{group}"] = xr.DataTree(node)
    hyper = tree["hyper"].to_dataset()
    ratios = {}
    for name, values in zip(("noise_ratio", "bias_ratio"), np.split(np.exp(log_ratio), 2), strict=True):
        ratio = hyper[name].reindex(scanner=np.array(design.scanners, object))
        ratios[name] = ratio.fillna(xr.DataArray(values, dims="scanner", coords={"scanner": ratio["scanner"]}))
    hyper = hyper.drop_dims("scanner").assign(ratios).assign_attrs(hyper.attrs)
    tree["hyper"] = xr.DataTree(hyper)
    tree["design"] = xr.DataTree(xr.Dataset(
        {name: (("scanner",), values) for name, values in by_scanner.items()}, coords={"scanner": scanner},
        attrs={"travelers": list(design.travelers), "n_scans": int(both.size.sum())},
    ))  # fmt: skip
    tree[NODE] = xr.DataTree(write_statistics(both).assign_coords(feature=feature))
    run = {**posterior.run, "data": None, "fingerprint": "", "scans": "", "n_scans": int(both.size.sum())}
    return Posterior(tree, {**run, "notes": [*posterior.run["notes"], *notes]})
