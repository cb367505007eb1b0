"""Adaptive multiple importance sampling: draws of a few numbers whose density is known where many are asked for at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import gammaln, logsumexp

from bayesharm.algorithms.diagnostics import pareto_k

DEGREES_OF_FREEDOM = 7
N_POINTS = 2048  # of a round
N_ROUNDS = 8  # at most
ENOUGH = 2000  # effective points


class WeightedSample(NamedTuple):
    """What importance sampling found.

    Attributes
    ----------
    points : (point, dimension) array
    weight : (point,) array
        They add up to 1.
    khat : float
        Pareto-k of the weights, before the largest are cut.
    n_effective : float
        Independent draws that the points were worth by these.
    log_evidence : float
        log of the integral of the density: its evidence, if it is a likelihood times a prior.
    good : bool
        Whether averages over the points can be relied upon.
    """

    points: np.ndarray
    weight: np.ndarray
    khat: float
    n_effective: float
    log_evidence: float
    good: bool

    def draw(self, n_draws: int, rng: np.random.Generator) -> np.ndarray:
        """Points drawn by their weights (systematic resampling), in random order, (draw, dimension)."""
        ticks = (rng.random() + np.arange(n_draws)) / n_draws
        chosen = np.minimum(np.searchsorted(np.cumsum(self.weight), ticks), len(self.weight) - 1)
        return self.points[rng.permutation(chosen)]


def adaptive_importance_sampling(
    log_density: Callable[[np.ndarray], np.ndarray],
    mean: np.ndarray,
    factor: np.ndarray,
    rng: np.random.Generator,
    max_khat: float = 0.5,
    n_rounds: int = N_ROUNDS,
    enough: int = ENOUGH,
) -> WeightedSample:
    """Importance sampling whose proposal, a Student-t, takes on mean and covariance of what it has found.

    The points of all rounds are kept, and weighed as if drawn from the mixture of all proposals (Cornuet, Marin, Mira &
    Robert, *Scandinavian Journal of Statistics* 39, 2012), but those above their mean times the square root of their number
    are cut (Ionides, *Journal of Computational and Graphical Statistics* 17, 2008). While effective points are few, their
    covariance is averaged with the one before.

    Parameters
    ----------
    log_density : callable
        (dimension, point) array -> (point,) array, but for a constant; -inf is allowed.
    mean : (dimension,) array
    factor : (dimension, dimension) array
        Lower Cholesky factor of a covariance to begin with.
    rng : numpy.random.Generator
    max_khat : float
        Up to 0.5 weights have a variance; up to 0.7 averages are still right, but slowly.
    n_rounds, enough : int
        At most so many rounds, until there are enough effective points.

    Returns
    -------
    Weighed
        Not `good` where the proposal never came near, or the density is nowhere finite. Of modes far from one another it
        may know only the one where it began.
    """
    n = len(mean)
    proposals: list[tuple[np.ndarray, np.ndarray]] = []
    rounds: list[np.ndarray] = []
    log_target = np.zeros(0)
    while True:
        proposals.append((mean, factor))
        radii = np.sqrt(DEGREES_OF_FREEDOM / rng.chisquare(DEGREES_OF_FREEDOM, N_POINTS))
        rounds.append(mean + (rng.normal(size=(N_POINTS, n)) * radii[:, None]) @ factor.T)
        value = np.asarray(log_density(rounds[-1].T), float)
        log_target = np.r_[log_target, np.where(np.isfinite(value), value, -np.inf)]
        points = np.concatenate(rounds)
        if np.isfinite(log_target).sum() <= 2 * n:
            return WeightedSample(points, np.full(len(points), 1 / len(points)), np.inf, 0.0, -np.inf, False)
        log_weight = log_target - logsumexp([_log_student(points, *proposal) for proposal in proposals], axis=0)
        weight = np.exp(log_weight - logsumexp(log_weight))
        khat, n_effective = float(pareto_k(log_weight[np.isfinite(log_weight)][:, None])[0]), 1 / (weight**2).sum()
        weight = np.minimum(weight, len(weight) ** -0.5)
        log_evidence = float(logsumexp(log_weight) - np.log(N_POINTS)) + np.log(weight.sum())
        weight /= weight.sum()
        good = bool(khat < max_khat and n_effective >= enough)
        found = WeightedSample(points, weight, khat, n_effective, log_evidence, good)
        if found.good or len(rounds) == n_rounds:
            return found
        mean = weight @ points
        around = points - mean
        prior, share = factor @ factor.T, 2 * n / (2 * n + found.n_effective)
        factor = np.linalg.cholesky(share * prior + (1 - share) * (around.T * weight) @ around)


def _log_student(points: np.ndarray, mean: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Log density of a Student-t, (point,)."""
    z = solve_triangular(factor, (points - mean).T, lower=True)
    n, dof = len(mean), DEGREES_OF_FREEDOM
    constant = gammaln((dof + n) / 2) - gammaln(dof / 2) - 0.5 * n * np.log(dof * np.pi)
    return constant - 0.5 * (dof + n) * np.log1p((z**2).sum(0) / dof) - np.log(np.diag(factor)).sum()
