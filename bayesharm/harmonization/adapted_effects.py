"""Effects after adaptation: Gaussian given the scales, and contrasts with the mean of the levels of the fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from bayesharm.algorithms.devices import find_devices
from bayesharm.conditional.effects import average_effects
from bayesharm.conditional.gaussian import condition_effects
from bayesharm.inference.variance_ratios import RatioPosterior, fit_unseen_ratios
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.problem import Problem, make_problem
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.likelihood.sufficient_statistics import SufficientStatistics
from bayesharm.model.contrasts import EffectGroup, add_columns, removable_together
from bayesharm.model.design import Design
from bayesharm.results.nodes import level_coordinates, median_log_scales
from bayesharm.results.posterior import Posterior

BLOCK = 2048  # features whose effects are computed together; bounds the memory


class AdaptedEffects(NamedTuple):
    """The effects of all groups after adaptation, by name of the group.

    Attributes
    ----------
    summaries : dict of pairs of arrays
        Mean and sd, (level, feature), in the features' units.
    description : dict of arrays
        Contraction, (level,), and the `correlation` of the removable effects, (level, level).
    in_fit : dict of arrays
        Whether each level was in the fit, (level,) bool; of the removable effects.
    ratios : RatioPosterior
        Only ratios of new scanners have a variance.
    """

    summaries: dict[str, tuple[np.ndarray, np.ndarray]]
    description: dict[str, Any]
    in_fit: dict[str, np.ndarray]
    ratios: RatioPosterior


def compute_adapted_effects(posterior: Posterior, merged: SufficientStatistics) -> AdaptedEffects:
    """Compute the effects given the scales of the posterior, and all scans.

    Parameters
    ----------
    posterior : Posterior
        Before adaptation.
    merged : SufficientStatistics
        Of the scans in the posterior and the new ones, with standardized features.
    """
    design, problem = merged.design, make_problem(merged.design, merged.likelihood)
    scales, hyper = posterior.scales, posterior.hyper
    unit = scales["feature_scale"].values
    log_scales = median_log_scales(scales)
    typical = np.nanmedian(log_scales, axis=1)[:, None]
    n_independent, is_new = hyper.attrs["n_independent_features"], ~np.isin(design.scanners, posterior.scanners)
    in_fit, known = levels_in_fit(posterior, design), posterior.variance_ratios(design.scanners)
    with find_devices().in_use("float64"):
        ratios = fit_unseen_ratios(problem, merged.moments, log_scales, known, n_independent, is_new)
        summaries = _summarize_effects(problem, merged, in_fit, ratios.mean, log_scales)
        description = _describe_groups(merged, in_fit, ratios.mean, typical)
    in_units = {name: (mean * unit, sd * unit) for name, (mean, sd) in summaries.items()}
    return AdaptedEffects(in_units, description, in_fit, ratios)


def levels_in_fit(posterior: Posterior, design: Design) -> dict[str, np.ndarray]:
    """Return which levels were in the fit, (level,) bool arrays, for the effects that can be removed."""
    in_fit = {}
    for group in removable_together(design.effects, design.spec):
        known: list[tuple[str, ...]] = []
        if group.name in posterior.effect_families:
            node = posterior.effect(group.name)
            was_fitted = node.get("in_fit", node["n_scans"] > -1).values
            known = _level_names(group.dim, node.isel({group.dim: was_fitted}).coords)
        names = {name: values for name, (_, values) in level_coordinates(design, group).items()}
        in_fit[group.name] = np.array([level in known for level in _level_names(group.dim, names)])
    return in_fit


def _level_names(dim: str, coordinates: Mapping[Any, Any]) -> list[tuple[str, ...]]:
    """Return the name of each level: a scanner, or the site and diagnosis of a population."""
    parts = ("site", "diagnosis") if dim == "population" else (dim,)
    return list(zip(*(np.asarray(coordinates[name]).astype(str).tolist() for name in parts), strict=True))


def contrasts_with_fit(group: EffectGroup, in_fit: np.ndarray) -> sparse.csr_array:
    """Return contrasts of levels with the mean of their contrast group, (level, column).

    The mean is over the levels of the fit, or over all levels where none was in the fit.
    """
    effect = group.weight[:, None] * add_columns(group.columns, group.n_columns).toarray()
    contrasts = effect.copy()
    for label in np.unique(group.contrast_group):
        contrast_group = group.contrast_group == label
        base = contrast_group & in_fit if (contrast_group & in_fit).any() else contrast_group
        contrasts[contrast_group] -= effect[base].mean(0)
    return sparse.csr_array(contrasts)


def _summarize_effects(
    problem: Problem,
    merged: SufficientStatistics,
    in_fit: dict[str, np.ndarray],
    ratios: VarianceRatios,
    log_scales: np.ndarray,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Compute mean and sd of the effects of each group, (level, feature) both, in sds of the features."""
    groups, n_features = merged.design.effects, log_scales.shape[1]
    contrasts = {group.name: contrasts_with_fit(group, in_fit[group.name]) for group in groups if group.name in in_fit}
    summaries = {group.name: np.empty((2, len(group.levels), n_features)) for group in groups}
    width = min(BLOCK, n_features)
    for start in range(0, n_features, width):
        # The last block repeats its last feature: one compiled program serves all blocks.
        block = np.minimum(np.arange(start, start + width), n_features - 1)
        columns = slice(start, min(start + width, n_features))
        moments, first = merged.moments.take(block), 0
        averaged = np.stack(average_effects(problem, ratios, moments, log_scales[None, :, block]))
        conditional = condition_effects(problem, ratios, moments, log_scales[None, :, block])
        for group in groups:
            summary = averaged[:, first : (first := first + len(group.levels))]
            if group.name in contrasts:
                combinations = contrasts[group.name]
                mean, variance = conditional.mean(combinations), conditional.variance(combinations)
                summary = np.stack([mean[0].T, np.sqrt(variance[0].T)])
            summaries[group.name][..., columns] = summary[..., : columns.stop - columns.start]
    return {name: (mean, sd) for name, (mean, sd) in summaries.items()}


def _describe_groups(
    merged: SufficientStatistics,
    in_fit: dict[str, np.ndarray],
    ratios: VarianceRatios,
    typical: np.ndarray,
) -> dict[str, Any]:
    """Compute the contraction of each group, (level,), and the `correlation` of the removable effects, (level, level).

    Neither depends on the values of the features. Both are those of a feature that has all scans.
    """
    design, problem = merged.design, make_problem(merged.design, merged.likelihood_of_all_scans)
    no_data = Moments(*(np.zeros((len(sums), 1)) for sums in merged.moments[:3]))
    conditional = condition_effects(problem, ratios, no_data, typical[None])
    description: dict[str, Any] = {
        group.name: conditional.contraction_of(group)[0, 0] for group in design.effects if group.name not in in_fit
    }
    removable = [contrasts_with_fit(group, in_fit[group.name]) for group in removable_together(design.effects, design.spec)]
    for name, contrasts in zip(in_fit, removable, strict=True):
        description[name] = conditional.contraction(contrasts)[0, 0]
    covariance = conditional.covariance(sparse.vstack(removable).tocsr())[0, 0]
    sd = np.sqrt(np.diag(covariance))
    sd = np.where(sd > 0, sd, 1.0)  # 0 for the only population in the fit: it is the base of its own contrast
    description["correlation"] = covariance / sd / sd[:, None]
    return description
