"""Draws of single features for ArviZ, against the fit and against dense covariances."""

import re
import shutil
from pathlib import Path

import arviz as az
import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from posteriors import make_posterior
from scipy import stats

import bayesharm
from bayesharm.errors import InputError
from bayesharm.fitting.context import load_fit_context
from bayesharm.likelihood.definition import prior_variance, scan_precision
from bayesharm.results.posterior import Posterior, load_posterior

N = 3  # features


@pytest.fixture(scope="module")
def fitted(small_run) -> Posterior:
    return load_posterior(small_run)


@pytest.fixture(scope="module")
def drawn(fitted) -> xr.DataTree:
    return bayesharm.feature_draws(fitted, fitted.features[5 : 5 + N], seed=3)


def test_effects_and_scales_are_those_of_the_fit(fitted, drawn):
    """Means within 0.35 posterior sds, sds within a quarter: here the hyperparameters are fixed, and draws are 400."""
    draws = drawn["posterior"].to_dataset()
    assert set(draws.data_vars) == {"scale", *(f"{name}_effect" for name in fitted.effect_families)}
    for name in fitted.effect_families:
        found, effect = draws[f"{name}_effect"], fitted.effect(name).sel(feature=draws["feature"])
        assert found.dims == ("chain", "draw", *effect["mean"].dims)
        assert float(np.abs((found.mean(("chain", "draw")) - effect["mean"]) / effect["sd"]).max()) < 0.35
        ratio = found.std(("chain", "draw")) / effect["sd"]
        assert 0.75 < float(ratio.min()) and float(ratio.max()) < 1.25
    scales = fitted.scales.sel(feature=draws["feature"])
    assert float(np.abs((draws["scale"].mean(("chain", "draw")) - scales["mean"]) / scales["sd"]).max()) < 0.35
    assert float(drawn["constant_data"]["khat"].max()) < 0.7


def test_log_likelihoods_are_conditional_densities_of_the_dense_covariance(fitted, drawn):
    context = load_fit_context(fitted)
    design, ratios = context.design, fitted.variance_ratios()
    draw, feature = drawn["posterior"].isel(chain=1, draw=7), 2
    unit = fitted.scales["feature_scale"].values[5 + feature]
    log_scales = np.log(draw["scale"].values[:, feature] / unit)
    x = design.matrix.toarray()
    noise = np.diag(1 / scan_precision(design, log_scales, ratios))
    covariance = unit**2 * ((x * prior_variance(design, log_scales, ratios)) @ x.T + noise)
    center = fitted.scales["center"].values[5 + feature]
    y = drawn["observed_data"]["value"].values[:, feature] - center
    precision = np.linalg.inv(covariance)
    mean, variance = y - (precision @ y) / np.diag(precision), 1 / np.diag(precision)
    expected = stats.norm(mean, np.sqrt(variance)).logpdf(y)
    np.testing.assert_allclose(drawn["log_likelihood"]["value"].values[1, 7, :, feature], expected, rtol=1e-6)


def test_arviz_takes_effects_and_log_likelihoods(drawn):
    interval = az.hdi(drawn["posterior"].to_dataset()[["measurement_effect"]])["measurement_effect"]
    assert set(interval.dims) - {"ci_bound"} == {"scanner", "feature"}
    loo = az.loo(drawn, pointwise=True)
    assert loo.n_data_points == drawn["observed_data"]["value"].size
    assert float((loo.pareto_k > 0.7).mean()) < 0.02  # importance sampling moves the scales only
    assert len(az.summary(drawn, var_names=["scale"])) == drawn["posterior"].sizes["family"] * N


def test_the_same_seed_gives_the_same_draws(fitted, drawn):
    again = bayesharm.feature_draws(fitted, fitted.features[5 : 5 + N], seed=3)
    xr.testing.assert_identical(again["posterior"].to_dataset(), drawn["posterior"].to_dataset())


@pytest.mark.parametrize(
    "features, message",
    [(["nothing"], "no such features"), ([], "1 to 64"), (["f0", "f0"], "1 of them different")],
)
def test_impossible_features_are_refused(features, message):
    with pytest.raises(InputError, match=message):
        bayesharm.feature_draws(make_posterior(), features)


def test_the_page_on_arviz_works(small_run, tmp_path, monkeypatch):
    mpl.use("Agg")
    shutil.copytree(small_run, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[1] / "docs" / "how-to" / "arviz.md").read_text()
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, names)
    assert names["loo"].n_data_points == N * names["posterior"].run["n_scans"]
    assert len(az.compare({"one": names["draws"], "other": names["draws"]})) == 2
