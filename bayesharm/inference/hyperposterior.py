"""The posterior of the hyperparameters given importance nodes of the features: its mode, and draws of it.

Draws come from importance sampling on all nodes where that can be trusted, as nearly always with hundreds of features:
thousands of densities at once are a few products of matrices. Else NUTS takes as many nodes as it can afford.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from bayesharm.algorithms.adaptive_importance import adaptive_importance_sampling
from bayesharm.algorithms.devices import working_on
from bayesharm.algorithms.diagnostics import MAX_RHAT, MIN_ESS, diagnose
from bayesharm.algorithms.laplace import Laplace, fit_laplace
from bayesharm.algorithms.nuts import sample_batched
from bayesharm.algorithms.random_streams import Stage, stage_key
from bayesharm.inference.importance import log_marginal, log_prior, quadratic_features, subsample
from bayesharm.likelihood.problem import Gaussian
from bayesharm.model.spec import Priors

Array = jax.Array
N_DRAWS, BATCH = 250, 512  # of each chain by importance sampling, whose densities come in batches
N_EVALUATIONS = 2**17  # nodes × features for NUTS; of each feature at least, and at most
LEAST_NODES, MOST_NODES = 128, 1024
STEP, SHORT_STEP = 0.6, 0.4  # of whitened coordinates; the latter for few features, whose posterior is less Gaussian
POOR = 0.2  # effective draws a draw: with fewer, draws count as warm-up, and steps become shorter
SHORTER = 0.7
N_PARTS = 14  # of the chains, at most
ENOUGH_FEATURES = 128  # from so many on the hyperparameters are known well: their posterior is near a Gaussian
HOPELESS = 1.3  # R-hat from which more of the same does not help
MAX_KHAT = 0.5  # of importance sampling, where NUTS could take all nodes instead; else what is still right


class Target(NamedTuple):
    """The posterior of (eta, excess), and where to look for it.

    Attributes
    ----------
    log_medians : (scale,) array
    basis, weight : (2 × scale, node, feature), (node, feature) arrays
    mode : (2 × scale,) array
    factor : (2 × scale, 2 × scale) array
    """

    log_medians: np.ndarray
    basis: Array
    weight: Array
    mode: np.ndarray
    factor: np.ndarray


class HyperDraws(NamedTuple):
    """Draws of the hyperparameters.

    Attributes
    ----------
    eta, log_omega : (chain, draw, scale) arrays
    diverging : int
    importance : tuple of float
        Pareto-k and effective points of importance sampling; NaN of other draws.
    """

    eta: np.ndarray
    log_omega: np.ndarray
    diverging: int = 0
    importance: tuple[float, float] = (np.nan, np.nan)


@partial(jax.jit, static_argnums=0)
def approximate(priors: Priors, log_medians: Array, basis: Array, weight: Array, start: Array) -> Laplace:
    """Of eta and log excess: by its logarithm, the mode of an excess is not at 0, and nodes around it are wide enough."""

    def log_density(position):
        eta, log_excess = jnp.split(position, 2)
        excess = jnp.concatenate([eta, jnp.exp(log_excess)])
        return _log_density(priors, log_medians, basis, weight, excess) + log_excess.sum(0)

    return fit_laplace(log_density, start, jnp.full(start.shape, 0.5))


def draw_approximation(priors: Priors, approximation: Laplace, seed: int, n_chains: int, n_draws: int) -> HyperDraws:
    """Draws of the Laplace approximation of (eta, log excess)."""
    mode, factor = approximation.mode[:, 0], approximation.factor[:, :, 0]
    z = jax.random.normal(stage_key(seed, Stage.HYPER), (n_chains, n_draws, len(mode)))
    eta, log_excess = np.split(np.asarray(mode + z @ factor.T), 2, axis=2)
    return HyperDraws(eta, 0.5 * np.log(np.exp(2 * log_excess) + priors.omega_floor**2))


def sample_hyperposterior(
    priors: Priors,
    log_medians: np.ndarray,
    log_scales: Array,
    weight: Array,
    approximation: Laplace,
    seed: int,
    n_chains: int,
    n_draws: int,
) -> HyperDraws | None:
    """Draws of the posterior; None if importance sampling fails and chains do not mix.

    In single precision, for exponentials take the time; log-scales are counted from the mode of eta, and what a feature adds
    at the mode is taken from it, so that neither squares nor sums over features suffer. The excess is sampled as it is and
    not by its logarithm: where the data hardly tell it from 0, it is nearer to a Gaussian.
    """
    n_scales = len(log_medians)
    mode, factor = np.asarray(approximation.mode)[:, 0], np.asarray(approximation.factor)[:, :, 0]
    zero, excess = mode[:n_scales].copy(), np.exp(mode[n_scales:])  # from log excess
    mode, factor = np.r_[np.zeros(n_scales), excess], factor * np.r_[np.ones(n_scales), excess][:, None]
    log_medians, basis = log_medians - zero, quadratic_features((log_scales - zero[:, None]).astype(jnp.float32))
    offset = log_marginal(basis, weight, *_parts(priors, jnp.asarray(mode)[:, None]), priors.feature_offset_sd)[0]
    weight = (weight - offset).astype(jnp.float32)
    target = Target(log_medians, basis, weight, mode, factor)
    found = _weigh(priors, target, seed, n_chains) or _run_chains(priors, target, seed, n_chains, n_draws)
    if found is None:
        return None
    positions, diverging, importance = found
    eta, log_omega = (np.moveaxis(np.asarray(part), 0, 2) for part in _parts(priors, jnp.moveaxis(positions, 2, 0)))
    return HyperDraws(eta + zero, log_omega, diverging, importance)


def _weigh(priors: Priors, target: Target, seed: int, n_chains: int) -> tuple[np.ndarray, int, tuple[float, float]] | None:
    """Draws of (eta, excess) by importance sampling on all nodes, (chain, draw, 2 × scale); None where it fails."""
    (log_medians, basis, weight, mode, factor), device = target, jax.config.jax_default_device

    def in_single(part: Array | np.ndarray) -> Array:
        with working_on(device, "float32"):
            return jnp.asarray(np.asarray(part, np.float32))

    known = in_single(log_medians), in_single(jnp.moveaxis(basis, 2, 0)), in_single(weight.T)

    def log_density(points: np.ndarray) -> np.ndarray:
        batches = np.split(points, range(BATCH, points.shape[1], BATCH), axis=1)
        with working_on(device, "float32"):
            return np.concatenate([_log_densities(priors, *known, in_single(batch)) for batch in batches])

    rng = np.random.default_rng([seed, Stage.HYPER])
    found = adaptive_importance_sampling(
        log_density, mode, factor, rng, MAX_KHAT if _affordable(weight) == len(weight) else 0.7
    )
    draws = found.draw(n_chains * N_DRAWS, rng).reshape(n_chains, N_DRAWS, -1)
    return (draws, 0, (found.khat, found.n_effective)) if found.good else None


@partial(jax.jit, static_argnums=0)
def _log_densities(priors: Priors, log_medians: Array, basis: Array, weight: Array, positions: Array) -> Array:
    """:func:`_log_density` of many at once, nothing for an excess below 0; nodes are (feature, 2 × scale, node)."""
    parts = _parts(priors, positions)

    def add(total, feature):
        basis, weight = feature
        return total + logsumexp(weight + log_prior(basis, *parts, priors.feature_offset_sd), axis=1), None

    total, _ = jax.lax.scan(add, jnp.zeros_like(positions[0]), (basis, weight))
    eta, excess = jnp.split(positions, 2)
    return jnp.where((excess > 0).all(0), total + _log_hyperprior(priors, log_medians, eta, excess), -jnp.inf)


def _run_chains(
    priors: Priors, target: Target, seed: int, n_chains: int, n_draws: int
) -> tuple[np.ndarray, int, tuple[float, float]] | None:
    """Draws of (eta, excess of either sign) by NUTS, (chain, draw, 2 × scale), and divergences; None if they do not mix."""
    log_medians, basis, weight, mode, factor = target
    n_scales = len(log_medians)
    key, key_around = jax.random.split(stage_key(seed, Stage.THIN))
    around = mode[:, None] + 1.5 * factor @ np.asarray(jax.random.normal(key_around, (2 * n_scales, 32)))
    if (n_kept := _affordable(weight)) < len(weight):
        nodes, told = (basis.astype(float), weight.astype(float)), _parts(priors, jnp.asarray(around))
        basis, weight = subsample(key, *nodes, told, n_kept, priors.feature_offset_sd)
    likelihood = tuple(np.asarray(part, np.float32) for part in (log_medians, basis, weight))
    start = np.asarray(0.5 * jax.random.normal(stage_key(seed, Stage.START), (2 * n_scales, n_chains)))
    halves = np.array_split(np.arange(n_chains), 2)  # a thread each
    device, diverging = jax.config.jax_default_device, 0
    parts: list[np.ndarray] = []

    def sample(some: np.ndarray) -> tuple[Array, Array]:
        with working_on(device, "float32"):
            whitening = (part.astype(np.float32) for part in (mode, factor, start[:, some]))
            drawn = _sample(priors, *likelihood, *whitening, keys[some], 0 if k else 50, step_size, n_draws)
            return jax.block_until_ready(drawn)

    step_size = STEP
    for k in range(N_PARTS):  # another part as long as it may help
        keys = jax.random.split(jax.random.fold_in(stage_key(seed, Stage.HYPER), k), n_chains)
        with ThreadPoolExecutor() as pool:
            drawn = list(pool.map(sample, halves))
        parts.append(np.concatenate([np.asarray(position, float) for position, _ in drawn]))
        diverging += sum(int(failed) for _, failed in drawn)
        positions, last = np.concatenate(parts, axis=1), parts[-1][:, -1]
        eta, log_omega = (np.moveaxis(np.asarray(part), 0, 2) for part in _parts(priors, jnp.moveaxis(positions, 2, 0)))
        shared = np.concatenate([eta, log_omega], axis=2)[..., None]
        verdict = diagnose(shared, np.zeros((*shared.shape[:2], 1), bool))
        worst, n_effective = verdict.rhat.max(), np.nan_to_num(verdict.ess_bulk.min())
        if worst < MAX_RHAT and n_effective > 1.25 * MIN_ESS:
            break
        poor = n_effective < POOR * n_chains * positions.shape[1]
        if k == 0 or poor:  # draws tell the shape of the posterior better than its curvature at one point
            pooled = positions.reshape(-1, 2 * n_scales).copy()
            pooled[:, n_scales:] = np.abs(pooled[:, n_scales:])  # of either sign, it may have two modes
            covariance = np.cov(pooled.T)
            if not np.isfinite(covariance).all() or np.linalg.cond(covariance) > 1e12:  # stuck
                return None
            mode, factor = pooled.mean(0), np.linalg.cholesky(covariance)
        if poor and k < N_PARTS // 2:  # what has not moved was warm-up
            step_size, diverging, parts = step_size * SHORTER, 0, []
        elif k == 0 and weight.shape[1] < ENOUGH_FEATURES:
            step_size = min(step_size, SHORT_STEP)
        start = np.linalg.solve(factor, (last - mode).T)
    return (positions, diverging, (np.nan, np.nan)) if worst < HOPELESS else None


def _affordable(weight: Array) -> int:
    """How many of the nodes of each feature NUTS takes."""
    return min(len(weight), int(np.clip(N_EVALUATIONS // weight.shape[1], LEAST_NODES, MOST_NODES)))


def predict(eta: np.ndarray, omega: np.ndarray, feature_offset_sd: float) -> Gaussian:
    """Mean and sd of the predictive prior of a feature's log-scales, their amplitude apart.

    Where features have an amplitude, a shift that all eta share cannot be told from it: that part of their uncertainty
    belongs to the amplitude, next to whose prior sd it is nothing, and would pass for a spread of every scale of its own.

    Parameters
    ----------
    eta, omega : (..., scale) arrays
        Draws.
    feature_offset_sd : float
    """
    eta, omega = (draws.reshape(-1, draws.shape[-1]) for draws in (eta, omega))
    covariance = np.atleast_2d(np.cov(eta.T))
    common = 0.0
    if feature_offset_sd:  # so that differences between scales are as uncertain as before, on average
        between = covariance[np.triu_indices(len(covariance), 1)]
        common = np.clip(between.mean(), 0, 1 / np.linalg.pinv(covariance).sum()) if len(between) else covariance[0, 0]
    return Gaussian(eta.mean(0), np.sqrt((omega**2).mean(0) + np.diag(covariance) - common))


def _log_density(priors: Priors, log_medians: Array | np.ndarray, basis: Array, weight: Array, position: Array) -> Array:
    """Log posterior of (eta, excess), the excess of either sign, (2 × scale, lane) -> (lane,)."""
    likelihood = log_marginal(basis, weight, *_parts(priors, position), priors.feature_offset_sd).sum(1)
    return likelihood + _log_hyperprior(priors, log_medians, *jnp.split(position, 2))


def _log_hyperprior(priors: Priors, log_medians: Array | np.ndarray, eta: Array, excess: Array) -> Array:
    return -0.5 * (((eta - log_medians[:, None]) / priors.eta_sd) ** 2 + (excess / priors.omega_sd) ** 2).sum(0)


def _parts(priors: Priors, position: Array) -> tuple[Array, Array]:
    """eta and log omega of what is sampled, eta and excess."""
    eta, excess = jnp.split(position, 2)
    return eta, 0.5 * jnp.log(excess**2 + priors.omega_floor**2)


@partial(jax.jit, static_argnums=(0, 10))
def _sample(priors, log_medians, basis, weight, mode, factor, start, keys, n_warmup, step_size, n_draws):
    """NUTS on whitened (eta, excess): draws (chain, draw, 2 × scale) and the number of divergences."""

    def potential(shared, _, z):
        log_medians, basis, weight, mode, factor = shared
        return -_log_density(priors, log_medians, basis, weight, mode[:, None] + factor @ z)

    draws = sample_batched(
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
