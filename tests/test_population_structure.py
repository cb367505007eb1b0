"""Test of one population against several: its ingredients, and its conclusions where the truth is known."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from posteriors import make_learned
from scipy import stats
from typer.testing import CliRunner

import bayesharm
from bayesharm import InputError, ModelError, load_dataset, load_posterior, simulate_longitudinal, simulate_srpbs
from bayesharm.analysis.population_structure import ALL, PopulationTest
from bayesharm.analysis.yamashita_regression import regress_populations
from bayesharm.cli.app import app
from bayesharm.inference.effective_features import (
    count_independent_features,
    count_independent_for_ratios,
    fit_residualization,
    list_cells,
    residualize,
)
from bayesharm.model.catalog import load_model
from bayesharm.model.configure import configure_model
from bayesharm.model.design import build_design

N_FEATURES = 60


@pytest.fixture(scope="module")
def results() -> dict[bool, PopulationTest]:
    """Results for a small study without sampling bias, and for one with sampling bias of the published size.

    In the former, people who did not travel differ from the travelers, by the same amount at every site.
    """
    found = {}
    for bias in (False, True):
        study = simulate_srpbs(N_FEATURES, seed=5, sampling_bias=bias)
        kept = (study.scans.diagnosis != "SCZ").to_numpy()  # two diagnoses show as much as three
        scans, features = study.scans[kept], study.features[kept]
        cohort = scans.participant_id.str.startswith("P").to_numpy()
        offset = 0.0 if bias else np.random.default_rng(0).normal(0, 0.05, N_FEATURES)
        dataset = load_dataset(scans, features + cohort[:, None] * offset)
        posterior = bayesharm.fit(dataset, seed=1, feature_scaling="common", preview=True)
        result = bayesharm.test_populations(posterior, dataset)
        assert isinstance(result, PopulationTest)
        found[bias] = result
    return found


def test_one_population_is_not_taken_for_several(results):
    families = results[False].families
    assert list(families.index) == ["sampling_HC", "sampling_MDD", ALL]
    assert (families.probability < 0.5).all()
    assert (results[False].features[f"probability_{ALL}"] < 0.5).all()
    told = results[False].predictions  # a standard error of few sites is itself hardly known
    limit = stats.t.isf(2e-5 / len(told), told.n - 1)
    assert (told.difference < limit * told.se).all()
    reliability_warnings = told.khat_high > 0.2  # importance samples are those of the run
    assert reliability_warnings.any() == any("predictions are rough" in note for note in results[False].notes)


def test_several_populations_are_found(results):
    found = results[True]
    assert (found.families.probability > 0.95).all()
    assert (found.predictions.loc[ALL].difference > 2 * found.predictions.loc[ALL].se).all()
    assert found.conclusions()[0] == "healthy controls: several populations with probability > 0.99"
    text = str(found)
    assert "everybody: several populations with probability > 0.99" in text and max(map(len, text.splitlines())) <= 80


def test_tables_report_their_ingredients(results, tmp_path):
    found = results[True]
    assert found.about == {"n_features": N_FEATURES, "n_training_features": N_FEATURES, "preview": True,
                           "n_independent_features": pytest.approx(N_FEATURES, rel=0.05)}  # fmt: skip
    shares = found.families[["share_q05", "share", "share_q95"]]
    assert (np.diff(shares, axis=1) >= 0).all()
    assert found.predictions.n.xs("participants", level="left_out").eq(766).all()
    assert found.predictions.n.xs("sites", level="left_out").tolist() == [6, 3, 6]
    both = found.elpd[ALL, "participants"]
    difference = both["several populations"].elpd - both["one population"].elpd
    assert difference == pytest.approx(found.predictions.difference[ALL, "participants"])
    written = found.write(tmp_path / "tables", "parquet")
    assert [file.name for file in written] == ["families.parquet", "predictions.parquet", "features.parquet"]
    back = pd.read_parquet(written[2])
    pd.testing.assert_frame_equal(back.drop(columns="preview"), found.features)
    with pytest.raises(InputError, match=r"format[\s\S]*got: *'xls'"):
        found.write(tmp_path / "others", "xls")


def test_features_that_go_together_count_once():
    rng = np.random.default_rng(1)
    cells = np.repeat(np.arange(10), 60)
    cells[:20] = -1
    own = rng.normal(size=(600, 80)) + 5 * rng.normal(size=(10, 80))[np.maximum(cells, 0)]  # cells do not make a correlation
    assert count_independent_features(own, cells) == pytest.approx(80, rel=0.05)
    assert count_independent_features(np.repeat(own, 2, axis=1), cells) == pytest.approx(80, rel=0.05)
    common = rng.normal(size=(600, 1))
    half = np.sqrt(0.5) * (rng.normal(size=(600, 80)) + common)  # correlations of a half: 80² / (80 + 80 · 79 / 4)
    assert count_independent_features(half, cells) == pytest.approx(80 / (1 + 79 / 4), rel=0.15)
    people, scanner = np.arange(600) // 6, rng.integers(0, 5, 600)  # means of people and of scanners, not balanced
    both = own + 5 * rng.normal(size=(100, 1))[people] + 5 * rng.normal(size=(5, 1))[scanner]
    assert count_independent_features(both, people, np.eye(5)[scanner]) == pytest.approx(80, rel=0.05)
    assert count_independent_features(both, people) < 40
    assert count_independent_features(own[:8], np.arange(8)) == 1  # nothing is left to see correlations in
    noisy = rng.normal(size=(600, 80)) * np.where(scanner == 0, 3, 1)[:, None]  # scans that are large in all features
    assert count_independent_features(noisy, cells, classes=scanner) == pytest.approx(80, rel=0.05)
    assert count_independent_features(noisy, cells) < 70


@pytest.mark.parametrize("again", [1, 2, 5])
def test_people_who_are_scanned_again_do_not_make_features_go_together(again):
    """Travelers, and people scanned once or more often on one scanner; noise differs between scanners."""
    rng = np.random.default_rng(again)
    visits = [(f"t{i}", "ABC"[k]) for i in range(8) for k in range(3)]
    visits += [(f"c{i}", "ABC"[i % 3]) for i in range(60) for _ in range(again)]
    scans = pd.DataFrame(visits, columns=["participant_id", "scanner"])
    scans = scans.assign(scan_id=[f"s{k:03d}" for k in range(len(scans))], site=scans.scanner, diagnosis="HC")
    person = {name: rng.normal(0, 2, 120) for name in scans.participant_id.unique()}
    noise = scans.scanner.map({"A": 0.5, "B": 1.0, "C": 2.0}).to_numpy()
    values = np.stack([person[name] for name in scans.participant_id]) + noise[:, None] * rng.normal(size=(len(scans), 120))
    values += 3 * rng.normal(size=(3, 120))[scans.scanner.factorize()[0]]
    design = build_design(load_dataset(scans, values).scans, load_model("traveling_and_cohort"))
    found = count_independent_for_ratios(design, scans, values[design.rows])
    assert found == pytest.approx(120, rel=0.1)
    pairs = count_independent_for_ratios(design, scans, np.repeat(values[design.rows], 2, axis=1))
    assert pairs == pytest.approx(found, rel=0.02)


def test_change_over_time_does_not_make_features_go_together():
    """Mean slopes of everybody, of a diagnosis, and of scanners differ between independent features."""
    rng = np.random.default_rng(0)
    study = simulate_longitudinal(100, seed=1)
    scans = study.scans
    spec = configure_model("longitudinal", scans, time="years", covariates=["sex"])
    families = (replace(f, slope="years") if f.by == "scanner" else f for f in spec.families)
    design = build_design(scans, replace(spec, families=tuple(families)))
    years = scans.years.to_numpy()[design.rows, None]
    of_scanner = rng.normal(size=(len(design.scanners), 100))[design.class_scanner[design.scan_class]]
    values = study.features[design.rows] + years * (0.2 * rng.normal(size=100) + 0.2 * of_scanner)
    assert count_independent_for_ratios(design, scans, values) == pytest.approx(92, rel=0.05)
    residuals = residualize(design, scans, values)
    still = residuals.project(residuals.weight[:, None] * years * (scans.diagnosis.to_numpy()[design.rows, None] == "MCI"))
    assert np.abs(still).max() < 1e-9
    without = build_design(scans, configure_model("traveling_and_cohort", scans, covariates=["sex"]))
    people, scanner = without.participants, without.class_scanner[without.scan_class]
    labels = pd.Categorical(people).codes.astype(int)
    single = ~pd.Series(people).duplicated(keep=False).to_numpy()
    labels = np.where(single, labels.max() + 1 + list_cells(without, scans), labels)
    as_before = fit_residualization(values, labels, np.eye(len(without.scanners))[scanner], without.scan_class)
    now = residualize(without, scans, values)
    assert all(np.array_equal(getattr(now, name), getattr(as_before, name)) for name in ("weight", "basis", "dof"))


def test_the_regression_of_2019_says_several_either_way():
    """As its note says: it is not specific."""
    for bias in (False, True):
        study = simulate_srpbs(N_FEATURES, seed=5, sampling_bias=bias)
        found = regress_populations(load_dataset(study.scans, study.features))
        assert found.several and "not specific" in str(found)
        n, variance = found.sites.n.to_numpy(), found.sites.variance.to_numpy()
        slope, intercept = np.polyfit(1 / n, variance, 1)
        np.testing.assert_allclose(found.models.loc["several", ["slope", "intercept"]].astype(float), [slope, intercept])
        residual = variance - (1 / n @ variance) / (1 / n @ (1 / n)) / n
        np.testing.assert_allclose(found.models.aicc["one"], 6 * np.log((residual**2).mean()) + 4 + 12 / 3)


def test_what_cannot_be_compared_is_refused(small_run, small_study, tmp_path):
    posterior = load_posterior(small_run)
    dataset = load_dataset(small_study / "scans.csv", small_study / "features.npy")
    with pytest.raises(InputError, match="method is not known"):
        bayesharm.test_populations(posterior, dataset, method="anova")
    assert len(bayesharm.test_populations(posterior, method="yamashita2019").sites) > 3  # reads the data where they were
    table = pd.read_csv(small_study / "scans.csv").assign(site=lambda scans: scans.scanner.eq("alpha").map(str))
    with pytest.raises(InputError, match=r"too few sites[\s\S]*from 2 sites[\s\S]*leave the method out"):
        regress_populations(load_dataset(table, np.load(small_study / "features.npy")))
    other = load_dataset(small_study / "scans.csv", np.load(small_study / "features.npy") * 2)
    with pytest.raises(InputError, match=r"not the data[\s\S]*got: *other features"):
        bayesharm.test_populations(posterior, other)
    fewer = dataset.scans[dataset.scans.scanner != "omega"]
    with pytest.raises(InputError, match="other scans and features"):
        bayesharm.test_populations(posterior, load_dataset(fewer, dataset.features.read(0, 100)[fewer.index]))
    run = shutil.copytree(small_run, tmp_path / "run")
    origin = json.loads((run / "run.json").read_text())["data"]
    moved = replace(posterior, run={**posterior.run, "data": {**origin, "scans": str(tmp_path / "gone.csv")}})
    with pytest.raises(InputError, match=r"moved or removed[\s\S]*gone\.csv"):
        bayesharm.test_populations(moved)
    with pytest.raises(InputError, match="does not say where its data are"):
        bayesharm.test_populations(replace(posterior, run={**posterior.run, "data": None}))
    cohort = make_learned(dataset, load_model("cohort"))
    with pytest.raises(ModelError, match=r"no sampling bias[\s\S]*'cohort'"):
        bayesharm.test_populations(cohort, dataset)


@pytest.mark.slow
def test_the_command_reads_the_data_from_where_they_were_and_ends_with_conclusions(small_run, small_study, tmp_path):
    result = CliRunner().invoke(app, ["populations", str(small_run), "--out", str(tmp_path / "tables"), "--quiet"])
    assert result.exit_code == 0, result.output
    assert "healthy controls: several populations with probability " in result.stdout
    features = pd.read_csv(tmp_path / "tables" / "features.csv", index_col=0)
    assert len(features) == 100 and features.filter(like="probability").stack().between(0, 1).all()
    moved = shutil.copy(small_study / "scans.csv", tmp_path / "scans.csv")
    result = CliRunner().invoke(app, ["populations", str(small_run), str(moved), "--method", "yamashita2019", "-q"])
    assert result.exit_code == 0 and "not specific" in result.stdout
    result = CliRunner().invoke(app, ["populations", str(small_run), str(small_study / "features.npy")])
    assert result.exit_code == 2


def test_pytest_does_not_collect_the_function_where_it_is_imported():
    assert bayesharm.test_populations.__test__ is False
