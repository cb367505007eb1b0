"""Sentences on the convergence of a fit: its features, its hyperparameters, and the sampler."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from bayesharm.errors import shorten
from bayesharm.results.posterior import Posterior

MAX_KHAT = 0.7  # Pareto-k above which importance weights are unreliable
# R-hat of the hyperparameters. The largest of some twenty noisy estimates counts: 1.02 is as strict as 1.01 for one.
MAX_RHAT = 1.02
MIN_ESS = 400  # effective sample size of each hyperparameter
MAX_DIVERGENT = 0.01  # share of divergent draws of the hyperparameters
ROUGH = (
    "The hyperparameters of this preview are rough: their importance samples are not reliable, and with them the scales of "
    "all features. Fit without preview."
)
ROUGH_TAILS = (
    "The share and the degrees of freedom of heavy tails are rough: their importance samples are not reliable, and with "
    "them the weights of scans."
)
NOT_CONVERGED = "The hyperparameters have NOT converged"
MIN_INDEPENDENT = 0.9  # effective over true number of features from which they count as hardly correlated
MAX_WAITING = 1.5  # leapfrog steps of the slowest chain over those of the mean chain that call for a sentence


def describe_convergence(posterior: Posterior, hyper: pd.DataFrame, features: pd.DataFrame) -> tuple[str, ...]:
    """Describe the convergence of a fit, or the quality of the approximation of a preview.

    Parameters
    ----------
    posterior : Posterior
    hyper, features : DataFrame
        As in :class:`bayesharm.Summary`.
    """
    draws, run = posterior.hyper, posterior.run
    is_reliable = draws.attrs.get("reliable", 1)
    if posterior.preview_notice:
        rough = [] if is_reliable else [ROUGH]
        return (posterior.preview_notice, *_describe_approximation(features), *rough, *_describe_correlation(draws.attrs))
    divergent = draws.attrs["divergences"] / (draws.sizes["chain"] * draws.sizes["draw"])
    return (
        _describe_features(features),
        *_describe_hyperparameters(hyper, divergent, draws.attrs),
        *([] if is_reliable else [ROUGH_TAILS]),  # other hyperparameters are then sampled
        *_describe_correlation(draws.attrs),
        *_describe_waiting(run["leapfrog"]),
    )


def _describe_features(features: pd.DataFrame) -> str:
    failed = features.index[~features["converged"]]
    if failed.empty:
        return "The feature has converged." if len(features) == 1 else f"All {len(features):,} features have converged."
    return (
        f"{len(failed):,} of {len(features):,} features have NOT converged, even after retries with more draws "
        f"({_count(features.loc[failed, 'reason'])}). Do not rely on them: {shorten(failed)}."
    )


def _describe_hyperparameters(hyper: pd.DataFrame, divergent: float, attrs: Mapping[str, float]) -> list[str]:
    rhat, ess = hyper["rhat"].to_numpy().max(), hyper["ess"].to_numpy().min()  # NaN, of constant chains, is a failure
    rhat = max(attrs.get("ratio_rhat", 1.0), rhat) if not math.isnan(rhat) else rhat
    numbers = f"R-hat at most {rhat:.3f}, effective sample size at least {ess:,.0f}, {divergent:.1%} divergences"
    converged = rhat < MAX_RHAT and ess >= MIN_ESS and divergent <= MAX_DIVERGENT
    return [
        f"The hyperparameters have converged ({numbers})."
        if converged
        else f"{NOT_CONVERGED} ({numbers}): their intervals, and the scales of single features, are only rough."
    ]


def _describe_correlation(attrs: Mapping[str, Any]) -> list[str]:
    n_features, n_independent = attrs["features"], attrs["n_independent_features"]
    if n_features == 1:
        return []
    is_hardly = n_independent > MIN_INDEPENDENT * n_features
    sentence = (
        f"Features are {'hardly ' if is_hardly else ''}correlated: the {n_features} features from which the hyperparameters "
        f"are learned carry the information of about {n_independent:.0f} independent "
        f"{'one' if round(n_independent) == 1 else 'ones'}."
    )
    return [sentence if is_hardly else f"{sentence} Intervals of the hyperparameters, and joint draws, allow for that."]


def _describe_waiting(leapfrog: Mapping[str, float] | None) -> list[str]:
    if leapfrog is None or leapfrog["max_over_mean"] <= MAX_WAITING:
        return []
    return [
        f"Features waited for one another: the slowest of a block took {leapfrog['max_over_mean']:.1f} times the mean of "
        f"{leapfrog['mean']:.1f} leapfrog steps per draw. The results are correct; only the fit took longer than necessary."
    ]


def _describe_approximation(features: pd.DataFrame) -> list[str]:
    poor = features[~(features["converged"] & (features["khat"] < MAX_KHAT))]
    if poor.empty:
        return [f"The approximation is good for all {len(features):,} features (Pareto k below {MAX_KHAT})."]
    reasons = _count(poor["reason"].where(~poor["converged"], "Pareto k"))
    return [f"The approximation is poor for {len(poor):,} of {len(features):,} features ({reasons}): {shorten(poor.index)}."]


def _count(reasons: pd.Series) -> str:
    return ", ".join(f"{name}: {n:,}" for name, n in reasons.value_counts().items())
