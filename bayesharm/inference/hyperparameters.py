"""Posterior of the hyperparameters (eta, omega) and of the variance ratios, learned from a sample of features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from bayesharm.algorithms.random_streams import Stage, feature_keys
from bayesharm.inference.fixed_point import SETTINGS, HyperIteration, HyperState, count_samples
from bayesharm.inference.hyper_target import MANY_FEATURES, HyperTarget
from bayesharm.inference.hyperposterior import HyperDraws, draw_approximation, predictive_moments, sample_hyperposterior
from bayesharm.inference.importance import log_marginals_of_draws
from bayesharm.inference.variance_ratios import RatioPosterior
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.problem import Gaussian, Problem
from bayesharm.likelihood.ratios import VarianceRatios

N_COMPONENTS = 256  # draws of the hyperparameters in the predictive prior of fewer than `MANY_FEATURES` features


class Hyperparameters(NamedTuple):
    """Posterior of the parameters that all features share.

    Attributes
    ----------
    eta, omega : (chain, draw, scale) arrays
        Mean and sd over features of the log-scales of standardized features.
    ratios : RatioPosterior
        Variance ratios of the scanners.
    predictive : Gaussian
        Mean and sd of the predictive prior of a feature's log-scales, without the feature offset.
    log_marginal : (feature, component) array, or None
        Log marginal likelihood of each sampled feature at those draws, :func:`component_indices`, that make up the
        predictive prior; None from `MANY_FEATURES` features on.
    diverging : int
    importance : (2,) array
        Pareto-k and effective sample size, if the draws are by importance sampling; else NaN.
    khat : (feature,) array
        Pareto-k of each feature's importance weights at the center of the posterior.
    """

    eta: np.ndarray
    omega: np.ndarray
    ratios: RatioPosterior
    predictive: Gaussian
    log_marginal: np.ndarray | None
    diverging: int
    importance: np.ndarray
    khat: np.ndarray

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return plain arrays, for a checkpoint."""
        arrays = {name: np.asarray(getattr(self, name)) for name in ("eta", "omega", "diverging", "importance", "khat")}
        arrays |= {
            "ratio_mean": self.ratios.mean.to_vector(),
            "ratio_covariance": self.ratios.covariance,
            "n_independent_features": np.asarray(self.ratios.n_independent_features),
        }
        arrays |= {f"predictive_{name}": np.asarray(part) for name, part in self.predictive._asdict().items()}
        return arrays if self.log_marginal is None else arrays | {"log_marginal": self.log_marginal}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Hyperparameters:
        """Restore from the arrays of :meth:`to_arrays`."""
        return cls(
            arrays["eta"],
            arrays["omega"],
            RatioPosterior(
                VarianceRatios.from_vector(arrays["ratio_mean"]),
                arrays["ratio_covariance"],
                float(arrays["n_independent_features"]),
            ),
            Gaussian(*(arrays[f"predictive_{name}"] for name in Gaussian._fields)),
            arrays.get("log_marginal"),
            int(arrays["diverging"]),
            arrays["importance"],
            arrays["khat"],
        )


def fit_hyperparameters(
    problem: Problem,
    moments: Moments,
    features: np.ndarray,
    n_independent_features: float,
    *,
    seed: int,
    n_chains: int = 4,
    n_draws: int = 100,
    preview: bool = False,
    on_iteration: Callable[[str], object] = lambda text: None,
) -> Hyperparameters | None:
    """Learn the hyperparameters and the variance ratios from a sample of features.

    Parameters
    ----------
    problem : Problem
    moments : Moments
        Of the sampled features.
    features : (feature,) int array
        Their indices in the study, from which their random numbers derive.
    n_independent_features : float
        Effective number of independent features, for the variance ratios.
    seed, n_chains, n_draws : int
        Where NUTS is needed, chains are extended by segments of `n_draws` draws until they have converged.
    preview : bool
        Draw from the Laplace approximation, whether the iteration has settled or not.
    on_iteration : callable
        Receives a line of progress after each iteration.

    Returns
    -------
    Hyperparameters, or None
        None if the iteration does not settle or chains do not mix: the data do not bound the eta of a scale near 0 from
        below, and importance samples cannot cover all of its range. Then :func:`bayesharm.inference.joint.sample_joint`
        samples hyperparameters and scales together.
    """
    budget = SETTINGS.preview_evaluations if preview else SETTINGS.evaluations
    n_small, n_large = (count_samples(n_evaluations, len(features)) for n_evaluations in budget)
    keys = feature_keys(seed, Stage.IMPORTANCE, features)
    iteration = HyperIteration(problem, moments, keys, n_independent_features, (n_small, n_large))
    state, settled = iteration.initial(), False
    while not settled and state.n_iterations < SETTINGS.max_iterations:
        state = iteration.step(state)
        on_iteration(str(state))
        settled = iteration.has_settled(state)
    if not (settled or preview):
        return None
    state = iteration.final_samples(state)
    assert state.target is not None and state.approximation is not None
    draws: HyperDraws | None
    if preview:
        approximation = iteration.find_mode(state.target, state.center)
        draws = draw_approximation(problem.priors, approximation, seed, n_chains, n_draws)
    else:
        draws = sample_hyperposterior(problem.priors, state.target, state.approximation, seed, n_chains, n_draws)
    return _summarize(iteration, state, state.target, draws) if draws else None


def _summarize(iteration: HyperIteration, state: HyperState, target: HyperTarget, draws: HyperDraws) -> Hyperparameters:
    """Combine draws, ratios and the fit of the importance samples."""
    eta, omega, offset_sd = draws.eta, np.exp(draws.log_omega), iteration.problem.priors.feature_offset_sd
    flat_eta, flat_log_omega = (part.reshape(-1, part.shape[-1]).T for part in (draws.eta, draws.log_omega))
    eta_mean, log_omega_mean = (jnp.asarray(part.mean(1)[:, None]) for part in (flat_eta, flat_log_omega))
    log_marginal = None
    if len(iteration.keys) < MANY_FEATURES:
        chosen = component_indices(flat_eta.shape[1])
        log_marginal = np.asarray(
            log_marginals_of_draws(
                target.basis, target.log_weights[0], flat_eta[:, chosen], flat_log_omega[:, chosen], offset_sd
            )
        )
    return Hyperparameters(
        eta,
        omega,
        iteration.ratio_posterior(state),
        predictive_moments(eta, omega, offset_sd),
        log_marginal,
        draws.diverging,
        np.array(draws.importance),
        iteration.khat(target, eta_mean, log_omega_mean),
    )


def component_indices(n_draws: int) -> np.ndarray:
    """Return the indices, among the draws of all chains, of the components of the predictive prior."""
    return np.unique(np.linspace(0, n_draws - 1, N_COMPONENTS).astype(int))
