"""Draws of standardized features become means, sds and intervals in the features' units."""

import numpy as np
import pytest
from scipy import stats

from bayesharm.fitting.feature_summary import _summarize_chunk
from bayesharm.fitting.settings import Settings
from bayesharm.inference.scales import ScaleDraws
from bayesharm.likelihood.moments import Standardization

N_CHAINS, N_DRAWS, N_SCALES, N_FEATURES, N_EFFECTS = 4, 250, 3, 5, 7
UNIT = np.array([0.01, 1.0, 3.0, 40.0, 5e3])


@pytest.fixture(scope="module")
def draws() -> ScaleDraws:
    rng = np.random.default_rng(0)
    shape = N_CHAINS, N_DRAWS, N_SCALES, N_FEATURES
    of_draws = N_CHAINS, N_DRAWS, N_FEATURES
    return ScaleDraws(rng.normal(-1, 0.5, shape), np.zeros(of_draws, bool), np.full(of_draws, 3),
                      rng.normal(size=(128, N_FEATURES)), np.zeros((N_CHAINS, N_SCALES, N_FEATURES)))  # fmt: skip


@pytest.mark.parametrize("preview", [False, True])
def test_scales_and_effects_are_summarized_in_the_units_of_the_features(draws, preview):
    """Of a preview, whose points have the moments of the log-scales, intervals are log-normal. A noise ratio has no unit."""
    rng = np.random.default_rng(1)
    mean, sd = rng.normal(size=(2, N_EFFECTS, N_FEATURES))
    standard = Standardization(np.arange(5.0), UNIT)
    found = _summarize_chunk(Settings(preview=preview), N_SCALES - 1, standard, draws, (mean, np.abs(sd)), None)
    np.testing.assert_allclose(found["effect_mean"], mean * UNIT)
    np.testing.assert_allclose(found["effect_sd"], np.abs(sd) * UNIT)
    np.testing.assert_array_equal(found["feature_scale"], UNIT)
    np.testing.assert_array_equal(found["center"], standard.center)
    logs = draws.log_scales.reshape(-1, N_SCALES, N_FEATURES)
    unit = np.stack([UNIT, UNIT, np.ones(N_FEATURES)])
    np.testing.assert_allclose(found["mean"], np.exp(logs).mean(0) * unit)
    np.testing.assert_allclose(found["sd"], np.exp(logs).std(0) * unit)
    for name, probability in (("q05", 0.05), ("q50", 0.5), ("q95", 0.95)):
        of_logs = logs.mean(0) + stats.norm.ppf(probability) * logs.std(0) if preview else np.quantile(logs, probability, 0)
        np.testing.assert_allclose(found[name], np.exp(of_logs) * unit, rtol=1e-3, err_msg=name)  # between two draws
    assert (found["n_draws"] == N_CHAINS * N_DRAWS).all()
