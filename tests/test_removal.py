"""Options of harmonization: target, sampling bias, new scanners, noise matching, inverse."""

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from cases import of_protocol, of_travelers
from dense import solve_dense
from posteriors import make_learned
from scipy import stats
from studies import extend, random_study

from bayesharm.data.dataset import Dataset, load_dataset
from bayesharm.errors import InputError
from bayesharm.evaluation.bayesharm_method import BayesFitted
from bayesharm.harmonization.adaptation import adapt, adapt_to_new_scanners, refuse_inverse_adaptation
from bayesharm.harmonization.harmonize import Harmonized, harmonize
from bayesharm.harmonization.noise_scaling import Expectation, notes_on_diagnoses
from bayesharm.harmonization.value_ranges import check_ranges
from bayesharm.model.catalog import load_model
from bayesharm.model.design import build_design
from bayesharm.results.posterior import Posterior, load_posterior

BOTH = ("measurement", "sampling")


@pytest.fixture(scope="module")
def posterior(small_run) -> Posterior:
    return load_posterior(small_run)


@pytest.fixture(scope="module")
def study(small_study) -> Dataset:
    return load_dataset(small_study / "scans.csv", small_study / "features.npy", check="apply")


def quietly(*args, **options) -> Harmonized:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return harmonize(*args, **options)


def with_values(dataset: Dataset, values: np.ndarray) -> Dataset:
    return load_dataset(dataset.scans, values, check="apply")


def bits(values: np.ndarray) -> np.ndarray:
    return values.view(f"u{values.itemsize}")


def effect_of(posterior: Posterior, scans: pd.DataFrame, name: str = "mean") -> np.ndarray:
    return posterior.effect("measurement")[name].sel(scanner=scans.scanner.to_numpy(object)).values


# ---- to a target


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_scans_of_the_target_stay_as_they_are_to_the_last_bit(posterior, study, dtype, scale):
    values = study.features.read(0, 100).astype(dtype)
    values[study.scans.scanner == "beta", :5] = [np.nan, -0.0, np.inf, 1e-7, 30]
    result = harmonize(posterior, with_values(study, values), target="beta", match_noise=scale, draws=2)
    own = (study.scans.scanner == "beta").to_numpy()
    for same in (result.mean, *result.draws):
        assert same.dtype == dtype
        np.testing.assert_array_equal(bits(same[own]), bits(values[own]))
        assert (same[~own] != values[~own]).mean() > 0.8
    np.testing.assert_array_equal(result.sd[own], np.where(np.isnan(values[own]), np.nan, 0))


def test_travelers_of_the_target_stay_as_they_are_where_sampling_goes_too(posterior, study):
    result = quietly(posterior, study, target="beta", remove=BOTH)
    own, values = (study.scans.scanner == "beta").to_numpy(), study.features.read(0, 100)
    travelers = study.scans.participant_id.isin(posterior.tree["design"].attrs["site_travelers"]).to_numpy()
    assert (own & travelers).any() and (own & ~travelers).any()
    np.testing.assert_array_equal(result.mean[own & travelers], values[own & travelers])
    assert (result.mean[own & ~travelers] != values[own & ~travelers]).mean() > 0.8


@pytest.mark.parametrize("options", [{}, {"match_noise": True}, {"match_noise": True, "inverse": True, "target": "beta"}])
def test_nothing_depends_on_how_many_scans_and_features_are_corrected_together(posterior, study, monkeypatch, options):
    whole = quietly(posterior, study, draws=3, **options)
    monkeypatch.setattr("bayesharm.data.features.BLOCK_VALUES", 37 * len(study.scans))
    monkeypatch.setattr("bayesharm.harmonization.blockwise.DRAWN_BYTES", 8 * 80 * len(study.scans))
    monkeypatch.setattr("bayesharm.harmonization.blockwise.STRIP_VALUES", 200)
    parts = quietly(posterior, study, draws=3, **options)
    for name in ("mean", "sd", "draws"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-5)  # of single precision


def test_other_scans_become_as_if_the_target_had_measured_them(posterior, study):
    values = study.features.read(0, 100)
    result = harmonize(posterior, with_values(study, values), target="beta")
    effect = posterior.effect("measurement")
    there = effect.sel(scanner="beta")
    np.testing.assert_allclose(result.mean, values - (effect_of(posterior, study.scans) - there["mean"].values), atol=1e-12)
    correlation = effect["correlation"].sel(scanner=study.scans.scanner.to_numpy(object)).values[:, 1]  # with beta
    one, other = effect_of(posterior, study.scans, "sd"), there["sd"].values
    difference = one**2 + other**2 - 2 * correlation[:, None] * one * other
    np.testing.assert_allclose(result.sd**2, difference, atol=1e-12)


# ---- back again


@pytest.mark.parametrize("options", [
    {}, {"target": "gamma"}, {"match_noise": True}, {"match_noise": True, "target": "gamma"}, {"remove": BOTH},
    {"remove": "measurement,sampling", "match_noise": True, "target": "alpha"},
])  # fmt: skip
def test_what_was_removed_can_be_added_back(posterior, study, options):
    for dtype, rounding in (("float64", 1e-14), ("float32", 1e-6)):
        values = study.features.read(0, 100).astype(dtype)
        values[3, 7] = np.nan
        there = quietly(posterior, with_values(study, values), **options)
        back = quietly(posterior, with_values(study, there.mean), inverse=True, **options)
        assert back.mean.dtype == dtype
        np.testing.assert_allclose(back.mean, values, atol=rounding * 20)  # values are about 5, and the largest 10
        if "match_noise" not in options:
            np.testing.assert_array_equal(back.sd, there.sd)


# ---- sampling bias too


def test_sampling_bias_goes_with_a_warning_and_travelers_have_none(posterior, study):
    with pytest.warns(UserWarning, match=r"Real differences between the people.*removed too: 'alpha/HC'"):
        result = harmonize(posterior, study, remove=BOTH)
    assert result.removed == "measurement, sampling"
    values, scans = study.features.read(0, 100), study.scans
    plain = harmonize(posterior, study).mean.astype(float)
    sampling = posterior.effect("sampling")
    for scan in range(len(scans)):
        name = f"{scans.site[scan]}/{scans.diagnosis[scan]}"
        population = 0.0 if scans.participant_id[scan].startswith("t") else sampling["mean"].sel(population=name).values
        np.testing.assert_allclose(result.mean[scan], plain[scan] - population, atol=2e-6)  # float32
    traveler = scans[scans.participant_id == "t1"].head(1).reset_index(drop=True)  # whom the fit knows as one
    own = scans.scan_id.isin(traveler.scan_id).to_numpy()
    alone = quietly(posterior, load_dataset(traveler, values[own], check="apply"), remove=BOTH)
    np.testing.assert_allclose(alone.mean, plain[own], atol=2e-6)


def test_sds_of_measurement_and_sampling_bias_are_joint(posterior, study):
    """Correlations are those at typical scales, of scanners and populations together."""
    result = quietly(posterior, with_values(study, study.features.read(0, 100)), remove=BOTH)
    scales = posterior.tree["scales"].to_dataset()
    unit = scales["feature_scale"].values
    typical = {str(name): np.median(scales["q50"].sel(family=name).values / unit)[None] for name in scales["family"].values}
    scans, spec = study.scans, posterior.spec
    hyper = posterior.tree["hyper"].to_dataset()
    ratios = [
        {name: float(np.exp(np.log(hyper[kind].sel(scanner=name)).mean())) for name in posterior.scanners}
        for kind in ("noise_ratio", "bias_ratio")
    ]
    dense = solve_dense(scans, np.zeros((len(scans), 1)), spec, typical, ratios[0], bias=ratios[1])
    scanner, population = dense.forms("measurement", spec, scans), dense.forms("sampling", spec, scans)
    scanner -= scanner.mean(0)
    levels = dense.levels("sampling", spec)
    for group in ("HC", "MDD"):
        own = [name.endswith(group) for name in levels]
        population[own] -= population[own].mean(0)
    forms = np.concatenate([scanner, population])
    covariance = forms @ dense.covariance[0] @ forms.T
    correlation = covariance / np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    sds = np.concatenate([posterior.effect(name)["sd"].values for name in BOTH])
    names = [*dense.levels("measurement", spec), *levels]
    for scan in range(len(scans)):
        own = [names.index(scans.scanner[scan])]
        if not scans.participant_id[scan].startswith("t"):
            own.append(names.index(f"{scans.site[scan]}/{scans.diagnosis[scan]}"))
        expected = np.sqrt(np.einsum("if,ij,jf->f", sds[own], correlation[np.ix_(own, own)], sds[own]))
        np.testing.assert_allclose(result.sd[scan], expected, rtol=5e-3)  # ratios are means of 800 draws here


def test_people_without_diagnosis(posterior, study):
    """Removing measurement bias needs no diagnoses; removing sampling bias does, except of travelers."""
    plain = harmonize(posterior, study)
    absent = replace(study, scans=study.scans.drop(columns="diagnosis"))
    np.testing.assert_array_equal(harmonize(posterior, absent).mean, plain.mean)
    table = study.scans.assign(diagnosis=study.scans.diagnosis.where(study.scans.index % 3 > 0))
    partly = load_dataset(table, study.features.read(0, 100).astype("float32"), check="apply")
    np.testing.assert_array_equal(harmonize(posterior, partly).mean, plain.mean)
    assert np.isfinite(quietly(posterior, partly, match_noise=True, target="alpha").mean).all()
    for dataset, message in ((absent, r"'scan30', 'scan31'"), (partly, r"'scan30', 'scan33'")):
        with pytest.raises(InputError, match=r"needs diagnoses[\s\S]*" + message):
            harmonize(posterior, dataset, remove=BOTH)
    travelers = np.flatnonzero(study.scans.participant_id.str.startswith("t"))
    some = load_dataset(absent.scans.iloc[travelers], study.features.align(travelers).read(0, 100), check="apply")
    np.testing.assert_allclose(quietly(posterior, some, remove=BOTH).mean, plain.mean[travelers], atol=2e-6)


def test_a_diagnosis_without_sampling_bias_in_the_fit(posterior, study):
    scans = study.scans.assign(diagnosis=np.where(study.scans.index == 40, "SCZ", study.scans.diagnosis))
    with pytest.warns(
        UserWarning, match=r"'SCZ': recruited at fewer than two sites of the fit, so no sampling effects are removed"
    ):
        result = harmonize(posterior, replace(study, scans=scans), remove=BOTH)  # and that others are
    np.testing.assert_array_equal(result.mean[40], harmonize(posterior, study).mean[40])


# ---- scanners that the fit has not seen


def test_scans_of_an_unseen_scanner_stay_with_the_uncertainty_of_the_prior(posterior, study):
    scans = study.scans.assign(scanner=study.scans.scanner.replace({"delta": "new", "omega": "newer"}))
    dataset, unseen = replace(study, scans=scans), scans.scanner.isin(["new", "newer"]).to_numpy()
    with pytest.raises(InputError, match=r"5 scans from 'new', 'newer'"):
        harmonize(posterior, dataset)
    with pytest.warns(
        UserWarning, match=r"Scanners not in the fit: 'new', 'newer'\..*average scanners, with the sd of the prior"
    ):
        result = harmonize(posterior, dataset, new_scanners="prior", draws=3)
    values = study.features.read(0, 100).astype("float32")
    np.testing.assert_array_equal(bits(result.mean[unseen]), bits(values[unseen]))
    known = harmonize(posterior, study, draws=5)
    np.testing.assert_array_equal(result.mean[~unseen], known.mean[~unseen])
    tau = posterior.tree["scales"].to_dataset().sel(family="measurement")
    kappa = np.exp(np.log(posterior.tree["hyper"]["bias_ratio"].values).mean((0, 1))).mean()  # of any scanner
    sd = np.sqrt((tau["mean"].values ** 2 + tau["sd"].values ** 2) * kappa * (1 + 1 / 5))
    np.testing.assert_allclose(result.sd[unseen], np.broadcast_to(sd, result.sd[unseen].shape), rtol=1e-6)
    np.testing.assert_allclose(result.draws[:, ~unseen], known.draws[:3, ~unseen], atol=2e-6)  # as if they were not there
    to_alpha = quietly(posterior, dataset, new_scanners="prior", target="alpha")
    shift = posterior.effect("measurement")["mean"].sel(scanner="alpha").values
    np.testing.assert_allclose(to_alpha.mean[unseen], values[unseen] + shift, atol=2e-6)


def test_unseen_scanners_go_together_as_the_prior_says(posterior, study):
    """Both are counted from the mean of the five of the fit: of their variance one part in six is common."""
    scans = pd.DataFrame({"scan_id": ["a", "b"], "participant_id": ["p", "q"], "scanner": ["new", "newer"]})
    result = quietly(posterior, load_dataset(scans, np.zeros((2, 100)), check="apply"), new_scanners="prior", draws=2000)
    assert not any("Noise of scanners" in note for note in result.notes)
    z = result.draws / result.sd
    correlation = (z[:, 0] * z[:, 1]).mean()
    assert abs(correlation - 1 / 6) < 4.3 / np.sqrt(z.shape[0] * z.shape[2])
    assert abs(z.var() - 1) < 4.3 * np.sqrt(2 / z[:, 0].size)


def test_bias_and_slope_of_an_unseen_scanner_go_together_as_the_prior_says():
    scans, spec = random_study(2), extend("slopes")
    values = np.random.default_rng(2).normal(3, 2, (len(scans), 3))
    learned = make_learned(load_dataset(scans, values), spec)
    tree, n = learned.tree.copy(), len(learned.scanners)
    known = {"correlation": (("level", "other"), np.eye(n)), "with_scanner": (("level", "scanner"), np.zeros((n, n)))}
    tree["effects/measurement_age"] = xr.DataTree(tree["effects/measurement_age"].to_dataset().assign(known))
    posterior = Posterior(tree, learned.run)
    new = scans[:4].assign(scanner=["new", "new", "newer", "newer"], age=[20.0, 70.0, 30.0, 60.0])
    dataset = load_dataset(new, values[:4], check="apply")
    result = quietly(posterior, dataset, new_scanners="prior")
    slope = next(each for each in learned.sufficient_statistics.attrs["slopes"] if each["family"] == "measurement")
    away, scales = (new.age.to_numpy()[:, None] - slope["center"]) / slope["sd"], posterior.scales
    tau, of_slope = (
        np.hypot(scales["mean"], scales["sd"]).sel(family=name).values for name in ("measurement", "measurement_age")
    )
    tau = tau * np.sqrt(posterior.variance_ratios().bias.mean())
    rho = np.tanh(posterior.variance_ratios().correlation[build_design(scans, spec).correlations.index("measurement")])
    variance = tau**2 + 2 * rho * away * tau * of_slope + (away * of_slope) ** 2
    np.testing.assert_allclose(result.sd, np.sqrt(variance * (1 + 1 / n)), rtol=1e-6)


def test_values_of_a_slope_that_the_fit_did_not_see_are_named_or_refused():
    scans, spec = random_study(2), extend("slopes")
    values = np.random.default_rng(2).normal(3, 2, (len(scans), 3))
    learned = make_learned(load_dataset(scans, values), spec)
    low, high = scans.age.min(), scans.age.max()
    assert learned.sufficient_statistics.attrs["ranges"]["age"] == [low, high]

    def at(*ages: float) -> Dataset:
        new = scans[: len(ages)].assign(age=ages, participant_id=[f"new{k}" for k in range(len(ages))])
        return load_dataset(new, values[: len(ages)], check="apply")

    assert check_ranges(learned, at(low, high).scans, ["age"]) == []
    for outside in (high + 1.9 * (high - low), 99.0, low - 1):  # 99 is a true age here
        notes = check_ranges(learned, at(low, outside).scans, ["age"])
        assert len(notes) == 1 and "age is outside of the range of the fit" in notes[0] and f"{outside:g} (scan" in notes[0]
    names = scans.scan_id.astype(str)
    for use in (quietly, adapt):
        with pytest.raises(InputError, match="'age' is far outside of the range of the fit") as refused:
            use(learned, at(low, 12 * low, 12 * high))
        assert "2 of 3 scans" in refused.value.got and names[1] in refused.value.got and "units" in refused.value.do
    for code in (-999.0, -9.0, -1.0, 999.0):
        with pytest.raises(InputError, match="'age' has values that are usual codes for 'missing'") as refused:
            quietly(learned, at(low, code))
        assert f"{code:g} (scan '{names[1]}')" in refused.value.got
    del learned.sufficient_statistics.attrs["ranges"]  # a run of an earlier version
    adapted = adapt(learned, at(low, high))
    for run in (learned, adapted):
        with pytest.raises(InputError, match="'age' is far outside"):
            check_ranges(run, at(low, 12 * high).scans, ["age"])


def test_ranges_contain_the_scans_to_which_a_posterior_adapts():
    """Else harmonizing would refuse scans that the user has accepted, and that the posterior contains.

    Evaluation leaves out held-out scans that are refused.
    """
    scans, spec = random_study(2), extend("slopes")
    values = np.random.default_rng(2).normal(3, 2, (len(scans), 3))
    learned = make_learned(load_dataset(scans, values), spec)
    far = 5 * scans.age.max()
    new = scans[:4].assign(age=[far, far - 1, far - 2, far - 3], scanner="new", participant_id=[f"new{k}" for k in range(4)])
    dataset = load_dataset(new, values[:4], check="apply")
    with pytest.raises(InputError, match="'age' is far outside"):
        adapt_to_new_scanners(learned, dataset)
    adapted, _ = adapt_to_new_scanners(learned, dataset, accept="other-units")
    assert adapted.sufficient_statistics.attrs["ranges"]["age"] == [scans.age.min(), far]
    assert np.isfinite(quietly(adapted, dataset).mean).all() and check_ranges(adapted, new, ["age"]) == []
    table = new.assign(age=[far, 12 * far, -9.0, far])
    applied = BayesFitted(adapted).apply(load_dataset(table, values[:4], check="apply"))
    assert list(np.isfinite(applied.values).all(1)) == [True, False, False, True]
    assert len(applied.notes) == 2 and any("'age' is far outside" in note for note in applied.notes)
    assert learned.sufficient_statistics.attrs["ranges"]["age"] == [scans.age.min(), scans.age.max()]


def test_the_noise_of_an_unseen_scanner_is_that_of_the_average_one(posterior, study):
    scans = pd.DataFrame({"scan_id": ["a"], "participant_id": ["p"], "scanner": ["new"]})
    dataset = load_dataset(scans, np.arange(100.0)[None], check="apply")
    matched = quietly(posterior, dataset, new_scanners="prior", match_noise=True)
    assert any("Noise of scanners not in the fit: 'new'" in note for note in matched.notes)
    np.testing.assert_array_equal(matched.mean, quietly(posterior, dataset, new_scanners="prior").mean)


def test_unseen_populations(posterior, study):
    scans = study.scans.assign(site=study.scans.site.mask(study.scans.scanner == "delta", "elsewhere"))
    dataset = replace(study, scans=scans)
    own = (scans.scanner == "delta").to_numpy()
    assert set(scans.diagnosis[own]) == {"MDD", "HC"}
    with pytest.raises(InputError, match=r"4 scans of people from 'elsewhere/HC', 'elsewhere/MDD'"):
        quietly(posterior, dataset, remove=BOTH)
    result, plain = quietly(posterior, dataset, remove=BOTH, new_scanners="prior"), harmonize(posterior, dataset)
    assert any("Populations not in the fit: 'elsewhere/HC', 'elsewhere/MDD'." in note for note in result.notes)
    np.testing.assert_array_equal(result.mean[own], plain.mean[own])
    tau = posterior.tree["scales"].to_dataset()
    for group, n_known in (("HC", 5), ("MDD", 4)):
        square = tau.sel(family=f"sampling_{group}")
        prior = (square["mean"].values ** 2 + square["sd"].values ** 2) * (1 + 1 / n_known)
        scan = np.flatnonzero(own & (scans.diagnosis == group))[0]
        np.testing.assert_allclose(result.sd[scan] ** 2, plain.sd[scan] ** 2 + prior, rtol=1e-5)


def test_a_new_scanner_is_learned_first(posterior, study):
    """Only from its own scans, since others may have been in the fit; travelers are found among all scans even so."""
    rng = np.random.default_rng(0)
    rows = [("t0", "new"), ("t1", "new"), ("x", "new"), ("x", "alpha"), ("y", "new"), ("z", "beta"), ("t0", "beta")]
    scans = pd.DataFrame(rows, columns=["participant_id", "scanner"]).assign(diagnosis="HC")
    scans["site"] = scans["scanner"]
    scans["scan_id"] = [f"later{k}" for k in range(len(scans))]
    values = rng.normal(6, 1, (len(scans), 100))
    dataset = load_dataset(scans, values, check="apply")
    adapted, notes = adapt_to_new_scanners(posterior, dataset)
    assert "Adapted to 4 new scans on the new scanners 'new'" in notes[0]
    assert any("'x' also have scans on scanners of the fit" in note for note in notes)
    result = harmonize(adapted, dataset)
    own = (scans.scanner == "new").to_numpy()
    new = load_dataset(scans[own].assign(traveling=[True, True, True, False]), values[own], check="apply")
    expected = harmonize(adapt(posterior, new), dataset)
    np.testing.assert_array_equal(result.mean, expected.mean)
    np.testing.assert_array_equal(result.sd, expected.sd)
    assert "new" in adapted.scanners and "new" not in posterior.scanners
    back = quietly(adapted, with_values(dataset, result.mean), inverse=True)
    np.testing.assert_allclose(back.mean, values, atol=1e-12)
    with pytest.raises(InputError, match=r"inverse, and scans from 'new'[\s\S]*bayesharm.adapt"):
        refuse_inverse_adaptation(posterior, with_values(dataset, result.mean))
    refuse_inverse_adaptation(adapted, with_values(dataset, result.mean))
    unchanged, notes = adapt_to_new_scanners(posterior, study)
    assert unchanged is posterior and notes == []
    with pytest.raises(InputError, match=r"values are infinite[\s\S]*leave these scans out"):
        adapt_to_new_scanners(posterior, with_values(dataset, np.where(values > 7, np.inf, values)))


def test_a_new_scanner_can_be_the_target_once_it_is_learned(posterior, study):
    scans = study.scans.assign(scanner=study.scans.scanner.replace({"gamma": "new"}))
    dataset = replace(study, scans=scans)
    with pytest.raises(InputError, match="target is not a scanner of the fit"):
        harmonize(posterior, dataset, new_scanners="prior", target="new")
    result = quietly(adapt_to_new_scanners(posterior, dataset)[0], dataset, target="new")
    own = (scans.scanner == "new").to_numpy()
    np.testing.assert_array_equal(bits(result.mean[own]), bits(study.features.read(0, 100)[own].astype("float32")))


def test_a_model_of_travelers_learns_nothing_from_others():
    case = of_travelers()
    some = case.is_new & ~case.scans.participant_id.str.startswith("t")
    dataset = case.part(some)
    adapted, notes = adapt_to_new_scanners(case.fitted, dataset)
    assert any("travelers only: 5 scans of other people were not used" in note for note in notes)
    with pytest.warns(UserWarning, match="Scanners not in the fit: 's1'"):
        result = harmonize(adapted, dataset, new_scanners="prior")
    np.testing.assert_array_equal(result.mean, case.values[some])


def test_an_unseen_scanner_of_a_model_of_protocol_factors():
    """Its prior is that of the sum of all components, relative to the mean of the three scanners of the fit."""
    case = of_protocol()
    fitted = case.fitted
    result = quietly(fitted, case.part(case.is_new), new_scanners="prior")
    scales = fitted.tree["scales"].to_dataset().sel(family=["vendor", "field", "scanner"])
    variance = (scales["mean"] ** 2 + scales["sd"] ** 2).sum("family").values * (1 + 1 / 3)
    np.testing.assert_allclose(result.sd**2, np.broadcast_to(variance, result.sd.shape), rtol=1e-12)


def test_options_that_cannot_be(posterior, study):
    for options, message in (
        ({"target": "epsilon"}, r"not a scanner of the fit[\s\S]*'alpha', 'beta'"),
        ({"new_scanners": "guess"}, r"new_scanners='guess'[\s\S]*'error' or 'prior'"),
        ({"new_scanners": "adapt"}, r"does not adapt[\s\S]*new_scanners='adapt'[\s\S]*bayesharm.adapt\(posterior"),
        ({"match_noise": "no"}, r"match_noise must be True or False[\s\S]*match_noise='no'"),
        ({"inverse": None}, r"inverse must be True or False"),
        ({"remove": "sampling"}, r"'sampling' effects cannot be removed[\s\S]*alone or with sampling"),
        ({"remove": "measurement,disorder"}, "cannot be removed"),
        ({"draws": -1}, "number of draws is impossible"),
        ({"draws": 2.5}, "number of draws is impossible"),
        ({"seed": -3}, "seed is impossible"),
    ):
        with pytest.raises(InputError, match=message):
            harmonize(posterior, study, **options)


# ---- equal noise


def people_on_scanners(ratio: dict[str, float]) -> tuple[pd.DataFrame, np.ndarray, Posterior]:
    """Forty people on each scanner, no bias, and a posterior that knows so; everybody has an effect."""
    rng, n_features, spec = np.random.default_rng(8), 200, load_model("cohort")
    scanners = np.repeat(list(ratio), 40)
    people = [f"p{k}" for k in range(len(scanners))]
    scans = pd.DataFrame({"scan_id": people, "participant_id": people, "scanner": scanners})
    scans.loc[[0, 1], "participant_id"] = "twice"
    scales = {"noise": np.full(n_features, 1.0), "participant": np.full(n_features, 0.7), "site": np.full(n_features, 0.3)}
    noise = np.sqrt(scans.scanner.map(ratio).to_numpy())[:, None] * rng.normal(size=(len(scans), n_features))
    values = 10 + 0.7 * rng.normal(size=noise.shape) + noise
    return scans, values, make_learned(load_dataset(scans, values), spec, scales, ratio)


def test_people_vary_alike_on_all_scanners_once_noise_is_equal():
    """Variances are of 40 people and 200 features: relative standard error √(2 / 8,000) = 1.6%."""
    ratio = {"A": 0.25, "B": 1.0, "C": 4.0}
    scans, values, posterior = people_on_scanners(ratio)
    dataset = load_dataset(scans, values, check="apply")

    def variances(result: np.ndarray) -> np.ndarray:
        return np.array([result[scans.scanner == name].var(0, ddof=1).mean() for name in ratio])

    error = 4.5 * np.sqrt(2 / (39 * 200))
    np.testing.assert_allclose(variances(quietly(posterior, dataset).mean), [0.74, 1.49, 4.49], rtol=error)
    equal = quietly(posterior, dataset, match_noise=True)
    np.testing.assert_allclose(variances(equal.mean), 1.49, rtol=error)
    np.testing.assert_allclose(equal.mean.mean(0), values.mean(0), atol=4.5 * np.sqrt(4.49 / 120))  # about what is expected
    to_noisy = quietly(posterior, dataset, match_noise=True, target="C")
    np.testing.assert_allclose(variances(to_noisy.mean), 4.49, rtol=error)
    ranks = stats.spearmanr(equal.mean[scans.scanner == "C", 0], values[scans.scanner == "C", 0]).statistic
    assert ranks == pytest.approx(1)


def test_diagnoses_that_the_fit_does_not_have_are_named_where_noise_is_matched():
    scans, values = random_study(2), np.random.default_rng(2).normal(3, 2, (len(random_study(2)), 3))
    learned = make_learned(load_dataset(scans, values), load_model("traveling_and_cohort"))
    assert notes_on_diagnoses(learned, scans) == []
    wrong = scans.assign(diagnosis=scans.diagnosis.mask(scans.index == 1, "mdd"))
    for table, says in (
        (wrong, f"Diagnoses not in the fit: 'mdd', in 1 of {len(scans)} scans .{scans.scan_id[1]!r}"),
        (scans.drop(columns="diagnosis"), f"Scans without a diagnosis, in {len(scans)} of {len(scans)} scans"),
    ):
        with pytest.warns(UserWarning, match=f"{says}.*the reference diagnosis, 'HC'"):
            harmonize(learned, load_dataset(table, values, check="apply"), match_noise=True)
        notes = quietly(learned, load_dataset(table, values, check="apply")).notes
        assert not any("iagnos" in note for note in notes)  # the correction does not depend on it
    healthy = scans[scans.diagnosis == "HC"].reset_index(drop=True)
    of_one = make_learned(load_dataset(healthy, values[: len(healthy)]), load_model("cohort"))  # no disorder effects
    assert notes_on_diagnoses(of_one, healthy) == notes_on_diagnoses(of_one, healthy.drop(columns="diagnosis")) == []
    assert "Diagnoses not in the fit: " in notes_on_diagnoses(of_one, scans)[0]


def test_deviations_are_from_what_is_expected_of_a_scan(posterior, study):
    """Expected are the mean, the diagnosis and the population; travelers have no population."""
    values, scans = study.features.read(0, 100), study.scans
    dataset = with_values(study, values)
    plain, scaled = harmonize(posterior, dataset).mean, harmonize(posterior, dataset, match_noise=True)
    scales = posterior.tree["scales"].to_dataset()["q50"]
    person, noise = (scales.sel(family=name).values ** 2 for name in ("participant", "noise"))
    draws = np.log(posterior.tree["hyper"].to_dataset()["noise_ratio"])
    ratio = np.exp(draws.mean(("chain", "draw")).sel(scanner=scans.scanner.to_numpy(object)).values)[:, None]
    factor = np.sqrt((person + noise) / (person + noise * ratio))
    groups = {name: posterior.effect(name)["mean"] for name in ("sampling", "disorder")}
    told = np.zeros(values.shape)
    for scan in range(len(scans)):
        if scans.diagnosis[scan] != "HC":
            told[scan] += groups["disorder"].sel(diagnosis=scans.diagnosis[scan]).values
        if not scans.participant_id[scan].startswith("t"):
            told[scan] += groups["sampling"].sel(population=f"{scans.site[scan]}/{scans.diagnosis[scan]}").values
    participants = posterior.effect("participant")
    rest = (plain - told).mean(0) - (participants["n_scans"].values @ participants["mean"].values) / len(scans)
    np.testing.assert_allclose(scaled.mean, factor * plain + (1 - factor) * (told + rest), atol=1e-9)
    np.testing.assert_allclose(scaled.sd, factor * harmonize(posterior, dataset).sd, rtol=1e-12)


def test_what_is_expected_after_adapting(posterior, study):
    """The expected value includes the mean of the scans of the adaptation."""
    rng = np.random.default_rng(1)
    scans = pd.DataFrame({"participant_id": [f"x{k}" for k in range(30)], "scanner": "new", "diagnosis": "HC"})
    scans["scan_id"] = scans.participant_id
    values = rng.normal(9, 1, (30, 100))
    adapted = adapt(posterior, load_dataset(scans, values, check="apply"))
    both = pd.concat([study.scans, scans.assign(site="new")], ignore_index=True)
    dataset = load_dataset(both, np.concatenate([study.features.read(0, 100), values]), check="apply")
    expectation = Expectation(adapted, both, ("measurement",), np.arange(100), None)
    rest = quietly(adapted, dataset).mean - expectation(slice(None), slice(None))
    participants = adapted.effect("participant")
    told = participants["n_scans"].values @ participants["mean"].values
    np.testing.assert_allclose(rest.sum(0), told, atol=1e-9)
    expected = harmonize(adapted, dataset, match_noise=True)
    assert np.isfinite(expected.mean).all()
