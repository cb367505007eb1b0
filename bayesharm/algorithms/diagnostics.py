"""Convergence diagnostics of thousands of posteriors at once: R-hat, effective sample size, Pareto-k, quantiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

from bayesharm.algorithms.numpyro_parts import effective_sample_size, gelman_rubin

MAX_RHAT = 1.01  # the limit that Vehtari et al. (2021) recommend
MIN_ESS = 400.0  # bulk effective sample size, likewise: 100 for each of four chains


class Diagnostics(NamedTuple):
    """Convergence of a batch of posteriors.

    Attributes
    ----------
    rhat, ess_bulk : (dimension, batch) arrays
    divergences : (batch,) int array
    converged : (batch,) bool array
    """

    rhat: np.ndarray
    ess_bulk: np.ndarray
    divergences: np.ndarray
    converged: np.ndarray


def diagnose(draws: np.ndarray, diverging: np.ndarray, min_ess: float = MIN_ESS, max_rhat: float = MAX_RHAT) -> Diagnostics:
    """Compute bulk R-hat (rank-normalized, split) and bulk effective sample size.

    Definitions: Vehtari, Gelman, Simpson, Carpenter & Bürkner, *Bayesian Analysis* 16, 2021.

    Parameters
    ----------
    draws : (chain, draw, dimension, batch) array
    diverging : (chain, draw, batch) bool array
    min_ess : float
        Smallest bulk effective sample size of a converged posterior.
    max_rhat : float
        Its largest R-hat.
    """
    half = draws.shape[1] // 2
    halves = np.concatenate([draws[:, :half], draws[:, -half:]])
    # draws that are contiguous in memory are sorted and transformed several times as fast
    pooled = np.ascontiguousarray(halves.reshape(-1, draws[0, 0].size).T)
    score = ndtri((np.arange(pooled.shape[1]) + 0.625) / (pooled.shape[1] + 0.25))  # of ranks
    normal = np.empty(pooled.shape)
    np.put_along_axis(normal, np.argsort(pooled, axis=1), score[None], axis=1)
    normal = normal.reshape(-1, *halves.shape[:2]).transpose(1, 2, 0)
    rhat, ess = (f(normal).reshape(draws.shape[2:]) for f in (gelman_rubin, effective_sample_size))
    is_finite = np.isfinite(draws).all(axis=(0, 1, 2))
    rhat, ess = np.where(is_finite, rhat, np.nan), np.where(is_finite, ess, np.nan)
    divergences = diverging.sum(axis=(0, 1))
    converged = (rhat < max_rhat).all(0) & (ess >= min_ess).all(0) & (divergences == 0)
    return Diagnostics(rhat, ess, divergences, converged)


def quantiles(draws: np.ndarray, probabilities: Sequence[float]) -> np.ndarray:
    """Return ``numpy.quantile(draws, probabilities, axis=0)``, computed several times as fast.

    Parameters
    ----------
    draws : (draw, ...) array
    probabilities : sequence of float
    """
    ordered = np.sort(np.ascontiguousarray(draws.reshape(len(draws), -1).T), axis=1)
    rank = np.asarray(probabilities) * (len(draws) - 1)
    below = rank.astype(int)
    above = np.minimum(below + 1, len(draws) - 1)
    values = ordered[:, below] + (rank - below) * (ordered[:, above] - ordered[:, below])
    values = np.where(np.isnan(ordered[:, -1:]), np.nan, values)
    return values.T.reshape(len(rank), *draws.shape[1:])


def pareto_k(log_weights: np.ndarray) -> np.ndarray:
    """Estimate the tail shape of importance weights; above 0.7 the proposal misses part of the target.

    The posterior mean of Zhang & Stephens (*Technometrics* 51, 2009), regularized as in Vehtari et al. (*JMLR* 25,
    2024), for all columns at once.

    Parameters
    ----------
    log_weights : (sample, batch) array

    Returns
    -------
    (batch,) array
        NaN where weights are not finite.
    """
    n_samples = len(log_weights)
    n_tail = n_samples // 5 if n_samples <= 225 else int(np.ceil(3 * np.sqrt(n_samples)))
    n_grid = 30 + int(np.sqrt(n_tail))
    grid = 1 - np.sqrt(n_grid / (np.arange(1, n_grid + 1) - 0.5))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ordered = np.sort(log_weights - log_weights.max(axis=0), axis=0)
        tail = np.exp(ordered[-n_tail:]) - np.exp(ordered[-n_tail - 1])  # (tail, batch), ascending
        quartile = tail[int(n_tail / 4 + 0.5) - 1]
        theta = grid[:, None] / (3 * quartile) + 1 / tail[-1]
        k = np.log1p(-theta[:, None] * tail).mean(axis=1)
        profile = n_tail * (np.log(-theta / k) - k - 1)
        weight = 1 / np.exp(profile[None] - profile[:, None]).sum(axis=1)
        shape = np.log1p(-(weight * theta).sum(0) / weight.sum(0) * tail).mean(axis=0)
    return (shape * n_tail + 5) / (n_tail + 10)
