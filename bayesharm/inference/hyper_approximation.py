"""Approximate posterior of the hyperparameters and the variance ratios, from Gaussian approximations of the features.

Modes of the features' scales, expansions of their likelihoods around them, variance ratios and hyperparameters depend on
one another: a few iterations update each in turn until they agree. Joint sampling and importance sampling start there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayesharm.algorithms.laplace import Laplace, fit_laplace
from bayesharm.algorithms.programs import program
from bayesharm.inference.expansion import expand_at_modes
from bayesharm.inference.gaussian_likelihood import GaussianLikelihood, condition_scales
from bayesharm.inference.placement import prior_at
from bayesharm.inference.variance_ratios import (
    RatioObjective,
    RatioPosterior,
    fit_variance_ratios,
    objective_at_modes,
    variance_ratio_covariance,
)
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.problem import Problem, to_coordinates

Array = jax.Array


@dataclass(frozen=True)
class ApproximationSettings:
    """Iterations of the approximation.

    Attributes
    ----------
    max_iterations : int
    n_ratio_iterations : int
        First iterations, which update the variance ratios too.
    initial_omega, start_sd : float
        Omega at the start, and the unit of the damping, which is also the sd where the curvature is not positive definite.
    max_step, tolerance : float
        Largest step of eta and log omega_excess, and the step that ends the iterations.
    """

    max_iterations: int = 12
    n_ratio_iterations: int = 4
    initial_omega: float = 0.4
    start_sd: float = 0.5
    max_step: float = 0.8
    tolerance: float = 0.03


SETTINGS = ApproximationSettings()


class HyperApproximation(NamedTuple):
    """Gaussian approximation of the hyperparameters and of the ratios, and of the features' likelihoods.

    Attributes
    ----------
    mode : (dimension,) array
        eta, then log omega_excess; in the logarithm the mode of omega_excess is not at 0.
    factor : (dimension, dimension) array
        Lower Cholesky factor of their covariance.
    ratios : RatioPosterior
    likelihood : GaussianLikelihood
        Expanded around the modes of the features at the hyperparameters' mode.
    """

    mode: np.ndarray
    factor: np.ndarray
    ratios: RatioPosterior
    likelihood: GaussianLikelihood


def approximate_hyperparameters(
    problem: Problem,
    moments: Moments,
    n_independent_features: float,
    on_iteration: Callable[[str], object] = lambda text: None,
) -> HyperApproximation:
    """Approximate the posterior of the hyperparameters and of the variance ratios, which are learned at the scales' modes.

    Parameters
    ----------
    problem : Problem
    moments : Moments
        Of the features that they are learned from.
    n_independent_features : float
        Effective number of independent features, for the ratios.
    on_iteration : callable
        Receives a line of progress after each iteration.
    """
    log_medians, n_features = problem.log_medians, moments.squares.shape[1]
    center = np.concatenate([log_medians, np.full(problem.hierarchy.n_groups, np.log(SETTINGS.initial_omega))])
    ratios = problem.equal_ratios
    medians = jnp.repeat(jnp.asarray(log_medians)[:, None], n_features, axis=1)
    coordinates = to_coordinates(problem.participant_scale, medians)
    objective: RatioObjective | None = None
    on_iteration("compiling, then searching the modes of the scales")
    for iteration in range(SETTINGS.max_iterations):
        prior = prior_at(problem.hierarchy, center)
        likelihood, conditioned = expand_at_modes(problem, ratios, moments, prior, coordinates)
        coordinates = conditioned.mean
        if problem.is_free.any():
            objective = objective_at_modes(problem, moments, coordinates, n_independent_features)
            if iteration < SETTINGS.n_ratio_iterations:
                ratios = fit_variance_ratios(problem, objective, ratios)
        approximation = find_hyper_mode(problem, likelihood, center)
        mode = np.asarray(approximation.mode)[:, 0]
        step = np.clip(mode - center, -SETTINGS.max_step, SETTINGS.max_step)
        center = center + step
        on_iteration(f"iteration {iteration + 1}: typical scales and spreads moved by up to {np.abs(step).max():.2f}")
        if iteration >= SETTINGS.n_ratio_iterations and np.abs(step).max() < SETTINGS.tolerance:
            break
    n_ratios = problem.n_ratios
    covariance = variance_ratio_covariance(problem, objective, ratios) if objective else np.zeros((n_ratios, n_ratios))
    posterior = RatioPosterior(ratios, covariance, n_independent_features)
    return HyperApproximation(center, np.asarray(approximation.factor)[:, :, 0], posterior, likelihood)


@program("problem")
def find_hyper_mode(problem: Problem, likelihood: GaussianLikelihood, start: Array | np.ndarray) -> Laplace:
    """Compute the Laplace approximation of eta and log omega_excess, given the Gaussian likelihoods of the features.

    Parameters
    ----------
    problem : Problem
    likelihood : GaussianLikelihood
    start : (dimension,) array
    """
    hierarchy, log_medians, start = problem.hierarchy, jnp.asarray(problem.log_medians), jnp.asarray(start)
    priors = hierarchy.priors

    def log_density(position: Array) -> Array:
        eta, log_omega_excess, _ = hierarchy.split(position[:, 0])
        log_omega = hierarchy.of_scales(0.5 * jnp.logaddexp(2 * log_omega_excess, 2 * np.log(priors.omega_floor)))
        conditioned = condition_scales(likelihood, hierarchy.center(eta), log_omega, hierarchy.offset_sd)
        squares = (((eta - log_medians) / hierarchy.eta_sd) ** 2).sum()
        squares += ((jnp.exp(log_omega_excess) / priors.omega_sd) ** 2).sum()
        return (conditioned.log_evidence.sum() - 0.5 * squares + log_omega_excess.sum())[None]

    return fit_laplace(log_density, start[:, None], jnp.full((len(start), 1), SETTINGS.start_sd))
