"""Expansion of each feature's likelihood to second order, and the search for the modes of the features' scales.

One program, the gradient of the likelihood, does all of this: second derivatives are differences of gradients. It compiles
faster than a program for second derivatives, which matters in a fit of few features. With many dense effects, the
derivatives by the variance ratios take most of the time: there a second program leaves them out.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayesharm.algorithms.programs import program
from bayesharm.inference.gaussian_likelihood import ConditionedScales, GaussianLikelihood, condition_each
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.normal_equations import WeightedStatistics
from bayesharm.likelihood.problem import Gaussian, Problem, to_log_scales
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.model.elimination import MANY_DENSE

Array = jax.Array
MIN_PRECISION = 1e-3  # least curvature of a log likelihood in any direction; a scale near 0 has nearly none
# Half the distance, in coordinates, of two gradients whose difference gives second derivatives: exact to four digits, and
# above rounding errors also where a feature has hardly any noise.
HALF_STEP = 1e-2
# Search for modes: maximum number of steps, largest step, step size that ends the search, factor of the damping.
MAX_STEPS, MAX_STEP, TOLERANCE, DAMPING_FACTOR = 40, 1.0, 0.02, 10.0
MAX_COORDINATE = 8.0  # logarithms of standardized features: a ratio of 3,000


class LikelihoodGradient(NamedTuple):
    """Log likelihood of every feature and its derivatives (a JAX pytree).

    Attributes
    ----------
    log_scales : (scale, feature) array
    value : (feature,) array
    by_coordinates : (scale, feature) array
    by_ratios : VarianceRatios
        Derivatives of the sum over features.
    """

    log_scales: Array
    value: Array
    by_coordinates: Array
    by_ratios: VarianceRatios


class ScaleGradient(NamedTuple):
    """The same without the ratios (a JAX pytree)."""

    log_scales: Array
    value: Array
    by_coordinates: Array


@program("problem")
def likelihood_gradient(
    problem: Problem, ratios: VarianceRatios, moments: Moments, coordinates: Array | np.ndarray
) -> LikelihoodGradient:
    """Compute the log likelihood of every feature at coordinates, (scale, feature), and its gradients."""

    def total(coordinates: Array, ratios: VarianceRatios) -> tuple[Array, tuple[Array, Array]]:
        log_scales = to_log_scales(problem.participant_scale, coordinates)
        value = problem.likelihood.log_likelihood(problem.likelihood.weighted(ratios, moments), log_scales)
        return value.sum(), (log_scales, value)

    (_, (log_scales, value)), gradients = jax.value_and_grad(total, (0, 1), has_aux=True)(
        jnp.asarray(coordinates), VarianceRatios(*map(jnp.asarray, ratios))
    )
    return LikelihoodGradient(log_scales, value, *gradients)


@program("problem")
def weigh(problem: Problem, ratios: VarianceRatios, moments: Moments) -> WeightedStatistics:
    """Weight the sums of products by the ratios."""
    return problem.likelihood.weighted(ratios, moments)


@program("problem")
def scale_gradient(problem: Problem, statistics: WeightedStatistics, coordinates: Array | np.ndarray) -> ScaleGradient:
    """Compute the log likelihood of every feature at coordinates, (scale, feature), and its gradient, given the ratios."""

    def total(coordinates: Array) -> tuple[Array, tuple[Array, Array]]:
        log_scales = to_log_scales(problem.participant_scale, coordinates)
        value = problem.likelihood.log_likelihood(statistics, log_scales)
        return value.sum(), (log_scales, value)

    (_, (log_scales, value)), by_coordinates = jax.value_and_grad(total, has_aux=True)(jnp.asarray(coordinates))
    return ScaleGradient(log_scales, value, by_coordinates)


def expand_likelihood(
    problem: Problem, ratios: VarianceRatios, moments: Moments, center: Array | np.ndarray
) -> GaussianLikelihood:
    """Expand the log likelihood of every feature around coordinates, (scale, feature).

    Where the likelihood of a feature is not finite, its value is -inf, its gradient 0 and its precision `MIN_PRECISION`.
    """
    assert jax.config.jax_enable_x64, "differences of gradients need double precision"
    center = np.asarray(center)

    statistics = weigh(problem, ratios, moments) if problem.likelihood.n_dense > MANY_DENSE else None

    def evaluate(coordinates: np.ndarray) -> LikelihoodGradient | ScaleGradient:
        if statistics is not None:
            return jax.tree.map(np.asarray, scale_gradient(problem, statistics, coordinates))
        return jax.tree.map(np.asarray, likelihood_gradient(problem, ratios, moments, coordinates))

    middle, hessian, jacobian = evaluate(center), [], []
    for direction in HALF_STEP * np.eye(len(center))[..., None]:
        ahead, behind = evaluate(center + direction), evaluate(center - direction)
        hessian.append((ahead.by_coordinates - behind.by_coordinates) / (2 * HALF_STEP))
        jacobian.append((ahead.log_scales - behind.log_scales) / (2 * HALF_STEP))
    curvature = -0.5 * np.moveaxis(np.stack(hessian), -1, 0)
    curvature += curvature.swapaxes(1, 2)
    is_finite = np.isfinite(middle.value) & np.isfinite(curvature).all((1, 2)) & np.isfinite(middle.by_coordinates).all(0)
    eigenvalues, axes = np.linalg.eigh(np.where(is_finite[:, None, None], curvature, 0.0))
    precision = (axes * np.maximum(eigenvalues, MIN_PRECISION)[:, None]) @ axes.swapaxes(1, 2)
    value, gradient = np.where(is_finite, middle.value, -np.inf), np.where(is_finite, middle.by_coordinates, 0.0)
    parts = center, middle.log_scales, np.stack(jacobian, axis=1), value, gradient, np.moveaxis(precision, 0, -1)
    return GaussianLikelihood(*map(jnp.asarray, parts))


def gradient_by_ratios(problem: Problem, ratios: VarianceRatios, moments: Moments, center: Array | np.ndarray) -> np.ndarray:
    """Compute the derivatives of the gradient by the log ratios, at coordinates; (scale, ratio, feature).

    They are 0 for ratios that the model lacks.
    """
    vector = np.asarray(ratios.to_vector())
    found = np.zeros((len(center), len(vector), center.shape[1]))

    def gradient(vector: np.ndarray) -> np.ndarray:
        statistics = weigh(problem, problem.ratios(vector), moments)
        return np.asarray(scale_gradient(problem, statistics, center).by_coordinates)

    for k in np.flatnonzero(problem.is_free):
        step = HALF_STEP * np.eye(len(vector))[k]
        found[:, k] = (gradient(vector + step) - gradient(vector - step)) / (2 * HALF_STEP)
    return np.where(np.isfinite(found), found, 0.0)


def expand_at_modes(
    problem: Problem, ratios: VarianceRatios, moments: Moments, prior: Gaussian, start: Array | np.ndarray
) -> tuple[GaussianLikelihood, ConditionedScales]:
    """Expand the likelihood of every feature around the mode of its posterior, given the prior of its scales.

    Newton's method with Levenberg–Marquardt damping, as in :mod:`bayesharm.algorithms.laplace`, in units of the prior
    precision.

    Parameters
    ----------
    problem, ratios, moments
    prior : Gaussian
    start : (scale, feature) array
        Coordinates.

    Returns
    -------
    GaussianLikelihood
        The value of a feature is 0 if its likelihood is not finite at any point of the search.
    ConditionedScales
        The Gaussian posterior of the coordinates; its mean is the last position that the search proposed.
    """
    offset_sd, (mean, sd) = problem.hierarchy.offset_sd, prior
    offset = np.broadcast_to(offset_sd, len(sd))
    prior_precision = np.linalg.inv(np.diag(sd**2) + np.outer(offset, offset))

    def log_density(likelihood: GaussianLikelihood) -> np.ndarray:
        away = np.asarray(likelihood.log_scales) - mean[:, None]
        return np.asarray(likelihood.value) - 0.5 * np.einsum("sf,st,tf->f", away, prior_precision, away)

    best = new = expand_likelihood(problem, ratios, moments, start)
    damping = np.zeros(best.center.shape[1])
    for _ in range(MAX_STEPS):
        is_better = log_density(new) >= log_density(best)
        best = GaussianLikelihood(*(jnp.asarray(np.where(is_better, *parts)) for parts in zip(new, best, strict=True)))
        damping = np.where(is_better, damping / DAMPING_FACTOR, np.maximum(damping * DAMPING_FACTOR, 1.0))
        conditioned = condition_each(best, mean, np.log(sd), offset_sd)
        factor = np.moveaxis(np.asarray(conditioned.factor), -1, 0)
        precision = np.linalg.inv(factor @ factor.swapaxes(1, 2))
        slope = precision @ (np.asarray(conditioned.mean) - np.asarray(best.center)).T[..., None]
        damped = precision + damping[:, None, None] * np.diag(sd**-2.0)
        step = np.clip(np.linalg.solve(damped, slope)[..., 0].T, -MAX_STEP, MAX_STEP)
        center = np.clip(np.asarray(best.center) + step, -MAX_COORDINATE, MAX_COORDINATE)
        if (np.abs(center - np.asarray(best.center)) < TOLERANCE).all():
            break
        new = expand_likelihood(problem, ratios, moments, center)
    value = np.asarray(best.value)
    best = best._replace(value=jnp.asarray(np.where(np.isfinite(value), value, 0.0)))
    return best, conditioned._replace(mean=jnp.asarray(center))
