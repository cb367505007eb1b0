"""Gaussian approximation of each feature's likelihood, and what follows from it in closed form.

Given the hyperparameters, the log-scales of a feature then have a Gaussian posterior, and the feature has a marginal
likelihood, without any sampling. The package uses both to find its way, never as results of a fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayesharm.algorithms.linalg import cholesky, matvec, pack, solve, solve_lower, unpack
from bayesharm.algorithms.programs import program
from bayesharm.likelihood.problem import Problem, to_coordinates, to_log_scales

Array = jax.Array


class GaussianLikelihood(NamedTuple):
    """Second-order expansion of the log likelihood of each feature, in coordinates; feature axis last (a JAX pytree).

    Coordinates are those of :func:`bayesharm.likelihood.problem.to_coordinates`. Module
    :mod:`bayesharm.inference.expansion` makes it.

    Attributes
    ----------
    center : (scale, feature) array
        Coordinates around which it is expanded.
    log_scales : (scale, feature) array
        Log-scales there.
    jacobian : (scale, scale, feature) array
        Derivatives of the log-scales by the coordinates.
    value : (feature,) array
        Log likelihood.
    gradient : (scale, feature) array
    precision : (scale, scale, feature) array
        Negative Hessian, positive definite.
    """

    center: Array
    log_scales: Array
    jacobian: Array
    value: Array
    gradient: Array
    precision: Array


class ConditionedScales(NamedTuple):
    """Gaussian posterior of the coordinates of each feature's scales, given the hyperparameters; feature axis last.

    Attributes
    ----------
    mean : (scale, feature) array
    factor : (scale, scale, feature) array
        Lower Cholesky factor of the covariance.
    log_evidence : (feature,) array
        Log marginal likelihood of the feature.
    """

    mean: Array
    factor: Array
    log_evidence: Array


def condition_scales(
    likelihood: GaussianLikelihood, eta: Array, log_omega: Array, offset_sd: float | tuple[float, ...]
) -> ConditionedScales:
    """Condition the scales of every feature on the feature, given the hyperparameters.

    The prior of the log-scales is Gaussian; that of the coordinates is linearized at the center of the expansion.

    Parameters
    ----------
    likelihood : GaussianLikelihood
    eta, log_omega : (scale,) arrays
    offset_sd : float or tuple of float
        Prior sd of the offset that the log-scales of a feature share; of each scale, where they differ.
    """
    prior, log_det = _prior_precision(log_omega, offset_sd)
    jacobian, away = likelihood.jacobian, eta[:, None] - likelihood.log_scales
    weighted = jnp.einsum("st,tcf->scf", prior, jacobian)  # prior precision times Jacobian
    precision = likelihood.precision + jnp.einsum("sbf,scf->bcf", jacobian, weighted)
    slope = likelihood.gradient + jnp.einsum("scf,sf->cf", weighted, away)
    solution = solve(pack(precision), slope)
    log_evidence = likelihood.value - 0.5 * (
        log_det + jnp.einsum("sf,st,tf->f", away, prior, away) + solution.log_det - solution.quadratic
    )
    return ConditionedScales(likelihood.center + solution.x, cholesky(unpack(solution.inverse)), log_evidence)


@program("offset_sd")
def condition_each(
    likelihood: GaussianLikelihood,
    eta: Array | np.ndarray,
    log_omega: Array | np.ndarray,
    offset_sd: float | tuple[float, ...],
) -> ConditionedScales:
    """Condition the scales of every feature; a program for :func:`condition_scales`."""
    return condition_scales(likelihood, jnp.asarray(eta), jnp.asarray(log_omega), offset_sd)


def place_scales(conditioned: ConditionedScales, z: Array) -> Array:
    """Return the coordinates that lie z posterior sds from the mean, along the factor; (scale, feature)."""
    return conditioned.mean + matvec(conditioned.factor, z)


def _prior_precision(log_omega: Array, offset_sd: float | tuple[float, ...]) -> tuple[Array, Array]:
    """Invert the prior covariance ``diag(omega²) + offset_sd offset_sdᵀ`` (Sherman–Morrison); also its log determinant."""
    weight = jnp.exp(-2 * log_omega)
    precision, log_det = jnp.diag(weight), 2 * log_omega.sum()
    if np.any(offset_sd):
        offset = jnp.broadcast_to(jnp.asarray(offset_sd, weight.dtype), weight.shape)
        total = 1 + (offset**2 * weight).sum()
        precision -= jnp.outer(offset * weight, offset * weight) / total
        log_det += jnp.log(total)
    return precision, log_det


@program("problem")
def move_scales(
    problem: Problem,
    likelihood: GaussianLikelihood,
    by_ratios: Array | np.ndarray,
    old: Sequence[Array | np.ndarray],
    new: Sequence[Array | np.ndarray],
    log_scales: Array | np.ndarray,
) -> Array:
    """Move draws of the scales along with hyperparameters and variance ratios: they keep their z, :func:`place_scales`.

    Parameters
    ----------
    problem : Problem
    likelihood : GaussianLikelihood
    by_ratios : (scale, ratio, feature) array
        Derivatives of the gradient of the likelihood by the log ratios.
    old, new : three arrays
        eta and log omega of every scale, (draw, scale), and log ratios minus those of the expansion, (draw, ratio).
    log_scales : (draw, scale, feature) array
    """
    offset_sd = problem.hierarchy.offset_sd

    def condition(eta: Array, log_omega: Array, log_ratios: Array) -> ConditionedScales:
        gradient = likelihood.gradient + jnp.einsum("srf,r->sf", by_ratios, log_ratios)
        return condition_scales(likelihood._replace(gradient=gradient), eta, log_omega, offset_sd)

    def of_one(draw: Any) -> Array:
        old, new, values = draw
        before, after = condition(*old), condition(*new)
        z = solve_lower(before.factor, to_coordinates(problem.participant_scale, values) - before.mean)
        return to_log_scales(problem.participant_scale, place_scales(after, z))

    return jax.lax.map(of_one, jax.tree.map(jnp.asarray, (old, new, log_scales)))
