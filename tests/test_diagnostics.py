"""Diagnostics of many features at once against ArviZ, one by one; chains that do not move are never good."""

import numpy as np
import pytest
from arviz_stats.base import array_stats
from scipy import signal

from bayesharm.algorithms.diagnostics import MAX_RHAT, MIN_ESS, Diagnostics, diagnose, pareto_k, quantiles
from bayesharm.fitting.feature_summary import _reasons
from bayesharm.fitting.settings import Settings
from bayesharm.results.posterior import REASONS


def chains(n_chains: int = 4, n_draws: int = 200, memory: float = 0.3, n_features: int = 6, seed: int = 0) -> np.ndarray:
    """Autoregressive chains of two scales, (chain, draw, scale, feature)."""
    noise = np.random.default_rng(seed).standard_t(4, (n_chains, 50 + n_draws, 2, n_features))
    return signal.lfilter([1], [1, -memory], noise, axis=1)[:, 50:]


def no_divergence(draws: np.ndarray) -> np.ndarray:
    return np.zeros((*draws.shape[:2], draws.shape[3]), bool)


def one_by_one(function, draws: np.ndarray, **options) -> np.ndarray:
    """(scale, feature)"""
    return np.apply_along_axis(
        lambda x: function(x.reshape(draws.shape[:2]), **options), 0, draws.reshape(-1, *draws.shape[2:])
    )


@pytest.mark.parametrize(("n_draws", "memory"), [(200, 0.3), (200, 0.95), (31, 0.5)])
def test_rhat_is_that_of_arviz(n_draws, memory):
    """Of the bulk: split chains, ranks made normal; ArviZ's default is the larger of this and that of the tails."""
    draws = chains(n_draws=n_draws, memory=memory)
    expected = one_by_one(array_stats.rhat, draws, method="z_scale")
    np.testing.assert_allclose(diagnose(draws, no_divergence(draws)).rhat, expected, atol=1e-10)


@pytest.mark.parametrize(("n_draws", "memory"), [(200, 0.0), (200, 0.3), (401, 0.7)])
def test_bulk_ess_is_that_of_arviz(n_draws, memory):
    """But for one term: where ArviZ cuts the autocorrelations off it adds one more if that is positive.

    The number of draws that one effective draw takes is then larger by it, which for these chains is up to 0.2.
    """
    draws = chains(n_draws=n_draws, memory=memory)
    n = draws.shape[0] * (draws.shape[1] // 2 * 2)
    ours = n / diagnose(draws, no_divergence(draws)).ess_bulk
    theirs = n / one_by_one(array_stats.ess, draws, method="bulk")
    assert (theirs > ours - 1e-6).all() and (theirs < ours + 0.2).all()
    assert (np.abs(theirs - ours) < 1e-6).any()


def test_drifting_chains_have_few_effective_draws():
    """All chains drift alike, so that only their halves differ."""
    draws = chains(memory=0.0) + np.linspace(-2, 2, 200)[:, None, None]
    verdict = diagnose(draws, no_divergence(draws))
    assert (verdict.rhat > 1.1).all() and (verdict.ess_bulk < 50).all() and not verdict.converged.any()


def test_the_verdict():
    draws, diverging = chains(n_draws=400), no_divergence(chains(n_draws=400))
    draws[2, :, 1, 1] += 0.5  # one chain elsewhere
    draws[:, :, 0, 2] = chains(n_draws=400, memory=0.9)[:, :, 0, 2]  # slow
    diverging[0, [5, 7], 3] = True
    verdict = diagnose(draws, diverging)
    assert verdict.rhat.shape == verdict.ess_bulk.shape == (2, 6)
    assert verdict.converged.tolist() == [True, False, False, False, True, True]
    assert verdict.rhat[1, 1] > MAX_RHAT and verdict.rhat[0, 1] < MAX_RHAT
    assert verdict.ess_bulk[0, 2] < MIN_ESS < verdict.ess_bulk[1, 2]
    assert verdict.divergences.tolist() == [0, 0, 0, 2, 0, 0]


def spoil(draws: np.ndarray, how: str) -> None:
    chain = slice(None) if how == "all constant" else 1
    if how in ("all constant", "one constant"):
        draws[chain, :, 0, 2] = 0.3
    elif how == "each constant":
        draws[:, :, 0, 2] = np.arange(4)[:, None]
    else:
        draws[1, 17, 0, 2] = {"one NaN": np.nan, "one infinite": -np.inf}[how]


@pytest.mark.parametrize("how", ["all constant", "each constant", "one constant", "one NaN", "one infinite"])
def test_chains_that_do_not_move_or_are_not_numbers_are_never_good(how):
    good = chains(n_draws=400)
    bad = good.copy()
    spoil(bad, how)
    before, after = diagnose(good, no_divergence(good)), diagnose(bad, no_divergence(bad))
    assert before.converged.all()
    assert after.converged.tolist() == [True, True, False, True, True, True]
    others = np.arange(6) != 2
    np.testing.assert_array_equal(after.rhat[:, others], before.rhat[:, others])


@pytest.mark.parametrize("n_samples", [128, 225, 400])
def test_pareto_k_is_that_of_arviz(n_samples):
    """For the same number of samples in the tail: between 226 and the next square ArviZ rounds it down, we up."""
    rng = np.random.default_rng(0)
    log_weights = rng.normal(size=(n_samples, 9)) * np.linspace(0.01, 5, 9) + 1000
    expected = [array_stats.psislw(-column)[1] for column in log_weights.T]
    assert min(expected) < 0.3 and max(expected) > 0.7
    np.testing.assert_allclose(pareto_k(log_weights), expected, atol=1e-10)


def test_pareto_k_where_weights_are_missing():
    log_weights = np.random.default_rng(0).normal(size=(128, 4))
    expected = pareto_k(log_weights)
    log_weights[3, 1] = np.nan
    log_weights[:, 2] = -np.inf
    log_weights[:20, 3] = -np.inf  # samples outside of the support
    found = pareto_k(log_weights)
    assert np.isnan(found[1:3]).all() and found[0] == expected[0] and np.isfinite(found[3])


@pytest.mark.parametrize("n_draws", [1, 2, 101, 500])
def test_quantiles_are_those_of_numpy(n_draws):
    draws, shares = np.random.default_rng(2).normal(size=(n_draws, 3, 4)), (0, 0.05, 0.5, 0.95, 1)
    draws[0, 1, 2] = np.nan
    np.testing.assert_allclose(quantiles(draws, shares), np.quantile(draws, shares, axis=0), rtol=1e-12)


@pytest.mark.parametrize("preview", [False, True])
def test_the_gravest_reason_is_kept(preview):
    """One feature for each reason, and one to which all of them apply."""
    rhat, ess = np.array([[1.0, 1.0, 1.0, 1.02, 1.0, np.nan]]), np.array([[500.0, 500, 500, 500, 300, 300]])
    divergences, finite = np.array([0, 0, 1, 0, 0, 1]), np.array([True, False, True, True, True, False])
    converged = np.array([True, True, False, False, False, False])
    if preview:
        rhat, ess, divergences = rhat * np.nan, ess * np.nan, divergences * 0
    found = _reasons(Settings(preview=preview), Diagnostics(rhat, ess, divergences, converged), finite)
    sampled = ["converged", "not finite", "divergences", "R-hat", "few effective draws", "not finite"]
    approximated = ["converged", "not finite", "no mode", "no mode", "no mode", "not finite"]
    assert [REASONS[code] for code in found] == (approximated if preview else sampled)
