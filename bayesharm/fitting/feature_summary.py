"""Summaries of the posterior of each feature: scales, convergence, effects and their finite-population sizes."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.special import ndtri, stdtrit

from bayesharm.algorithms.diagnostics import Diagnostics, diagnose, pareto_k, quantiles
from bayesharm.algorithms.random_streams import Stage, feature_keys
from bayesharm.conditional.effects import average_effects
from bayesharm.conditional.finite_population import draw_finite_population
from bayesharm.fitting.context import FitContext
from bayesharm.fitting.settings import Settings
from bayesharm.inference.scales import ScaleDraws
from bayesharm.likelihood.moments import Moments, Standardization
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.results.posterior import REASONS, may_share_unit

MOST_SIZE_DRAWS = 50  # draws of the effects from which sizes of a single feature are computed, at most
DRAWS_AT_ONCE = 5  # of these; contributions take all scans, and are computed from the first of them
N_JOINT_DRAWS = 400  # draws of the effects where few features are sampled together: quantiles of their means need more
CHUNK_FEATURES = 512  # features that one thread summarizes at a time
QUANTILES = (0.05, 0.5, 0.95)
Arrays = dict[str, np.ndarray]


class Sizes(NamedTuple):
    """Draws of the finite-population sizes of the standardized features, and the log-scales that they belong to.

    Attributes
    ----------
    finite_sd, contribution : (draw, family, feature) arrays
    log_scales : (draw, family, feature) array
    level_effects : (draw, level, feature) array, optional
        Effects of single levels, where draws of all features belong together; else none.
    """

    finite_sd: Any
    contribution: Any
    log_scales: np.ndarray
    level_effects: Any = None


def join_features(parts: Sequence[Arrays]) -> Arrays:
    """Join summaries of consecutive features; the feature axis is the last of every array."""
    return {key: np.concatenate([part[key] for part in parts], axis=-1) for key in parts[0]}


def summarize_features(
    context: FitContext,
    features: np.ndarray,
    ratios: VarianceRatios,
    moments: Moments,
    standardization: Standardization,
    draws: ScaleDraws,
    n_features: int | None = None,
    *,
    log_ratios: np.ndarray | None = None,
) -> Arrays:
    """Summarize draws of the scales, and the effects given them, in the features' units.

    Parameters
    ----------
    context : FitContext
    features : (feature,) int array
        Indices of the features of the block.
    ratios : VarianceRatios
    moments : Moments
    standardization : Standardization
    draws : ScaleDraws
    n_features : int, optional
        Summarize the first ones only; the others fill up the block.
    log_ratios : (chain, draw, ratio) array, optional
        Variance ratios that each draw of all features belongs to, where they were sampled together. Draws of the sizes are
        then kept.

    Returns
    -------
    dict of arrays
        Variables of the groups ``scales``, ``finite_population``, ``size_draws`` (``tau_draws`` and others) and
        ``error_patterns`` of the results tree, moments, ``effect_mean``, ``effect_sd``, ``waited`` (leapfrog steps of the
        slowest lane) and, if draws are kept, ``kept``; the feature axis last.
    """
    draws = jax.tree.map(np.asarray, draws)
    pooled = draws.log_scales.reshape(-1, *draws.log_scales.shape[2:])
    thinned = pooled[np.linspace(0, len(pooled) - 1, min(context.settings.effect_draws, len(pooled))).astype(int)]
    values = (context.values(features) - standardization.center) / standardization.sd
    with context.devices.in_use("float64"):  # variances are differences of squares
        effects = average_effects(context.problem, ratios, moments, thinned.astype(float), mesh=context.devices.mesh)
        sizes = None
        if not context.settings.preview:
            if log_ratios is None:
                of_sizes, chosen, at_once = ratios, thinned[:: -(-len(thinned) // MOST_SIZE_DRAWS)], DRAWS_AT_ONCE
            else:
                rows = np.linspace(0, len(pooled) - 1, min(N_JOINT_DRAWS, len(pooled))).astype(int)
                vectors = log_ratios.reshape(len(pooled), -1)[rows]
                of_sizes, chosen, at_once = jax.tree.map(np.transpose, context.problem.ratios(vectors.T)), pooled[rows], 1
            sizes = _draw_sizes(context, features, of_sizes, moments, values, np.asarray(chosen, float), at_once)
    summary = summarize_draws(context, values, moments, standardization, draws, effects, sizes, n_features)
    if log_ratios is None or sizes is None:
        return summary
    return summary | _keep_sizes(sizes, standardization.sd)


def summarize_draws(
    context: FitContext,
    values: np.ndarray,
    moments: Moments,
    standardization: Standardization,
    draws: ScaleDraws,
    effects: tuple[Any, Any],
    sizes: Sizes | None,
    n_features: int | None = None,
) -> Arrays:
    """Summarize draws of the scales together with effects that are known already; as :func:`summarize_features`.

    Parameters
    ----------
    context, moments, standardization, draws, n_features
        As for :func:`summarize_features`.
    values : (scan, feature) array
        Standardized features, from which error patterns are made.
    effects : tuple of (contrast, feature) arrays
        Posterior means and sds.
    sizes : Sizes, optional
    """
    n_features = n_features or len(standardization.sd)
    chunks = [slice(start, min(start + CHUNK_FEATURES, n_features)) for start in range(0, n_features, CHUNK_FEATURES)]

    def summarize_chunk(chunk: slice) -> Arrays:
        parts = (standardization, draws, effects, sizes)
        of_chunk = jax.tree.map(lambda leaf: np.asarray(leaf)[..., chunk], parts)
        return _summarize_chunk(context.settings, context.design.n_eta, *of_chunk)

    if len(chunks) == 1:
        summary = summarize_chunk(chunks[0])
    else:
        with ThreadPoolExecutor() as pool:
            summary = join_features(list(pool.map(summarize_chunk, chunks)))
    waited = draws.n_steps[..., :n_features].max((0, 2)).sum()  # each draw takes as long as its slowest lane
    summary |= moments.take(slice(n_features)).to_arrays()
    if context.lacks_values:
        summary["n_observed"] = _count_observed(context, values[:, :n_features])
    summary["error_pattern"] = context.error_patterns(values[:, :n_features])
    summary["residual_dof"] = np.full(n_features, context.residual_dof)
    return summary | {"waited": np.full(n_features, waited)}


def _count_observed(context: FitContext, values: np.ndarray) -> np.ndarray:
    """Count the observed scans of each scanner in each feature, (scanner, feature)."""
    design = context.design
    observed = np.zeros((len(design.scanners), values.shape[1]), int)
    np.add.at(observed, design.class_scanner[design.scan_class], ~np.isnan(values))
    return observed


def leapfrog_cost(results: Arrays, n_chains: int) -> dict[str, float] | None:
    """Compute the mean leapfrog steps of a draw (`mean`), and the cost of waiting for the slowest lane (`max_over_mean`).

    The lanes of a block make each draw together, so that a draw takes as long as the lane with the most steps: the maximum
    over lanes against the mean, over all draws of the last run of each feature. None for a preview, which has no draws.
    """
    if not (n_steps := int(results["leapfrog_steps"].sum())):
        return None
    return {
        "mean": n_steps / int(results["n_draws"].sum()),
        "max_over_mean": n_chains * int(results["waited"].sum()) / n_steps,
    }


def _draw_sizes(
    context: FitContext,
    features: np.ndarray,
    ratios: VarianceRatios,
    moments: Moments,
    values: np.ndarray,
    draws: np.ndarray,
    at_once: int,
) -> Sizes:
    keys = feature_keys(context.seed, Stage.FINITE_POPULATION, features)
    finite_sd, contribution, level_effects = draw_finite_population(
        context.problem, ratios, context.levels, moments, draws, keys, values, at_once=at_once, mesh=context.devices.mesh
    )
    return Sizes(finite_sd, contribution, draws[:, : finite_sd.shape[1]], level_effects)  # noise ratios have no sizes


def _keep_sizes(sizes: Sizes, unit: np.ndarray) -> Arrays:
    """Name the draws of the sizes, in the features' units, and those of mean squares of levels, in the units of tables."""
    finite_sd, contribution = np.asarray(sizes.finite_sd), np.asarray(sizes.contribution)
    squares = (np.asarray(sizes.level_effects) * (unit if may_share_unit(unit) else 1)) ** 2
    draws = {
        "tau_draws": np.exp(sizes.log_scales) * unit,
        "finite_sd_draws": finite_sd * unit,
        "contribution_draws": np.where(np.isnan(finite_sd), np.nan, contribution),
    }
    return {name: values.astype(np.float32) for name, values in draws.items()} | {
        "level_square_draws": squares.mean(2),  # in double precision: squares of small units are smaller
        "level_square_variance": squares.var(0).mean(1),
    }


def _summarize_chunk(
    settings: Settings,
    n_sds: int,
    standardization: Standardization,
    draws: ScaleDraws,
    effects: tuple[np.ndarray, np.ndarray],
    sizes: Sizes | None,
) -> Arrays:
    log_scales, unit = np.asarray(draws.log_scales, float), standardization.sd
    units = np.where(np.arange(log_scales.shape[2])[:, None] < n_sds, unit, 1.0)  # noise ratios have none
    pooled = log_scales.reshape(-1, *log_scales.shape[2:])
    diagnostics = _diagnose(settings, log_scales, np.asarray(draws.diverging))
    effect_mean, effect_sd = (part * unit for part in effects)
    is_finite = np.isfinite(effect_mean).all(0) & np.isfinite(effect_sd).all(0)
    reason = _reasons(settings, diagnostics, is_finite)
    scales = np.exp(pooled) * units
    if settings.preview:  # points have the moments of the log-scales, and not their quantiles
        limits = np.exp(ndtri(QUANTILES)[:, None, None] * pooled.std(0) + pooled.mean(0)) * units
    else:
        limits = quantiles(scales, QUANTILES)
    summary = {
        "mean": scales.mean(0),
        "sd": scales.std(0),
        **dict(zip(("q05", "q50", "q95"), limits, strict=True)),
        "ess_bulk": diagnostics.ess_bulk,
        "rhat": diagnostics.rhat,
        "divergences": diagnostics.divergences,
        "converged": reason == 0,
        "reason": reason,
        "khat": pareto_k(np.asarray(draws.log_weights)),
        "center": standardization.center,
        "feature_scale": unit,
        "effect_mean": effect_mean,
        "effect_sd": effect_sd,
        "n_draws": np.full(len(unit), len(pooled)),
        "leapfrog_steps": np.asarray(draws.n_steps).sum((0, 1)),
    }
    if sizes is not None:
        summary |= _summarize_sizes(sizes, unit)
    if n_kept := settings.n_kept:
        summary["kept"] = scales[np.linspace(0, len(scales) - 1, n_kept).astype(int)].astype(np.float32)
    return summary


def _diagnose(settings: Settings, log_scales: np.ndarray, diverging: np.ndarray) -> Diagnostics:
    """Assess convergence; a preview has no chains, and a feature has converged if its mode was found."""
    if not settings.preview:
        return diagnose(log_scales, diverging, settings.target_ess, settings.max_rhat)
    unknown = np.full(log_scales.shape[2:], np.nan)
    return Diagnostics(unknown, unknown, np.zeros(log_scales.shape[-1], int), ~diverging.any((0, 1)))


def _reasons(settings: Settings, diagnostics: Diagnostics, is_finite: np.ndarray) -> np.ndarray:
    """Find why each feature is marked, as positions in `REASONS`; (feature,)."""
    applies = {
        "not finite": ~is_finite,
        "no mode": ~diagnostics.converged & settings.preview,  # the only diagnostic without chains
        "divergences": diagnostics.divergences > 0,
        "R-hat": ~(diagnostics.rhat < settings.max_rhat).all(0) & ~np.bool_(settings.preview),
        "few effective draws": ~diagnostics.converged,
    }
    return np.select(list(applies.values()), [REASONS.index(name) for name in applies], 0).astype(np.int8)


def _summarize_sizes(sizes: Sizes, unit: np.ndarray) -> Arrays:
    finite = sizes.finite_sd * unit
    contribution = np.where(np.isnan(sizes.finite_sd[0]), np.nan, sizes.contribution)
    deviation = finite - finite.mean(0)
    covariance = np.einsum("dif,djf->ijf", deviation, deviation) / (len(finite) - 1)
    larger = np.where(np.isfinite(covariance), (finite[:, :, None] > finite[:, None]).mean(0), np.nan)
    tau = np.exp(sizes.log_scales) * unit
    summary = {
        "finite_sd": _summary_statistics(finite),
        "contribution": (_summary_statistics if len(contribution) == len(finite) else _log_normal_statistics)(contribution),
        "finite_covariance": covariance,
        "probability_larger": larger,
        "covariance_with_log_scale": np.stack([_covariance(size, sizes.log_scales) for size in (tau, finite, contribution)]),
    }
    return {name: part.astype(np.float32) for name, part in summary.items()}


def _covariance(draws: np.ndarray, log_scales: np.ndarray) -> np.ndarray:
    """Compute the covariance of each size with the log-scale of its family; `draws` may be fewer than `log_scales`."""
    matching = log_scales[:: len(log_scales) // len(draws)]
    return ((draws - draws.mean(0)) * (matching - matching.mean(0))).sum(0) / (len(draws) - 1)


def _summary_statistics(draws: np.ndarray) -> np.ndarray:
    """Compute mean, sd and `QUANTILES` of draws, (statistic, …); quantiles as for a new draw, not for those at hand."""
    n = len(draws)
    shares = np.clip((np.array(QUANTILES) * (n + 1) - 1) / (n - 1), 0, 1)
    return np.concatenate([draws.mean(0)[None], draws.std(0, ddof=1)[None], quantiles(draws, list(shares))])


def _log_normal_statistics(draws: np.ndarray) -> np.ndarray:
    """Compute the same for few draws of a positive number, treated as log-normal."""
    logs = np.log(draws)
    middle, spread = logs.mean(0), logs.std(0, ddof=1)
    limits = [np.exp(middle + z * spread) for z in stdtrit(len(draws) - 1, QUANTILES)]
    return np.stack([draws.mean(0), draws.std(0, ddof=1), *limits])
