"""Is a truth where the posterior says? Probability integral transforms (PIT) of everything that a fit reports.

The PIT of a quantity is the posterior probability of values below its truth. Over studies drawn from the prior, it is
uniform between 0 and 1 if the posterior is right: simulation-based calibration (Talts et al. 2018, arXiv 1804.06788). It is
computed from what a user gets: draws, a mean with its sd, or quantiles.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import special

from bayesharm.model.design import Design
from bayesharm.reference_models.prior_studies import PriorStudy
from bayesharm.results.posterior import Posterior

N_DRAWS = 200  # draws that a truth is ranked among: so few, out of a chain, are nearly independent
LEVEL = 0.9
QUANTILES = (0.05, 0.5, 0.95)
Pits = dict[str, np.ndarray]


def pit_of_draws(truth: np.ndarray, draws: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rank a truth, (…), among independent draws, (draw, …); uniform within its rank, so that the PIT is exactly uniform."""
    thinned = draws[np.linspace(0, len(draws) - 1, min(N_DRAWS, len(draws))).astype(int)]
    return ((thinned < truth).sum(0) + rng.random(truth.shape)) / (len(thinned) + 1)


def pit_of_normal(truth: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Return the PIT of a posterior that is reported as a mean and an sd."""
    return special.ndtr((truth - mean) / sd)


def pit_of_quantiles(
    truth: np.ndarray, limits: np.ndarray, rng: np.random.Generator, levels: tuple[float, ...] = QUANTILES
) -> np.ndarray:
    """Return the PIT of a posterior that is reported as quantiles, (quantile, …), of these levels; uniform between two."""
    edges = np.array([0.0, *levels, 1.0])
    below = (limits < truth).sum(0)
    return edges[below] + (edges[below + 1] - edges[below]) * rng.random(truth.shape)


def calibrate_hyper(posterior: Posterior, design: Design, study: PriorStudy, rng: np.random.Generator) -> Pits:
    """Return the PITs of hyperparameters, variance ratios and slope correlations, by name; ratios (scanner,)."""
    node, hyper = posterior.hyper, study.hyper

    def rank(name: str, truth: np.ndarray, at: Sequence[int] | np.ndarray, log: bool = False) -> np.ndarray:
        draws = node[name].values.reshape(-1, node[name].shape[-1])[:, at]
        return pit_of_draws(truth[at], np.log(draws) if log else draws, rng)

    pits = {}
    for k, family in enumerate(design.scale_labels[: design.n_eta]):
        pits[f"eta {family}"] = rank("eta", hyper["eta"], [k])
        pits[f"omega {family}"] = rank("omega", hyper["omega"], [k])
    if design.spec.noise_ratio == "scanner":
        pits["noise ratio"] = rank("noise_ratio", hyper["log_ratio"], np.arange(len(design.scanners)), log=True)
    if len(sized := np.unique(design.bias_ratio_of[design.bias_ratio_of >= 0])):
        pits["bias ratio"] = rank("bias_ratio", hyper["log_bias_ratio"], sized, log=True)
    for k, family in enumerate(design.correlations):
        pits[f"correlation {family}"] = rank("slope_correlation", hyper["rho"], [k])
    return pits


def calibrate_features(posterior: Posterior, design: Design, study: PriorStudy, rng: np.random.Generator) -> Pits:
    """Return the PITs of scales and effects of features, by name; the feature axis last.

    The posterior is of `study.features` in any units. Scales are ranked among its draws, if it keeps them.
    """
    unit, pits = posterior.scales["feature_scale"].values, {}
    true, limits = np.exp(study.log_scales) * unit, posterior.scales[["q05", "q50", "q95"]].to_array().values
    draws = posterior.tree["draws"].to_dataset()["scales"].values if "draws" in posterior.tree else None
    for k, family in enumerate(design.scale_labels):
        pits[f"scale {family}"] = (
            pit_of_quantiles(true[k], limits[:, k], rng) if draws is None else pit_of_draws(true[k], draws[:, k], rng)
        )
    for group in design.effects:
        effect = posterior.effect(group.name)
        truth = group.contrasts @ study.effects * unit
        pits[f"effect {group.name}"] = pit_of_normal(truth, effect["mean"].values, effect["sd"].values)
    return pits


def calibrate_sizes(posterior: Posterior, design: Design, study: PriorStudy, rng: np.random.Generator) -> Pits:
    """Return the PITs of the sizes of the variance components of each feature, by name; (feature,)."""
    found, pits = posterior.finite_population.sel(statistic=["q05", "q50", "q95"]), {}
    unit = {"finite_sd": posterior.scales["feature_scale"].values, "contribution": 1.0}
    for size, true in true_sizes(design, study).items():
        for family, values in true.items():
            limits = found[size].sel(family=family).transpose("statistic", "feature").values
            if np.isfinite(limits).all():
                pits[f"{size} {family}"] = pit_of_quantiles(values * unit[size], limits, rng)
    return pits


def calibrate_means(
    families: pd.DataFrame, design: Design, study: PriorStudy, rng: np.random.Generator, unit: float = 1.0
) -> Pits:
    """Return the PITs of means over all features of scales and sizes, by name.

    Parameters
    ----------
    families : DataFrame
        `families` of :func:`bayesharm.analysis.variance_components.variance_components`.
    design : Design
    study : PriorStudy
    rng : Generator
    unit : float
        The sd of a feature in the units of `families`.
    """
    scales, pits = dict(zip(design.scale_labels, np.exp(study.log_scales), strict=True)), {}
    for size, of_family in ({"tau": scales} | true_sizes(design, study)).items():
        for family, true in of_family.items():
            low, high = families.loc[family, [f"{size}_q05", f"{size}_q95"]].to_numpy(float)
            mean = true.mean() * (1 if size == "contribution" else unit)
            if np.isfinite(low * high):
                pits[f"mean {size} {family}"] = pit_of_quantiles(np.array(mean), np.array([low, high]), rng, (0.05, 0.95))
    return pits


def calibrate_levels(
    levels: pd.DataFrame, design: Design, study: PriorStudy, rng: np.random.Generator, unit: float = 1.0
) -> Pits:
    """Return the PITs of root mean squares over features of the effect of each level, by name; (level,) each.

    Parameters
    ----------
    levels : DataFrame
        `levels` of :func:`bayesharm.analysis.variance_components.variance_components`.
    design, study, rng, unit
        As for :func:`calibrate_means`.
    """
    pits = {}
    for group in design.effects:
        if group.name in levels.index.get_level_values("family"):
            limits = levels.loc[group.name, ["rms_q05", "rms_q95"]].to_numpy(float).T
            true = unit * np.sqrt(np.mean((group.contrasts @ study.effects) ** 2, axis=1))
            pits[f"level {group.name}"] = pit_of_quantiles(true, limits, rng, (0.05, 0.95))
    return pits


def true_sizes(design: Design, study: PriorStudy) -> dict[str, dict[str, np.ndarray]]:
    """Compute ``finite_sd`` and ``contribution`` of each family, the noise included, from the true effects; (feature,) each.

    Written from their definitions in :mod:`bayesharm.conditional.finite_population`, without its code.
    """
    matrix = design.matrix.toarray()
    squares, finite, n_levels = {"noise": study.residuals**2}, {"noise": np.exp(study.log_scales[0])}, {"noise": 1}
    for k, family in enumerate(design.scale_labels[1 : design.n_eta], start=1):
        columns = np.flatnonzero(design.column_scale == k)
        if not len(columns):
            continue
        effects = study.effects[columns]
        is_centered = design.spec.dimension_of(design.scales[k].family) != "diagnosis"
        effects = effects - is_centered * effects.mean(0)
        finite[family] = np.sqrt((effects**2).sum(0) / (len(columns) - is_centered))
        squares[family], n_levels[family] = (matrix[:, columns] @ effects) ** 2, len(columns)
    total = sum(squares.values())
    share = {family: (part / total).mean(0) / n_levels[family] for family, part in squares.items()}
    return {"finite_sd": finite, "contribution": share}
