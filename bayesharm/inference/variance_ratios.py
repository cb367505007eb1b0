"""Variance ratios of the scanners, of their noise and of their biases, from marginal likelihoods of many features.

All features inform the ratios, so their posterior is narrow and nearly Gaussian: mode and inverse curvature describe it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from scipy import optimize

from bayesharm.algorithms.devices import map_items
from bayesharm.algorithms.programs import program
from bayesharm.inference.importance import ImportanceSample, log_prior, quadratic_features
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.problem import Gaussian, Problem
from bayesharm.likelihood.ratios import VarianceRatios

Array = jax.Array


@dataclass(frozen=True)
class RatioSettings:
    """Size and accuracy of the search for the ratios.

    Attributes
    ----------
    max_features : int
        Features used to estimate the ratios.
    n_evaluations, min_samples : int
        Samples × features used, for a standard error below 0.02 in log lambda; and the fewest samples of a feature.
    gradient_tolerance : float
        Largest gradient at the mode, per posterior sd.
    step : float
        Half the distance of the two gradients whose difference gives the curvature, in posterior sds.
    max_log_scale : float
        Samples with a log-scale of standardized features beyond it, of either sign, are left out: their likelihood may
        not be finite, and their weight is negligible.
    """

    max_features: int = 256
    n_evaluations: int = 8192
    min_samples: int = 16
    gradient_tolerance: float = 0.02
    step: float = 0.05
    max_log_scale: float = 8.0


SETTINGS = RatioSettings()


class RatioPosterior(NamedTuple):
    """Gaussian posterior of the variance ratios of the scanners.

    Attributes
    ----------
    mean : VarianceRatios
        The posterior mode; with few features the posterior mean.
    covariance : (2 × scanner, 2 × scanner) array
        Of log lambda of each scanner, then log kappa of each.
    n_independent_features : float
        Effective number of independent features from which the ratios were learned.
    """

    mean: VarianceRatios
    covariance: np.ndarray
    n_independent_features: float


def fit_variance_ratios(
    problem: Problem,
    moments: Moments,
    sample: ImportanceSample,
    prior: Gaussian,
    n_independent_features: float,
    start: VarianceRatios,
) -> VarianceRatios:
    """Find the posterior mode of the ratios, centered over scanners, given a prior of the log-scales (a plug-in).

    Parameters
    ----------
    problem : Problem
    moments : Moments
    sample : ImportanceSample
        Of the same features.
    prior : Gaussian
        Prior of the log-scales.
    n_independent_features : float
        Effective number of independent features. The log likelihoods are multiplied by its share of their number.
    start : VarianceRatios
        Returned where the search fails.
    """
    objective, unit = _objective(problem, moments, sample, prior, n_independent_features)
    options = {"gtol": SETTINGS.gradient_tolerance}
    optimum = optimize.minimize(objective, start.to_vector() / unit, jac=True, method="BFGS", options=options)
    mode = unit * optimum.x
    if not (np.isfinite(optimum.fun) and np.isfinite(mode).all()):
        return start
    return VarianceRatios.from_vector(problem.centering @ mode)


def variance_ratio_covariance(
    problem: Problem,
    moments: Moments,
    sample: ImportanceSample,
    prior: Gaussian,
    n_independent_features: float,
    ratios: VarianceRatios,
) -> np.ndarray:
    """Compute the inverse curvature at the mode, (ratio, ratio), from differences of gradients.

    These need no further program. If the result is not positive definite, it is the prior's covariance.

    Parameters
    ----------
    problem, moments, sample, prior, n_independent_features
        As for :func:`fit_variance_ratios`.
    ratios : VarianceRatios
        The mode.
    """
    objective, unit = _objective(problem, moments, sample, prior, n_independent_features)
    mode = ratios.to_vector()
    steps = SETTINGS.step * np.eye(len(mode))
    differences = [objective(mode / unit + step)[1] - objective(mode / unit - step)[1] for step in steps]
    curvature = np.stack(differences) / (2 * SETTINGS.step)
    curvature = 0.5 * (curvature + curvature.T)
    if np.isfinite(curvature).all() and np.linalg.eigvalsh(curvature)[0] > 0:
        covariance = unit[:, None] * np.linalg.inv(curvature) * unit
    else:
        covariance = np.diag(problem.ratio_sd**2)
    return problem.centering @ covariance @ problem.centering


def _objective(
    problem: Problem, moments: Moments, sample: ImportanceSample, prior: Gaussian, n_independent_features: float
) -> tuple[Callable[[np.ndarray], tuple[float, np.ndarray]], np.ndarray]:
    """Return the negative log posterior with its gradient, as a function of ratios in a unit, and the unit.

    The unit is about the posterior sd of each ratio: the Fisher information of a log variance is half the number of
    observations.
    """
    chosen = pick_features(moments.squares.shape[1])
    n_features = len(chosen)
    power = min(1.0, n_independent_features / n_features)
    n_samples = int(np.clip(SETTINGS.n_evaluations // n_features, SETTINGS.min_samples, sample.log_scales.shape[0]))
    moments = Moments(*(part[:, chosen] for part in moments))
    # samples of the proposals alternate, so that the first ones come from all proposals
    sample = ImportanceSample(*(part[:n_samples][..., chosen] for part in sample))
    n_scans = problem.likelihood.scans_per_scanner
    informed = np.concatenate([problem.noise_ratio * n_scans, np.full(problem.n_scanners, float(problem.bias_ratio))])
    unit = (0.5 * informed * power * n_features + problem.ratio_sd**-2) ** -0.5

    def objective(position: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = ratio_gradient(problem, moments, sample, prior, power, unit * position)
        return float(value), unit * np.asarray(gradient)

    return objective, unit


def pick_features(n: int) -> np.ndarray:
    """Return the indices, evenly spread over n features, of those that the ratios are learned from."""
    return np.linspace(0, n - 1, min(n, SETTINGS.max_features)).astype(int)


@program("problem")
def ratio_gradient(
    problem: Problem, moments: Moments, sample: ImportanceSample, prior: Gaussian, power: float, raw: Array
) -> tuple[Array, Array]:
    """Compute the negative log posterior of ratios that are not yet centered, and its gradient."""
    mean, sd = (jnp.asarray(part)[:, None] for part in prior)
    log_prior_of_sample = log_prior(
        quadratic_features(sample.log_scales), mean, jnp.log(sd), problem.priors.feature_offset_sd
    )[0]
    is_near = (jnp.abs(sample.log_scales) < SETTINGS.max_log_scale).all(1)
    is_informative = is_near.any(0)  # features with at least one usable sample
    base = jnp.where(is_near, log_prior_of_sample - sample.log_proposal, jnp.where(is_informative, -jnp.inf, 0.0))

    def minus_log_density(raw):
        ratios = VarianceRatios.from_vector(jnp.asarray(problem.centering) @ raw)
        statistics = problem.likelihood.weighted(ratios, moments)

        def evaluate(log_scales):
            return problem.likelihood.log_likelihood(statistics, log_scales)

        log_terms = map_items(evaluate, jnp.where(is_near[:, None], sample.log_scales, 0.0)) + base
        total = jnp.where(is_informative, logsumexp(log_terms, axis=0), 0.0).sum()
        return 0.5 * ((raw / problem.ratio_sd) ** 2).sum() - power * total

    return jax.value_and_grad(minus_log_density)(raw)


def fit_unseen_ratios(
    problem: Problem,
    moments: Moments,
    log_scales: np.ndarray,
    ratios: VarianceRatios,
    n_independent_features: float,
    new: np.ndarray,
) -> VarianceRatios:
    """Find the posterior mode of the ratios of new scanners, given those of the others and the scales of the features.

    Parameters
    ----------
    problem : Problem
    moments : Moments
    log_scales : (scale, feature) array
    ratios : VarianceRatios
        Values of new scanners are ignored.
    n_independent_features : float
        Effective number of independent features of the fit.
    new : (scanner,) bool array

    Returns
    -------
    VarianceRatios
        Of all scanners.
    """
    is_free = np.concatenate([new & problem.noise_ratio, new & problem.bias_ratio])
    start = np.where(np.tile(new, 2), 0.0, ratios.to_vector())
    if not is_free.any():
        return VarianceRatios.from_vector(start)
    finite = np.flatnonzero(np.isfinite(log_scales).all(0))
    chosen = finite[pick_features(len(finite))]
    power = min(1.0, n_independent_features / max(1, len(chosen)))
    moments = Moments(*(part[:, chosen] for part in moments))
    free = np.flatnonzero(is_free)
    sd = problem.ratio_sd[free]

    def with_new(values: np.ndarray) -> VarianceRatios:
        vector = start.copy()
        vector[free] = values
        return VarianceRatios.from_vector(vector)

    def objective(values: np.ndarray) -> tuple[float, np.ndarray]:
        log_likelihood, gradient = _likelihood_gradient(problem, moments, log_scales[:, chosen], with_new(values))
        minus_log_density = 0.5 * ((values / sd) ** 2).sum() - power * float(log_likelihood)
        return minus_log_density, values / sd**2 - power * np.asarray(gradient.to_vector())[free]

    return with_new(optimize.minimize(objective, np.zeros(len(free)), jac=True, method="L-BFGS-B").x)


@program("problem")
def _likelihood_gradient(
    problem: Problem, moments: Moments, log_scales: Array, ratios: VarianceRatios
) -> tuple[Array, VarianceRatios]:
    """Compute the log likelihood of all features and its gradient by the ratios."""

    def total(ratios):
        statistics = problem.likelihood.weighted(ratios, moments)
        return problem.likelihood.log_likelihood(statistics, log_scales).sum()

    return jax.value_and_grad(total)(ratios)
