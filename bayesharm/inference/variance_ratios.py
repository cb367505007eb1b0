"""What scanners differ by in all features: the ratio of their noise, and that of their biases, from marginal likelihoods.

All features inform it, so that its posterior is narrow and nearly Gaussian: mode and curvature are its posterior.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from scipy import optimize

from bayesharm.algorithms.devices import map_some
from bayesharm.inference.importance import ImportanceSample, log_prior, quadratic_features
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.problem import Gaussian, Problem
from bayesharm.likelihood.ratios import VarianceRatios

Array = jax.Array
MOST_FEATURES = 256  # that ratios are learned from
N_EVALUATIONS = 8192  # nodes × features that enter: enough for a standard error below 0.02 in log lambda
FINE, STEP = 0.02, 0.05  # in about posterior sds: the largest slope at the mode, and half the distance of two slopes
FAR = 8.0  # from 0, log-scales of standardized features: there a likelihood may not be a number, and nothing weighs


class RatioPosterior(NamedTuple):
    """Gaussian posterior of the variance ratios of the scanners.

    Attributes
    ----------
    mean : VarianceRatios
    covariance : (2 × scanner, 2 × scanner) array
        Of log lambda of each scanner, then log kappa of each.
    n_independent_features : float
        Effective number of independent features from which the ratios were learned.
    """

    mean: VarianceRatios
    covariance: np.ndarray
    n_independent_features: float


def fit_variance_ratios(
    problem: Problem, moments: Moments, nodes: ImportanceSample, prior: Gaussian, n_effective: float, start: VarianceRatios
) -> VarianceRatios:
    """Ratios that maximize the features' summed log marginal likelihood, centered over scanners.

    Parameters
    ----------
    problem : Problem
    moments : Moments
    nodes : Nodes
        Of the same features.
    prior : Gaussian
        Prior of the log-scales.
    n_effective : float
        As how many independent features these count: their log likelihoods are multiplied by its share of their number.
    start : VarianceRatios
        Also returned where nothing better is found.
    """
    slope_of, unit = _objective(problem, moments, nodes, prior, n_effective)
    found = optimize.minimize(slope_of, start.to_vector() / unit, jac=True, method="BFGS", options={"gtol": FINE})
    mode = unit * found.x
    if not (np.isfinite(found.fun) and np.isfinite(mode).all()):
        return start
    return VarianceRatios.from_vector(problem.centering @ mode)


def variance_ratio_covariance(
    problem: Problem, moments: Moments, nodes: ImportanceSample, prior: Gaussian, n_effective: float, ratios: VarianceRatios
) -> np.ndarray:
    """Inverse curvature at the mode, (ratio, ratio): differences of the gradient, for which no program is needed.

    Where that is no covariance, it is the prior's.

    Parameters
    ----------
    problem, moments, nodes, prior, n_effective
        As for :func:`fit_variance_ratios`.
    ratios : VarianceRatios
        The mode that it returns.
    """
    slope_of, unit = _objective(problem, moments, nodes, prior, n_effective)
    mode = ratios.to_vector()
    steps = STEP * np.eye(len(mode))
    curvature = np.stack([slope_of(mode / unit + step)[1] - slope_of(mode / unit - step)[1] for step in steps]) / (2 * STEP)
    curvature = 0.5 * (curvature + curvature.T)
    if np.isfinite(curvature).all() and np.linalg.eigvalsh(curvature)[0] > 0:
        covariance = unit[:, None] * np.linalg.inv(curvature) * unit
    else:
        covariance = np.diag(problem.ratio_sd**2)
    return problem.centering @ covariance @ problem.centering


def _objective(
    problem: Problem, moments: Moments, nodes: ImportanceSample, prior: Gaussian, n_effective: float
) -> tuple[Callable, np.ndarray]:
    """Minus the log posterior and its gradient, of ratios over a unit that is about their posterior sd; and that unit."""
    picked = pick_features(moments.squares.shape[1])
    n_features = len(picked)
    power = min(1.0, n_effective / n_features)
    n_nodes = int(np.clip(N_EVALUATIONS // n_features, 16, nodes.log_scales.shape[0]))
    few = Moments(*(part[:, picked] for part in moments))
    chosen = ImportanceSample(*(part[:n_nodes][..., picked] for part in nodes))
    n_scans = np.bincount(
        problem.likelihood.plan.scanner, weights=problem.likelihood.plan.size, minlength=problem.n_scanners
    )
    informed = np.concatenate([problem.noise_ratio * n_scans, np.full(problem.n_scanners, float(problem.bias_ratio))])
    unit = (0.5 * informed * power * n_features + problem.ratio_sd**-2) ** -0.5

    def slope_of(position: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = ratio_gradient(problem, few, chosen, prior, power, unit * position)
        return float(value), unit * np.asarray(slope)

    return slope_of, unit


def pick_features(n: int) -> np.ndarray:
    """Those of a sample that ratios are learned from, from all over it."""
    return np.linspace(0, n - 1, min(n, MOST_FEATURES)).astype(int)


@partial(jax.jit, static_argnums=0)
def ratio_gradient(
    problem: Problem, moments: Moments, nodes: ImportanceSample, prior: Gaussian, power: float, raw: Array
) -> tuple[Array, Array]:
    """Minus the log posterior of ratios, not yet centered, and its gradient."""
    mean, sd = (jnp.asarray(part)[:, None] for part in prior)
    prior_of_nodes = log_prior(quadratic_features(nodes.log_scales), mean, jnp.log(sd), problem.priors.feature_offset_sd)[0]
    near = (jnp.abs(nodes.log_scales) < FAR).all(1)
    some = near.any(0)  # features of which no node is near say nothing
    base = jnp.where(near, prior_of_nodes - nodes.log_proposal, jnp.where(some, -jnp.inf, 0.0))

    def minus_log_density(raw):
        ratios = VarianceRatios.from_vector(jnp.asarray(problem.centering) @ raw)
        statistics = problem.likelihood.weighted(ratios, moments)

        def evaluate(log_scales):
            return problem.likelihood.log_likelihood(statistics, log_scales)

        value = map_some(evaluate, jnp.where(near[:, None], nodes.log_scales, 0.0)) + base
        total = jnp.where(some, logsumexp(value, axis=0), 0.0).sum()
        return 0.5 * ((raw / problem.ratio_sd) ** 2).sum() - power * total

    return jax.value_and_grad(minus_log_density)(raw)


def fit_unseen_ratios(
    problem: Problem, moments: Moments, log_scales: np.ndarray, ratios: VarianceRatios, n_effective: float, new: np.ndarray
) -> VarianceRatios:
    """Ratios, with those of new scanners where they maximize the features' marginal likelihood, given their scales.

    Parameters
    ----------
    problem : Problem
    moments : Moments
    log_scales : (scale, feature) array
    ratios : VarianceRatios
        Those of new scanners do not matter.
    n_effective : float
        Of the features of the fit.
    new : (scanner,) bool array
    """
    free = np.concatenate([new & problem.noise_ratio, new & problem.bias_ratio])
    start = np.where(np.tile(new, 2), 0.0, ratios.to_vector())
    if not free.any():
        return VarianceRatios.from_vector(start)
    finite = np.flatnonzero(np.isfinite(log_scales).all(0))
    picked = finite[pick_features(len(finite))]
    power = min(1.0, n_effective / max(1, len(picked)))
    few = Moments(*(part[:, picked] for part in moments))
    places = np.flatnonzero(free)
    sd = problem.ratio_sd[places]

    def with_new(some: np.ndarray) -> VarianceRatios:
        vector = start.copy()
        vector[places] = some
        return VarianceRatios.from_vector(vector)

    def slope_of(some: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = _likelihood_gradient(problem, few, log_scales[:, picked], with_new(some))
        return 0.5 * ((some / sd) ** 2).sum() - power * float(value), some / sd**2 - power * np.asarray(slope.to_vector())[
            places
        ]

    return with_new(optimize.minimize(slope_of, np.zeros(len(places)), jac=True, method="L-BFGS-B").x)


@partial(jax.jit, static_argnums=0)
def _likelihood_gradient(
    problem: Problem, moments: Moments, log_scales: Array, ratios: VarianceRatios
) -> tuple[Array, VarianceRatios]:
    def total(ratios):
        statistics = problem.likelihood.weighted(ratios, moments)
        return problem.likelihood.log_likelihood(statistics, log_scales).sum()

    return jax.value_and_grad(total)(ratios)
