"""Shares of the sources of variation in the variance of a scan; they add up to 1."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bayesharm.analysis.units import slope_columns
from bayesharm.model.covariates import covariates_from_dict
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
            variance[name] = _variance_of_covariates(posterior, mean, sd)
            continue
        weight = effect["n_scans"].values[:, None] / total
        correlation = effect["correlation"].values if "correlation" in effect else np.eye(len(weight))
        size = slopes[name].sd if name in slopes else 1.0
        of_mean = np.sum(weight * mean, axis=0) ** 2 + _quadratic_form(correlation, weight * sd)
        variance[name] = size**2 * np.maximum(np.sum(weight * (mean**2 + sd**2), axis=0) - of_mean, 0.0)
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


def _variance_of_covariates(posterior: Posterior, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Return the variance over scans of the effects of all covariates together, (feature,).

    Columns go together, such as age and its square. Errors of their slopes do so in the opposite direction: each counts with
    the part of its column that the other columns do not explain.

    Parameters
    ----------
    posterior : Posterior
    mean, sd : (covariate, feature) arrays
        Of the slopes, per unit of the covariate.
    """
    statistics = posterior.sufficient_statistics
    covariates = covariates_from_dict(statistics.attrs)
    unit = np.array([each.unit for each in covariates])[:, None]
    place = {tuple(column[:2]): k for k, column in enumerate(statistics.attrs["columns"])}
    columns = [place["covariate", each.level] for each in covariates]
    gram, constant = statistics["dense_gram"].values.sum(0), place["mean", "mean"]
    covariance = gram[np.ix_(columns, columns)] / gram[constant, constant]  # of the columns of the design, whose mean is 0
    return _quadratic_form(covariance, mean * unit) + np.sum((sd * unit) ** 2, axis=0)


def _quadratic_form(matrix: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    return np.einsum("if,ij,jf->f", vectors, matrix, vectors)
