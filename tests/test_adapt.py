"""An adapted posterior equals that of a fit to all scans, given the scales."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from cases import (
    Case,
    by_formula,
    cohort_only,
    everybody,
    known_scanners,
    make_case,
    new_travelers_site_and_diagnosis,
    of_cohort,
    of_protocol,
    of_travelers,
    on,
    repeated_who_travel,
    standardize,
    travelers_and_cohort,
    two_new_scanners,
    with_missing,
)
from dense import Dense, solve_dense
from posteriors import complete, make_learned, make_posterior
from studies import extend, random_study

from bayesharm.analysis.summary import summarize
from bayesharm.data.dataset import Dataset, load_dataset
from bayesharm.datasets.simulate import simulate_srpbs
from bayesharm.errors import InputError, RunFolderError
from bayesharm.harmonization.adaptation import adapt, adapt_to_new_scanners
from bayesharm.harmonization.harmonize import harmonize
from bayesharm.harmonization.value_ranges import check_ranges
from bayesharm.model.catalog import load_model
from bayesharm.results.posterior import Posterior, load_posterior

EXACT = 1e-8  # of a feature's sd: rounding of sums, and of systems whose prior of the mean is wide


CASES = [travelers_and_cohort, by_formula, cohort_only, new_travelers_site_and_diagnosis, of_protocol, of_travelers,
         of_cohort, known_scanners, repeated_who_travel, two_new_scanners]  # fmt: skip


def geometric(posterior: Posterior, name: str) -> dict[str, float]:
    """Means of a ratio of variances by scanner."""
    found = np.exp(np.log(posterior.tree["hyper"].to_dataset()[name]).mean(("chain", "draw")))
    return {str(scanner): float(found.sel(scanner=scanner)) for scanner in found["scanner"].values}


def refit(case: Case, fitted: Posterior, adapted: Posterior) -> Dense:
    """All scans at once, at the scales of the fit and the noise ratios of the adapted posterior."""
    scans, values, first = everybody(case)
    scales = fitted.tree["scales"].to_dataset()
    unit = scales["feature_scale"].values
    ratios = geometric(adapted, "noise_ratio"), geometric(adapted, "bias_ratio")
    return solve_dense(
        scans,
        (values - scales["center"].values) / unit,
        case.spec,
        {str(name): scales["q50"].sel(family=name).values / unit for name in scales["family"].values},
        ratios[0],
        standardize(case, scans, first),
        ratios[1],
    )


def compare(case: Case, fitted: Posterior, adapted: Posterior) -> None:
    """Compare means and sds of all effects; those of scanners and populations are contrasts with the mean of the fit."""
    dense = refit(case, fitted, adapted)
    unit = fitted.tree["scales"].to_dataset()["feature_scale"].values
    assert set(adapted.tree["effects"].children) >= set(fitted.tree["effects"].children)
    for name in adapted.tree["effects"].children:
        effect = adapted.effect(name)
        dim = str(effect["n_scans"].dims[0])
        if name == case.spec.removed_effect and case.spec.factors:
            levels, forms = list(adapted.scanners), dense.forms(name, case.spec, everybody(case)[0])
            levels = dense.levels(name, case.spec)
        else:
            levels, forms = dense.levels(name, case.spec), dense.forms(name, case.spec, case.scans)
        forms = count_from(forms, levels, dim, name, case, fitted)
        told = [str(level) for level in effect[dim].values]
        assert set(told) <= set(levels)
        if dim == "covariate":
            scale = {
                each["level"]: each["sd"] * each["own"] for each in fitted.tree["sufficient_statistics"].attrs["covariates"]
            }
            forms = forms / np.array([scale[level] for level in levels])[:, None]
        mean, sd = dense.summary(forms[[levels.index(level) for level in told]])
        np.testing.assert_allclose(effect["mean"].values / unit, mean, atol=EXACT, err_msg=name)
        np.testing.assert_allclose(effect["sd"].values / unit, sd, atol=EXACT, err_msg=name)


def count_from(forms, levels: list[str], dim: str, name: str, case: Case, fitted: Posterior) -> np.ndarray:
    if dim in ("diagnosis", "covariate"):
        return forms
    first = fitted.effect(name)
    known = {str(level) for level in first[str(first["n_scans"].dims[0])].values}
    group = [level.partition("/")[2] if dim == "population" else "" for level in levels]
    counted = forms.copy()
    for contrast_group in set(group):
        own = np.array([each == contrast_group for each in group])
        base = own & np.isin(levels, list(known))
        if not (name == case.spec.removed_effect or dim == "population") or not base.any():
            base = own
        counted[own] -= forms[base].mean(0)
    return counted


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_adapting_equals_a_fit_to_all_scans_at_the_same_scales(make):
    case = make()
    fitted = case.fitted
    before = fitted.tree.copy(deep=True)
    adapted = adapt(fitted, case.part(case.is_new))
    compare(case, fitted, adapted)
    assert fitted.tree.identical(before)


@pytest.mark.parametrize("where", ["old scans", "new scans", "both"])
@pytest.mark.parametrize("make", [travelers_and_cohort, of_protocol, known_scanners, repeated_who_travel],
                         ids=lambda make: make.__name__)  # fmt: skip
def test_adapting_uses_the_observed_scans(make, where, tmp_path):
    """As a fit to all observed scans, at the same scales; also when the posterior is saved and opened."""
    case = with_missing(make(), where)
    fitted = case.fitted
    compare(case, fitted, adapt(fitted, case.part(case.is_new)))
    complete(fitted).save(tmp_path / "run")
    compare(case, fitted, adapt(load_posterior(tmp_path / "run"), case.part(case.is_new)))


def test_adapting_twice_is_adapting_once_with_both():
    """Effects stay contrasts with the mean of the levels of the fit, whichever scanners come later."""
    case = two_new_scanners()
    fitted, lone = case.fitted, case.scans.scanner == "lone"
    adapted = adapt(adapt(fitted, case.part(lone)), case.part(case.is_new & ~lone))
    compare(case, fitted, adapted)

    with pytest.raises(InputError, match=r"contains these scans already[\s\S]*scans again"):
        adapt(adapted, case.part(lone))

    case = known_scanners()  # where no noise ratio is learned on the way
    fitted, some = case.fitted, case.is_new & (case.scans.participant_id == "p5")
    once = adapt(fitted, case.part(case.is_new))
    twice = adapt(adapt(fitted, case.part(some)), case.part(case.is_new & ~some))
    for name in once.tree["effects"].children:
        xr.testing.assert_allclose(once.effect(name), twice.effect(name), rtol=EXACT, atol=EXACT)
    xr.testing.assert_allclose(once.tree["design"].to_dataset(), twice.tree["design"].to_dataset())


def test_nothing_changes_when_it_is_saved_and_opened(tmp_path):
    case = of_protocol()
    complete(case.fitted).save(tmp_path / "run")
    adapted = adapt(load_posterior(tmp_path / "run"), case.part(case.is_new))
    compare(case, case.fitted, adapted)
    adapted.save(tmp_path / "adapted")
    opened = load_posterior(tmp_path / "adapted")
    assert opened.tree.isomorphic(adapted.tree) and opened.run["notes"] == adapted.run["notes"]
    more = Case(case.scans, case.is_new, case.values + 1, case.spec).part(case.is_new)
    for name in adapted.tree["effects"].children:
        xr.testing.assert_identical(opened.effect(name), adapted.effect(name))
    assert adapt(opened, more).effect("measurement").identical(adapt(adapted, more).effect("measurement"))


def test_a_real_fit_adapts(small_study, small_run, monkeypatch):
    """Travelers and a cohort on a new scanner, features in another order and more of them, in blocks."""
    monkeypatch.setattr("bayesharm.harmonization.adapted_effects.BLOCK", 100)
    fitted = load_posterior(small_run)
    assert 1 < fitted.tree["hyper"].attrs["n_independent_features"] <= len(fitted.features)
    old = pd.read_csv(small_study / "scans.csv", dtype=str)
    people = ["t0", "t1", "t2", *(f"new{k}" for k in range(6))]
    new = pd.DataFrame({"participant_id": people, "scanner": "epsilon", "diagnosis": ["HC"] * 6 + ["MDD"] * 3})
    scans = pd.concat([old, new.assign(scan_id=[f"new scan {k}" for k in range(9)])], ignore_index=True)
    rng, before = np.random.default_rng(2), np.load(small_study / "features.npy").astype(float)
    scans["site"] = scans.scanner
    case = Case(scans, scans.scanner == "epsilon", np.concatenate([before, rng.normal(6, 1, (9, 100))]), fitted.spec)
    names = rng.permutation([*fitted.features, "another"])
    table = pd.DataFrame(case.values[case.is_new], columns=fitted.features).assign(another=0.0)[names]
    ids = np.arange(9)
    adapted = adapt(fitted, load_dataset(new.assign(scan_id=ids), table.assign(scan_id=ids), check="apply"))
    compare(case, fitted, adapted)
    assert "'another'" in adapted.run["notes"][-2] and "9 new scans" in adapted.run["notes"][-1]
    assert "epsilon" in summarize(adapted).scanners.index
    told = adapted.effect("measurement")
    assert told["n_scans"].sel(scanner="epsilon") == 9 and 0.1 < told["contraction"].sel(scanner="epsilon") < 1
    design = adapted.tree["design"].to_dataset()
    assert design.sel(scanner="epsilon")[["n_scans", "n_travelers", "n_single_scan"]].to_array().values.tolist() == [9, 3, 6]
    before_and_after = fitted.effect("measurement"), told.sel(scanner=fitted.scanners)
    assert (before_and_after[1]["contraction"] > before_and_after[0]["contraction"] - 0.02).all()  # at other typical scales


def test_the_noise_ratio_of_a_new_scanner_is_found():
    """Given the true scales; the standard error is that of the variances of scans, less what effects take."""
    study = simulate_srpbs(60, seed=4, noise_ratio_log_sd=0.7, dtype="float64")
    scans, true = study.scans, study.truth.noise_ratio
    spec = load_model("traveling_and_cohort")
    for new in ("COI", "KPM"):
        is_new = (scans.scanner == new).to_numpy()
        old = load_dataset(scans[~is_new], study.features[~is_new])
        fitted = make_learned(old, spec, study.truth.scales, true.to_dict())
        adapted = adapt(fitted, load_dataset(scans[is_new], study.features[is_new], check="apply"))
        found = adapted.tree["hyper"].to_dataset()["noise_ratio"].sel(scanner=new).values
        noise = study.truth.scales["noise"] ** 2 * true[new]
        once = ~scans.participant_id.duplicated(keep=False)[is_new]
        share = noise / (noise + np.outer(once, study.truth.scales["participant"] ** 2))
        n_lost = 12  # means of the scanner, its populations and diagnoses, and what is not known of travelers
        se = (0.5 * (share**2).sum() * (1 - n_lost / is_new.sum())) ** -0.5
        middle = np.log(found).mean()
        assert abs(middle - np.log(true[new])) < 4.3 * se < 0.2
        assert 0.5 * se < np.log(found).std() < 1.6 * se
        fitted.tree["hyper"].attrs["n_independent_features"] = 1.0  # of 60 that go together: the prior holds it at 1
        together = adapt(fitted, load_dataset(scans[is_new], study.features[is_new], check="apply"))
        held = np.log(together.tree["hyper"].to_dataset()["noise_ratio"].sel(scanner=new).values).mean()
        precision = [(share**2).sum() / 2 / n + spec.priors.noise_ratio_sd**-2 for n in (1, 60)]
        expected = middle * (1 - spec.priors.noise_ratio_sd**-2 / precision[1]) / (
            1 - spec.priors.noise_ratio_sd**-2 / precision[0])  # fmt: skip
        assert held == pytest.approx(expected, abs=0.15) and abs(held) < abs(middle)


def without(case: Case, column: str) -> Dataset:
    dataset = case.part(case.is_new)
    return replace(dataset, scans=dataset.scans.drop(columns=column))


def emptied(case: Case, column: str) -> Dataset:
    dataset = case.part(case.is_new)
    scans = dataset.scans.copy()
    scans.loc[1, column] = "" if column in ("diagnosis", "site") else np.nan
    return replace(dataset, scans=scans)


def test_scans_that_a_posterior_cannot_learn_from():
    case = travelers_and_cohort()
    fitted = case.fitted
    for column in ("diagnosis", "age"):
        with pytest.raises(InputError, match=rf"have no '{column}'[\s\S]*do this"):
            adapt(fitted, without(case, column))
    for column, message in (("diagnosis", "not all have a diagnosis"), ("site", "not all have a site"), ("age", "missing")):
        with pytest.raises(InputError, match=rf"{message}[\s\S]*'{case.part(case.is_new).scans.scan_id[1]}'"):
            adapt(fitted, emptied(case, column))
    infinite = case.values.copy()
    infinite[np.flatnonzero(case.is_new)[2], 1] = np.inf
    with pytest.raises(InputError, match=r"infinite[\s\S]*1 of them, in features 'feature_0001'"):
        adapt(fitted, case._replace(values=infinite).part(case.is_new))
    with pytest.raises(InputError, match="categories that the fit has not seen"):
        adapt(fitted, replace(case.part(case.is_new), scans=case.part(case.is_new).scans.assign(sex="X")))
    with pytest.raises(RunFolderError, match=r"no sufficient statistics[\s\S]*fit again"):
        adapt(make_posterior(), case.part(case.is_new))


def test_new_scans_that_contradict_themselves_are_refused():
    """Also through harmonizing with adaptation; unless the finding is accepted, here or in the fit."""
    case = travelers_and_cohort()
    fitted, dataset = case.fitted, case.part(case.is_new)
    age = dataset.scans.age.astype(float).mask(dataset.scans.index == 1, -9999)
    coded = replace(dataset, scans=dataset.scans.assign(age=age))
    for call in (adapt, adapt_to_new_scanners):
        with pytest.raises(InputError, match=rf"codes for 'missing'[\s\S]*'{dataset.scans.scan_id[1]}'[\s\S]*missing-code"):
            call(fitted, coded)
    with pytest.warns(UserWarning, match="Accepted by the user"):
        adapt(fitted, coded, accept="missing-code")
    known = case.part(~case.is_new)
    scans = known.scans.assign(age=known.scans.age.astype(float).mask(known.scans.index == 1, -9999))
    with pytest.raises(InputError, match="codes for 'missing'"):
        harmonize(fitted, replace(known, scans=scans), match_noise=True)
    before = replace(fitted, run={**fitted.run, "findings": [{"code": "missing-code", "accepted": True}]})
    with pytest.warns(UserWarning, match="Accepted by the user"):
        adapt(before, coded)
    caveat = replace(fitted, run={**fitted.run, "findings": [{"code": "missing-code", "accepted": False}]})
    with pytest.raises(InputError, match="codes for 'missing'"):  # a caveat of the fit is not accepted
        adapt(caveat, coded)


def test_noise_weights_in_other_units_are_refused():
    """In the units of the fit, 1 / volumes, a weight of 1 would be that of 250 times the noise."""
    scans = random_study(1)
    scans["relative_noise"] = 1 / np.random.default_rng(0).integers(200, 300, len(scans))
    values = np.random.default_rng(1).normal(size=(len(scans), 3))
    old, new = (np.flatnonzero(each) for each in (~on(scans, "s1"), on(scans, "s1")))
    fitted = make_learned(load_dataset(scans.iloc[old], values[old]), extend("precision"))

    def given(factor: float) -> Dataset:
        table = scans.iloc[new].assign(relative_noise=factor * scans.relative_noise.iloc[new])
        return load_dataset(table, values[new], check="apply")

    for factor in (250, 1 / 250):
        with pytest.raises(InputError, match=r"'relative_noise' are 2\d\d times[\s\S]*--accept noise-weight"):
            adapt_to_new_scanners(fitted, given(factor))
    _, notes = adapt_to_new_scanners(fitted, given(250), accept="noise-weight")
    assert any("than in the fit: the new scans hardly count" in note for note in notes)
    (note,) = check_ranges(fitted, given(20).scans, ["relative_noise"], accept=())
    assert "times larger than in the fit" in note
    assert check_ranges(fitted, given(1).scans, ["relative_noise"], accept=()) == []


def test_people_that_the_model_knows_nothing_about():
    scans = random_study(1)
    scans.loc[~on(scans, "s1"), "diagnosis"] = "HC"
    case = make_case(scans, on(scans, "s1"))
    with pytest.raises(InputError, match=r"a diagnosis that the fit did not have[\s\S]*'disorder:MDD'"):
        adapt(case.fitted, case.part(case.is_new))

    case = repeated_who_travel()
    case.scans.loc[case.scans.participant_id == "r1", "site"] = "s0"
    changed = case.scans.index[(case.scans.participant_id == "r1") & ~case.is_new][0]
    case.scans.loc[changed, "diagnosis"] = "MDD"
    with pytest.raises(InputError, match=r"under several diagnoses, has traveled since the fit[\s\S]*participant:r1"):
        adapt(case.fitted, case.part(case.is_new))


def test_features_in_other_units_are_doubted():
    case = of_cohort()
    with pytest.warns(UserWarning, match=r"3 of 3 features are about 872 times as large as in the fit"):
        adapted = adapt(case.fitted, case._replace(values=1000 * case.values).part(case.is_new))
    assert any("other units" in note for note in adapted.run["notes"])
