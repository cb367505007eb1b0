"""Shares of the sources in the variance of a scan, against the effects that scans have."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from posteriors import make_learned, make_posterior

import bayesharm
from bayesharm.analysis.variance_shares import noise_variances, variance_shares
from bayesharm.data.dataset import load_dataset
from bayesharm.model.catalog import load_model
from bayesharm.results.posterior import Posterior

N, N_FEATURES = 90, 4


def variance_of(posterior: Posterior, name: str) -> float:
    """Variance of a source over scans, in squared sds of a feature, mean over features."""
    shares, n_scans = variance_shares(posterior), posterior.design["n_scans"].values
    return shares[name] / shares["noise"] * (n_scans @ noise_variances(posterior) / n_scans.sum()).mean()


@pytest.mark.parametrize("formula", ["", "age + square", "bs(age, df=4)"])
def test_covariates_have_the_variance_of_their_sum(formula):
    """Age and its square are nearly one column, so that variances of their effects do not add up.

    Slopes are those of least squares, with their covariance: its trace adds the error of each own part.
    """
    rng = np.random.default_rng(0)
    scans = pd.DataFrame({"scan_id": [f"s{k}" for k in range(N)], "participant_id": [f"p{k // 3}" for k in range(N)]})
    scans["scanner"], scans["age"] = ["ABC"[k % 3] for k in range(N)], rng.uniform(20, 80, N).round(1)
    scans["square"] = scans["age"] ** 2
    spec = replace(load_model("traveling"), covariates=() if formula else ("age",), formula=formula)
    values = rng.normal(size=(N, N_FEATURES)) + 0.001 * (scans[["age"]].to_numpy() - 50) ** 2
    posterior = make_learned(load_dataset(scans, values), spec)
    posterior.tree["design"]["n_scans"] = xr.DataArray([30, 30, 30], dims="scanner")
    x = (bayesharm.formula_columns(posterior, scans) if formula else scans[["age"]]).to_numpy()
    x = x - x.mean(0)
    slopes, covariance = np.linalg.lstsq(x, values)[0], 0.3**2 * np.linalg.inv(x.T @ x)
    effect, unit = posterior.tree["effects/covariate"], posterior.scales["feature_scale"].values
    effect["mean"][:], effect["sd"][:] = slopes, np.sqrt(np.diag(covariance))[:, None]
    expected = ((x @ slopes).var(0) + np.trace(x @ covariance @ x.T) / N) / unit**2
    assert variance_of(posterior, "covariate") == pytest.approx(expected.mean())


def test_the_mean_over_scans_is_no_variance():
    """Of three scanners one has most scans. Biases are contrasts, and their mean over scans is uncertain too."""
    posterior = make_posterior(features=("f0", "f1"))
    effect = posterior.tree["effects/measurement"]
    draws = np.random.default_rng(0).normal(size=(20_000, 3, 2)) * [[[2.0], [1.0], [3.0]]]
    draws -= draws.mean(1, keepdims=True)
    effect["mean"][:], effect["sd"][:] = 0.0, draws.std(0)
    effect["correlation"][:] = np.corrcoef(draws[..., 0].T)
    effect["n_scans"][:] = posterior.tree["design"]["n_scans"][:] = [50, 5, 5]
    share = np.array([50, 5, 5])[:, None] / 60
    of_draw = (share * draws**2).sum(1) - (share * draws).sum(1) ** 2
    expected = of_draw.mean() / 4  # features have the sd 2
    assert variance_of(posterior, "measurement") == pytest.approx(expected, rel=0.02)  # correlations of two features differ
