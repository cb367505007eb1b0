"""Scales that no feature has, some have, or all: evidence for each from a sample of features, and chances of every one."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from bayesharm.algorithms.random_streams import Stage, feature_keys
from bayesharm.fitting.context import FitContext
from bayesharm.inference.hyper_target import mixture_target
from bayesharm.inference.hyperposterior import predictive_moments
from bayesharm.inference.importance import quadratic_features
from bayesharm.inference.placement import place_importance_samples
from bayesharm.inference.spike_and_slab import Evidence, compute_evidence, feature_inclusion, masked_log_weights
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.problem import Gaussian, to_coordinates
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.progress import Progress
from bayesharm.results.posterior import Posterior

N_TRAINING_FEATURES, N_NODES = 256, 512  # features, and nodes of each, that the verdict about all features is from
NODES_OF_FEATURE, BLOCK = 64, 256
LEAST_EXCESS = 0.03  # to begin with
ARRAYS = ("eta", "omega", "share")
HYPOTHESES = ("none", "some", "all")  # of the features have the scales


class TrainingFeatures(NamedTuple):
    """Features from which the verdict on all is, and their importance nodes.

    Attributes
    ----------
    features : (feature,) int array
    moments : Moments
    center : (2, scale) array
        eta and log excess of the run.
    log_scales : (node, scale, feature) array
    weights : (mask, node, feature) array
        Of the whole model, and without the scales that each further mask leaves out.
    """

    features: np.ndarray
    moments: Moments
    center: np.ndarray
    log_scales: jax.Array
    weights: jax.Array


def center_of(posterior: Posterior, omega_floor: float) -> tuple[np.ndarray, np.ndarray]:
    """eta and log excess of a run, (2, scale), and how well eta is known, (scale,)."""
    hyper = posterior.tree["hyper"].to_dataset()
    eta, omega = (hyper[name].values.reshape(-1, hyper.sizes["family"]) for name in ("eta", "omega"))
    excess = np.sqrt(np.maximum((omega**2).mean(0) - omega_floor**2, LEAST_EXCESS**2))
    return np.stack([eta.mean(0), np.log(excess)]), eta.std(0)


def sample_training_features(
    posterior: Posterior, study: FitContext, ratios: VarianceRatios, masks: Mapping[str, np.ndarray]
) -> TrainingFeatures:
    """Nodes of a sample of features, weighed with all scales and without those of each mask."""
    problem = study.problem
    center, eta_sd = center_of(posterior, problem.priors.omega_floor)
    n_features = len(study.dataset.features.names)
    rng = np.random.default_rng([study.seed, Stage.SAMPLE])
    features = np.sort(rng.choice(n_features, min(n_features, N_TRAINING_FEATURES), replace=False))
    moments, _ = study.moments(features)
    start = to_coordinates(problem.participant_scale, jnp.repeat(jnp.asarray(center[0])[:, None], len(features), axis=1))
    keys = feature_keys(study.seed, Stage.IMPORTANCE, features)
    nodes, modes = place_importance_samples(problem, moments, center.ravel(), eta_sd, ratios, keys, N_NODES, (start,))
    every = np.stack([np.ones_like(eta_sd), *masks.values()])
    weights = masked_log_weights(problem, ratios, moments, nodes, modes, every)
    return TrainingFeatures(features, moments, center, nodes.log_scales, weights)


def weigh_hypotheses(
    study: FitContext, teachers: TrainingFeatures, masks: Mapping[str, np.ndarray], power: float, progress: Progress
) -> dict[str, dict[str, Evidence]]:
    """Evidence of sampling bias in no feature, in some, and in all of them."""
    every = np.stack([np.ones_like(teachers.center[0]), *masks.values()])

    def weigh(kinds: tuple[int, ...]) -> Evidence:
        rng = np.random.default_rng([study.seed, Stage.HYPER, *kinds])
        with study.devices.in_use("float64"):
            target = mixture_target(
                study.problem.priors, study.problem.log_medians, quadratic_features(teachers.log_scales),
                teachers.weights[np.array(kinds)], every[np.array(kinds)], power,
            )  # fmt: skip
            return compute_evidence(study.problem.priors, target, teachers.center, rng)

    hypotheses: dict[tuple[str, str], tuple[int, ...]] = {("", "all"): (0,)}
    for k, name in enumerate(masks, start=1):
        hypotheses |= {(name, "none"): (k,), (name, "some"): (0, k)}
    found = {}
    with ThreadPoolExecutor(2) as pool:
        for done, (key, evidence) in enumerate(zip(hypotheses, pool.map(weigh, hypotheses.values()), strict=True), start=1):
            found[key] = evidence
            progress("hypotheses", done, len(hypotheses), "")
    return {name: {what: found[name if what != "all" else "", what] for what in HYPOTHESES} for name in masks}


def feature_posteriors(
    study: FitContext,
    ratios: VarianceRatios,
    masks: Mapping[str, np.ndarray],
    evidences: Mapping[str, Mapping[str, Evidence]],
    progress: Progress,
) -> pd.DataFrame:
    """Chances of every feature, block by block."""
    names, n_features = list(masks), len(study.dataset.features.names)
    some = tuple(evidences[name]["some"] for name in names)
    last = some[-1]
    wanted = predictive_moments(last.eta, last.omega, study.problem.priors.feature_offset_sd)
    blocks = [
        np.pad(block, (0, BLOCK - len(block)), mode="edge") if n_features > BLOCK else block
        for block in np.split(np.arange(n_features), range(BLOCK, n_features, BLOCK))
    ]

    def feature_posteriors(block: np.ndarray) -> np.ndarray:
        with study.devices.in_use(study.settings.dtype):
            dtype = np.dtype(study.settings.dtype)
            moments, _ = study.moments(block)
            keys = feature_keys(study.seed, Stage.IMPORTANCE, block)
            prior = Gaussian(*(part.astype(dtype) for part in wanted))
            in_dtype = VarianceRatios(*(part.astype(dtype) for part in ratios))
            without = np.stack([*masks.values()]).astype(dtype)
            told = tuple(each._replace(**{name: getattr(each, name).astype(dtype) for name in ARRAYS}) for each in some)
            chances = feature_inclusion(study.problem, in_dtype, moments, keys, prior, told, without, NODES_OF_FEATURE)
            return np.asarray(chances)  # (set, number, feature)

    done, found = 0, []
    with ThreadPoolExecutor(2) as pool:
        for part in pool.map(feature_posteriors, blocks):
            found.append(part)
            done = min(done + BLOCK, n_features)
            progress("features", done, n_features, "")
    values = np.concatenate(found, axis=-1)[..., :n_features]
    columns = {
        f"{what}_{name}": values[k, j]
        for k, name in enumerate(names)
        for j, what in enumerate(("log_bayes_factor", "error", "probability"))
    }
    return pd.DataFrame(columns, index=pd.Index(study.dataset.features.names, name="feature"))


def standardized(study: FitContext, features: np.ndarray) -> np.ndarray:
    """Standardized features, (scan of the design, feature)."""
    moments, standard = study.moments(features)
    return (study.values(features) - standard.center) / standard.sd
