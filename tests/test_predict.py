"""Predictions equal the conditional normal distribution, given the scales."""

import numpy as np
import pandas as pd
import pytest
from cases import (
    Case,
    by_formula,
    cohort_only,
    everybody,
    new_travelers_site_and_diagnosis,
    of_protocol,
    of_travelers,
    rename_once,
    repeated_who_travel,
    standardize,
    travelers_and_cohort,
    with_missing,
)
from dense import lay_out_dense, predict_dense
from posteriors import make_learned
from scipy import stats
from studies import random_study

from bayesharm.data.dataset import load_dataset
from bayesharm.errors import InputError
from bayesharm.harmonization.adaptation import adapt
from bayesharm.harmonization.prediction import predict
from bayesharm.model.catalog import load_model
from bayesharm.results.posterior import Posterior

EXACT = 1e-8  # of a feature's sd


def expected(case: Case, fitted: Posterior, relative: dict[str, float] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sd of the new scans that the model uses, in the features' units."""
    scans, values, first = everybody(case)
    scales = fitted.tree["scales"].to_dataset()
    center, unit = scales["center"].values, scales["feature_scale"].values
    mean, sd = predict_dense(
        scans,
        ((values - center) / unit)[first],
        first,
        case.spec,
        {str(name): scales["q50"].sel(family=name).values / unit for name in scales["family"].values},
        of_any(scans, ratios(fitted)) | (relative or {}),
        standardize(case, scans, first),
        of_any(scans, ratios(fitted, "bias_ratio")),
    )
    return mean * unit + center, sd * unit


def of_any(scans: pd.DataFrame, known: dict[str, float]) -> dict[str, float]:
    """Ratios of all scanners: of those that the fit has not seen the mean of others."""
    return dict.fromkeys(scans.scanner, float(np.mean(list(known.values())))) | known


def ratios(posterior: Posterior, name: str = "noise_ratio") -> dict[str, float]:
    found = np.exp(np.log(posterior.tree["hyper"].to_dataset()[name]).mean(("chain", "draw")))
    return {str(name): float(found.sel(scanner=name)) for name in found["scanner"].values}


@pytest.mark.parametrize(
    "make",
    [travelers_and_cohort, by_formula, cohort_only, new_travelers_site_and_diagnosis, of_protocol, repeated_who_travel],
    ids=lambda make: make.__name__,
)
def test_predictions_equal_the_dense_conditional_distribution(make):
    """Known people and new ones, on a scanner that no scan of the fit was on."""
    case = make()
    predicted = predict(case.fitted, case.part(case.is_new).scans)
    mean, sd = expected(case, case.fitted)
    np.testing.assert_allclose(predicted.mean, mean, rtol=0, atol=EXACT * sd.max())
    np.testing.assert_allclose(predicted.sd, sd, rtol=EXACT)


@pytest.mark.parametrize("make", [travelers_and_cohort, of_protocol], ids=lambda make: make.__name__)
def test_predictions_use_the_observed_scans(make):
    case = with_missing(make(), "old scans")
    predicted = predict(case.fitted, case.part(case.is_new).scans)
    mean, sd = expected(case, case.fitted)
    np.testing.assert_allclose(predicted.mean, mean, rtol=0, atol=EXACT * sd.max())
    np.testing.assert_allclose(predicted.sd, sd, rtol=EXACT)


def test_what_was_learned_since_the_fit_counts(monkeypatch):
    """The rest of the scans on a new scanner, from the first ones; in blocks of one feature."""
    case = travelers_and_cohort()
    some = case.is_new & (np.cumsum(case.is_new) < 6)
    fitted = case.fitted
    adapted = adapt(fitted, case.part(some))
    monkeypatch.setattr("bayesharm.harmonization.prediction.MAX_VALUES", 1)
    predicted = predict(adapted, case.part(case.is_new & ~some).scans)
    scans, new = rename_once(rename_once(case.scans, ~case.is_new), ~case.is_new | some), case.is_new & ~some
    scales = fitted.tree["scales"].to_dataset()
    unit, center = scales["feature_scale"].values, scales["center"].values
    mean, sd = predict_dense(
        scans,
        ((case.values - center) / unit)[~new],
        ~new,
        case.spec,
        {str(name): scales["q50"].sel(family=name).values / unit for name in scales["family"].values},
        ratios(adapted),
        standardize(case, scans, ~case.is_new),
        ratios(adapted, "bias_ratio"),
    )
    np.testing.assert_allclose(predicted.mean, mean * unit + center, rtol=0, atol=EXACT * (sd * unit).max())
    np.testing.assert_allclose(predicted.sd, sd * unit, rtol=EXACT)


def test_scans_of_which_a_model_says_nothing():
    case = of_travelers()
    scans = case.part(case.is_new).scans
    predicted = predict(case.fitted, scans)
    who = scans.participant_id.isin(["t0", "t1", "t2"]).to_numpy()
    assert 0 < who.sum() < len(who)
    np.testing.assert_array_equal(np.isnan(predicted.mean), np.repeat(~who[:, None], 3, 1))
    np.testing.assert_array_equal(np.isnan(predicted.sd), np.repeat(~who[:, None], 3, 1))
    mean, sd = expected(case, case.fitted)
    np.testing.assert_allclose(predicted.mean[who], mean, rtol=0, atol=EXACT * sd.max())
    case = travelers_and_cohort()
    with pytest.raises(InputError, match="have no 'diagnosis'"):
        predict(case.fitted, case.part(case.is_new).scans.drop(columns="diagnosis"))


def test_intervals_hold_what_is_measured_as_often_as_they_say():
    """Features are independent, so that the share of those whose interval holds a scan has a binomial error."""
    scans, spec, n_features = random_study(1), load_model("traveling_and_cohort"), 1500
    rng = np.random.default_rng(5)
    sizes = {"noise": 0.8, "participant": 0.6, "measurement": 0.5, "disorder": 0.4}
    sizes |= {f"sampling_{name}": 0.4 for name in ("HC", "MDD", "SCZ")}
    scales = {name: size * np.exp(rng.normal(0, 0.3, n_features)) for name, size in sizes.items()}
    ratio = dict(zip(["s0", "s1", "s2", "s3"], [0.5, 1.0, 2.0, 1.0], strict=True))
    columns, x, prior = lay_out_dense(scans, spec, scales, {}, dict.fromkeys(scans.scanner, 1.0))
    prior[columns.get_loc(("mean", "mean"))] = 5.0
    relative = np.sqrt(scans.scanner.map(ratio).to_numpy())
    noise = rng.normal(size=(len(scans), n_features)) * relative[:, None] * scales["noise"]
    values = x @ (rng.normal(size=prior.shape) * prior) + noise
    new = (scans.scanner == "s1").to_numpy()
    posterior = make_learned(load_dataset(scans[~new], values[~new]), spec, scales, ratio)
    predicted = predict(posterior, scans[new].reset_index(drop=True))
    z = (values[new] - predicted.mean) / predicted.sd
    assert z.std(1).min() > 0.8 and len(np.unique(predicted.sd[:, 0].round(9))) > 3
    inside = (np.abs(z) < stats.norm.ppf(0.95)).mean(1)
    limit = stats.norm.isf(2e-5 / len(z) / 2) * np.sqrt(0.9 * 0.1 / n_features)
    assert np.abs(inside - 0.9).max() < limit
