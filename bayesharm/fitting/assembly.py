"""Assembly of a posterior: arrays of the inference become the labelled tree of :mod:`bayesharm.results.schema`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from bayesharm.algorithms.diagnostics import diagnose
from bayesharm.algorithms.random_streams import Stage
from bayesharm.conditional.finite_population import reported_levels
from bayesharm.conditional.identifiability import Identifiability, identify
from bayesharm.data.dataset import Dataset
from bayesharm.data.finding import Finding
from bayesharm.errors import listed
from bayesharm.fitting.feature_summary import leapfrog_cost
from bayesharm.inference.hyperparameters import Hyperparameters
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.model.design import Design
from bayesharm.results.nodes import (
    hyper_coordinates,
    keep_statistics,
    label_effects,
    scale_coordinates,
    sd_coordinates,
)
from bayesharm.results.posterior import FORMAT, PREVIEW, REASONS, Posterior
from bayesharm.results.schema import (
    DESIGN,
    DRAWS,
    ERROR_PATTERNS,
    FINITE_POPULATION,
    HYPER,
    SCALES,
    SCAN_WEIGHTS,
    SIZE_DRAWS,
)
from bayesharm.study_check.result import StudyCheck

STATISTICS = ("mean", "sd", "q05", "q50", "q95")
LOW_WEIGHT = 0.3  # of a value: noise of nearly twice the sd
SMALL_WEIGHT = 0.75  # of a scan, over the median scan; those of sound scans differ by a tenth
SIZES = ("tau", "finite_sd", "contribution")
Arrays = dict[str, np.ndarray]


def assemble_posterior(
    dataset: Dataset,
    design: Design,
    hyper: Hyperparameters,
    results: Arrays,
    manifest: dict[str, Any],
    findings: Sequence[Finding] = (),
    check: StudyCheck | None = None,
    notes: Sequence[str] = (),
) -> Posterior:
    """Label the results of a fit.

    Parameters
    ----------
    dataset : Dataset
    design : Design
    hyper : Hyperparameters
    results : dict of arrays
        Summaries of all features, the feature axis last; effects in the order of ``design.effects``.
    manifest : dict
        Seed, settings, versions and fingerprint of the features, as recorded in ``run.json``.
    findings : sequence of Finding
        Caveats on the data.
    check : StudyCheck, optional
        The check of the study.
    notes : sequence of str
        First notes of the run.
    """
    features = np.asarray(dataset.features.names, dtype=object)
    feature = {"feature": ("feature", features)}
    scanner = {"scanner": ("scanner", np.array(design.scanners, dtype=object))}
    family = scale_coordinates(design)
    identifiability = identify(design, np.log(_typical_scales(design, results)), hyper.ratios.mean)
    preview = {"preview": PREVIEW} if manifest["settings"]["preview"] else {}
    nodes = {
        "/": xr.Dataset(attrs={"title": design.spec.title, "model": design.spec.name} | preview),
        "/hyper": _hyper_group(design, hyper, manifest["seed"], hyper_coordinates(design) | scanner),
        "/scales": SCALES.dataset(results, family | feature, _about_scales(manifest["settings"])),
        "/error_patterns": ERROR_PATTERNS.dataset(results, feature),
        "/sufficient_statistics": keep_statistics(dataset.scans, design, Moments.from_arrays(results)).assign_coords(
            feature
        ),
        **{f"/effects/{name}": node for name, node in _effect_groups(design, results, identifiability, features).items()},
        "/design": DESIGN.dataset(
            {name: column.to_numpy(int) for name, column in identifiability.scanners.loc[list(design.scanners)].items()}
            | ({"n_observed": results["n_observed"]} if "n_observed" in results else {}),
            scanner | (feature if "n_observed" in results else {}),
            {"site_travelers": list(design.site_travelers), "n_scans": design.n_scans},
        ),
    }
    if "finite_sd" in results:
        sized = sd_coordinates(design)
        labels = {"statistic": list(STATISTICS), "other": sized["family"][1], "size": list(SIZES)}
        nodes["/finite_population"] = FINITE_POPULATION.dataset(
            results, sized | feature | {dim: (dim, np.array(names, dtype=object)) for dim, names in labels.items()}
        )
    if "tau_draws" in results:
        nodes["/size_draws"] = SIZE_DRAWS.dataset(
            {name: results[f"{name}_draws"] for name in SIZES}, sd_coordinates(design) | feature
        )
    if "scan_weight" in results:
        nodes["/scan_weights"] = _scan_weights(dataset.scans.iloc[design.rows], results["scan_weight"])
    if "kept" in results:
        nodes["/draws"] = DRAWS.dataset({"scales": results["kept"]}, family | feature)
    record = _record(dataset, design, results, manifest, identifiability)
    if "/scan_weights" in nodes:
        record["notes"] += weight_notes(nodes["/scan_weights"])
    record["notes"] = [*notes, *record["notes"]]
    record["findings"] = [finding.to_dict() for finding in (findings if check is None else check.findings)]
    if check is not None:
        record["check"] = check.to_record()
    return Posterior(xr.DataTree.from_dict(nodes), record)


def _hyper_group(design: Design, hyper: Hyperparameters, seed: int, coords: dict[str, Any]) -> xr.Dataset:
    """Label draws of the hyperparameters; those of the variance ratios come from their Gaussian posterior."""
    n_chains, n_draws = hyper.eta.shape[:2]
    rng = np.random.default_rng([seed, Stage.RATIO])
    log_ratios = rng.multivariate_normal(
        hyper.ratios.mean.to_vector(), hyper.ratios.covariance, (n_chains, n_draws), method="eigh"
    )
    noise, bias, gain, correlation = VarianceRatios.from_vector(np.moveaxis(log_ratios, -1, 0), len(design.scanners))
    noise, bias, gain = (np.exp(np.moveaxis(part, 0, -1)) for part in (noise, bias, gain))
    gain[..., ~(design.gain_is_known & (design.spec.gain != "none"))] = 1.0
    bias[..., ~np.isin(np.arange(len(design.scanners)), design.bias_ratio_of)] = 1.0  # scanners without a kappa of their own
    hyperparameters = np.concatenate([hyper.eta, np.log(hyper.omega)], axis=-1)[..., None]
    diagnostics = diagnose(hyperparameters, np.zeros((*hyperparameters.shape[:2], 1), bool))
    about = {
        "divergences": hyper.diverging,
        "rhat_max": float(np.nanmax([np.nanmax(diagnostics.rhat), hyper.ratio_rhat])),
        "ratio_rhat": hyper.ratio_rhat,
        "reliable": int(hyper.is_reliable),
        "ess_bulk_min": float(np.nanmin(diagnostics.ess_bulk)),
        "features": hyper.n_features,
        "n_independent_features": hyper.ratios.n_independent_features,
    }
    eta, omega = (part[..., : len(design.hyper_groups)].copy() for part in (hyper.eta, hyper.omega))
    eta[..., design.n_eta :] = 0.0  # of noise ratios: lambda is their mean
    arrays = {"eta": eta, "omega": omega, "noise_ratio": noise, "bias_ratio": bias, "gain": gain}
    if hyper.tails is not None:
        arrays |= {"tail_share": hyper.tails.share, "tail_df": hyper.tails.df}
    if design.correlations:
        arrays["slope_correlation"] = np.tanh(np.moveaxis(correlation, 0, -1))
        coords = coords | {"slope_family": ("slope_family", np.array(design.correlations, dtype=object))}
    return HYPER.dataset(arrays, coords, about)


def _scan_weights(scans: pd.DataFrame, weight: np.ndarray) -> xr.Dataset:
    """Summarize the weights of the scans, (scan, feature), over features; NaN where a feature lacks a scan."""
    observed = ~np.isnan(weight)
    n_features = np.maximum(observed.sum(axis=1), 1)
    mean = np.where(observed, weight, 0).sum(axis=1, dtype=float) / n_features
    low = (observed & (weight < LOW_WEIGHT)).sum(axis=1) / n_features
    labels = {"scan": scans["scan_id"], "scanner": scans["scanner"]}
    coords = {name: ("scan", values.to_numpy(object)) for name, values in labels.items()}
    return SCAN_WEIGHTS.dataset({"mean_weight": mean, "low_share": low}, coords)


def _about_scales(settings: dict[str, Any]) -> dict[str, str]:
    return {
        "converged": f"bulk R-hat < {settings['max_rhat']}, bulk ESS >= {settings['target_ess']}, no divergence",
        "reason": ", ".join(f"{code}: {reason}" for code, reason in enumerate(REASONS)),
    }


def _effect_groups(
    design: Design, results: Arrays, identifiability: Identifiability, features: np.ndarray
) -> dict[str, xr.Dataset]:
    stops = np.cumsum([len(group.levels) for group in design.effects])[:-1]
    moments = zip(*(np.split(results[f"effect_{name}"], stops) for name in ("mean", "sd")), strict=True)
    contrasts = {name: rows.set_index("level") for name, rows in identifiability.contrasts.groupby("group")}
    columns = {group.name: contrasts[group.name].loc[list(group.levels)] for group in design.effects}
    squares: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    if "level_square_draws" in results:
        groups = reported_levels(design)
        ends = np.cumsum([len(group.levels) for group in groups])[:-1]
        parts = (np.split(results[f"level_square_{name}"], ends, axis=-1) for name in ("draws", "variance"))
        squares = dict(zip([group.name for group in groups], zip(*parts, strict=True), strict=True))
    return label_effects(
        design,
        {group.name: pair for group, pair in zip(design.effects, moments, strict=True)},
        {name: table["contraction"].to_numpy(float) for name, table in columns.items()},
        {name: table["n_scans"].to_numpy(int) for name, table in columns.items()},
        identifiability.correlation,
        features,
        squares,
    )


def _record(
    dataset: Dataset, design: Design, results: Arrays, manifest: dict[str, Any], identifiability: Identifiability
) -> dict[str, Any]:
    """Return the content of ``run.json`` but for the hashes of files."""
    return {
        "format": FORMAT,
        "spec": design.spec.to_dict(),
        "seed": manifest["seed"],
        "settings": manifest["settings"],
        "versions": manifest["versions"],
        "devices": manifest["devices"],
        "transform": manifest["transform"],
        "fingerprint": manifest["features"],
        "scans": manifest["scans"],
        "data": dict(dataset.origin) if dataset.origin else None,
        "reading": dict(dataset.reading),
        "n_scans": design.n_scans,
        "n_features": len(dataset.features.names),
        "n_converged": int(results["converged"].sum()),
        "leapfrog": leapfrog_cost(results, manifest["settings"]["chains"]),
        "dropped": dict(dataset.dropped),
        "dropped_scans": dict(dataset.dropped_scans),
        "dtype": str(dataset.features.dtype),
        "notes": [*identifiability.sentences(), *_missing_notes(design, dataset, results)],
    }


def _missing_notes(design: Design, dataset: Dataset, results: Arrays) -> list[str]:
    """Say how many values are missing, and which scanners have no value at all of some features."""
    if "n_observed" not in results:
        return []
    observed, n_features = results["n_observed"], len(dataset.features.names)
    lacking = int((observed.sum(0) < design.n_scans).sum())
    share = 1 - observed.sum() / (design.n_scans * n_features)
    notes = [f"{lacking:,} of {n_features:,} features lack scans: {share:.2%} of the values are missing."]
    if len(without := np.flatnonzero((observed == 0).any(1))):
        counts = [f"{design.scanners[k]} ({(observed[k] == 0).sum():,} features)" for k in without]
        notes.append(
            f"Some scanners have no value of some features: {listed(counts)}. Their bias in these features rests on the "
            "prior."
        )
    return notes


def weight_notes(weights: xr.Dataset) -> list[str]:
    """Name the scans with clearly smaller weights than the others, smallest first."""
    weights = weights.sortby("mean_weight")
    mean = weights["mean_weight"].values
    median = np.median(mean)
    spread = 1.4826 * np.median(np.abs(mean - median))  # large with few features, where sound scans differ more
    low = mean < min(SMALL_WEIGHT * median, median - 3 * spread)
    if not low.any():
        return []
    named = [f"{scan} ({weight:.2f})" for scan, weight in zip(weights["scan"].values[low], mean[low], strict=True)]
    scans, they = ("1 scan has a", "it") if len(named) == 1 else (f"{len(named):,} scans have", "them")
    return [
        f"{scans} clearly smaller weight{'s' * (len(named) > 1)} than the others, below {SMALL_WEIGHT} of the median (mean "
        f"over features): {listed(named, 10)}. Look at {they}; the weights of all scans are in scans.csv: bayesharm summary "
        "RUN --out FOLDER."
    ]


def _typical_scales(design: Design, results: Arrays) -> np.ndarray:
    """Compute the median over features of the posterior median of each scale, in standard deviations of the feature."""
    unit = np.where(np.arange(len(design.scales))[:, None] < design.n_eta, results["feature_scale"], 1.0)
    typical = np.nanmedian(results["q50"] / unit, axis=1)
    return np.where(np.isfinite(typical), typical, design.scale_medians)
