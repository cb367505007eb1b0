"""Summaries of the posterior of each feature."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from scipy import stats

from bayesharm.algorithms.diagnostics import MAX_RHAT, Diagnostics, diagnose, pareto_k, quantiles
from bayesharm.algorithms.random_streams import Stage, feature_keys
from bayesharm.conditional.effects import average_effects
from bayesharm.conditional.finite_population import draw_finite_population
from bayesharm.fitting.study import FitContext
from bayesharm.inference.scales import ScaleDraws
from bayesharm.likelihood.moments import Moments, Standardization
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.results.posterior import REASONS

SIZE_DRAWS = 50  # of effects, at most, from which sizes of families are computed
PIECE = 512  # features of a block that are described at once, by a thread
QUANTILES = (0.05, 0.5, 0.95)


def join_features(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Summaries of some features and of others together; the feature axis is the last of all."""
    return {key: np.concatenate([part[key] for part in parts], axis=-1) for key in parts[0]}


def _covariance(draws: np.ndarray, log_scales: np.ndarray) -> np.ndarray:
    """Of each number with the log-scale of its family; (draw, family, feature) both, perhaps fewer draws of the former."""
    others = log_scales[:: len(log_scales) // len(draws)]
    return ((draws - draws.mean(0)) * (others - others.mean(0))).sum(0) / (len(draws) - 1)


def _with_quantiles(draws: np.ndarray) -> np.ndarray:
    """Mean, sd and `QUANTILES` of (draw, …) arrays, (statistic, …): outside them lie as many new draws as they say."""
    n = len(draws)
    shares = np.clip((np.array(QUANTILES) * (n + 1) - 1) / (n - 1), 0, 1)
    return np.concatenate([draws.mean(0)[None], draws.std(0, ddof=1)[None], quantiles(draws, list(shares))])


def _with_limits(draws: np.ndarray) -> np.ndarray:
    """The same of few draws of positive numbers, as if they were log-normal."""
    logs = np.log(draws)
    middle, spread = logs.mean(0), logs.std(0, ddof=1)
    limits = [np.exp(middle + z * spread) for z in stats.t.ppf(QUANTILES, len(draws) - 1)]
    return np.stack([draws.mean(0), draws.std(0, ddof=1), *limits])


def leapfrog(results: dict[str, np.ndarray], n_chains: int) -> dict[str, float] | None:
    """How many leapfrog steps a draw took (`mean`), and how lanes waited for one another (`max_over_mean`).

    The lanes of a block make each draw together, so that it takes as long as the one with the most steps: over all draws,
    the maximum over lanes against the mean. Of the last run of each feature; None for a preview, which has no draws.
    """
    if not (n_steps := int(results["steps"].sum())):
        return None
    return {
        "mean": n_steps / int(results["draws"].sum()),
        "max_over_mean": n_chains * int(results["waited"].sum()) / n_steps,
    }


def summarize_features(
    study: FitContext,
    features: np.ndarray,
    ratios: VarianceRatios,
    moments: Moments,
    standard: Standardization,
    draws: ScaleDraws,
    n_own: int | None = None,
) -> dict[str, np.ndarray]:
    """Summaries of draws of the scales, and of the effects given them, in the features' units; of the first `n_own`."""
    draws = jax.tree.map(np.asarray, draws)
    pooled = draws.log_scales.reshape(-1, *draws.log_scales.shape[2:])
    few = pooled[np.linspace(0, len(pooled) - 1, min(study.settings.effect_draws, len(pooled))).astype(int)]
    with study.devices.in_use("float64"):  # variances are differences of squares
        effects = average_effects(study.problem, ratios, moments, few.astype(float), mesh=study.devices.mesh)
        sizes: tuple = ()
        if not study.settings.preview:
            sizes = _draw_sizes(study, features, ratios, moments, standard, np.asarray(few))
    n_own = n_own or len(standard.sd)
    pieces = [slice(start, min(start + PIECE, n_own)) for start in range(0, n_own, PIECE)]

    def of_piece(piece: slice) -> dict[str, np.ndarray]:
        found = (standard, draws, effects, sizes)
        return _describe(study, *jax.tree.map(lambda leaf: np.asarray(leaf)[..., piece], found))

    if len(pieces) == 1:
        found = of_piece(pieces[0])
    else:
        with ThreadPoolExecutor() as pool:
            found = join_features(list(pool.map(of_piece, pieces)))
    waited = draws.n_steps[..., :n_own].max((0, 2)).sum()  # each draw takes as long as its slowest lane
    kept = {name: part[..., :n_own] for name, part in moments._asdict().items()}
    return found | kept | {"waited": np.full(n_own, waited)}


def _draw_sizes(
    study: FitContext,
    features: np.ndarray,
    ratios: VarianceRatios,
    moments: Moments,
    standard: Standardization,
    draws: np.ndarray,
) -> tuple[jax.Array, jax.Array, np.ndarray]:
    """As :func:`draw_finite_population` gives them, and the log-scales that they are of."""
    values = (study.values(features) - standard.center) / standard.sd
    keys = feature_keys(study.seed, Stage.FINITE_POPULATION, features)
    some = draws[:: -(-len(draws) // SIZE_DRAWS)].astype(float)
    mesh = study.devices.mesh
    return *draw_finite_population(study.problem, ratios, study.levels, moments, some, keys, values, mesh=mesh), some


def _describe(
    study: FitContext, standard: Standardization, draws: ScaleDraws, effects: tuple, sizes: tuple[np.ndarray, ...]
) -> dict[str, np.ndarray]:
    log_scales = np.asarray(draws.log_scales, float)
    pooled = log_scales.reshape(-1, *log_scales.shape[2:])
    if study.settings.preview:  # no chains to judge
        nothing = np.full(log_scales.shape[2:], np.nan)
        verdict = Diagnostics(nothing, nothing, np.zeros(len(standard.sd), int), ~np.asarray(draws.diverging).any((0, 1)))
    else:
        verdict = diagnose(log_scales, np.asarray(draws.diverging), study.settings.target_ess)
    effect_mean, effect_sd = (part * standard.sd for part in effects)
    finite = np.isfinite(effect_mean).all(0) & np.isfinite(effect_sd).all(0)
    reason = _reasons(study, verdict, finite)
    scales = np.exp(pooled) * standard.sd
    if study.settings.preview:  # points have the moments of the log-scales, and not their quantiles
        limits = np.exp(stats.norm.ppf(QUANTILES)[:, None, None] * pooled.std(0) + pooled.mean(0)) * standard.sd
    else:
        limits = quantiles(scales, QUANTILES)
    found = {
        "mean": scales.mean(0),
        "sd": scales.std(0),
        **dict(zip(("q05", "q50", "q95"), limits, strict=True)),
        "ess_bulk": verdict.ess_bulk,
        "rhat": verdict.rhat,
        "divergences": verdict.divergences,
        "converged": reason == 0,
        "reason": reason,
        "khat": pareto_k(np.asarray(draws.log_weights)),
        "center": standard.center,
        "unit": standard.sd,
        "effect_mean": effect_mean,
        "effect_sd": effect_sd,
        "draws": np.full(len(standard.sd), len(pooled)),
        "steps": np.asarray(draws.n_steps).sum((0, 1)),
    }
    if sizes:
        finite, contribution = sizes[0] * standard.sd, np.where(np.isnan(sizes[0][0]), np.nan, sizes[1])
        away = finite - finite.mean(0)
        covariance = np.einsum("dif,djf->ijf", away, away) / (len(finite) - 1)
        larger = np.where(np.isfinite(covariance), (finite[:, :, None] > finite[:, None]).mean(0), np.nan)
        told = {"finite_sd": _with_quantiles(finite), "contribution": _with_limits(contribution)}
        told |= {"finite_covariance": covariance, "larger": larger}
        tau = np.exp(sizes[2]) * standard.sd
        told["with_scale"] = np.stack([_covariance(part, sizes[2]) for part in (tau, finite, contribution)])
        found |= {name: part.astype(np.float32) for name, part in told.items()}
    if kept := study.settings.n_kept:
        found["kept"] = scales[np.linspace(0, len(scales) - 1, kept).astype(int)].astype(np.float32)
    return found


def _reasons(study: FitContext, verdict: Diagnostics, finite: np.ndarray) -> np.ndarray:
    """Why each feature is marked, (feature,): places in `REASONS`."""
    applies = {
        "not finite": ~finite,
        "no mode": ~verdict.converged & study.settings.preview,  # without chains there is no other verdict
        "divergences": verdict.divergences > 0,
        "R-hat": ~(verdict.rhat < MAX_RHAT).all(0) & ~np.bool_(study.settings.preview),
        "few effective draws": ~verdict.converged,
    }
    return np.select(list(applies.values()), [REASONS.index(name) for name in applies], 0).astype(np.int8)
