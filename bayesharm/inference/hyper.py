"""Hyperparameters (eta, omega) of the scales by NUTS, each feature entering by its marginal likelihood.

The effects and scales of each feature are integrated out, so that NUTS sees some ten numbers and no funnel.
Laplace approximations, importance nodes, noise ratio and hyperparameters depend on one another: they are found in
turns until they agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
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
    thin_nodes,
)
from bayesharm.inference.laplace import Laplace, fit_laplace
from bayesharm.inference.noise import Ratio, fit_ratio
from bayesharm.inference.nuts import sample_lanes
from bayesharm.inference.problem import Gaussian, Problem, Stage, feature_keys, stage_key, to_coordinates
from bayesharm.moments import Moments
from bayesharm.spec import Priors

Array = jax.Array
N_TURNS = 10  # at most; four or five are usual
TURNS_OF_RATIO = 4  # of them find the noise ratio as well
N_EVALUATIONS = 2**17  # nodes × features for NUTS, and of each feature at least
LEAST_NODES = 128
STEP = (0.6, 0.4)  # whitened by the curvature at the mode, and by the draws of the first part
N_PARTS = 7  # of the chains, at most
HOPELESS = 1.3  # R-hat from which more of the same does not help
ENOUGH_FEATURES = 128  # from so many on the predictive prior is as good as Normal
LONGEST_TURN = 0.8  # in eta and log excess: further away the nodes do not see


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

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Plain arrays; :meth:`from_arrays` is the inverse."""
        arrays = {name: np.asarray(getattr(self, name)) for name in ("eta", "omega", "diverging", "khat")}
        arrays |= {f"log_ratio_{name}": np.asarray(part) for name, part in self.log_ratio._asdict().items()}
        arrays |= {f"predictive_{name}": np.asarray(part) for name, part in self.predictive._asdict().items()}
        return arrays if self.log_marginal is None else arrays | {"log_marginal": self.log_marginal}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Hyper:
        """What :meth:`to_arrays` gave."""
        return cls(
            arrays["eta"],
            arrays["omega"],
            Ratio(*(arrays[f"log_ratio_{name}"] for name in Ratio._fields)),
            Gaussian(*(arrays[f"predictive_{name}"] for name in Gaussian._fields)),
            arrays.get("log_marginal"),
            int(arrays["diverging"]),
            arrays["khat"],
        )


def fit_hyper(
    problem: Problem,
    moments: Moments,
    features: np.ndarray,
    *,
    seed: int,
    n_chains: int = 4,
    n_draws: int = 200,
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
        if problem.noise_ratio and turn < TURNS_OF_RATIO:
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
    if problem.noise_ratio and turn >= TURNS_OF_RATIO:
        ratio = fit_ratio(problem, moments, nodes, _prior_of(centre, problem.priors.least_omega), ratio)
    weight, basis = evaluate_nodes(problem, ratio.mean, moments, nodes), basis_of(nodes.log_scales)
    approximation = _approximate(problem.priors, log_medians, basis, weight, jnp.asarray(centre)[:, None])
    drawn = _draw(problem.priors, log_medians, nodes.log_scales, weight, approximation, seed, n_chains, n_draws)
    if drawn is None:
        return None
    eta, log_omega, diverging = drawn
    omega = np.exp(log_omega)
    flat = (eta.reshape(-1, len(log_medians)).T, log_omega.reshape(-1, len(log_medians)).T)
    predictive = predict(eta, omega, problem.priors.amplitude_sd)
    eta_mean, log_omega_mean = (jnp.asarray(part.mean(1)[:, None]) for part in flat)
    khat = pareto_k(np.asarray(weight + log_prior(basis, eta_mean, log_omega_mean, problem.priors.amplitude_sd)[0]))
    if len(features) >= ENOUGH_FEATURES:
        return Hyper(eta, omega, ratio, predictive, None, diverging, khat)
    marginal = jax.lax.map(
        lambda h: log_marginal(basis, weight, h[0], h[1], problem.priors.amplitude_sd),
        tuple(jnp.asarray(part.T[:, :, None]) for part in flat),
    )[:, 0].T
    return Hyper(eta, omega, ratio, predictive, np.asarray(marginal), diverging, khat)


def _draw(
    priors: Priors,
    log_medians: np.ndarray,
    log_scales: Array,
    weight: Array,
    approximation: Laplace,
    seed: int,
    n_chains: int,
    n_draws: int,
) -> tuple[np.ndarray, np.ndarray, int] | None:
    """Draws of eta and log omega (chain, draw, scale) and the number of divergences; None if chains do not mix.

    In single precision, for exponentials take the time; log-scales are counted from the mode of eta, and what a feature adds
    at the mode is taken from it, so that neither squares nor sums over features suffer.
    """
    n_scales = len(log_medians)
    mode, factor = np.asarray(approximation.mode)[:, 0], np.asarray(approximation.factor)[:, :, 0]
    zero, excess = mode[:n_scales].copy(), np.exp(mode[n_scales:])  # from log excess
    mode, factor = np.r_[np.zeros(n_scales), excess], factor * np.r_[np.ones(n_scales), excess][:, None]
    log_medians, basis = log_medians - zero, basis_of(log_scales - zero[:, None])
    key, key_around = jax.random.split(stage_key(seed, Stage.THIN))
    around = mode[:, None] + 1.5 * factor @ np.asarray(jax.random.normal(key_around, (2 * n_scales, 32)))
    n_kept = max(N_EVALUATIONS // weight.shape[1], LEAST_NODES)
    if n_kept < weight.shape[0]:
        basis, weight = thin_nodes(key, basis, weight, _parts(priors, jnp.asarray(around)), n_kept, priors.amplitude_sd)
    offset = log_marginal(basis, weight, *_parts(priors, jnp.asarray(mode)[:, None]), priors.amplitude_sd)[0]
    likelihood = tuple(np.asarray(part, np.float32) for part in (log_medians, basis, weight - offset))
    start = np.asarray(0.5 * jax.random.normal(stage_key(seed, Stage.START), (2 * n_scales, n_chains)))
    halves = np.array_split(np.arange(n_chains), 2)  # a thread each
    diverging, parts = 0, []

    def sample(some: np.ndarray) -> tuple[Array, Array]:
        with jax.enable_x64(False):  # the switch belongs to a thread
            whitening = (part.astype(np.float32) for part in (mode, factor, start[:, some]))
            drawn = _sample(priors, *likelihood, *whitening, keys[some], 0 if k else 50, STEP[min(k, 1)], n_draws)
            return jax.block_until_ready(drawn)

    for k in range(N_PARTS):  # another part as long as it may help
        keys = jax.random.split(jax.random.fold_in(stage_key(seed, Stage.HYPER), k), n_chains)
        with ThreadPoolExecutor() as pool:
            drawn = list(pool.map(sample, halves))
        parts.append(np.concatenate([np.asarray(position, float) for position, _ in drawn]))
        diverging += sum(int(failed) for _, failed in drawn)
        if k == 0:  # the draws tell the shape of the posterior better than its curvature at one point
            pooled = parts[0].reshape(-1, 2 * n_scales).copy()
            pooled[:, n_scales:] = np.abs(pooled[:, n_scales:])  # of either sign, it may have two modes
            covariance = np.cov(pooled.T)
            if not np.isfinite(covariance).all() or np.linalg.cond(covariance) > 1e12:  # stuck
                return None
            mode, factor = pooled.mean(0), np.linalg.cholesky(covariance)
        start = np.linalg.solve(factor, (parts[-1][:, -1] - mode).T)
        flat = jnp.moveaxis(np.concatenate(parts, axis=1), 2, 0)
        eta, log_omega = (np.moveaxis(np.asarray(part), 0, 2) for part in _parts(priors, flat))
        shared = np.concatenate([eta, log_omega], axis=2)[..., None]
        verdict = judge(shared, np.zeros((*shared.shape[:2], 1), bool))
        worst = verdict.rhat.max()
        if worst < MAX_RHAT and verdict.ess_bulk.min() > 1.25 * MIN_ESS:
            break
    return (eta + zero, log_omega, diverging) if worst < HOPELESS else None


def predict(eta: np.ndarray, omega: np.ndarray, amplitude_sd: float) -> Gaussian:
    """Mean and sd of the predictive prior of a feature's log-scales, their amplitude apart.

    Where features have an amplitude, a shift that all eta share cannot be told from it: that part of their uncertainty
    belongs to the amplitude, next to whose prior sd it is nothing, and would pass for a spread of every scale of its own.

    Parameters
    ----------
    eta, omega : (..., scale) arrays
        Draws.
    amplitude_sd : float
    """
    eta, omega = (draws.reshape(-1, draws.shape[-1]) for draws in (eta, omega))
    covariance = np.atleast_2d(np.cov(eta.T))
    common = 0.0
    if amplitude_sd:  # so that differences between scales are as uncertain as before, on average
        between = covariance[np.triu_indices(len(covariance), 1)]
        common = np.clip(between.mean(), 0, 1 / np.linalg.pinv(covariance).sum()) if len(between) else covariance[0, 0]
    return Gaussian(eta.mean(0), np.sqrt((omega**2).mean(0) + np.diag(covariance) - common))


def _prior_of(centre: np.ndarray, least_omega: float) -> Gaussian:
    eta, log_excess = np.split(centre, 2)
    return Gaussian(eta, np.hypot(np.exp(log_excess), least_omega))


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
    """Log posterior of (eta, excess), the excess of either sign, (2 × scale, lane) -> (lane,)."""
    eta, log_omega = _parts(priors, position)
    excess = position[len(eta) :]
    prior = -0.5 * (((eta - log_medians[:, None]) / priors.eta_sd) ** 2 + (excess / priors.omega_sd) ** 2).sum(0)
    return prior + log_marginal(basis, weight, eta, log_omega, priors.amplitude_sd).sum(1)


def _parts(priors: Priors, position: Array) -> tuple[Array, Array]:
    """eta and log omega of what is sampled, eta and excess."""
    eta, excess = jnp.split(position, 2)
    return eta, 0.5 * jnp.log(excess**2 + priors.least_omega**2)


@partial(jax.jit, static_argnums=0)
def _approximate(priors: Priors, log_medians: Array, basis: Array, weight: Array, start: Array) -> Laplace:
    """Of eta and log excess: by its logarithm, the mode of an excess is not at 0, and nodes around it are wide enough."""

    def log_density(position):
        eta, log_excess = jnp.split(position, 2)
        excess = jnp.concatenate([eta, jnp.exp(log_excess)])
        return _log_density(priors, log_medians, basis, weight, excess) + log_excess.sum(0)

    return fit_laplace(log_density, start, jnp.full(start.shape, 0.5))


@partial(jax.jit, static_argnums=(0, 10))
def _sample(priors, log_medians, basis, weight, mode, factor, start, keys, n_warmup, step_size, n_draws):
    """NUTS on whitened (eta, excess): draws (chain, draw, 2 × scale) and the number of divergences."""

    def potential(shared, _, z):
        log_medians, basis, weight, mode, factor = shared
        return -_log_density(priors, log_medians, basis, weight, mode[:, None] + factor @ z)

    draws = sample_lanes(
        potential,
        (log_medians, basis, weight, mode, factor),
        (),
        start,
        keys,
        n_warmup=n_warmup,
        n_draws=n_draws,
        step_size=step_size,
        max_tree_depth=5,
    )
    position = mode[:, None] + jnp.einsum("ij,djc->dic", factor, draws.position)
    return jnp.transpose(position, (2, 0, 1)), draws.diverging.sum()
