"""Draws of the scales and effects of chosen features, and log predictive densities of their scans, for ArviZ.

A run keeps means and sds of effects, not draws. Here the scales of each feature are drawn anew by importance sampling
(:mod:`bayesharm.inference.importance`), with the hyperparameters and the ratios of scanners at their posterior means. Given
the scales, the effects are Gaussian and are drawn exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import xarray as xr
from scipy import sparse
from scipy.special import softmax

from bayesharm.algorithms.diagnostics import pareto_k
from bayesharm.algorithms.random_streams import Stage
from bayesharm.analysis.held_out_prediction import HeldOutPredictor
from bayesharm.conditional.gaussian import condition_effects
from bayesharm.conditional.held_out_groups import arrange_folds
from bayesharm.conditional.leave_group_out import leave_group_out
from bayesharm.conditional.posterior import ConditionalPosterior
from bayesharm.data.dataset import Dataset
from bayesharm.errors import InputError, check_type, shorten
from bayesharm.fitting.context import FitContext, load_fit_context
from bayesharm.inference.importance import log_prior, quadratic_features
from bayesharm.inference.placement import prior_at
from bayesharm.model.labels import NOISE_RATIO
from bayesharm.results.nodes import level_coordinates, scale_coordinates
from bayesharm.results.posterior import Posterior

N_CHAINS, N_DRAWS = 4, 100  # independent draws, arranged as ArviZ expects them
N_SAMPLES = 1024  # importance samples of the scales of each feature
MAX_FEATURES = 64


def feature_draws(
    posterior: Posterior, features: Sequence[str], dataset: Dataset | None = None, *, seed: int = 0
) -> xr.DataTree:
    """Draw the scales and effects of chosen features, in the groups that ArviZ expects.

    Parameters
    ----------
    posterior : Posterior
        Of a fit with Gaussian noise, or a preview of one.
    features : sequence of str
        Names of at most 64 features.
    dataset : Dataset, optional
        The data of the fit; by default read from its files.
    seed : int
        Of the draws.

    Returns
    -------
    DataTree
        `posterior`: `scale`, and the effects of each family, such as `measurement_effect`, (chain, draw, level, feature), in
        the units of the features, as contrasts like those of ``posterior.effect``.
        `log_likelihood`: `value`, (chain, draw, scan, feature), the log density of each value given the scales and **all
        other values of the feature**, effects integrated out. With it, ``arviz.loo`` estimates the prediction of a scan
        from all others, and its importance weights move the few scales only: Pareto-k stays small. With the usual density
        given all effects, it would not, since a participant scanned once has an effect of its own.
        `observed_data`: `value`. `constant_data`: `khat`, the Pareto-k of the importance samples of each feature; above 0.7
        its draws are not reliable.

    Raises
    ------
    InputError
        Features are unknown or too many, or the data are missing or not those of the fit.
    RunFolderError
        The noise of the run is Student-t.
    """
    check_type(posterior, Posterior, "feature_draws", "load_posterior")
    columns = _find_features(posterior, features)
    context = load_fit_context(posterior, dataset)
    predictor = HeldOutPredictor.from_posterior(posterior, context, columns, N_SAMPLES)
    rng = np.random.default_rng([seed, Stage.SAMPLE])
    log_scales, khat = _draw_scales(predictor, rng)
    names = np.array([posterior.features[k] for k in columns], object)
    scans = context.dataset.scans["scan_id"].to_numpy(object)[context.design.rows]
    observed = predictor.values * predictor.standardization.sd + predictor.standardization.center
    label: dict[str, Any] = {"chain": np.arange(N_CHAINS), "draw": np.arange(N_DRAWS), "feature": names}
    values = (("chain", "draw", "scan", "feature"), _chains(_leave_one_out(predictor, log_scales)))
    groups = {
        "/posterior": _label_draws(context, predictor, log_scales, rng, label),
        "/log_likelihood": xr.Dataset({"value": values}, label | {"scan": scans}),
        "/observed_data": xr.Dataset({"value": (("scan", "feature"), observed)}, {"scan": scans, "feature": names}),
        "/constant_data": xr.Dataset({"khat": ("feature", khat)}, {"feature": names}),
    }
    return xr.DataTree.from_dict(groups)


def _find_features(posterior: Posterior, features: Sequence[str]) -> np.ndarray:
    wanted = [features] if isinstance(features, str) else [str(name) for name in features]
    place = {name: k for k, name in enumerate(posterior.features)}
    if unknown := [name for name in wanted if name not in place]:
        raise InputError(
            "The run has no such features.",
            got=shorten(unknown),
            expected=f"some of {shorten(posterior.features)}",
            do="correct the names; posterior.features lists all",
        )
    if not 0 < len(wanted) <= MAX_FEATURES or len(set(wanted)) < len(wanted):
        raise InputError(
            "Effects are drawn for a few features at a time.",
            got=f"{len(wanted)} names, {len(set(wanted))} of them different",
            expected=f"1 to {MAX_FEATURES} different names",
            do="choose fewer features",
        )
    return np.array([place[name] for name in wanted])


def _draw_scales(predictor: HeldOutPredictor, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Resample the log-scales of each feature by their weights, (draw, scale, feature), with Pareto-k, (feature,)."""
    hierarchy = predictor.context.problem.hierarchy
    mean, sd = prior_at(hierarchy, predictor.center)
    with predictor.context.devices.in_use("float64"):
        basis = quadratic_features(jnp.asarray(predictor.log_scales))
        prior = np.asarray(log_prior(basis, mean[:, None], np.log(sd)[:, None], hierarchy.offset_sd)[0])
    log_weights = predictor.log_weights + prior
    n = N_CHAINS * N_DRAWS
    chosen = []
    for weights in softmax(log_weights, axis=0).T:  # stratified: each draw from its own part of the total weight
        rows = np.searchsorted(np.cumsum(weights)[:-1], (np.arange(n) + rng.uniform(size=n)) / n)
        chosen.append(rng.permutation(rows))
    return np.take_along_axis(predictor.log_scales, np.stack(chosen, axis=1)[:, None], axis=0), pareto_k(log_weights)


def _leave_one_out(predictor: HeldOutPredictor, log_scales: np.ndarray) -> np.ndarray:
    """Log density of each value given the scales and all other values of the feature, (draw, scan, feature)."""
    context = predictor.context
    folds = arrange_folds(context.design, np.arange(context.design.n_scans))
    with context.devices.in_use("float64"):
        held_out = leave_group_out(context.problem, predictor.ratios, predictor.moments, predictor.values, log_scales, folds)
    return np.where(np.isnan(predictor.values), np.nan, held_out.folds - np.log(predictor.standardization.sd))


def _label_draws(
    context: FitContext, predictor: HeldOutPredictor, log_scales: np.ndarray, rng: np.random.Generator, label: dict[str, Any]
) -> xr.Dataset:
    """Label draws of the scales and effects, in the features' units."""
    design, unit = context.design, predictor.standardization.sd
    is_ratio = np.array([scale.family == NOISE_RATIO for scale in design.scales])[:, None]
    scales = np.exp(log_scales) * np.where(is_ratio, 1.0, unit)
    found = {"scale": (("chain", "draw", "family", "feature"), _chains(scales))}
    coords = label | {"family": scale_coordinates(design)["family"]}
    effects = _draw_effects(context, predictor, log_scales, rng)
    for group in design.effects:
        contrasts = effects @ sparse.csr_array(group.contrasts).T  # (feature, draw) rows of all columns
        draws = contrasts.reshape(len(unit), -1, len(group.levels)) * unit[:, None, None]
        found[f"{group.name}_effect"] = (("chain", "draw", group.dim, "feature"), _chains(np.moveaxis(draws, 0, -1)))
        coords[group.dim] = level_coordinates(design, group)[group.dim]
    return xr.Dataset(found, coords)


def _draw_effects(
    context: FitContext, predictor: HeldOutPredictor, log_scales: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Draw all effects of each feature given its scales, (feature × draw, column), feature by feature to save memory."""
    drawn = []
    for k in range(log_scales.shape[-1]):
        one = slice(k, k + 1)
        with context.devices.in_use("float64"):
            given = condition_effects(context.problem, predictor.ratios, predictor.moments.take(one), log_scales[..., one])
        of_feature = {name: getattr(given, name)[:, 0] for name in given._fields if name != "couples"}
        drawn.append(_draw_given(given._replace(**of_feature), rng))
    return np.concatenate(drawn)


def _draw_given(given: ConditionalPosterior, rng: np.random.Generator) -> np.ndarray:
    """Draw all effects from their joint posterior, (draw, column)."""
    dense = given.dense_mean + np.einsum(
        "dij,dj->di", np.linalg.cholesky(given.dense_covariance), rng.standard_normal(given.dense_mean.shape)
    )
    noise = rng.standard_normal(given.intercept.shape)
    deviation = np.sqrt(given.residual_variance) * noise
    if len(given.couples):  # an intercept and its slope are correlated
        first, second = given.couples.T
        share = given.residual_covariance / np.sqrt(given.residual_variance[:, first])
        rest = np.sqrt(given.residual_variance[:, second] - share**2)
        deviation[:, second] = share * noise[:, first] + rest * noise[:, second]
    eliminated = given.intercept - np.einsum("dij,dj->di", given.slope, dense) + deviation
    return np.concatenate([dense, eliminated], axis=1)


def _chains(draws: np.ndarray) -> np.ndarray:
    return draws.reshape(N_CHAINS, N_DRAWS, *draws.shape[1:])
