"""Null-scale tests: evidence that some scales are zero in all features, in some or in none, and for each feature.

A *mask* is 1 for scales that may be present and 0 for scales that are zero. Each mask defines three hypotheses about the
features as a whole, in `HYPOTHESES`. Their marginal likelihoods come from a sample of the features.
"""

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
from bayesharm.inference.importance import quadratic_features
from bayesharm.inference.placement import place_importance_samples
from bayesharm.inference.predictive_prior import predictive_moments
from bayesharm.inference.spike_and_slab import Evidence, compute_evidence, feature_inclusion, masked_log_weights
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.problem import Gaussian, Problem, to_coordinates
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.progress import Progress
from bayesharm.results.posterior import Posterior

HYPOTHESES = ("none", "some", "all")  # of the features have the scales
N_TRAINING_FEATURES = 256  # features from which the hypotheses about all features are tested
N_SAMPLES = 512  # importance samples of the scales of each training feature
N_SAMPLES_PER_FEATURE = 64  # importance samples of the scales of each feature when all are tested one by one
FEATURE_BLOCK = 256  # features tested at once
MIN_EXCESS = 0.03  # least excess of omega at which the search for its mode starts: its logarithm must be finite
EVIDENCE_ARRAYS = ("eta", "omega", "share")  # fields of Evidence that are arrays


class TrainingFeatures(NamedTuple):
    """A sample of features with importance samples of their scales, for hypotheses about all features.

    Attributes
    ----------
    features : (feature,) int array
    moments : Moments
    center : (dimension,) array
        eta and log excess of the run.
    log_scales : (sample, scale, feature) array
    weights : (1 + mask, sample, feature) array
        log likelihood minus log proposal: of the whole model, then with the scales of each mask at zero.
    """

    features: np.ndarray
    moments: Moments
    center: np.ndarray
    log_scales: jax.Array
    weights: jax.Array


def hyperparameter_center(posterior: Posterior, problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Return the posterior means of eta and of the log excess of omega, (dimension,), and the posterior sd of eta, (scale,).

    The excess is the half-normal part of omega: omega² = omega_floor² + excess². Noise ratios are counted from lambda, so
    that their eta is 0; its uncertainty is that of log sqrt(lambda).
    """
    hyper, hierarchy = posterior.hyper, problem.hierarchy
    eta, omega = (hyper[name].values.reshape(-1, hyper.sizes["family"]) for name in ("eta", "omega"))
    excess = np.sqrt(np.maximum((omega**2).mean(0) - hierarchy.priors.omega_floor**2, MIN_EXCESS**2))
    mean, sd = eta.mean(0)[hierarchy.group], eta.std(0)[hierarchy.group]
    scanners = np.flatnonzero(problem.noise_scale >= 0)
    log_lambda = np.log(hyper["noise_ratio"].values.reshape(len(eta), -1))
    sd[problem.noise_scale[scanners]] = log_lambda[:, scanners].std(0) / 2
    return np.concatenate([mean, np.log(excess)]), sd


def sample_training_features(
    posterior: Posterior, context: FitContext, ratios: VarianceRatios, masks: Mapping[str, np.ndarray]
) -> TrainingFeatures:
    """Choose training features and weigh importance samples of their scales under the whole model and under each mask."""
    problem = context.problem
    center, eta_sd = hyperparameter_center(posterior, problem)
    eta = problem.hierarchy.split(center)[0]
    n_features = len(context.dataset.features.names)
    rng = np.random.default_rng([context.seed, Stage.SAMPLE])
    features = np.sort(rng.choice(n_features, min(n_features, N_TRAINING_FEATURES), replace=False))
    moments, _ = context.moments(features)
    start = to_coordinates(problem.participant_scale, jnp.repeat(jnp.asarray(eta)[:, None], len(features), axis=1))
    keys = feature_keys(context.seed, Stage.IMPORTANCE, features)
    samples, modes = place_importance_samples(problem, moments, center, eta_sd, ratios, keys, N_SAMPLES, (start,))
    all_masks = np.stack([np.ones_like(eta_sd), *masks.values()])
    weights = masked_log_weights(problem, ratios, moments, samples, modes, all_masks)
    return TrainingFeatures(features, moments, center, samples.log_scales, weights)


def evaluate_hypotheses(
    context: FitContext,
    training: TrainingFeatures,
    ratios: VarianceRatios,
    masks: Mapping[str, np.ndarray],
    power: float,
    progress: Progress,
) -> dict[str, dict[str, Evidence]]:
    """Compute the marginal likelihood of each of `HYPOTHESES` for the scales that each mask sets to zero.

    Parameters
    ----------
    power : float
        Exponent of the features' likelihoods: the effective number of independent features over their number.

    Returns
    -------
    dict
        ``evidence[mask][hypothesis]``.
    """
    all_masks = np.stack([np.ones(context.problem.hierarchy.n_scales), *masks.values()])

    log_medians = context.problem.log_medians - context.problem.half_log_lambda(ratios)

    def evaluate(components: tuple[int, ...]) -> Evidence:
        rng = np.random.default_rng([context.seed, Stage.HYPER, *components])
        with context.devices.in_use("float64"):
            target = mixture_target(
                context.problem.hierarchy, log_medians, quadratic_features(training.log_scales),
                training.weights[np.array(components)], all_masks[np.array(components)], power,
            )  # fmt: skip
            return compute_evidence(context.problem.hierarchy, target, training.center, rng)

    # the masks that the features are a mixture of, 0 being the whole model, which is the same for all masks
    mixtures: dict[tuple[str, str], tuple[int, ...]] = {("", "all"): (0,)}
    for k, name in enumerate(masks, start=1):
        mixtures |= {(name, "none"): (k,), (name, "some"): (0, k)}
    evidence = {}
    with ThreadPoolExecutor(2) as pool:
        results = zip(mixtures, pool.map(evaluate, mixtures.values()), strict=True)
        for done, (key, result) in enumerate(results, start=1):
            evidence[key] = result
            progress("hypotheses", done, len(mixtures), "")
    return {name: {each: evidence[name if each != "all" else "", each] for each in HYPOTHESES} for name in masks}


def evaluate_features(
    context: FitContext,
    ratios: VarianceRatios,
    masks: Mapping[str, np.ndarray],
    evidence: Mapping[str, Mapping[str, Evidence]],
    progress: Progress,
) -> pd.DataFrame:
    """Compute for every feature the probability that it has the scales of each mask, block by block.

    Returns
    -------
    DataFrame by feature
        `log_bayes_factor_<mask>`, its Monte-Carlo `error_<mask>`, and `probability_<mask>` given that some features have
        the scales.
    """
    n_features = len(context.dataset.features.names)
    some = tuple(evidence[name]["some"] for name in masks)
    proposal = predictive_moments(some[-1].eta, some[-1].omega, context.problem.hierarchy.offset_sd)
    dtype = np.dtype(context.settings.dtype)
    prior = Gaussian(*(part.astype(dtype) for part in proposal))
    in_dtype = VarianceRatios(*(part.astype(dtype) for part in ratios))
    given = tuple(each._replace(**{name: getattr(each, name).astype(dtype) for name in EVIDENCE_ARRAYS}) for each in some)
    blocks = [  # padded, so that one compiled program serves for all
        np.pad(block, (0, FEATURE_BLOCK - len(block)), mode="edge") if n_features > FEATURE_BLOCK else block
        for block in np.split(np.arange(n_features), range(FEATURE_BLOCK, n_features, FEATURE_BLOCK))
    ]

    def evaluate(block: np.ndarray) -> np.ndarray:
        with context.devices.in_use(context.settings.dtype):
            moments, _ = context.moments(block)
            inclusion = feature_inclusion(
                context.problem, in_dtype, moments, feature_keys(context.seed, Stage.IMPORTANCE, block), prior,
                given, np.stack([*masks.values()]).astype(dtype), N_SAMPLES_PER_FEATURE,
            )  # fmt: skip
            return np.asarray(inclusion)  # (mask, quantity, feature)

    done, results = 0, []
    with ThreadPoolExecutor(2) as pool:
        for result in pool.map(evaluate, blocks):
            results.append(result)
            done = min(done + FEATURE_BLOCK, n_features)
            progress("features", done, n_features, "")
    values = np.concatenate(results, axis=-1)[..., :n_features]
    columns = {
        f"{quantity}_{name}": values[k, j]
        for k, name in enumerate(masks)
        for j, quantity in enumerate(("log_bayes_factor", "error", "probability"))
    }
    return pd.DataFrame(columns, index=pd.Index(context.dataset.features.names, name="feature"))


def standardize(context: FitContext, features: np.ndarray) -> np.ndarray:
    """Return standardized features, (scan of the design, feature)."""
    _, standardization = context.moments(features)
    return (context.values(features) - standardization.center) / standardization.sd
