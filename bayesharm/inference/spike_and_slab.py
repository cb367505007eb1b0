"""Spike and slab: whether some scales are 0 in no feature, in some features or in all.

A scale that is 0 is left out: the remaining coordinates of a feature's importance samples are distributed as a marginal of
their Student-t proposal, again a Student-t. Some features have the scale and others do not in a mixture with a component
at 0 (George & McCulloch, *JASA* 88, 1993), whose share is integrated out like all hyperparameters. A *mask* is 1 for scales
that are included and 0 for scales that are 0. The hyperparameters of the latter keep their prior, so that one program
serves for all masks.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import log_sigmoid
from jax.scipy.special import logsumexp

from bayesharm.algorithms.adaptive_importance import ImportanceSettings
from bayesharm.algorithms.devices import map_items
from bayesharm.algorithms.laplace import Laplace
from bayesharm.algorithms.programs import program
from bayesharm.algorithms.student_t import log_mixture_density
from bayesharm.inference.hyper_target import HyperTarget, center_target, find_mode, sample_by_importance
from bayesharm.inference.importance import (
    ImportanceSample,
    draw_importance_sample,
    find_modes,
    log_prior,
    quadratic_features,
)
from bayesharm.likelihood.hierarchy import Hierarchy
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.problem import Gaussian, Problem, to_coordinates
from bayesharm.likelihood.ratios import VarianceRatios

Array = jax.Array
# Log of a scale, in sds of a feature, that stands for 0: with 1,000 people its effects change a log likelihood by 1e-4.
LOG_NULL_SCALE = -8.0
N_DRAWS = 64  # draws of the hyperparameters for the probabilities of single features
# An evidence needs no larger sample; where a scale may be 0, its eta has a long tail and it takes many rounds to cover it.
EVIDENCE_SETTINGS = ImportanceSettings(max_rounds=40, min_ess=400, max_khat=0.7)


class Evidence(NamedTuple):
    """Evidence for one hypothesis about all features, and the hyperparameters under it.

    Attributes
    ----------
    log_evidence : float
        Log marginal likelihood, with all hyperparameters integrated out.
    khat, ess : float
        Pareto-k and effective sample size of that integral.
    is_reliable : bool
        Whether these are good enough.
    eta, omega : (draw, scale) arrays
    share : (draw,) array
        Share of features of the first component; 1 if there is only one.
    """

    log_evidence: float
    khat: float
    ess: float
    is_reliable: bool
    eta: np.ndarray
    omega: np.ndarray
    share: np.ndarray


class InclusionProbabilities(NamedTuple):
    """Evidence that single features have some scales, (feature,) each.

    Attributes
    ----------
    log_bayes_factor, error : arrays
        Log marginal likelihood with the scales minus that without them, and its Monte-Carlo standard error.
    probability : array
        Posterior probability that the feature has them, where a share of all features does.
    """

    log_bayes_factor: Array
    error: Array
    probability: Array


@program("problem")
def masked_log_weights(
    problem: Problem,
    ratios: VarianceRatios,
    moments: Moments,
    sample: ImportanceSample,
    proposals: tuple[Laplace, ...],
    masks: Array,
) -> Array:
    """Compute log likelihood − log proposal at every importance sample, with some scales at 0.

    Parameters
    ----------
    problem : Problem
    ratios : VarianceRatios
    moments : Moments
    sample : ImportanceSample
    proposals : tuple of Laplace
        Proposals of the sample.
    masks : (mask, scale) array
        Noise and participants are always included.

    Returns
    -------
    (mask, sample, feature) array
    """
    statistics = problem.likelihood.weighted(ratios, moments)

    def evaluate(log_scales):
        return problem.likelihood.log_likelihood(statistics, log_scales)

    def of_mask(mask):
        log_weights = map_items(evaluate, jnp.where(mask[:, None] > 0, sample.log_scales, LOG_NULL_SCALE))
        log_weights -= log_mixture_density(proposals, sample.coordinates, mask)
        return jnp.where(jnp.isfinite(log_weights), log_weights, -jnp.inf)

    return jax.lax.map(of_mask, masks)


def compute_evidence(hierarchy: Hierarchy, target: HyperTarget, start: np.ndarray, rng: np.random.Generator) -> Evidence:
    """Integrate a normalized target over the hyperparameters, by adaptive importance sampling.

    Parameters
    ----------
    hierarchy : Hierarchy
    target : HyperTarget
        From :func:`bayesharm.inference.hyper_target.mixture_target`. With one mask all features have its scales; with two
        a share of the features, uniform between 0 and 1, has those of the first, and the others those of the second.
    start : (dimension,) array
        eta and log omega_excess, where the search for the mode begins.
    rng : numpy.random.Generator
    """
    is_mixture = len(target.log_weights) == 2
    start = np.r_[start, [0.0] * is_mixture]
    centered = center_target(hierarchy, target, find_mode(hierarchy, target, start[:, None]), np.float64)
    sample = sample_by_importance(hierarchy, centered, rng, EVIDENCE_SETTINGS)
    eta, omega_excess, logit = hierarchy.split(sample.draw(N_DRAWS, rng).T)
    omega = hierarchy.of_scales(np.hypot(omega_excess, hierarchy.priors.omega_floor))
    return Evidence(
        sample.log_evidence + target.power * float(np.asarray(centered.offset).sum()),
        sample.khat,
        sample.ess,
        sample.is_reliable,
        hierarchy.center(eta).T + centered.origin,
        omega.T,
        1 / (1 + np.exp(-logit[0])) if is_mixture else np.ones(N_DRAWS),
    )


def inclusion_probabilities(
    hierarchy: Hierarchy, log_scales: Array, log_weights: Array, masks: Array, evidence: Evidence
) -> InclusionProbabilities:
    """Compute the probability that each feature is of the first component, averaged over the hyperparameters.

    The draws of the hyperparameters depend on the feature itself. For its Bayes factor each draw is therefore weighted by
    one over the feature's likelihood, so that no scan counts twice.

    Parameters
    ----------
    hierarchy : Hierarchy
    log_scales : (sample, scale, feature) array
    log_weights : (2, sample, feature) array
    masks : (2, scale) array
    evidence : Evidence
        For the hypothesis that a share of the features is of the first component.
    """
    basis, hyper = quadratic_features(log_scales), (evidence.eta.T, jnp.log(evidence.omega.T))
    marginals, variances = [], []
    for weights, mask in zip(log_weights, masks, strict=True):
        terms = weights + log_prior(basis, *hyper, hierarchy.offset_sd, mask[:, None])  # (draw, sample, feature)
        marginals.append(logsumexp(terms, axis=1))
        share = jax.nn.softmax(logsumexp(terms, axis=0), axis=0)  # of each sample, which is common to all draws
        variances.append((share**2).sum(0) - 1 / len(weights))
    with_scales, without = marginals
    logit = jnp.log(evidence.share) - jnp.log1p(-evidence.share)
    probability = jax.nn.sigmoid(with_scales - without + logit[:, None]).mean(0)
    of_feature = jnp.logaddexp(with_scales + log_sigmoid(logit)[:, None], without + log_sigmoid(-logit)[:, None])
    log_bayes_factor = logsumexp(with_scales - of_feature, axis=0) - logsumexp(without - of_feature, axis=0)
    error = jnp.sqrt(jnp.maximum(variances[0] + variances[1], 0))
    return InclusionProbabilities(log_bayes_factor, error, probability)


@program("problem", "n_samples")
def feature_inclusion(
    problem: Problem,
    ratios: VarianceRatios,
    moments: Moments,
    keys: Array,
    prior: Gaussian,
    evidences: tuple[Evidence, ...],
    masks: Array,
    n_samples: int,
) -> tuple[InclusionProbabilities, ...]:
    """Compute, for each of some masks, the probability that each feature has the scales that the mask leaves out.

    Parameters
    ----------
    problem : Problem
    ratios : VarianceRatios
    moments : Moments
    keys : (feature,) PRNG keys
    prior : Gaussian
        Prior of the log-scales of features with all scales, around whose posterior mode samples are drawn.
    evidences : tuple of Evidence
        For each mask, of the hypothesis that some features have the scales that it leaves out.
    masks : (mask, scale) array
    n_samples : int
        Importance samples of each feature.
    """
    center = jnp.broadcast_to(jnp.asarray(prior.mean)[:, None], (len(prior.mean), len(keys)))
    modes = find_modes(problem, ratios, moments, prior, to_coordinates(problem.participant_scale, center))
    sample = draw_importance_sample(keys, (modes,), n_samples, problem.participant_scale)
    everything = jnp.ones_like(masks[:1])
    log_weights = masked_log_weights(problem, ratios, moments, sample, (modes,), jnp.concatenate([everything, masks]))

    def of_mask(found: tuple[Array, Array, Evidence]) -> InclusionProbabilities:
        without, mask, evidence = found
        weights, both = jnp.stack([log_weights[0], without]), jnp.stack([everything[0], mask])
        return inclusion_probabilities(problem.hierarchy, sample.log_scales, weights, both, evidence)

    stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *evidences)
    found = jax.lax.map(of_mask, (log_weights[1:], masks, stacked))  # compiled once, not for each mask
    return tuple(InclusionProbabilities(*(part[k] for part in found)) for k in range(len(evidences)))
