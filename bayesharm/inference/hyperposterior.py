"""Draws of the hyperposterior: the posterior of eta and omega given importance samples of the features.

Importance sampling on all samples is used wherever it is reliable, as nearly always with hundreds of features: thousands of
densities at once are a few matrix products. Otherwise NUTS takes as many samples of each feature as it can afford.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from bayesharm.algorithms.adaptive_importance import ImportanceSettings
from bayesharm.algorithms.diagnostics import MAX_RHAT, MIN_ESS
from bayesharm.algorithms.laplace import Laplace
from bayesharm.algorithms.random_streams import Stage, stage_key
from bayesharm.inference.hyper_chains import SCHEDULE, ChainSampler, affordable_samples, split_draws, subsampled
from bayesharm.inference.hyper_target import CenteredTarget, HyperTarget, center_target, sample_by_importance
from bayesharm.likelihood.problem import Gaussian
from bayesharm.model.spec import Priors

N_DRAWS = 250  # draws of each chain by importance sampling
MAX_KHAT = 0.5  # of importance sampling where NUTS can use all samples of each feature
TOLERATED_KHAT = 0.7  # where it cannot: the samples that NUTS would leave out matter more (`benchmarks/hyper.py`)


class HyperDraws(NamedTuple):
    """Draws of the hyperparameters.

    Attributes
    ----------
    eta, log_omega : (chain, draw, scale) arrays
    diverging : int
    importance : tuple of float
        Pareto-k and effective sample size of importance sampling; NaN of other draws.
    """

    eta: np.ndarray
    log_omega: np.ndarray
    diverging: int = 0
    importance: tuple[float, float] = (np.nan, np.nan)


class PositionDraws(NamedTuple):
    """Draws of eta and omega_excess, counted from the origin of a centered target, (chain, draw, 2 × scale)."""

    positions: np.ndarray
    diverging: int = 0
    importance: tuple[float, float] = (np.nan, np.nan)


def draw_approximation(priors: Priors, approximation: Laplace, seed: int, n_chains: int, n_draws: int) -> HyperDraws:
    """Draw from the Laplace approximation of eta and log omega_excess."""
    mode, factor = approximation.mode[:, 0], approximation.factor[:, :, 0]
    z = jax.random.normal(stage_key(seed, Stage.HYPER), (n_chains, n_draws, len(mode)))
    eta, log_omega_excess = np.split(np.asarray(mode + z @ factor.T), 2, axis=2)
    return HyperDraws(eta, 0.5 * np.log(np.exp(2 * log_omega_excess) + priors.omega_floor**2))


def sample_hyperposterior(
    priors: Priors, target: HyperTarget, approximation: Laplace, seed: int, n_chains: int, n_draws: int
) -> HyperDraws | None:
    """Draw from the hyperposterior; None if importance sampling fails and the chains of NUTS do not mix.

    The draws carry two errors: the marginal likelihoods are importance-sampling estimates, and densities are computed in
    single precision.

    Parameters
    ----------
    priors : Priors
    target : HyperTarget
    approximation : Laplace
        From :func:`bayesharm.inference.hyper_target.find_mode`.
    seed, n_chains : int
    n_draws : int
        Draws of each chain in a segment of NUTS.
    """
    centered = center_target(priors, target, approximation, np.float32)
    draws = _draw_by_importance(priors, centered, seed, n_chains) or _draw_by_nuts(priors, centered, seed, n_chains, n_draws)
    if draws is None:
        return None
    eta, log_omega = split_draws(priors, draws.positions)
    return HyperDraws(eta + centered.origin, log_omega, draws.diverging, draws.importance)


def _draw_by_importance(priors: Priors, centered: CenteredTarget, seed: int, n_chains: int) -> PositionDraws | None:
    """Draw by importance sampling on all samples of each feature; None if it is not reliable."""
    _, n_samples, n_features = centered.target.log_weights.shape
    max_khat = MAX_KHAT if affordable_samples(n_samples, n_features) == n_samples else TOLERATED_KHAT
    rng = np.random.default_rng([seed, Stage.HYPER])
    sums = centered._replace(target=centered.target._replace(log_n_samples=0.0))  # not means: a constant, up to rounding
    sample = sample_by_importance(priors, sums, rng, ImportanceSettings(max_khat=max_khat))
    positions = sample.draw(n_chains * N_DRAWS, rng).reshape(n_chains, N_DRAWS, -1)  # independent draws, dealt into chains
    return PositionDraws(positions, 0, (sample.khat, sample.ess)) if sample.is_reliable else None


def _draw_by_nuts(priors: Priors, centered: CenteredTarget, seed: int, n_chains: int, n_draws: int) -> PositionDraws | None:
    """Draw by NUTS, segment by segment until the chains have converged; None if they do not mix."""
    target = jax.tree.map(lambda part: np.asarray(part, np.float32), subsampled(priors, centered, seed))
    sampler = ChainSampler(priors, target, seed, n_chains, n_draws)
    state = sampler.initial(centered)
    for segment in range(SCHEDULE.max_segments):
        state = sampler.extend(state, segment)
        rhat, ess = sampler.convergence(state)
        if rhat < MAX_RHAT and ess > SCHEDULE.ess_margin * MIN_ESS:
            break
        if (adapted := sampler.adapt(state, segment, ess)) is None:
            return None
        state = adapted
    return PositionDraws(state.positions, state.diverging) if rhat < SCHEDULE.hopeless_rhat else None


def predictive_moments(eta: np.ndarray, omega: np.ndarray, feature_offset_sd: float) -> Gaussian:
    """Compute mean and sd of the predictive prior of a feature's log-scales, without the feature offset.

    Where features have an offset, a shift of all eta together cannot be distinguished from it. That part of the
    uncertainty of eta is left to the offset, beside whose prior sd it is negligible; otherwise it would widen the prior of
    every single scale.

    Parameters
    ----------
    eta, omega : (..., scale) arrays
        Draws.
    feature_offset_sd : float
    """
    eta, omega = (draws.reshape(-1, draws.shape[-1]) for draws in (eta, omega))
    covariance = np.atleast_2d(np.cov(eta.T))
    common = 0.0
    if feature_offset_sd:
        # the mean covariance: differences between scales stay as uncertain, on average. At most 1 / (1ᵀΣ⁻¹1), so that
        # Σ − common·11ᵀ remains a covariance matrix
        between = covariance[np.triu_indices(len(covariance), 1)]
        common = np.clip(between.mean(), 0, 1 / np.linalg.pinv(covariance).sum()) if len(between) else covariance[0, 0]
    return Gaussian(eta.mean(0), np.sqrt((omega**2).mean(0) + np.diag(covariance) - common))
