"""Shares of the sources of variation in the variance of a scan; they add up to 1."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bayesharm.analysis.units import slope_columns
from bayesharm.model.labels import NOISE_RATIO
from bayesharm.results.nodes import read_scales
from bayesharm.results.posterior import Posterior


def variance_shares(posterior: Posterior) -> pd.Series:
    """Compute the share of each source in the variance over the scans of a study, mean over features.

    The variance of a source is that of its effects over the scans, uncertainty included; for people scanned once, whose
    effects are not estimated, that of their population; for noise, the mean over scans, and with Student-t noise that of
    good values. Covariances between sources, such as diagnoses that are frequent on some scanners, are left out.

    Parameters
    ----------
    posterior : Posterior
        A preview will do.

    Returns
    -------
    Series by source
        `measurement`, `sampling`, … , `covariate` and `noise`, largest first; sum 1.
    """
    n_scans = posterior.design["n_scans"].values.astype(float)
    total, unit = n_scans.sum(), posterior.scales["feature_scale"].values
    slopes, spec = slope_columns(posterior), posterior.spec
    parts = set(spec.components) - {spec.removed_effect}  # which add up to the removed effect
    variance: dict[str, np.ndarray] = {}
    for name in posterior.effect_families:
        if name in parts and spec.removed_effect in posterior.effect_families:
            continue
        effect = posterior.effect(name)
        mean, sd = effect["mean"].values / unit, effect["sd"].values / unit
        if name == "covariate":
            per_sd = _sd_of_covariates(posterior, len(mean))[:, None]
            variance[name] = np.sum(per_sd**2 * (mean**2 + sd**2), axis=0)
            continue
        weight = effect["n_scans"].values[:, None] / total
        size = slopes[name].sd if name in slopes else 1.0
        square = np.sum(weight * (mean**2 + sd**2), axis=0) - np.sum(weight * mean, axis=0) ** 2
        variance[name] = size**2 * np.maximum(square, 0.0)
    for label, scale in read_scales(posterior.scales).items():
        family = posterior.scales.sel(family=label)
        square = (family["mean"].values ** 2 + family["sd"].values ** 2) / unit**2
        if scale.family == "noise":
            variance["noise"] = n_scans @ noise_variances(posterior) / total
        elif scale.family in variance and _is_participant(posterior, scale.family):
            known = posterior.effect(scale.family)["n_scans"].values.sum()
            variance[scale.family] = variance[scale.family] + square * max(0.0, 1 - known / total)
        elif _is_participant(posterior, scale.family) and scale.family not in slopes:
            variance[scale.family] = square  # everybody was scanned once
    mean_variance = pd.Series({name: float(np.nanmean(values)) for name, values in variance.items()}, name="share")
    return (mean_variance / mean_variance.sum()).sort_values(ascending=False, kind="stable").rename_axis("source")


def noise_variances(posterior: Posterior) -> np.ndarray:
    """Return the noise variance of a scan of each scanner, (scanner, feature), in squared sd of the feature.

    Relative noise variances of single scans are left out; with Student-t noise it is the variance of a good value. Where
    features have noise ratios, it is the product of squared posterior means: errors of sigma and of the ratios cancel.
    """
    scales = posterior.scales
    family, term, group = (scales[name].values for name in ("family", "term", "group"))
    square = scales["mean"].values ** 2 + (0.0 if NOISE_RATIO in term else scales["sd"].values ** 2)
    ratio = posterior.hyper["noise_ratio"].values.reshape(-1, len(posterior.scanners)).mean(axis=0)
    noise = ratio[:, None] * square[family == "noise"] / scales["feature_scale"].values ** 2
    for k, scanner in enumerate(posterior.scanners):
        own = (term == NOISE_RATIO) & (group == scanner)
        noise[k] *= square[own][0] if own.any() else 1.0
    return noise


def _is_participant(posterior: Posterior, name: str) -> bool:
    return any(family.name == name and family.by == "participant" for family in posterior.spec.families)


def _sd_of_covariates(posterior: Posterior, n_columns: int) -> np.ndarray:
    """Return the standard deviation over scans of each column of covariates; 1 where a run does not keep it."""
    columns = (
        posterior.sufficient_statistics.attrs["covariates"] if "sufficient_statistics" in posterior.tree.children else []
    )
    sds = [float(each["sd"]) if each.get("sd") is not None else 1.0 for each in columns]
    return np.array(sds) if len(sds) == n_columns else np.ones(n_columns)
