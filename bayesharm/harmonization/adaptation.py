"""Adaptation of a posterior to new scanners, from their scans alone.

Given the scales, the posterior of all effects is Gaussian; it follows from sums over the old and the new scans.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayesharm.algorithms.random_streams import Stage
from bayesharm.conditional.identifiability import identify
from bayesharm.data.dataset import Dataset
from bayesharm.data.scans import find_site_travelers, find_travelers
from bayesharm.errors import InputError, check_type, shorten
from bayesharm.harmonization.adapted_effects import AdaptedEffects, compute_adapted_effects
from bayesharm.harmonization.feature_matching import compare_units, match_features, root_mean_square
from bayesharm.harmonization.new_data import screen_new_scans
from bayesharm.harmonization.value_ranges import check_ranges
from bayesharm.inference.variance_ratios import RatioPosterior
from bayesharm.likelihood.merging import append_scans
from bayesharm.likelihood.sufficient_statistics import SufficientStatistics
from bayesharm.model.design import Design
from bayesharm.results.nodes import label_effects, read_scan_patterns, read_statistics, write_statistics
from bayesharm.results.posterior import Posterior
from bayesharm.results.requirements import require_gaussian
from bayesharm.results.schema import SCANNER_RATIOS

if TYPE_CHECKING:
    import xarray as xr


def adapt(posterior: Posterior, dataset: Dataset, *, accept: Sequence[str] | str = ()) -> Posterior:
    """Update a posterior with new scans, above all on new scanners; the scans of the fit are not needed.

    The scales stay at their posterior medians, and the variance ratios of known scanners at their means. Given these, the
    result is the posterior of all effects that a fit to all scans would have. The noise, size of biases and gain of a new
    scanner have a normal posterior, of which `/hyper` gets draws; the effects are those at its mode. Effects of scanners and
    populations, of new ones too, are contrasts with the mean of those in the fit, so that data harmonized before and after
    adaptation are comparable.

    Parameters
    ----------
    posterior : Posterior
        From :func:`bayesharm.fit` or from this function.
    dataset : Dataset
        Scans that were not in the fit, with the columns of the fit: of travelers of the fit (under the same
        ``participant_id``), of new travelers, or of people scanned once. A person scanned once in the fit is taken as a
        new person, since the posterior does not keep the names of such people.
    accept : sequence of str
        Codes of findings on these data that you have checked, as in :func:`bayesharm.fit`.

    Returns
    -------
    Posterior
        With the new scanners and people; it can be saved like any other. It has no variance components.

    Warns
    -----
    UserWarning
        Caveats on the data; features seem to be in other units than in the fit; columns of slopes or covariates are outside
        of their range in the fit.

    Raises
    ------
    InputError
        The tables contradict themselves, values of columns are far outside of their range in the fit, columns or features
        of the fit are absent, values are infinite, the posterior contains these scans already, or the model does not cover
        scans of this kind.
    RunFolderError
        The posterior has no statistics of its scans.
    """
    check_type(posterior, Posterior, "adapt", "fit")
    check_type(dataset, Dataset, "adapt", "load_dataset")
    caveats = screen_new_scans(posterior, dataset, accept)
    adapted, unit_notes = update_posterior(posterior, dataset, accept)
    for note in [*caveats, *unit_notes]:
        warnings.warn(note, stacklevel=2)
    return adapted


def adapt_to_new_scanners(
    posterior: Posterior, dataset: Dataset, accept: Sequence[str] | str = ()
) -> tuple[Posterior, list[str]]:
    """Adapt a posterior to the scanners of a dataset that it does not have; without any, return it unchanged.

    Only scans on these scanners are used, since the others may have been in the fit. To harmonize all scans with the
    result, use ``new_scanners="prior"``: a model of travelers learns nothing about a scanner without travelers.

    Returns
    -------
    posterior : Posterior
    notes : list of str
        For the user.

    Raises
    ------
    InputError, RunFolderError
        As in :func:`adapt`.
    """
    scans = dataset.scans
    rows = _rows_on_new_scanners(posterior, dataset)
    if not len(rows):
        return posterior, []
    caveats = screen_new_scans(posterior, dataset, accept)
    # People may be travelers because of their scans on known scanners.
    find = find_travelers if posterior.spec.participants == "travelers" else find_site_travelers
    new_scans = scans.assign(traveling=find(scans)).iloc[rows].reset_index(drop=True)
    adapted, _ = update_posterior(
        posterior, replace(dataset, scans=new_scans, features=dataset.features.align(rows)), accept
    )
    notes = [*caveats, *adapted.run["notes"][len(posterior.run["notes"]) :]]
    elsewhere = scans["participant_id"].drop(index=scans.index[rows])
    in_fit = read_scan_patterns(posterior.sufficient_statistics)["participant_id"]
    if not_used := sorted(set(new_scans["participant_id"]) & set(elsewhere) - set(in_fit)):
        notes.append(
            f"Adaptation used the scans on new scanners only. {shorten(not_used)} also have scans on scanners of the fit: "
            "if those are new too, call bayesharm.adapt with all new scans."
        )
    return adapted, notes


def refuse_inverse_adaptation(posterior: Posterior, dataset: Dataset) -> None:
    """Refuse to adapt to harmonized scans, which no longer contain the effects of their scanners.

    To be called in place of :func:`adapt_to_new_scanners` where the correction is inverse.

    Raises
    ------
    InputError
        There are scans on scanners that the posterior does not have.
    """
    if len(rows := _rows_on_new_scanners(posterior, dataset)):
        raise InputError(
            "A posterior cannot be adapted to harmonized scans: they no longer contain the effects of their scanners.",
            got=f"new_scanners='adapt' with inverse, and scans from {shorten(dataset.scans['scanner'].iloc[rows].unique())}",
            expected="a posterior that has these scanners",
            do="adapt a posterior to the original scans (bayesharm.adapt), keep it, and use it in both directions",
        )


def _rows_on_new_scanners(posterior: Posterior, dataset: Dataset) -> np.ndarray:
    return np.flatnonzero(~dataset.scans["scanner"].isin(posterior.scanners))


def update_posterior(
    posterior: Posterior, dataset: Dataset, accept: Sequence[str] | str = ()
) -> tuple[Posterior, list[str]]:
    """Adapt as :func:`adapt` does; return notes on suspect units instead of warning."""
    check_type(posterior, Posterior, "adapt", "load_posterior")
    check_type(dataset, Dataset, "adapt", "load_dataset")
    require_gaussian(posterior, "adapt needs a run with Gaussian noise: the weights of new scans are not known.")
    fingerprint = dataset.sorted().features.fingerprint()
    earlier = [*filter(None, [posterior.run.get("fingerprint")]), *posterior.run.get("learned", [])]
    if fingerprint in earlier:
        raise InputError(
            "The posterior contains these scans already.",
            got=f"the same {len(dataset.scans):,} scans again",
            expected="scans that were neither in the fit nor in an earlier adaptation",
            do="give new scans only: scans counted twice make the effects look more certain than they are",
        )
    old = read_statistics(posterior.sufficient_statistics, posterior.spec)
    codes = [accept] if isinstance(accept, str) else list(accept)
    range_notes, scales = check_ranges(posterior, dataset.scans, dataset.scans.columns, codes), posterior.scales
    values, left_out, unit_notes = _read_values(posterior, dataset.transformed(posterior.run.get("transform")))
    unit_notes = [*range_notes, *unit_notes]
    merged, merging_notes = append_scans(old, dataset, (values - scales["center"].values) / scales["feature_scale"].values)
    effects = compute_adapted_effects(posterior, merged)
    by_scanner = _count_scans(merged)
    adaptation_notes = _adaptation_notes(merged, old, len(dataset.scans), by_scanner["n_travelers"])
    notes = [*left_out, *unit_notes, *adaptation_notes, *merging_notes]
    rng = np.random.default_rng([posterior.run["seed"], Stage.ADAPT, len(earlier)])
    tree = _label(posterior, merged, effects, by_scanner, rng)
    run = {**posterior.run, "data": None, "fingerprint": "", "scans": "", "n_scans": int(merged.size.sum())}
    run |= {"notes": [*posterior.run["notes"], *notes], "learned": [*earlier, fingerprint]}
    return Posterior(tree, run), unit_notes


def _read_values(posterior: Posterior, dataset: Dataset) -> tuple[np.ndarray, list[str], list[str]]:
    """Read the features in the order of the posterior, (scan, feature); note features left out, and suspect units."""
    features, indices, left_out = match_features(posterior, dataset.features)
    values = np.empty((len(dataset.scans), len(indices)))
    for start, stop in features.blocks():
        values[:, indices[start:stop]] = features.read(start, stop)
    names = np.array(posterior.features)
    if (infinite := np.isinf(values)).any():
        raise InputError(
            "Some values are infinite.",
            got=f"{infinite.sum():,} of them, in features {shorten(names[infinite.any(0)])}, "
            f"in scans {shorten(dataset.scans['scan_id'][infinite.any(1)])}",
            expected="finite numbers, and NaN where a value is missing",
            do="correct these values, or leave these scans out",
        )
    scanner, scanners = pd.factorize(dataset.scans["scanner"])
    size = root_mean_square(values, scanner)
    return values, left_out, compare_units(posterior, np.arange(len(indices)), size, names, scanners)


def _count_scans(merged: SufficientStatistics) -> dict[str, np.ndarray]:
    """Count scans and travelers of each scanner, for the node `/design`."""
    design, n_scanners = merged.design, len(merged.design.scanners)
    scanners = identify(design).scanners.loc[list(design.scanners)]
    return {
        "component": scanners["component"].to_numpy(),
        "n_travelers": scanners["n_travelers"].to_numpy(),
        "n_scans": np.bincount(design.class_scanner, merged.size, n_scanners).astype(int),
        "n_single_scan": np.bincount(design.class_scanner, merged.size * design.class_single_scan, n_scanners).astype(int),
    }


def _adaptation_notes(
    merged: SufficientStatistics, old: SufficientStatistics, n_given: int, n_travelers: np.ndarray
) -> list[str]:
    """Say which scans were used, and which new scanners have no travelers."""
    n_used = int(merged.size.sum() - old.size.sum())
    is_new = [name not in old.design.scanners for name in merged.design.scanners]
    names = np.array(merged.design.scanners, object)
    scanners = f" on the new scanners {shorten(names[is_new])}" if any(is_new) else ""
    notes = [
        f"Adapted to {n_used:,} new scan{'s' * (n_used != 1)}{scanners}: the effects are those given the posterior medians "
        "of the scales."
    ]
    if any(is_new) and merged.design.n_eta < len(merged.design.scales):
        notes.append(
            f"The noise of {shorten(names[is_new])} has one ratio for all features: a fit would learn one for each."
        )
    if n_used < n_given:
        notes.append(f"This model uses travelers only: {n_given - n_used:,} scans of other people were not used.")
    without = names[is_new & (n_travelers == 0)]
    if len(without) and any(family.by == "population" for family in merged.design.spec.families):
        notes.append(
            f"No traveler was scanned on {shorten(without)}: there, only the priors separate measurement from sampling bias."
        )
    return notes


def _label(
    posterior: Posterior,
    merged: SufficientStatistics,
    effects: AdaptedEffects,
    by_scanner: dict[str, np.ndarray],
    rng: np.random.Generator,
) -> xr.DataTree:
    """Label the adapted effects: the posterior's tree with these, and without variance components and draws."""
    import xarray as xr

    design, tree = merged.design, posterior.tree.copy()
    observed = merged.likelihood.observed_per_scanner(merged.moments) if merged.has_missing else None
    feature = tree["scales"]["feature"]
    for name in ("effects", "finite_population", "size_draws", "draws"):
        if name in tree.children:
            del tree[name]
    for name, node in _label_effects(posterior, merged, effects).items():
        tree[f"/effects/{name}"] = xr.DataTree(node)
    tree["hyper"] = xr.DataTree(_label_ratios(tree["hyper"].to_dataset(), design, effects.ratios, rng))
    tree["design"] = xr.DataTree(
        xr.Dataset(
            {name: (("scanner",), values) for name, values in by_scanner.items()}
            | ({"n_observed": (("scanner", "feature"), observed)} if observed is not None else {}),
            coords={"scanner": ("scanner", np.array(design.scanners, object))},
            attrs={"site_travelers": list(design.site_travelers), "n_scans": int(merged.size.sum())},
        )
    )
    tree["sufficient_statistics"] = xr.DataTree(write_statistics(merged).assign_coords(feature=feature))
    return tree


def count_levels(merged: SufficientStatistics) -> dict[str, np.ndarray]:
    """Count the scans of each level, by name of the group; slopes have those of their intercepts."""
    design = merged.design
    is_slope = np.isin(design.families.astype(str), [family.slope_name for family in design.spec.slopes])
    count = merged.count[np.where(is_slope, design.partner, np.arange(len(design.columns)))]
    return {group.name: count[group.columns].min(1) for group in design.effects}


def _label_effects(posterior: Posterior, merged: SufficientStatistics, effects: AdaptedEffects) -> dict[str, xr.Dataset]:
    """Label the effects of each group, by name of the group."""
    n_scans = count_levels(merged)
    names, correlation = np.array(posterior.features, object), effects.description["correlation"]
    nodes = label_effects(merged.design, effects.summaries, effects.description, n_scans, correlation, names)
    for group, node in nodes.items():
        if group in effects.in_fit:
            nodes[group] = node.assign(in_fit=(node["n_scans"].dims, effects.in_fit[group]))
            nodes[group].attrs |= {"contrast": "minus the mean of the levels of the fit that share a scale"}
    return nodes


def _label_ratios(hyper: xr.Dataset, design: Design, ratios: RatioPosterior, rng: np.random.Generator) -> xr.Dataset:
    """Add draws of the ratios of new scanners to the hyperparameters; scanners of the fit keep theirs."""
    import xarray as xr

    scanners, shape = np.array(design.scanners, object), (hyper.sizes["chain"], hyper.sizes["draw"])
    away = rng.multivariate_normal(np.zeros(len(ratios.covariance)), ratios.covariance, shape, method="eigh")
    away -= away.mean((0, 1))  # the effects are those at the mode, which readers find as the mean of the draws
    log_ratios = np.split((ratios.mean.to_vector() + away)[..., : 3 * len(scanners)], 3, axis=-1)
    has_bias_ratio = np.isin(np.arange(len(scanners)), design.bias_ratio_of)
    has_ratio = np.full(len(scanners), True), has_bias_ratio, design.gain_is_known
    labeled = {}
    for name, drawn, has_own in zip(SCANNER_RATIOS, log_ratios, has_ratio, strict=True):
        ratio = hyper[name].reindex(scanner=scanners)
        values = xr.DataArray(np.exp(np.where(has_own, drawn, 0.0)), dims=("chain", "draw", "scanner"))
        labeled[name] = ratio.fillna(values.assign_coords(scanner=ratio["scanner"]))
    return hyper.drop_dims("scanner").assign(labeled).assign_attrs(hyper.attrs)
