"""Comparison of two runs by held-out scans; the predictive densities themselves are tested in test_leave_group_out.py."""

from dataclasses import replace
from types import SimpleNamespace

import arviz
import numpy as np
import pandas as pd
import pytest
from scipy.special import logsumexp
from tiny_study import EQUAL, EQUAL_RATIOS, SCALES, TinyStudy
from typer.testing import CliRunner

import bayesharm
from bayesharm import InputError, compare_models, load_dataset, load_model, load_posterior
from bayesharm.analysis.held_out_prediction import HeldOutPredictor
from bayesharm.analysis.model_comparison import ModelComparison
from bayesharm.analysis.predictive_scores import Scores, average_pit, elpd_difference, score, to_elpd
from bayesharm.analysis.validation_schemes import Scheme, _deal_folds, arrange_schemes
from bayesharm.cli.app import app
from bayesharm.conditional.leave_group_out import HeldOutDensity
from bayesharm.fitting.context import make_fit_context
from bayesharm.fitting.settings import Settings
from bayesharm.model.design import build_design


@pytest.fixture(scope="module")
def runs(small_study, small_run):
    dataset = load_dataset(small_study / "scans.csv", small_study / "features.npy")
    return load_posterior(small_run), bayesharm.fit(dataset, "cohort", seed=1, preview=True), dataset


@pytest.fixture(scope="module")
def compared(runs) -> ModelComparison:
    return compare_models(*runs)


def test_scores_are_ratios_of_marginal_likelihoods():
    """p(unit | others) = ∫ p(unit | others, θ) p(others | θ) p(θ) / ∫ p(others | θ) p(θ), on a grid of θ."""
    rng = np.random.default_rng(0)
    n_nodes, n_folds, n_features = 60, 2, 3
    log_all, fold = rng.normal(size=(n_nodes, n_features)), rng.normal(size=(n_nodes, n_folds, n_features))
    units = rng.normal(size=(n_nodes, 4, n_features))
    below = rng.uniform(size=(n_nodes, 5, n_features)).astype(np.float32)
    left = HeldOutDensity(fold, units, below)
    found = score(log_all, left, np.array([0, 0, 1, 1]))
    for unit, k in enumerate([0, 0, 1, 1]):
        others = log_all - fold[:, k]
        np.testing.assert_allclose(found.log_density[unit], logsumexp(others + units[:, unit], 0) - logsumexp(others, 0))
    own = np.stack([log_all, log_all + 1 * rng.normal(size=log_all.shape)])
    np.testing.assert_allclose(score(own, left, np.array([0, 0, 1, 1])).log_density[:2], found.log_density[:2])
    weight = np.exp(log_all - fold[:, 1])
    average = average_pit(own[[0, 0]], left, np.array([1, 1, -1, -1, -1]))
    np.testing.assert_allclose(average[:2], ((weight / weight.sum(0))[:, None] * below[:, :2]).sum(0), rtol=1e-6)
    assert np.isnan(average[2:]).all()
    one = to_elpd(found, list("abcd"), "participants", n_nodes)
    np.testing.assert_allclose(one.elpd_i, found.log_density.sum(1))
    assert elpd_difference(found, found)["difference"] == 0 and elpd_difference(found, found)["n"] == 4


def test_the_model_with_the_larger_densities_is_the_better_one():
    densities = np.random.default_rng(0).normal(size=(2, 9, 4))
    found = elpd_difference(*(Scores(each, np.zeros((9, 4))) for each in densities))
    by_unit = densities[0].sum(1) - densities[1].sum(1)
    assert found["difference"] == pytest.approx(by_unit.sum()) and found["n_features"] == 4
    assert found["se"] == pytest.approx(9**0.5 * by_unit.std(ddof=1))


def test_everybody_is_left_out_once_with_people_of_both_kinds():
    rng = np.random.default_rng(0)
    people = np.array([f"t{i}" for i in range(4) for _ in range(3)] + [f"c{i:02d}" for i in range(20)])
    repeated = np.char.startswith(people, "t")
    folds, omitted = _deal_folds(people, np.ones(len(people), bool), repeated, np.arange(len(people)).astype(str), 4, rng)
    assert omitted == 0 and (pd.Series(folds).groupby(people).nunique() == 1).all()
    for fold in range(4):
        assert len(set(people[(folds == fold) & repeated])) == 1 and ((folds == fold) & ~repeated).sum() == 5


def test_too_many_repeated_people_are_not_all_left_out():
    rng = np.random.default_rng(0)
    people = np.repeat([f"t{i:03d}" for i in range(300)], 2)
    every = np.ones(len(people), bool)
    folds, omitted = _deal_folds(people, every, every, np.arange(len(people)).astype(str), 2, rng)
    assert omitted == 200 and all(((folds == fold).sum() == 100) for fold in range(2))


def test_a_scanner_that_is_left_out_is_left_out_of_both_models(runs):
    """One model uses travelers only: what both use is scored, and neither sees anything of the scanner."""
    dataset = runs[2]
    models = ("traveling_and_cohort", "traveling")
    studies = tuple(SimpleNamespace(dataset=dataset, design=build_design(dataset.scans, load_model(m))) for m in models)
    schemes, _ = arrange_schemes(studies, 3, np.random.default_rng(0))
    scanner, scheme = dataset.scans["scanner"].to_numpy(str), schemes["scanners"]
    travels = np.isin(np.arange(len(scanner)), studies[1].design.rows)
    assert scheme.labels.tolist() == ["alpha", "beta", "gamma"]
    for name in scheme.labels:
        assert len(set(scheme.folds[scanner == name])) == 1 and (scheme.folds[scanner == name] >= 0).all()
        assert (scheme.units[scanner == name] >= 0).tolist() == travels[scanner == name].tolist()
    assert (schemes["participants"].folds[~travels] == -1).all()


def test_densities_are_in_the_units_of_the_features():
    """In units c times as large, a value has c times the density: log c for each scan."""
    study, rng = TinyStudy(EQUAL, seed=1), np.random.default_rng(0)
    context = make_fit_context(load_dataset(study.scans, study.features[:, :3]), study.design, 1, Settings())
    units = pd.factorize(study.scans.participant_id[study.design.rows])[0]
    moments, standard = context.moments(np.arange(3))
    log_scales = rng.normal(np.log(0.5), 0.3, (16, len(SCALES), 3))
    center = np.concatenate([context.problem.log_medians, np.full(len(SCALES), np.log(0.3))])
    one = HeldOutPredictor(context, EQUAL_RATIOS, center, moments, standard, context.standardized(np.arange(3)),
                           log_scales, rng.normal(size=(16, 3)))  # fmt: skip
    other = replace(one, standardization=standard._replace(sd=standard.sd / [1, 10, 1000]))
    scheme = Scheme(units % 2, units, np.unique(units))
    gain = other.predict(scheme, with_pit=False)[0].log_density - one.predict(scheme, with_pit=False)[0].log_density
    np.testing.assert_allclose(gain, np.outer(np.bincount(units), np.log([1, 10, 1000])), atol=1e-9)


def test_conclusions_name_the_better_run(compared):
    assert list(compared.predictions.index) == ["participants", "visits", "scanners"]
    assert compared.predictions.n.tolist() == [22, 15, 5]
    by_unit = compared.units.groupby(level=0).difference.sum()
    np.testing.assert_allclose(by_unit[compared.predictions.index], compared.predictions.difference)
    elpd = compared.elpd["participants"]
    table = arviz.compare(dict(elpd), round_to="none")
    assert abs(table.elpd_diff).max() == pytest.approx(abs(compared.predictions.difference["participants"]), rel=0.1)
    assert compared.conclusions()[0].startswith("participants: ")
    text = str(compared)
    assert "traveling_and_cohort versus cohort" in text and max(map(len, text.splitlines())) <= 80


def test_held_out_scans_agree_with_their_predictions(compared):
    checks = compared.predictive_checks.loc["traveling_and_cohort"]
    assert set(checks.index) == {"alpha", "beta", "gamma", "delta", "omega"}
    many = checks.drop("omega")  # one scan, whose noise ratio is known from itself
    assert many["mean"].abs().max() < 0.35 and many.sd.between(0.8, 1.2).all() and many.outside.between(0.03, 0.2).all()
    np.testing.assert_allclose(checks[[f"pit_{k}" for k in range(10)]].sum(axis=1), 1)


def test_a_run_is_as_good_as_itself(runs):
    one, _, dataset = runs
    found = compare_models(one, one, dataset, names=("a", "b"), folds=2)
    assert all("no clear difference, 0.0" in sentence for sentence in found.conclusions())
    assert (found.predictions.difference == 0).all() and found.about["runs"] == ["a", "b"]


def test_runs_of_different_data_are_refused(runs, small_study):
    one, other, dataset = runs
    with pytest.raises(InputError, match=r"different data[\s\S]*different features"):
        compare_models(one, replace(other, run={**other.run, "fingerprint": "x"}), dataset)
    with pytest.raises(InputError, match="at least two folds"):
        compare_models(one, other, dataset, folds=1)


def test_the_command_compares_two_run_folders(small_run, tmp_path):
    command = ["compare", str(small_run), str(small_run), "--folds", "2", "--out", str(tmp_path / "tables"), "-q"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "participants: " in result.stdout
    assert {path.name for path in (tmp_path / "tables").iterdir()} == {
        "predictions.csv",
        "units.csv",
        "predictive_checks.csv",
    }
