"""Did the chains of each feature agree? Arrays in, arrays out, for thousands of features at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpyro.diagnostics import effective_sample_size, gelman_rubin
from scipy.special import ndtri

MAX_RHAT = 1.01
MIN_ESS = 400.0


class Diagnostics(NamedTuple):
    """Convergence of a block of features.

    Attributes
    ----------
    rhat, ess_bulk : (scale, feature) arrays
    divergences : (feature,) int array
    converged : (feature,) bool array
    """

    rhat: np.ndarray
    ess_bulk: np.ndarray
    divergences: np.ndarray
    converged: np.ndarray


def diagnose(log_scales: np.ndarray, diverging: np.ndarray, min_ess: float = MIN_ESS) -> Diagnostics:
    """Bulk R-hat (rank-normalized, split) and bulk effective sample size (Vehtari et al., *Bayesian Analysis* 16, 2021).

    Parameters
    ----------
    log_scales : (chain, draw, scale, feature) array
    diverging : (chain, draw, feature) bool array
    min_ess : float
        Bulk effective draws that a feature must have to count as converged.
    """
    half = log_scales.shape[1] // 2
    halves = np.concatenate([log_scales[:, :half], log_scales[:, -half:]])
    # draws side by side in memory are sorted and transformed several times as fast
    pooled = np.ascontiguousarray(halves.reshape(-1, log_scales[0, 0].size).T)
    score = ndtri((np.arange(pooled.shape[1]) + 0.625) / (pooled.shape[1] + 0.25))  # of ranks
    normal = np.empty(pooled.shape)
    np.put_along_axis(normal, np.argsort(pooled, axis=1), score[None], axis=1)
    normal = normal.reshape(-1, *halves.shape[:2]).transpose(1, 2, 0)
    rhat, ess = (f(normal).reshape(log_scales.shape[2:]) for f in (gelman_rubin, effective_sample_size))
    finite = np.isfinite(log_scales).all(axis=(0, 1, 2))
    rhat, ess = np.where(finite, rhat, np.nan), np.where(finite, ess, np.nan)
    divergences = diverging.sum(axis=(0, 1))
    converged = (rhat < MAX_RHAT).all(0) & (ess >= min_ess).all(0) & (divergences == 0)
    return Diagnostics(rhat, ess, divergences, converged)


def quantiles(draws: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """What ``numpy.quantile(draws, shares, axis=0)`` gives, several times as fast.

    Parameters
    ----------
    draws : (draw, ...) array
    shares : sequence of float
    """
    ordered = np.sort(np.ascontiguousarray(draws.reshape(len(draws), -1).T), axis=1)
    at = np.asarray(shares) * (len(draws) - 1)
    below = at.astype(int)
    above = np.minimum(below + 1, len(draws) - 1)
    found = ordered[:, below] + (at - below) * (ordered[:, above] - ordered[:, below])
    found = np.where(np.isnan(ordered[:, -1:]), np.nan, found)
    return found.T.reshape(len(at), *draws.shape[1:])


def pareto_k(log_ratios: np.ndarray) -> np.ndarray:
    """Shape of the upper tail of importance ratios: above 0.7 the proposal misses part of the posterior.

    Zhang & Stephens' (*Technometrics* 51, 2009) posterior mean, as in Vehtari et al. (*JMLR* 25, 2024), for all
    features at once.

    Parameters
    ----------
    log_ratios : (node, feature) array

    Returns
    -------
    (feature,) array
        NaN where the ratios are not finite.
    """
    n_nodes = len(log_ratios)
    n_tail = n_nodes // 5 if n_nodes <= 225 else int(np.ceil(3 * np.sqrt(n_nodes)))
    n_grid = 30 + int(np.sqrt(n_tail))
    grid = 1 - np.sqrt(n_grid / (np.arange(1, n_grid + 1) - 0.5))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ordered = np.sort(log_ratios - log_ratios.max(axis=0), axis=0)
        tail = np.exp(ordered[-n_tail:]) - np.exp(ordered[-n_tail - 1])  # (tail, feature), ascending
        quartile = tail[int(n_tail / 4 + 0.5) - 1]
        theta = grid[:, None] / (3 * quartile) + 1 / tail[-1]
        k = np.log1p(-theta[:, None] * tail).mean(axis=1)
        profile = n_tail * (np.log(-theta / k) - k - 1)
        weight = 1 / np.exp(profile[None] - profile[:, None]).sum(axis=1)
        shape = np.log1p(-(weight * theta).sum(0) / weight.sum(0) * tail).mean(axis=0)
    return (shape * n_tail + 5) / (n_tail + 10)
