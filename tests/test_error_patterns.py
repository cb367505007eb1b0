"""Joint draws of correlated features: each feature as before, and sums over features as uncertain as they are."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from posteriors import make_posterior
from scipy import stats

from bayesharm import harmonize, load_dataset
from bayesharm.inference.effective_features import fit_residualization
from bayesharm.inference.error_patterns import (
    N_PATTERNS,
    count_independent_patterns,
    make_pattern_map,
    make_patterns,
)

FALSE_ALARMS = 2e-5


def patterns_of(values: np.ndarray, labels: np.ndarray, seed: int = 0) -> np.ndarray:
    residualization = fit_residualization(values, labels, np.eye(3)[np.arange(len(values)) % 3])
    return make_patterns(make_pattern_map(residualization, len(values), seed), values)


@pytest.mark.parametrize("n_scans", [90, 900])
def test_products_of_patterns_are_correlations_of_residuals(n_scans):
    """Effects of people and scanners do not matter. With many scans, random sums add an error of 1 / sqrt(N_PATTERNS)."""
    rng, labels = np.random.default_rng(n_scans), np.arange(n_scans) // 3
    common = rng.normal(size=(n_scans, 2))
    noise = 0.6 * rng.normal(size=(n_scans, 40)) + 0.8 * np.repeat(common, 20, axis=1)
    values = noise + 5 * rng.normal(size=(n_scans, 40))[labels] + 3 * rng.normal(size=(3, 40))[np.arange(n_scans) % 3]
    patterns = patterns_of(values, labels)
    assert patterns.shape == (min(n_scans, N_PATTERNS), 40) and patterns.dtype == np.float32
    found, true = patterns.T @ patterns, 0.36 * np.eye(40) + 0.64 * np.kron(np.eye(2), np.ones((20, 20)))
    np.testing.assert_allclose(np.diag(found), 1, rtol=1e-5)
    error = (1 - true**2) * np.sqrt(1 / (n_scans * 2 / 3) + (n_scans > N_PATTERNS) / N_PATTERNS)
    pairs = np.triu_indices(40, 1)
    assert np.abs((found - true)[pairs] / error[pairs]).max() < stats.norm.isf(FALSE_ALARMS / 2 / len(pairs[0]))
    assert count_independent_patterns(patterns, n_scans * 2 // 3) == pytest.approx(40**2 / (true**2).sum(), rel=0.25)
    assert count_independent_patterns(np.eye(40, dtype=np.float32), 10_000) == pytest.approx(40, rel=0.01)


@pytest.mark.parametrize(("n_features", "n_scans"), [(200, 20), (1000, 60), (2000, 330)])
def test_independent_features_count_in_full(n_features, n_scans):
    """Also where there are more of them than residuals; without the correction for chance, at most as many as residuals."""
    values = np.random.default_rng(n_features).normal(size=(n_scans, n_features))
    residualization = fit_residualization(values, np.arange(n_scans) // 3)
    patterns = make_patterns(make_pattern_map(residualization, n_scans, 0), values)
    assert count_independent_patterns(patterns, residualization.dof) > 0.6 * n_features


def test_patterns_of_features_do_not_depend_on_their_block():
    rng = np.random.default_rng(0)
    values, labels = rng.normal(size=(300, 12)), np.arange(300) // 2
    residualization = fit_residualization(values, labels)
    pattern_map = make_pattern_map(residualization, 300, 1)
    whole = make_patterns(pattern_map, values)
    parts = [make_patterns(pattern_map, values[:, part]) for part in (slice(0, 5), slice(5, 12))]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=1e-6)


def test_features_without_residuals_count_as_one():
    few = fit_residualization(np.random.default_rng(0).normal(size=(4, 5)), np.arange(4))
    patterns = make_patterns(make_pattern_map(few, 4, 0), np.ones((4, 5)))
    np.testing.assert_array_equal(patterns, np.ones((1, 5)))
    assert count_independent_patterns(patterns, 0) == 1
    values = np.random.default_rng(1).normal(size=(60, 3))
    values[:, 1] = np.repeat(np.arange(30.0), 2)  # the same in both scans of a person
    patterns = make_patterns(make_pattern_map(fit_residualization(values, np.arange(60) // 2), 60, 0), values)
    assert np.isfinite(patterns).all() and np.allclose((patterns**2).sum(0), 1, atol=1e-5)


def test_draws_of_correlated_features_move_together():
    """The sd of a mean over features is that of its features and their correlations; single features are as before."""
    posterior, n_draws = make_posterior(), 4000
    angle = np.pi / 6  # the first two features are correlated by cos(30°), the others independent
    patterns = np.array([[1, np.cos(angle), 0, 0], [0, np.sin(angle), 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], np.float32)
    arrays = {"error_pattern": (("entry", "feature"), patterns), "residual_dof": ("feature", np.full(4, 99))}
    posterior.tree["error_patterns"] = xr.DataTree(xr.Dataset(arrays))
    scans = pd.DataFrame({"scan_id": list("abc"), "participant_id": list("xyz"), "scanner": list("ABC")})
    dataset = load_dataset(scans, pd.DataFrame(np.zeros((3, 4)), scans.scan_id, posterior.features), check="apply")
    draws = harmonize(posterior, dataset, draws=n_draws, seed=1).draws
    sd = posterior.effect("measurement")["sd"].values
    limit = stats.norm.isf(FALSE_ALARMS / 2 / 12) / np.sqrt(2 * n_draws)
    np.testing.assert_allclose(draws.std(0) / sd, 1, atol=limit)
    correlation = np.corrcoef(draws[:, 0].T)
    limit = stats.norm.isf(FALSE_ALARMS / 2 / 6) / np.sqrt(n_draws)
    np.testing.assert_allclose(np.arctanh(correlation[0, 1]), np.arctanh(np.cos(angle)), atol=limit)
    np.testing.assert_allclose(correlation[[0, 1, 2], [2, 3, 3]], 0, atol=limit)
