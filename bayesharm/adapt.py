"""Teach a posterior scanners that it has not seen, from their scans alone.

Given the scales, the posterior of all effects is Gaussian, and follows from sums over the old and the new scans.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from scipy import sparse

from bayesharm.alignment import compare_units, match_features, size_of
from bayesharm.dataset import Dataset
from bayesharm.design import FIXED, add_columns
from bayesharm.errors import InputError, shorten
from bayesharm.identifiability import identify
from bayesharm.inference.devices import find_devices
from bayesharm.inference.effects import average_effects
from bayesharm.inference.known import know, of_forms
from bayesharm.inference.noise import fit_new_ratios
from bayesharm.inference.problem import Problem, make_problem
from bayesharm.joining import add_scans
from bayesharm.moments import Moments
from bayesharm.posterior import Posterior
from bayesharm.statistics import NODE, Statistics, read_statistics, write_statistics

BLOCK = 2048  # features at once


def adapt(posterior: Posterior, dataset: Dataset) -> Posterior:
    """Learn from new scans, most of all from scanners that the fit has not seen; the old scans are not needed.

    The scales stay at their posterior medians, and the ratios of known scanners at their means: what comes out is the
    posterior of all effects, given these, that a fit to all scans would have. The ratios of a new scanner are where they
    maximize the marginal likelihood. Harmonized data stay comparable: effects of scanners, of the new ones too, are
    counted from the mean of those that the fit had.

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
        Columns or features of the fit are absent, values are missing, or people of the fit have changed what they are.
    RunFolderError
        The posterior keeps no statistics.
    """
    old = read_statistics(posterior)
    scales = posterior.tree["scales"].to_dataset()
    values, notes = _values(posterior, dataset)
    standard = (values - scales["centre"].values) / scales["unit"].values
    both, without = add_scans(old, dataset, standard)
    problem = make_problem(both.design, both.plan)
    log_scales = np.log(scales["q50"].values / scales["unit"].values)
    there = np.isin(both.design.scanners, posterior.scanners)
    log_ratio = posterior.log_ratios(both.design.scanners)
    with find_devices().in_use("float64"):
        log_ratio = fit_new_ratios(problem, both.moments, log_scales, log_ratio, ~there)
        effects = _summarize(problem, both, there, log_ratio, log_scales, scales["unit"].values)
        typical = np.nanmedian(log_scales, axis=1)[:, None]
        told = _describe(problem, both, there, typical)
    new = [name for name in both.design.scanners if name not in posterior.scanners]
    notes += [
        f"Adapted to {len(dataset.scans):,} scans that were not in the fit"
        + (f", of the new scanners {shorten(new)}" if new else "")
        + ": effects are those given the posterior medians of the scales.",
        *without,
    ]
    return _label(posterior, both, effects, told, log_ratio, notes)


def _values(posterior: Posterior, dataset: Dataset) -> tuple[np.ndarray, list[str]]:
    """New features in the order of the posterior's."""
    features, at, notes = match_features(posterior, dataset.features)
    values = np.empty((len(dataset.scans), len(at)))
    for start, stop in features.blocks():
        values[:, at[start:stop]] = features.read(start, stop)
    names = np.array(posterior.features)
    notes += compare_units(posterior, np.arange(len(at)), size_of(values), names)
    if (missing := ~np.isfinite(values)).any():
        raise InputError(
            "A posterior cannot learn from missing or infinite values.",
            got=f"{missing.sum():,} of them, in features {shorten(names[missing.any(0)])}, "
            f"in scans {shorten(dataset.scans['scan_id'][missing.any(1)])}",
            expected="a finite number for every scan and feature",
            do="leave these scans out",
        )
    return values, notes


def _of_scanners(both: Statistics, there: np.ndarray) -> sparse.csr_array:
    """Effects of scanners from the mean of those that were there before, (scanner, column)."""
    effect = add_columns(both.design.of_scanner, len(both.design.columns)).toarray()
    return sparse.csr_array(effect - effect[there].mean(0))


def _summarize(
    problem: Problem, both: Statistics, there: np.ndarray, log_ratio: np.ndarray, log_scales: np.ndarray, unit: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and sd of the effects of each group, in the features' units."""
    n_features, removes = log_scales.shape[1], both.design.spec.removes
    n_effects = sum(len(group.levels) for group in both.design.effects)
    mean, sd = np.empty((2, n_effects, n_features))
    of_scanners = np.empty((2, len(there), n_features))
    forms, width = _of_scanners(both, there), min(BLOCK, n_features)
    for start in range(0, n_features, width):
        block = np.minimum(np.arange(start, start + width), n_features - 1)  # one program for all
        own = slice(start, min(start + width, n_features))
        n_own = own.stop - own.start
        moments = Moments(*(part[:, block] for part in both.moments))
        found = average_effects(problem, log_ratio, moments, log_scales[None, :, block])
        mean[:, own], sd[:, own] = (np.asarray(part)[:, :n_own] for part in found)
        known = jax.tree.map(np.asarray, know(problem, log_ratio, moments, log_scales[None, :, block]))
        centre, covariance = of_forms(known, forms)
        of_scanners[0, :, own] = centre[0, :n_own].T
        of_scanners[1, :, own] = np.sqrt(np.diagonal(covariance[0, :n_own], axis1=-2, axis2=-1)).T
    found, start = {}, 0
    for group in both.design.effects:
        rows = slice(start, start := start + len(group.levels))
        found[group.name] = tuple(of_scanners * unit) if group.name == removes else (mean[rows] * unit, sd[rows] * unit)
    return found


def _describe(problem: Problem, both: Statistics, there: np.ndarray, typical: np.ndarray) -> dict[str, Any]:
    """What follows from the scans alone, at typical scales: contraction of each group, correlations."""
    design, removes = both.design, both.design.spec.removes
    nothing = Moments(*(np.zeros((len(part), 1)) for part in both.moments))
    known = jax.tree.map(np.asarray, know(problem, np.zeros(problem.n_ratios), nothing, typical[None]))
    prior = np.where(design.column_scale == FIXED, design.column_sd**2, np.exp(2 * typical[design.column_scale, 0]))
    rows = {group.name: sparse.csr_array(group.contrasts) for group in design.effects}
    rows[removes] = _of_scanners(both, there)
    found: dict[str, Any] = {}
    for name, forms in rows.items():
        after = np.array([of_forms(known, forms[[k]])[1][0, 0, 0, 0] for k in range(forms.shape[0])])
        found[name] = 1 - after / (forms.power(2) @ prior)
    populations = [group.name for group in design.effects if group.dim == "population"]
    covariance = of_forms(known, sparse.vstack([rows[removes], *(rows[name] for name in populations)]).tocsr())[1][0, 0]
    sd = np.sqrt(np.diag(covariance))
    found["correlation"] = covariance / sd / sd[:, None]
    return found


def _label(
    posterior: Posterior,
    both: Statistics,
    effects: dict[str, tuple[np.ndarray, np.ndarray]],
    told: dict[str, Any],
    log_ratio: np.ndarray,
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
    count = both.count
    first = n_scanners = len(design.scanners)
    for group in design.effects:
        mean, sd = effects[group.name]
        node = xr.Dataset(
            {
                "mean": ((group.dim, "feature"), mean),
                "sd": ((group.dim, "feature"), sd),
                "contraction": ((group.dim,), told[group.name]),
                "n_scans": ((group.dim,), count[group.columns].min(1)),
            },
            coords={group.dim: np.array(group.levels, object), "feature": feature},
            attrs=posterior.tree[f"effects/{group.name}"].attrs if group.name in posterior.tree["effects"] else {},
        )
        if group.name == design.spec.removes:
            node["correlation"] = (("scanner", "other"), told["correlation"][:n_scanners, :n_scanners])
        if group.dim == "population":
            own = slice(first, first := first + len(group.levels))
            node = node.assign_coords(scanner=scanner).assign(
                correlation=(("population", "other"), told["correlation"][own, own]),
                with_scanner=(("population", "scanner"), told["correlation"][own, :n_scanners]),
            )
        tree[f"effects/{group.name}"] = xr.DataTree(node)
    hyper = tree["hyper"].to_dataset()
    ratios = {}
    for name, values in zip(("noise_ratio", "bias_ratio"), np.split(np.exp(log_ratio), 2), strict=True):
        ratio = hyper[name].reindex(scanner=np.array(design.scanners, object))
        ratios[name] = ratio.fillna(xr.DataArray(values, dims="scanner", coords={"scanner": ratio["scanner"]}))
    hyper = hyper.drop_dims("scanner").assign(ratios).assign_attrs(hyper.attrs)
    tree["hyper"] = xr.DataTree(hyper)
    scanners = identify(design).scanners.loc[list(design.scanners)]
    by_scanner = {
        "component": scanners["component"], "n_travelers": scanners["n_travelers"],
        "n_scans": np.bincount(design.class_scanner, both.size, n_scanners).astype(int),
        "n_once": np.bincount(design.class_scanner, both.size * design.class_once, n_scanners).astype(int),
    }  # fmt: skip
    tree["design"] = xr.DataTree(xr.Dataset(
        {name: (("scanner",), np.asarray(values)) for name, values in by_scanner.items()}, coords={"scanner": scanner},
        attrs={"travelers": list(design.travelers), "n_scans": int(both.size.sum())},
    ))  # fmt: skip
    tree[NODE] = xr.DataTree(write_statistics(both).assign_coords(feature=feature))
    run = {**posterior.run, "data": None, "n_scans": int(both.size.sum()), "notes": [*posterior.run["notes"], *notes]}
    return Posterior(tree, run)
