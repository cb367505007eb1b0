"""Hyperparameters (eta, omega) of the scales by NUTS, each feature entering by its marginal likelihood.

The effects and scales of each feature are integrated out, so that NUTS sees some ten numbers and no funnel.
Laplace approximations, importance nodes, noise ratio and hyperparameters depend on one another: they are found in
turns until they agree.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayesharm.inference.convergence import MAX_RHAT, MIN_ESS, judge, pareto_k
from bayesharm.inference.importance import (
    Nodes,
    basis_of,
    draw_nodes,
    evaluate_nodes,
    find_modes,
    log_marginal,
    log_prior,
)
from bayesharm.inference.laplace import Laplace, fit_laplace
from bayesharm.inference.noise import Ratio, fit_ratio
from bayesharm.inference.nuts import sample_lanes
from bayesharm.inference.problem import Gaussian, Problem, Stage, feature_keys, stage_key, to_coordinates
from bayesharm.moments import Moments
from bayesharm.spec import Priors

Array = jax.Array
N_TURNS = 10  # at most; four or five are usual
N_PARTS = 4  # of the chains, at most
HOPELESS = 1.3  # R-hat from which more of the same does not help
ENOUGH_FEATURES = 128  # from so many on the predictive prior is as good as Normal
LONGEST_TURN = 0.8  # in eta and log omega: further away the nodes do not see


class Hyper(NamedTuple):
    """Posterior of what features share.

    Attributes
    ----------
    eta, omega : (chain, draw, scale) arrays
        Mean and sd over features of the log-scales of standardized features.
    log_ratio : Ratio
        Noise ratio of the scanners.
    predictive : Gaussian
        Mean and sd of the predictive prior of a feature's log-scales, their amplitude apart.
    log_marginal : (feature, chain × draw) array, or None
        Of the features that the hyperparameters were learned from; not from `ENOUGH_FEATURES` on.
    diverging : int
    khat : (feature,) array
        Pareto-k of the importance weights at the centre of the posterior.
    """

    eta: np.ndarray
    omega: np.ndarray
    log_ratio: Ratio
    predictive: Gaussian
    log_marginal: np.ndarray | None
    diverging: int
    khat: np.ndarray


def fit_hyper(
    problem: Problem,
    moments: Moments,
    features: np.ndarray,
    *,
    seed: int,
    n_chains: int = 4,
    n_draws: int = 350,
    report=lambda text: None,
) -> Hyper | None:
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

    Returns
    -------
    Hyper, or None
        None where turns do not settle or chains do not mix: a scale that is 0 as far as the data tell has an eta that they
        do not bound below, and nodes cannot be everywhere.
    """
    keys = feature_keys(seed, Stage.NODES, features)
    n_nodes = int(np.clip(2 ** int(np.log2(2**18 / len(features))), 256, 2048))
    ratio = Ratio(np.zeros(problem.n_scanners), np.zeros((problem.n_scanners, problem.n_scanners)))
    log_medians = problem.log_medians
    centre = np.concatenate([log_medians, np.full(len(log_medians), np.log(0.4))])
    start = jnp.broadcast_to(jnp.asarray(log_medians)[:, None], (len(log_medians), len(features)))
    starts: tuple[Array, ...] = (to_coordinates(problem.pair, start),) * 4
    eta_sd = np.zeros(len(log_medians))
    for turn in range(N_TURNS):
        nodes, starts = _place_nodes(problem, moments, centre, eta_sd, ratio, keys, n_nodes, starts)
        before = ratio
        if problem.noise_ratio and turn < 4:
            ratio = fit_ratio(problem, moments, nodes, _prior_of(centre, problem.priors.least_omega), ratio)
        weight, basis = evaluate_nodes(problem, ratio.mean, moments, nodes), basis_of(nodes.log_scales)
        approximation = _approximate(problem.priors, log_medians, basis, weight, jnp.asarray(centre)[:, None])
        eta_sd = np.sqrt((np.asarray(approximation.factor)[: len(log_medians), :, 0] ** 2).sum(1)).clip(
            0, problem.priors.eta_sd
        )
        old, target = _prior_of(centre, problem.priors.least_omega), np.asarray(approximation.mode)[:, 0]
        centre = centre + np.clip(target - centre, -LONGEST_TURN, LONGEST_TURN)
        new = _prior_of(target, problem.priors.least_omega)
        moved = np.max(
            np.maximum(np.abs(new.mean - old.mean), np.abs(new.sd - old.sd)) / np.maximum(old.sd, 0.05)
        )
        moved_ratio = np.max(np.abs(ratio.mean - before.mean))
        report(
            f"turn {turn + 1}: scales moved by {moved:.2f} of their spread, noise ratio by {moved_ratio:.3f}"
        )
        if moved < 0.25 and moved_ratio < 0.01:  # near enough for the nodes; the posterior itself comes below
            break
    else:
        return None

    nodes, _ = _place_nodes(problem, moments, centre, eta_sd, ratio, keys, n_nodes, starts)
    weight, basis = evaluate_nodes(problem, ratio.mean, moments, nodes), basis_of(nodes.log_scales)
    approximation = _approximate(problem.priors, log_medians, basis, weight, jnp.asarray(centre)[:, None])
    n_scales, diverging = len(log_medians), 0
    draws = np.empty((n_chains, 0, 2 * n_scales))
    last = 0.5 * jax.random.normal(stage_key(seed, Stage.START), (2 * n_scales, n_chains))
    for part in range(N_PARTS):  # another part as long as it may help
        key = jax.random.fold_in(stage_key(seed, Stage.HYPER), part)
        more, failed, last = _sample(
            problem.priors, log_medians, basis, weight, approximation, key, last, 0 if part else 50, n_draws
        )
        draws, diverging = np.concatenate([draws, more], axis=1), diverging + int(failed)
        verdict = judge(draws[..., None], np.zeros((*draws.shape[:2], 1), bool))
        worst = verdict.rhat.max()
        if not worst < HOPELESS:
            return None
        if worst < MAX_RHAT and verdict.ess_bulk.min() > 1.25 * MIN_ESS:
            break
    eta, log_omega = draws[..., :n_scales], np.asarray(_spread(draws[..., n_scales:], problem.priors.least_omega))
    omega = np.exp(log_omega)
    flat = (eta.reshape(-1, n_scales).T, log_omega.reshape(-1, n_scales).T)
    predictive = Gaussian(flat[0].mean(1), np.sqrt(np.exp(2 * flat[1]).mean(1) + flat[0].var(1)))
    eta_mean, log_omega_mean = (jnp.asarray(part.mean(1)[:, None]) for part in flat)
    khat = pareto_k(np.asarray(weight + log_prior(basis, eta_mean, log_omega_mean, problem.priors.amplitude_sd)[0]))
    if len(features) >= ENOUGH_FEATURES:
        return Hyper(eta, omega, ratio, predictive, None, diverging, khat)
    marginal = jax.lax.map(
        lambda h: log_marginal(basis, weight, h[0], h[1], problem.priors.amplitude_sd),
        tuple(jnp.asarray(part.T[:, :, None]) for part in flat),
    )[:, 0].T
    return Hyper(eta, omega, ratio, predictive, np.asarray(marginal), diverging, khat)


def _prior_of(centre: np.ndarray, least_omega: float) -> Gaussian:
    eta, above = np.split(centre, 2)
    return Gaussian(eta, least_omega + np.exp(above))


def _place_nodes(
    problem: Problem,
    moments: Moments,
    centre: np.ndarray,
    eta_sd: np.ndarray,
    ratio: Ratio,
    keys: Array,
    n_nodes: int,
    starts: tuple[Array, ...],
) -> tuple[Nodes, tuple[Array, ...]]:
    """Nodes around the features' modes under the prior as it is, narrower, wider, and hardly pooled at all.

    One proposal would only see an omega like its own: from nodes of a narrow prior a larger one cannot be told from a
    smaller one, and few nodes of a wide prior lie where a narrow one puts its mass.
    """
    eta, omega = _prior_of(centre, problem.priors.least_omega)
    spreads = (0.5 * omega, omega, 2 * omega, np.hypot(np.maximum(2 * omega, 0.5), 1.5 * eta_sd))
    modes = tuple(
        find_modes(problem, ratio.mean, moments, Gaussian(eta, spread), start)
        for spread, start in zip(spreads, starts, strict=True)
    )
    return draw_nodes(keys, modes, n_nodes, problem.pair), tuple(mode.mode for mode in modes)


def _log_density(
    priors: Priors, log_medians: Array | np.ndarray, basis: Array, weight: Array, position: Array
) -> Array:
    """Log posterior of (eta, log(omega - least_omega)), (2 × scale, lane) -> (lane,)."""
    eta, above = jnp.split(position, 2)
    log_omega = _spread(above, priors.least_omega)
    prior = (
        -0.5 * ((eta - log_medians[:, None]) / priors.eta_sd) ** 2
        - 0.5 * (jnp.exp(log_omega) / priors.omega_sd) ** 2
        + above
    ).sum(0)
    return prior + log_marginal(basis, weight, eta, log_omega, priors.amplitude_sd).sum(1)


def _spread(above: Array | np.ndarray, least_omega: float) -> Array:
    """log omega of what is sampled, ``log(omega - least_omega)``."""
    return jnp.logaddexp(above, np.log(least_omega))


@partial(jax.jit, static_argnums=0)
def _approximate(priors: Priors, log_medians: Array, basis: Array, weight: Array, start: Array) -> Laplace:
    def log_density(position):
        return _log_density(priors, log_medians, basis, weight, position)

    return fit_laplace(log_density, start, jnp.full(start.shape, 0.5))


@partial(jax.jit, static_argnums=(0, 8))
def _sample(priors, log_medians, basis, weight, approximation, key, start, n_warmup, n_draws):
    """NUTS, whitened by the Laplace approximation: draws (chain, draw, 2 × scale), divergences, where it ended."""
    mode, factor = approximation.mode, approximation.factor[:, :, 0]

    def potential(shared, _, z):
        log_medians, basis, weight, mode, factor = shared
        return -_log_density(priors, log_medians, basis, weight, mode + factor @ z)

    draws = sample_lanes(
        potential,
        (log_medians, basis, weight, mode, factor),
        (),
        start,
        jax.random.split(key, start.shape[1]),
        n_warmup=n_warmup,
        n_draws=n_draws,
        step_size=0.6,
        max_tree_depth=5,
    )
    position = mode + jnp.einsum("ij,djc->dic", factor, draws.position)
    return jnp.transpose(position, (2, 0, 1)), draws.diverging.sum(), draws.position[-1]
