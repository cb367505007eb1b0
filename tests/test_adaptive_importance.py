"""Adaptive importance sampling against densities whose moments are known.

Tolerances are 4.3 standard errors of an average over the effective sample size (2e-5 a comparison); seeds are fixed.
"""

import numpy as np
import pytest
from scipy import stats

from bayesharm.algorithms.adaptive_importance import ImportanceSettings, adaptive_importance_sampling

Z = 4.3
SETTINGS = ImportanceSettings()


def near(found, expected, sd, ess: float) -> None:
    np.testing.assert_array_less(np.abs(np.asarray(found) - expected), Z * np.asarray(sd) / np.sqrt(ess))


@pytest.mark.parametrize("start", ["near", "far"])
def test_a_gaussian_is_found_from_a_poor_start(start):
    rng, n = np.random.default_rng(1), 14
    root = rng.normal(size=(n, n)) / np.sqrt(n) + np.eye(n)
    target = stats.multivariate_normal(rng.normal(size=n), root @ root.T)
    mean, factor = (target.mean, 0.7 * np.eye(n)) if start == "near" else (target.mean + 1.5, 2.0 * np.eye(n))
    found = adaptive_importance_sampling(
        lambda points: 7.0 + target.logpdf(points.T), mean, factor, np.random.default_rng(2)
    )
    assert found.is_reliable and found.weight.sum() == pytest.approx(1) and found.ess >= SETTINGS.min_ess
    sd = np.sqrt(np.diag(target.cov))
    average = found.weight @ found.points
    near(average, target.mean, sd, found.ess)
    near(found.weight @ (found.points - target.mean) ** 2, sd**2, np.sqrt(2) * sd**2, found.ess)
    draws = found.draw(1000, rng)
    near(draws.mean(0), average, sd, 1000)
    assert len(np.unique(draws[:, 0])) > 500


def test_an_edge_and_a_skew_tail_are_kept():
    """Gamma and half-normal numbers, nothing below 0."""
    gamma, half = stats.gamma(3), stats.halfnorm()
    found = adaptive_importance_sampling(
        lambda points: gamma.logpdf(points[0]) + half.logpdf(points[1]), np.ones(2), np.eye(2), np.random.default_rng(3)
    )
    assert found.is_reliable and (found.draw(1000, np.random.default_rng(4)) >= 0).all()
    for k, known in enumerate((gamma, half)):
        near(found.weight @ found.points[:, k], known.mean(), known.std(), found.ess)
        below = found.weight @ (found.points[:, k] < known.median())
        near(below, 0.5, 0.5, found.ess)


@pytest.mark.parametrize("density", [
    lambda points: -10 * np.log1p(np.abs(points / 0.01) ** 0.12).sum(0),  # no mean, and all of it far out
    lambda points: np.full(points.shape[1], -np.inf),
    lambda points: np.full(points.shape[1], np.nan),
    lambda points: np.where(np.abs(points[0] - 300) < 1e-3, 0.0, -np.inf),
])  # fmt: skip
def test_what_cannot_be_found_is_not_said_to_be(density):
    found = adaptive_importance_sampling(density, np.zeros(3), np.eye(3), np.random.default_rng(5))
    assert not found.is_reliable and len(found.points) <= SETTINGS.n_points * SETTINGS.max_rounds


def test_one_heavy_point_is_no_good_sign():
    """One point seems to have met another mode: Pareto-k hardly reacts, and truncating its weight must not hide it."""
    calls = []

    def density(points: np.ndarray) -> np.ndarray:
        calls.append(-0.5 * (points**2).sum(0))
        calls[-1][0] += 12.0 * (len(calls) == 1)
        return calls[-1]

    found = adaptive_importance_sampling(density, np.zeros(4), np.eye(4), np.random.default_rng(7))
    assert not found.is_reliable and found.khat < 0.5 and found.ess < SETTINGS.min_ess and len(calls) == SETTINGS.max_rounds
    assert found.weight[0] < 0.1  # and averages are robust to it
    assert found.weight.sum() == pytest.approx(1)


def test_a_start_that_is_no_number_is_not_good():
    found = adaptive_importance_sampling(
        lambda points: -(points**2).sum(0), np.full(3, np.nan), np.eye(3), np.random.default_rng(6)
    )
    assert not found.is_reliable
