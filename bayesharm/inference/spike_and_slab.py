"""Whether some scales are 0, in no feature, in some of them or in all: marginal likelihoods with and without them.

A scale that is 0 is left out: what is left of the importance nodes of a feature is distributed as a marginal of their
Student-t, which is one too. Which features have it is a mixture with a component at 0 (George & McCulloch, *JASA* 88, 1993),
whose share, like all hyperparameters, is integrated out. A *mask* is 1 for scales that there are and 0 for those that are 0;
hyperparameters of the latter are left to their prior, so that one program serves for all masks.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import log_sigmoid
from jax.scipy.special import logsumexp

from bayesharm.algorithms.adaptive_importance import adaptive_importance_sampling
from bayesharm.algorithms.devices import map_some, working_on
from bayesharm.algorithms.laplace import Laplace, fit_laplace
from bayesharm.algorithms.student_t import log_proposals
from bayesharm.inference.importance import (
    ImportanceSample,
    draw_importance_sample,
    find_modes,
    log_prior,
    quadratic_features,
)
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.problem import Gaussian, Problem, to_coordinates
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.model.spec import Priors

Array = jax.Array
LOG_NULL_SCALE = -8.0  # of a scale in sds of a feature: with a thousand people its effects add 1e-4 to a log likelihood
BATCH = 512  # of hyperparameters at once
N_DRAWS = 64  # of the hyperparameters
MAX_KHAT, ENOUGH, N_ROUNDS = 0.7, 400, 40  # an evidence needs no more, and where a scale may be 0 it takes many rounds


class Evidence(NamedTuple):
    """What one hypothesis about all features is worth.

    Attributes
    ----------
    log_evidence : float
        log marginal likelihood, all hyperparameters integrated out.
    khat, n_effective : float
        Pareto-k and effective points of that integral.
    good : bool
        Whether it can be relied upon.
    eta, omega : (draw, scale) arrays
    share : (draw,) array
        Of features that are of the first kind; 1 if there is one kind only.
    """

    log_evidence: float
    khat: float
    n_effective: float
    good: bool
    eta: np.ndarray
    omega: np.ndarray
    share: np.ndarray


class InclusionProbabilities(NamedTuple):
    """Of each feature to have some scales, (feature,) each.

    Attributes
    ----------
    log_bayes_factor, error : arrays
        log marginal likelihood with the scales less that without them, and its Monte-Carlo standard error.
    probability : array
        Posterior probability that the feature has them, where a share of all features does.
    """

    log_bayes_factor: Array
    error: Array
    probability: Array


@partial(jax.jit, static_argnums=0)
def evaluate_masked(
    problem: Problem,
    ratios: VarianceRatios,
    moments: Moments,
    nodes: ImportanceSample,
    proposals: tuple[Laplace, ...],
    masks: Array,
) -> Array:
    """log likelihood − log proposal at every node where some scales are 0.

    Parameters
    ----------
    problem, ratios, moments
    nodes : Nodes
    proposals : tuple of Laplace
        What the nodes were drawn from.
    masks : (mask, scale) array
        Noise and participants are always there.

    Returns
    -------
    (mask, node, feature) array
    """
    statistics = problem.likelihood.weighted(ratios, moments)

    def evaluate(log_scales):
        return problem.likelihood.log_likelihood(statistics, log_scales)

    def of_mask(mask):
        value = map_some(evaluate, jnp.where(mask[:, None] > 0, nodes.log_scales, LOG_NULL_SCALE))
        value -= log_proposals(proposals, nodes.coordinates, mask)
        return jnp.where(jnp.isfinite(value), value, -jnp.inf)

    return jax.lax.map(of_mask, masks)


def find_evidence(
    priors: Priors,
    log_medians: np.ndarray,
    log_scales: Array,
    weights: Array,
    masks: np.ndarray,
    power: float,
    start: np.ndarray,
    rng: np.random.Generator,
) -> Evidence:
    """Marginal likelihood of all features together under one hypothesis, the hyperparameters integrated out.

    Parameters
    ----------
    priors : Priors
    log_medians : (scale,) array
    log_scales : (node, scale, feature) array
    weights : (kind, node, feature) array
        From :func:`evaluate_masked`.
    masks : (kind, scale) array
        One: all features are of this kind. Two: a share of them is of the first kind, the others of the second; the share is
        uniform between 0 and 1.
    power : float
        To which the features' likelihoods are taken: their effective number over their number.
    start : (2, scale) array
        eta and log excess, to begin with.
    rng : numpy.random.Generator
    """
    n, device, masks = len(log_medians), jax.config.jax_default_device, np.asarray(masks, float)
    start = np.r_[start.reshape(-1), [0.0] * (len(masks) - 1)]
    found = _find_mode(priors, log_medians, log_scales, weights, masks, power, start[:, None])
    mode, factor = (np.array(part)[..., 0] for part in (found.mode, found.factor))
    # the excess is sampled as it is: where the data hardly tell it from 0, it is nearer to a Gaussian than its logarithm
    mode[n : 2 * n] = np.exp(mode[n : 2 * n])
    factor[n : 2 * n] *= mode[n : 2 * n, None]

    # in single precision, for exponentials take the time: log-scales are counted from the mode of eta, and what a feature
    # adds there is taken from it, so that neither squares nor sums over features suffer
    zero = mode[:n].copy()
    mode[:n] = 0.0
    basis = quadratic_features(log_scales - zero[:, None])
    offset = np.asarray(_mix(priors, basis, weights, masks, jnp.asarray(mode)[:, None]))[0]
    known = (np.moveaxis(np.asarray(basis), 2, 0), np.moveaxis(np.asarray(weights - offset), 2, 0))
    with working_on(device, "float32"):
        single = tuple(jnp.asarray(part, np.float32) for part in (*known, masks, power, log_medians - zero))

    def log_density(points: np.ndarray) -> np.ndarray:
        batches = np.split(points.astype(np.float32), range(BATCH, points.shape[1], BATCH), axis=1)
        with working_on(device, "float32"):
            return np.concatenate([np.asarray(_log_densities(priors, *single, batch)) for batch in batches])

    weighed = adaptive_importance_sampling(log_density, mode, factor, rng, MAX_KHAT, N_ROUNDS, ENOUGH)
    draws = weighed.draw(N_DRAWS, rng)
    omega = np.hypot(draws[:, n : 2 * n], priors.omega_floor)
    share = 1 / (1 + np.exp(-draws[:, 2 * n])) if len(masks) == 2 else np.ones(N_DRAWS)
    evidence = weighed.log_evidence + power * float(offset.sum())
    return Evidence(evidence, weighed.khat, weighed.n_effective, weighed.good, draws[:, :n] + zero, omega, share)


@partial(jax.jit, static_argnums=0)
def _find_mode(
    priors: Priors, log_medians: Array, log_scales: Array, weights: Array, masks: Array, power: Array, start: Array
) -> Laplace:
    """Of eta, log excess and the logit of the share."""
    n, basis = len(log_medians), quadratic_features(log_scales)

    def log_density(position):
        log_excess = position[n : 2 * n]
        moved = jnp.concatenate([position[:n], jnp.exp(log_excess), position[2 * n :]])
        told = power * _mix(priors, basis, weights, masks, moved).sum(1)
        return told + _log_hyperprior(priors, log_medians, moved) + log_excess.sum(0)

    return fit_laplace(log_density, start, jnp.full(start.shape, 0.5))


def _mix(priors: Priors, basis: Array, weights: Array, masks: Array | np.ndarray, position: Array) -> Array:
    """log marginal likelihoods, (2 × scale, node, …) and (kind, node, …) -> (hyper, …); of two kinds, by their share."""
    n = len(basis) // 2
    log_sd = 0.5 * jnp.log(position[n : 2 * n] ** 2 + priors.omega_floor**2)
    found = [
        logsumexp(weight + log_prior(basis, position[:n], log_sd, priors.feature_offset_sd, mask[:, None]), axis=1)
        - np.log(len(weight))
        for weight, mask in zip(weights, masks, strict=True)
    ]
    if len(found) == 1:
        return found[0]
    logit = position[2 * n].reshape(-1, *[1] * (found[0].ndim - 1))
    return jnp.logaddexp(log_sigmoid(logit) + found[0], log_sigmoid(-logit) + found[1])


@partial(jax.jit, static_argnums=0)
def _log_densities(
    priors: Priors, basis: Array, weights: Array, masks: Array, power: Array, log_medians: Array, positions: Array
) -> Array:
    """Log posterior of many hyperparameters at once, feature by feature; nothing for an excess below 0."""

    def add(total, feature):
        basis, weights = feature
        return total + _mix(priors, basis, weights, masks, positions), None

    total, _ = jax.lax.scan(add, jnp.zeros_like(positions[0]), (basis, weights))
    n = len(log_medians)
    fine = (positions[n : 2 * n] > 0).all(0)
    return jnp.where(fine, power * total + _log_hyperprior(priors, log_medians, positions), -jnp.inf)


def _log_hyperprior(priors: Priors, log_medians: Array, position: Array) -> Array:
    """Log density of eta, excess and the logit of a uniform share."""
    n = len(log_medians)
    eta, excess = (position[:n] - log_medians[:, None]) / priors.eta_sd, position[n : 2 * n] / priors.omega_sd
    logit = position[2 * n :]
    constant = n * (np.log(2) - np.log(2 * np.pi) - np.log(priors.eta_sd) - np.log(priors.omega_sd))
    return constant - 0.5 * (eta**2 + excess**2).sum(0) + (log_sigmoid(logit) + log_sigmoid(-logit)).sum(0)


def inclusion_probabilities(
    priors: Priors, log_scales: Array, weights: Array, masks: Array, evidence: Evidence
) -> InclusionProbabilities:
    """Whether each feature is of the first kind, averaged over the hyperparameters.

    Parameters
    ----------
    priors : Priors
    log_scales : (node, scale, feature) array
    weights : (2, node, feature) array
    masks : (2, scale) array
    evidence : Evidence
        Of the hypothesis that a share of the features is of the first kind.
    """
    basis, hyper, found, errors = quadratic_features(log_scales), (evidence.eta.T, jnp.log(evidence.omega.T)), [], []
    for weight, mask in zip(weights, masks, strict=True):
        terms = weight + log_prior(basis, *hyper, priors.feature_offset_sd, mask[:, None])  # (draw, node, feature)
        found.append(logsumexp(terms, axis=1))
        share = jax.nn.softmax(logsumexp(terms, axis=0), axis=0)  # of each node, which all draws have in common
        errors.append((share**2).sum(0) - 1 / len(weight))
    logit = jnp.log(evidence.share) - jnp.log1p(-evidence.share)
    probability = jax.nn.sigmoid(found[0] - found[1] + logit[:, None]).mean(0)
    # hyperparameters have seen the feature too: a draw weighs one over its likelihood, so that each scan counts once
    own = jnp.logaddexp(found[0] + log_sigmoid(logit)[:, None], found[1] + log_sigmoid(-logit)[:, None])
    factor = logsumexp(found[0] - own, axis=0) - logsumexp(found[1] - own, axis=0)
    return InclusionProbabilities(factor, jnp.sqrt(jnp.maximum(errors[0] + errors[1], 0)), probability)


@partial(jax.jit, static_argnums=(0, 7))
def feature_inclusion(
    problem: Problem,
    ratios: VarianceRatios,
    moments: Moments,
    keys: Array,
    prior: Gaussian,
    evidences: tuple[Evidence, ...],
    masks: Array,
    n_nodes: int,
) -> tuple[InclusionProbabilities, ...]:
    """Which features have the scales that each of some masks leaves out.

    Parameters
    ----------
    problem, ratios, moments
    keys : (feature,) PRNG keys
    prior : Gaussian
        Of the log-scales of features that have all: where nodes are wanted.
    evidences : tuple of Evidence
        For each mask, of the hypothesis that some features have what it leaves out.
    masks : (mask, scale) array
    n_nodes : int
    """
    center = jnp.broadcast_to(jnp.asarray(prior.mean)[:, None], (len(prior.mean), len(keys)))
    modes = find_modes(problem, ratios, moments, prior, to_coordinates(problem.pair, center))
    nodes = draw_importance_sample(keys, (modes,), n_nodes, problem.pair)
    masks = jnp.concatenate([jnp.ones_like(masks[:1]), masks])
    weights = evaluate_masked(problem, ratios, moments, nodes, (modes,), masks)
    return tuple(
        inclusion_probabilities(
            problem.priors, nodes.log_scales, weights[np.array([0, k])], masks[np.array([0, k])], evidence
        )
        for k, evidence in enumerate(evidences, start=1)
    )
