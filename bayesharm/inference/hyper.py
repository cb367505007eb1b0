"""Hyperparameters (eta, omega) of the scales by NUTS, each feature entering by its marginal likelihood.

The dozens of effects and the scales of each feature are integrated out, so that NUTS sees some ten numbers and no funnel.
Laplace approximations, importance nodes, noise ratio and hyperparameters depend on one another: they are found in
turns until they agree.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayesharm.inference.importance import basis_of, draw_nodes, evaluate_nodes, find_modes, log_marginal
from bayesharm.inference.laplace import Laplace, cholesky, fit_laplace
from bayesharm.inference.noise import Ratio, fit_ratio
from bayesharm.inference.nuts import sample_lanes
from bayesharm.inference.problem import Gaussian, Problem, Stage, feature_keys, stage_key
from bayesharm.moments import Moments
from bayesharm.spec import Priors

Array = jax.Array
N_NODES = 256
N_TURNS = 12  # at most; four or five are usual


class Hyper(NamedTuple):
    """Posterior of what features share.

    Attributes
    ----------
    eta, omega : (chain, draw, scale) arrays
        Mean and sd over features of the log-scales of standardized features.
    log_ratio : Ratio
        Noise ratio of the scanners.
    predictive : Gaussian
        Mean and sd of the predictive prior of a feature's log-scales.
    log_marginal : (feature, chain × draw) array
        Of the features that the hyperparameters were learned from.
    diverging : int
    khat : (feature,) array
        Pareto-k of those features' importance weights.
    """

    eta: np.ndarray
    omega: np.ndarray
    log_ratio: Ratio
    predictive: Gaussian
    log_marginal: np.ndarray
    diverging: int


def fit_hyper(
    problem: Problem, moments: Moments, features: np.ndarray, *, seed: int, n_chains: int = 4, n_draws: int = 500,
    report=lambda text: None,
) -> Hyper:
    """Learn the hyperparameters and the noise ratio from a sample of features.

    Parameters
    ----------
    problem : Problem
    moments : Moments
        Of the sampled features.
    features : (feature,) int array
        Their indices in the study, from which their random numbers derive.
    seed, n_chains, n_draws : int
    report : callable
        Receives a line of progress after each turn.
    """
    keys = feature_keys(seed, Stage.NODES, features)
    ratio = Ratio(np.zeros(problem.n_scanners), np.zeros((problem.n_scanners, problem.n_scanners)))
    prior = Gaussian(problem.log_medians, np.full(len(problem.log_medians), 1.0))
    start = jnp.broadcast_to(jnp.asarray(problem.log_medians)[:, None], (len(problem.log_medians), len(features)))
    centre = np.concatenate([problem.log_medians, np.full(len(start), np.log(0.4))])
    for turn in range(N_TURNS):
        modes = find_modes(problem, ratio.mean, moments, _widen(prior), start)
        start = modes.mode
        nodes = draw_nodes(keys, modes, N_NODES)
        before = ratio
        if problem.noise_ratio and turn < 4:
            ratio = fit_ratio(problem, moments, nodes, prior, ratio)
        weight = evaluate_nodes(problem, ratio.mean, moments, nodes)
        basis = basis_of(nodes.log_scales)
        approximation = _approximate(problem.priors, problem.log_medians, basis, weight, jnp.asarray(centre)[:, None])
        centre, was = np.asarray(approximation.mode)[:, 0], centre
        sd = np.sqrt((np.asarray(approximation.factor)[:, :, 0] ** 2).sum(1))
        prior = _predictive_of(approximation)
        moved = np.max(np.abs((centre - was) / sd))
        moved_ratio = np.max(np.abs(ratio.mean - before.mean))
        if __import__('os').environ.get('DBG'): print(prior.mean.round(2), prior.sd.round(2), np.exp(centre[len(start):]).round(2), sd.round(2))
        report(f"turn {turn + 1}: scales moved by {moved:.3f} sd, noise ratio by {moved_ratio:.3f}")
        if moved < 0.3 and moved_ratio < 0.01:
            break

    modes = find_modes(problem, ratio.mean, moments, _widen(prior), start)
    nodes = draw_nodes(keys, modes, N_NODES)
    weight, basis = evaluate_nodes(problem, ratio.mean, moments, nodes), basis_of(nodes.log_scales)
    approximation = _approximate(problem.priors, problem.log_medians, basis, weight, jnp.asarray(centre)[:, None])
    draws, diverging = _sample(problem.priors, problem.log_medians, basis, weight, approximation,
                               stage_key(seed, Stage.HYPER), n_chains, n_draws)
    n_scales = len(problem.log_medians)
    eta, log_omega = np.asarray(draws[..., :n_scales]), np.asarray(draws[..., n_scales:])
    omega = np.exp(log_omega)
    flat = (eta.reshape(-1, n_scales).T, log_omega.reshape(-1, n_scales).T)
    predictive = Gaussian(flat[0].mean(1), np.sqrt((omega**2).mean((0, 1)) + flat[0].var(1)))
    marginal = jax.lax.map(lambda h: log_marginal(basis, weight, *h),
                           tuple(jnp.asarray(part.T[:, :, None]) for part in flat))[:, :, 0].T
    return Hyper(eta, omega, ratio, predictive, np.asarray(marginal), int(diverging))


def _widen(prior: Gaussian) -> Gaussian:
    """Nodes are drawn a little wider than needed: hyperparameters move while they are learned."""
    return Gaussian(prior.mean, 1.25 * prior.sd)


def _log_density(priors: Priors, log_medians: np.ndarray, basis: Array, weight: Array, position: Array) -> Array:
    """Log posterior of (eta, log omega), (2 × scale, lane) -> (lane,)."""
    eta, log_omega = jnp.split(position, 2)
    prior = (-0.5 * ((eta - log_medians[:, None]) / priors.eta_sd) ** 2
             - 0.5 * (jnp.exp(log_omega) / priors.omega_sd) ** 2 + log_omega).sum(0)
    return prior + log_marginal(basis, weight, eta, log_omega).sum(0)


@partial(jax.jit, static_argnums=0)
def _approximate(priors: Priors, log_medians: Array, basis: Array, weight: Array, start: Array) -> Laplace:
    def log_density(position):
        return _log_density(priors, log_medians, basis, weight, position)

    return fit_laplace(log_density, start, jnp.full(start.shape, 0.5))


def _predictive_of(approximation: Laplace) -> Gaussian:
    """Prior of a feature's log-scales with the hyperparameters' uncertainty in it, from their Laplace approximation."""
    mode, factor = np.asarray(approximation.mode)[:, 0], np.asarray(approximation.factor)[:, :, 0]
    variance = np.einsum("ij,ij->i", factor, factor)
    eta, log_omega = np.split(mode, 2)
    var_eta, var_log_omega = np.split(np.minimum(variance, 1.0), 2)
    return Gaussian(eta, np.sqrt(np.exp(2 * log_omega + 2 * var_log_omega) + var_eta))


@partial(jax.jit, static_argnums=(0, 6, 7))
def _sample(priors, log_medians, basis, weight, approximation, key, n_chains, n_draws):
    """NUTS, whitened by the Laplace approximation; (chain, draw, 2 × scale)."""
    mode, factor = approximation.mode, approximation.factor[:, :, 0]

    def potential(shared, _, z):
        log_medians, basis, weight, mode, factor = shared
        return -_log_density(priors, log_medians, basis, weight, mode + factor @ z)

    start_key, chain_key = jax.random.split(key)
    start = 0.5 * jax.random.normal(start_key, (len(mode), n_chains))
    draws = sample_lanes(potential, (log_medians, basis, weight, mode, factor), (), start,
                         jax.random.split(chain_key, n_chains), n_warmup=200, n_draws=n_draws, step_size=0.7, adapt=True)
    position = mode + jnp.einsum("ij,djc->dic", factor, draws.position)
    return jnp.transpose(position, (2, 0, 1)), draws.diverging.sum()
