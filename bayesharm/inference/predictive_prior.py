"""The predictive prior of a feature's log-scales given the hyperposterior."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from jax.scipy.special import logsumexp

from bayesharm.inference.hyperparameters import ENOUGH_FEATURES, N_COMPONENTS, Hyperparameters, components
from bayesharm.inference.importance import log_prior, quadratic_features
from bayesharm.likelihood.problem import Problem

Array = jax.Array


class PredictivePrior(NamedTuple):
    """Predictive prior of the log-scales of the features of a block.

    Attributes
    ----------
    mean, log_sd : (scale, component) arrays
    log_weight : (component, feature) array
    """

    mean: Array | np.ndarray
    log_sd: Array | np.ndarray
    log_weight: Array | np.ndarray


def log_predictive_prior(mixture: PredictivePrior, log_scales: Array, feature_offset_sd: float) -> Array:
    """Log density of the predictive prior, up to a constant of each feature.

    Parameters
    ----------
    mixture : Mixture
    log_scales : (..., scale, feature) array
    feature_offset_sd : float

    Returns
    -------
    (..., feature) array
    """
    terms = log_prior(quadratic_features(log_scales), mixture.mean, mixture.log_sd, feature_offset_sd)
    weight = mixture.log_weight.reshape(len(terms), *(1,) * (terms.ndim - 2), -1)
    return logsumexp(terms + weight, axis=0)


def make_predictive_prior(hyper: Hyperparameters) -> PredictivePrior:
    """The predictive prior that posterior draws of the hyperparameters make.

    Many features determine the hyperparameters well: the mixture is then one Normal of its mean and variance. With few
    features it is kept as it is, for every feature that the hyperparameters were learned from weighted by one over
    that feature's marginal likelihood.

    Returns
    -------
    mixture : Mixture
        Weights are log weights of the sampled features, (component, sampled feature).
    """
    if hyper.log_marginal is None:
        mean, log_sd = hyper.predictive.mean[:, None], np.log(hyper.predictive.sd)[:, None]
        return PredictivePrior(mean, log_sd, np.zeros((1, len(hyper.khat))))
    n_scales = hyper.eta.shape[-1]
    eta, omega = (draws.reshape(-1, n_scales) for draws in (hyper.eta, hyper.omega))
    kept = components(len(eta))
    return PredictivePrior(eta[kept].T, np.log(omega[kept]).T, -hyper.log_marginal.T)


def placeholder_prior(problem: Problem, n_sample: int, n_features: int) -> PredictivePrior:
    """A prior of the shape that :func:`make_predictive_prior` gives, to compile with."""
    n_components = 1 if n_sample >= ENOUGH_FEATURES else N_COMPONENTS
    mean = np.repeat(problem.log_medians[:, None], n_components, axis=1)
    return PredictivePrior(mean, np.full_like(mean, np.log(0.5)), np.zeros((n_components, n_features)))
