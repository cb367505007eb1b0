"""Adaptive multiple importance sampling (AMIS; Cornuet, Marin, Mira & Robert, *Scand. J. Statist.* 39, 2012).

For a density of few dimensions that is cheap to evaluate at many points at once: weighted points, and the integral of the
density.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from bayesharm.algorithms.diagnostics import pareto_k
from bayesharm.algorithms.student_t import draw_one, log_density_of_one


@dataclass(frozen=True)
class ImportanceSettings:
    """Size of the sample, and when it is reliable.

    Attributes
    ----------
    n_points : int
        Points of each round.
    max_rounds : int
        Maximum number of rounds.
    min_ess : float
        Effective sample size that ends the rounds; twice the 1,000 points that are resampled as draws.
    max_khat : float
        Largest Pareto-k of a reliable sample. Up to 0.5 the weights have a finite variance; up to 0.7 averages still
        converge, but slowly (Vehtari et al., *JMLR* 25, 2024).
    """

    n_points: int = 2048
    max_rounds: int = 8
    min_ess: float = 2000
    max_khat: float = 0.5


class WeightedSample(NamedTuple):
    """Weighted points.

    Attributes
    ----------
    points : (point, dimension) array
    weight : (point,) array
        Sum to 1.
    khat : float
        Pareto-k of the weights before truncation.
    ess : float
        Effective sample size of the weights before truncation, 1 / Σ w².
    log_evidence : float
        Log integral of the density: the evidence, if the density is a likelihood times a prior.
    is_reliable : bool
        Whether `khat` and `ess` are within the settings, so that averages over the points can be trusted.
    """

    points: np.ndarray
    weight: np.ndarray
    khat: float
    ess: float
    log_evidence: float
    is_reliable: bool

    def draw(self, n_draws: int, rng: np.random.Generator) -> np.ndarray:
        """Draw points by their weights (systematic resampling) in random order, (draw, dimension)."""
        ticks = (rng.random() + np.arange(n_draws)) / n_draws
        chosen = np.minimum(np.searchsorted(np.cumsum(self.weight), ticks), len(self.weight) - 1)
        return self.points[rng.permutation(chosen)]


def adaptive_importance_sampling(
    log_density: Callable[[np.ndarray], np.ndarray],
    mean: np.ndarray,
    factor: np.ndarray,
    rng: np.random.Generator,
    settings: ImportanceSettings = ImportanceSettings(),
) -> WeightedSample:
    """Sample a density by rounds of importance sampling whose Student-t proposal adapts to the points so far.

    Each round moves the proposal to the weighted mean and covariance of all points. Points of all rounds are kept, and
    weighted as draws from the mixture of all proposals. While the effective sample size is small, the covariance is
    averaged with the one before.

    Parameters
    ----------
    log_density : callable
        (dimension, point) array -> (point,) array, up to a constant; -inf is allowed.
    mean : (dimension,) array
    factor : (dimension, dimension) array
        Lower Cholesky factor of the first scale matrix.
    rng : numpy.random.Generator
    settings : ImportanceSettings

    Returns
    -------
    WeightedSample
        Not reliable if no proposal covered the density, or the density is nowhere finite. If there are several distant
        modes, the sample may cover only the nearest one.
    """
    n = len(mean)
    proposals: list[tuple[np.ndarray, np.ndarray]] = []
    rounds: list[np.ndarray] = []
    log_target = np.zeros(0)
    while True:
        proposals.append((mean, factor))
        rounds.append(draw_one(settings.n_points, mean, factor, rng))
        value = np.asarray(log_density(rounds[-1].T), float)
        log_target = np.r_[log_target, np.where(np.isfinite(value), value, -np.inf)]
        points = np.concatenate(rounds)
        if np.isfinite(log_target).sum() <= 2 * n:
            return WeightedSample(points, np.full(len(points), 1 / len(points)), np.inf, 0.0, -np.inf, False)
        log_mixture = logsumexp([log_density_of_one(points, *proposal) for proposal in proposals], axis=0)
        sample = _weigh(points, log_target - log_mixture, settings)
        if sample.is_reliable or len(rounds) == settings.max_rounds:
            return sample
        mean = sample.weight @ points
        away = points - mean
        share = 2 * n / (2 * n + sample.ess)
        factor = np.linalg.cholesky(share * (factor @ factor.T) + (1 - share) * (away.T * sample.weight) @ away)


def _weigh(points: np.ndarray, log_weight: np.ndarray, settings: ImportanceSettings) -> WeightedSample:
    """Normalize and truncate weights, whose proposal density is a sum over rounds.

    Weights above their mean times the square root of their number are truncated there (Ionides, *J. Comput. Graph. Stat.*
    17, 2008).
    """
    weight = np.exp(log_weight - logsumexp(log_weight))
    khat, ess = float(pareto_k(log_weight[np.isfinite(log_weight)][:, None])[0]), 1 / (weight**2).sum()
    weight = np.minimum(weight, len(weight) ** -0.5)
    log_evidence = float(logsumexp(log_weight) - np.log(settings.n_points)) + np.log(weight.sum())
    weight /= weight.sum()
    return WeightedSample(
        points, weight, khat, ess, log_evidence, bool(khat < settings.max_khat and ess >= settings.min_ess)
    )
