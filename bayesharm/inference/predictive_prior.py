"""Predictive prior of a feature's log-scales: the mixture of Normal(eta, omega²) over draws of the hyperparameters."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from bayesharm.inference.hyperparameters import MANY_FEATURES, N_COMPONENTS, Hyperparameters, component_indices
from bayesharm.inference.importance import log_prior, quadratic_features
from bayesharm.likelihood.problem import Gaussian, Problem

Array = jax.Array


class PredictivePrior(NamedTuple):
    """Predictive prior of the log-scales of a block of features: a mixture of Normals.

    Attributes
    ----------
    mean, log_sd : (scale, component) arrays
    log_weight : (component, feature) array
    """

    mean: Array | np.ndarray
    log_sd: Array | np.ndarray
    log_weight: Array | np.ndarray


def log_predictive_prior(prior: PredictivePrior, log_scales: Array, offset_sd: float | tuple[float, ...]) -> Array:
    """Compute the log density of the predictive prior, up to a constant of each feature.

    Parameters
    ----------
    prior : PredictivePrior
    log_scales : (..., scale, feature) array
    offset_sd : float or tuple of float
        As in :class:`~bayesharm.likelihood.hierarchy.Hierarchy`.

    Returns
    -------
    (..., feature) array
    """
    terms = log_prior(quadratic_features(log_scales), prior.mean, prior.log_sd, offset_sd)
    log_weight = prior.log_weight.reshape(len(terms), *(1,) * (terms.ndim - 2), -1)
    return logsumexp(terms + log_weight, axis=0)


def prior_precision(prior: PredictivePrior, offset_sd: float | tuple[float, ...]) -> tuple[Array, Array]:
    """Return mean, (scale,), and inverse covariance, (scale, scale), of a predictive prior, all components counted alike."""
    mean = jnp.asarray(prior.mean)
    precision = 1 / (jnp.exp(2 * jnp.asarray(prior.log_sd)).mean(1) + mean.var(1))
    along = precision * jnp.asarray(offset_sd, precision.dtype)
    return mean.mean(1), jnp.diag(precision) - jnp.outer(along, along) / (1 + (along**2 / precision).sum())


def predictive_moments(eta: np.ndarray, omega: np.ndarray, offset_sd: float | tuple[float, ...]) -> Gaussian:
    """Compute mean and sd of the predictive prior of a feature's log-scales, without the feature offset.

    Where features have an offset, a shift of all eta together cannot be distinguished from it. That part of the
    uncertainty of eta is left to the offset, beside whose prior sd it is negligible; otherwise it would widen the prior of
    every single scale.

    Parameters
    ----------
    eta, omega : (..., scale) arrays
        Draws.
    offset_sd : float or tuple of float
        As in :class:`~bayesharm.likelihood.hierarchy.Hierarchy`.
    """
    eta, omega = (draws.reshape(-1, draws.shape[-1]) for draws in (eta, omega))
    common, has_offset = np.zeros(eta.shape[1]), np.broadcast_to(offset_sd, eta.shape[1]) > 0
    if has_offset.any():
        # the mean covariance: differences between scales stay as uncertain, on average. At most 1 / (1ᵀΣ⁻¹1), so that
        # Σ − common·11ᵀ remains a covariance matrix
        covariance = np.atleast_2d(np.cov(eta[:, has_offset].T))
        between = covariance[np.triu_indices(len(covariance), 1)]
        most = 1 / np.linalg.pinv(covariance).sum()
        common[has_offset] = np.clip(between.mean(), 0, most) if len(between) else covariance[0, 0]
    return Gaussian(eta.mean(0), np.sqrt((omega**2).mean(0) + eta.var(0, ddof=1) - common))


def make_predictive_prior(hyper: Hyperparameters, offset_sd: float | tuple[float, ...]) -> PredictivePrior:
    """Make the predictive prior from the posterior of the hyperparameters.

    Many features determine the hyperparameters well: the mixture is then replaced by one Normal with its mean and
    variance. With few features it is kept. For each feature that the hyperparameters were learned from, a component is
    weighted by one over the feature's marginal likelihood, so that the feature does not count twice.

    Returns
    -------
    PredictivePrior
        `log_weight` is (component, sampled feature).
    """
    if hyper.log_evidence is None:
        mean, sd = predictive_moments(hyper.eta, hyper.omega, offset_sd)
        return PredictivePrior(mean[:, None], np.log(sd)[:, None], np.zeros((1, hyper.n_features)))
    n_scales = hyper.eta.shape[-1]
    eta, omega = (draws.reshape(-1, n_scales) for draws in (hyper.eta, hyper.omega))
    chosen = component_indices(len(eta))
    return PredictivePrior(eta[chosen].T, np.log(omega[chosen]).T, -hyper.log_evidence.T)


def placeholder_prior(problem: Problem, n_sampled: int, n_features: int) -> PredictivePrior:
    """Make a prior with the shapes of :func:`make_predictive_prior`, to compile before the hyperparameters are known."""
    n_components = 1 if n_sampled >= MANY_FEATURES else N_COMPONENTS
    mean = np.repeat(problem.log_medians[:, None], n_components, axis=1)
    return PredictivePrior(mean, np.full_like(mean, np.log(0.5)), np.zeros((n_components, n_features)))
