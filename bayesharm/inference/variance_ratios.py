"""Ratios of the scanners, and correlations of intercepts and slopes, from the likelihoods of many features.

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
from bayesharm.inference.expansion import likelihood_gradient
from bayesharm.inference.importance import ImportanceSample, log_prior, quadratic_features
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.problem import Gaussian, Problem, to_coordinates
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
    n_evaluations: int = 16384
    min_samples: int = 16
    gradient_tolerance: float = 0.02
    step: float = 0.05
    max_log_scale: float = 8.0


SETTINGS = RatioSettings()


class RatioPosterior(NamedTuple):
    """Gaussian posterior of the ratios.

    Attributes
    ----------
    mean : VarianceRatios
        The posterior mode; with few features the posterior mean.
    covariance : (ratio, ratio) array
        Of log lambda of each scanner, log kappa, log g, and then atanh rho.
    n_independent_features : float
        Effective number of independent features from which the ratios were learned.
    """

    mean: VarianceRatios
    covariance: np.ndarray
    n_independent_features: float


class RatioObjective(NamedTuple):
    """Negative log posterior of the ratios, as a function of ratios in a unit.

    Attributes
    ----------
    value_and_gradient : callable
        Takes ratios in units, (ratio,).
    unit : (ratio,) array
        About the posterior sd of each ratio: the Fisher information of a log variance is half the number of observations.
    """

    value_and_gradient: Callable[[np.ndarray], tuple[float, np.ndarray]]
    unit: np.ndarray


def marginal_objective(
    problem: Problem, moments: Moments, sample: ImportanceSample, prior: Gaussian, n_independent_features: float
) -> RatioObjective:
    """Make the objective whose likelihood is marginal over the scales of each feature.

    Parameters
    ----------
    problem : Problem
    moments : Moments
    sample : ImportanceSample
        Of the same features.
    prior : Gaussian
        Prior of the log-scales (a plug-in).
    n_independent_features : float
        Effective number of independent features. The log likelihoods are multiplied by its share of their number.
    """
    chosen = pick_features(moments.n_features)
    n_features = len(chosen)
    power = min(1.0, n_independent_features / n_features)
    n_samples = int(np.clip(SETTINGS.n_evaluations // n_features, SETTINGS.min_samples, sample.log_scales.shape[0]))
    moments = moments.take(chosen)
    # samples of the proposals alternate, so that the first ones come from all proposals
    sample = ImportanceSample(*(jnp.asarray(np.asarray(part)[:n_samples][..., chosen]) for part in sample))
    unit = _unit(problem, power * n_features)

    def value_and_gradient(position: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = ratio_gradient(problem, moments, sample, prior, power, unit * position)
        return float(value), unit * np.asarray(gradient)

    return RatioObjective(value_and_gradient, unit)


def objective_at_modes(
    problem: Problem, moments: Moments, coordinates: Array | np.ndarray, n_independent_features: float
) -> RatioObjective:
    """Make the objective whose likelihood is that at the scales' modes; a start for sampling.

    Parameters
    ----------
    problem, moments, n_independent_features
        As for :func:`marginal_objective`.
    coordinates : (scale, feature) array
    """
    n_features = moments.n_features
    power = min(1.0, n_independent_features / n_features)
    unit, centering = _unit(problem, power * n_features), problem.centering

    def value_and_gradient(position: np.ndarray) -> tuple[float, np.ndarray]:
        raw = unit * position
        likelihood = likelihood_gradient(problem, problem.ratios(centering @ raw), moments, coordinates)
        gradient = raw / problem.ratio_sd**2 - power * centering @ np.concatenate(likelihood.by_ratios)
        value = 0.5 * ((raw / problem.ratio_sd) ** 2).sum() - power * np.asarray(likelihood.value).sum()
        return float(value), unit * gradient

    return RatioObjective(value_and_gradient, unit)


def _unit(problem: Problem, n_independent_features: float) -> np.ndarray:
    n_scans = problem.likelihood.scans_per_scanner
    couples = np.full(problem.n_correlations, 2.0 * problem.likelihood.n_couples / max(problem.n_correlations, 1))
    informed = np.concatenate([n_scans, np.ones(problem.n_scanners), n_scans, couples])
    return (0.5 * problem.is_free * informed * n_independent_features + problem.ratio_sd**-2) ** -0.5


def fit_variance_ratios(problem: Problem, objective: RatioObjective, start: VarianceRatios) -> VarianceRatios:
    """Find the posterior mode of the ratios, centered over scanners; `start` is returned where the search fails."""
    value_and_gradient, unit = objective
    options = {"gtol": SETTINGS.gradient_tolerance}
    optimum = optimize.minimize(value_and_gradient, start.to_vector() / unit, jac=True, method="BFGS", options=options)
    mode = unit * optimum.x
    if not (np.isfinite(optimum.fun) and np.isfinite(mode).all()):
        return start
    return problem.ratios(problem.centering @ mode)


def variance_ratio_covariance(problem: Problem, objective: RatioObjective, ratios: VarianceRatios) -> np.ndarray:
    """Compute the inverse curvature at the mode, (ratio, ratio), from differences of gradients.

    These need no further program. If the result is not positive definite, it is the prior's covariance.
    """
    covariance = _inverse_curvature(objective, ratios.to_vector(), problem.ratio_sd)
    return problem.centering @ covariance @ problem.centering


def _inverse_curvature(objective: RatioObjective, mode: np.ndarray, prior_sd: np.ndarray) -> np.ndarray:
    """Return the inverse curvature at the mode, or the prior's covariance if that is not positive definite."""
    value_and_gradient, unit = objective
    steps = SETTINGS.step * np.eye(len(mode))
    differences = [value_and_gradient(mode / unit + step)[1] - value_and_gradient(mode / unit - step)[1] for step in steps]
    curvature = np.stack(differences) / (2 * SETTINGS.step)
    curvature = 0.5 * (curvature + curvature.T)
    if np.isfinite(curvature).all() and np.linalg.eigvalsh(curvature)[0] > 0:
        return unit[:, None] * np.linalg.inv(curvature) * unit
    return np.diag(prior_sd**2)


def pick_features(n: int) -> np.ndarray:
    """Return the indices, evenly spread over n features, of those that the ratios are learned from."""
    return np.linspace(0, n - 1, min(n, SETTINGS.max_features)).astype(int)


@program("problem")
def ratio_gradient(
    problem: Problem, moments: Moments, sample: ImportanceSample, prior: Gaussian, power: float, raw: Array
) -> tuple[Array, Array]:
    """Compute the negative log posterior of ratios that are not yet centered, and its gradient."""
    mean, sd = (jnp.asarray(part)[:, None] for part in prior)
    log_prior_of_sample = log_prior(quadratic_features(sample.log_scales), mean, jnp.log(sd), problem.hierarchy.offset_sd)[0]
    is_near = (jnp.abs(sample.log_scales) < SETTINGS.max_log_scale).all(1)
    is_informative = is_near.any(0)  # features with at least one usable sample
    base = jnp.where(is_near, log_prior_of_sample - sample.log_proposal, jnp.where(is_informative, -jnp.inf, 0.0))

    def minus_log_density(raw):
        ratios = problem.ratios(jnp.asarray(problem.centering) @ raw)
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
) -> RatioPosterior:
    """Approximate the posterior of the ratios of new scanners, given those of the others and the scales of the features.

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
    RatioPosterior
        Of all scanners; known ratios have variance 0.
    """
    is_new = np.concatenate([np.tile(new, 3), np.full(problem.n_correlations, False)])
    is_free = is_new & problem.is_free
    start = np.where(is_new, 0.0, ratios.to_vector())
    covariance = np.zeros((len(start), len(start)))
    if not is_free.any():
        return RatioPosterior(problem.ratios(start), covariance, n_independent_features)
    finite = np.flatnonzero(np.isfinite(log_scales).all(0))
    chosen = finite[pick_features(len(finite))]
    power = min(1.0, n_independent_features / max(1, len(chosen)))
    moments = moments.take(chosen)
    free = np.flatnonzero(is_free)
    sd, unit = problem.ratio_sd[free], _unit(problem, power * len(chosen))[free]
    coordinates = to_coordinates(problem.participant_scale, jnp.asarray(log_scales[:, chosen]))

    def with_new(values: np.ndarray) -> VarianceRatios:
        vector = start.copy()
        vector[free] = values
        return problem.ratios(vector)

    def value_and_gradient(position: np.ndarray) -> tuple[float, np.ndarray]:
        values = unit * position
        likelihood = likelihood_gradient(problem, with_new(values), moments, coordinates)
        minus_log_density = 0.5 * ((values / sd) ** 2).sum() - power * float(likelihood.value.sum())
        gradient = values / sd**2 - power * np.asarray(likelihood.by_ratios.to_vector())[free]
        return minus_log_density, unit * gradient

    mode = unit * optimize.minimize(value_and_gradient, np.zeros(len(free)), jac=True, method="L-BFGS-B").x
    covariance[np.ix_(free, free)] = _inverse_curvature(RatioObjective(value_and_gradient, unit), mode, sd)
    return RatioPosterior(with_new(mode), covariance, n_independent_features)
