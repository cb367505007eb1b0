"""Draws of the numbers that a study is read for, as functions of the draws of what all features share.

They are scales of the sources, shares of the variance, biases and ratios of scanners. All depend on the draws in ``/hyper``
in closed form, so that a change of the hyperpriors carries over to them by weights of these draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit, logit

from bayesharm.analysis.units import feature_scale
from bayesharm.inference.error_patterns import variance_inflation
from bayesharm.inference.predictive_prior import predictive_moments
from bayesharm.model.labels import NOISE_RATIO
from bayesharm.results.posterior import Posterior

SCALES = ("eta", "omega")  # hyperparameters of the typical scales
KINDS = {"noise_ratio": "noise variance ratio", "bias_ratio": "bias variance ratio", "gain": "gain"}
SEED = 0  # of the uncertainty of a scanner's bias that hyperparameters do not have


class Headline(NamedTuple):
    """Draws of one number.

    Attributes
    ----------
    kind, name : str
        Such as `typical scale` and `measurement`.
    draws : (chain, draw) array
    depends_on : tuple of str
        Arrays of ``/hyper`` that it is a function of, or the entry of a scanner in one (:func:`of_one_scanner`).
    """

    kind: str
    name: str
    draws: np.ndarray
    depends_on: tuple[str, ...]


def of_one_scanner(name: str, scanner: str) -> str:
    """Name the entry of a scanner in an array of ``/hyper``."""
    return f"{name}:{scanner}"


def headline_draws(posterior: Posterior) -> list[Headline]:
    """List the headline numbers of a posterior with their draws."""
    dof = int(posterior.tree["error_patterns"].to_dataset()["residual_dof"].values[0])
    inflation = variance_inflation(posterior.error_pattern, dof)
    hyper, rng = _without_shift(posterior), np.random.default_rng(SEED)
    return [
        *_scales(posterior, hyper, inflation, rng),
        *_shares(posterior, hyper),
        *_comparisons(posterior, hyper),
        *_biases(posterior, hyper, inflation, rng),
        *_ratios(hyper),
    ]


def _without_shift(posterior: Posterior) -> Any:
    """Draws of ``/hyper``, without the common shift of all eta that the offsets of the features take up."""
    hyper: Any = posterior.hyper
    if not posterior.spec.feature_offset_sd:
        return hyper
    is_sd = hyper["term"] != NOISE_RATIO
    weight = (1 / (hyper["omega"] ** 2).mean(("chain", "draw"))).where(is_sd, 0.0)
    away = hyper["eta"] - hyper["eta"].mean(("chain", "draw"))
    shift = (away * weight).sum("family") / weight.sum()
    return hyper.assign(eta=(hyper["eta"] - shift).where(is_sd, hyper["eta"]).transpose(*hyper["eta"].dims))


def _scales(posterior: Posterior, hyper: Any, inflation: float, rng: np.random.Generator) -> Iterator[Headline]:
    """Scale of each source, the mean over features; it follows the typical scale as far as features rest on their prior."""
    scales, unit = posterior.scales, feature_scale(posterior)
    for k, (family, term) in enumerate(zip(hyper["family"].values, hyper["term"].values, strict=True)):
        if term == NOISE_RATIO:
            continue
        here = scales["family"].values == family
        mean, sd = (scales[name].values[here][0] / unit for name in ("mean", "sd"))
        error = np.sqrt(inflation * np.nansum(sd**2)) / np.isfinite(sd).sum()
        followed = np.exp(_response(posterior, [term]) * _centered(hyper["eta"].values[..., k]))
        draws = np.nanmean(mean) * _with_error(followed, error / np.nanmean(mean), rng)
        yield Headline("scale", str(family), draws, SCALES)


def _with_error(draws: np.ndarray, relative_error: float, rng: np.random.Generator) -> np.ndarray:
    """Draws of mean 1 with an error of their own, which does not depend on the hyperparameters."""
    draws = draws * np.exp(relative_error * rng.standard_normal(draws.shape))
    return draws / draws.mean()


def _variances(posterior: Posterior, hyper: Any) -> dict[str, np.ndarray]:
    """Variance of each source in a typical feature, (chain, draw), the mean over diagnoses; slopes are left out."""
    slopes = {family.slope_name for family in posterior.spec.slopes}
    terms, variance = hyper["term"].values, np.exp(2 * hyper["eta"].values)
    names = [str(term) for term in dict.fromkeys(terms) if term != NOISE_RATIO and term not in slopes]
    return {name: variance[..., terms == name].mean(-1) for name in names}


def _shares(posterior: Posterior, hyper: Any) -> Iterator[Headline]:
    variances = _variances(posterior, hyper)
    total = sum(variances.values())
    for name, variance in variances.items():
        yield Headline("share of variance", name, variance / total, SCALES)


def _comparisons(posterior: Posterior, hyper: Any) -> Iterator[Headline]:
    variances, scanner = _variances(posterior, hyper), _scanner_variance(posterior, hyper)
    for name in ("sampling", "disorder"):
        if name in variances and "measurement" in posterior.effect_families:
            yield Headline("scale over that of measurement", name, np.sqrt(variances[name] / scanner), SCALES)


def _scanner_variance(posterior: Posterior, hyper: Any) -> np.ndarray:
    """Variance of the effect that harmonizing removes, in a typical feature: the sum over its components."""
    terms = hyper["term"].values
    return np.exp(2 * hyper["eta"].values[..., np.isin(terms, posterior.spec.components)]).sum(-1)


def _biases(posterior: Posterior, hyper: Any, inflation: float, rng: np.random.Generator) -> Iterator[Headline]:
    """Root mean square over features of the bias of each scanner, including its uncertainty.

    Given the scales, the posterior mean of a bias is the contraction C times its estimate from the data alone, and the
    variance is 1 − C times its prior variance; C / (1 − C) is proportional to prior variance over noise variance.
    """
    effect = posterior.effect(posterior.spec.removed_effect)
    unit = feature_scale(posterior)
    mean, sd = effect["mean"].values / unit, effect["sd"].values / unit
    by_data = np.clip(effect["contraction"].values, 1e-6, 1 - 1e-6)
    log_size = _response(posterior, posterior.spec.components) * _centered(np.log(_scanner_variance(posterior, hyper)))
    log_noise = _response(posterior, ["noise"]) * 2 * _centered(hyper["eta"].values[..., 0])
    for k, scanner in enumerate(effect["scanner"].values):
        if np.isnan(by_data[k]):
            continue
        of_scanner = hyper.sel(scanner=scanner)
        log_kappa, log_lambda = (_centered(np.log(of_scanner[name].values)) for name in ("bias_ratio", "noise_ratio"))
        contraction = expit(logit(by_data[k]) + log_size + log_kappa - log_noise - log_lambda)
        from_data = np.nanmean(mean[k] ** 2) / by_data[k] ** 2
        from_prior = np.nanmean(sd[k] ** 2) / (1 - by_data[k]) * np.exp(log_size + log_kappa)
        size, square = np.nanmean(mean[k] ** 2 + sd[k] ** 2), contraction**2 * from_data + (1 - contraction) * from_prior
        error = np.sqrt(inflation * np.nansum(2 * sd[k] ** 4 + 4 * mean[k] ** 2 * sd[k] ** 2)) / np.isfinite(sd[k]).sum()
        draws = np.sqrt(size * _with_error(square, error / size, rng))
        own = (of_one_scanner(name, str(scanner)) for name in ("bias_ratio", "noise_ratio"))
        yield Headline("bias of the scanner", str(scanner), draws, (*SCALES, *own))


def _response(posterior: Posterior, terms: Sequence[str]) -> float:
    """Compute the weight of the typical scale in the scales of the features: 0 (data alone) to 1 (prior alone)."""
    scales, hyper = posterior.scales, posterior.hyper
    prior = predictive_moments(hyper["eta"].values, hyper["omega"].values, posterior.spec.feature_offset_sd).sd ** 2
    here = np.flatnonzero(np.isin(hyper["term"].values, terms))
    variance = np.log1p((scales["sd"].values[here] / scales["mean"].values[here]) ** 2)
    return float(np.clip(np.nanmean(variance / prior[here, None]), 0, 1))


def _ratios(hyper: Any) -> Iterator[Headline]:
    for name, kind in KINDS.items():
        for k, scanner in enumerate(hyper["scanner"].values):
            if _varies(draws := hyper[name].values[..., k]):
                yield Headline(kind, str(scanner), draws, (name,))
    if "slope_correlation" in hyper:
        for k, family in enumerate(hyper["slope_family"].values):
            draws = hyper["slope_correlation"].values[..., k]
            yield Headline("correlation of intercepts and slopes", str(family), draws, ("slope_correlation",))


def _centered(draws: np.ndarray) -> np.ndarray:
    return draws - draws.mean()


def _varies(draws: np.ndarray) -> bool:
    return bool((draws.std((0, 1)) > 0).any())
