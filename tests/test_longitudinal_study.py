"""The simulated longitudinal study has the visits and the effects that it says; its oracle is the exact posterior."""

import re

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import bayesharm
from bayesharm import InputError, load_dataset, simulate_longitudinal
from bayesharm.cli.app import app
from bayesharm.datasets.longitudinal import (
    AGE,
    COVARIATES,
    LONGITUDINAL_RMS,
    covariate_columns,
    participant_slopes,
    scanner_bias,
)
from bayesharm.datasets.longitudinal_oracle import longitudinal_oracle

EVERYTHING = dict(
    crossing=0.3, moving=0.2, n_travelers=2, min_visits=1, slope_correlation=0.5, noise_ratio_log_sd=0.5,
    sizes={"measurement_slope": 0.001, "sampling": 0.05},
)  # fmt: skip


@pytest.fixture(scope="module")
def study():
    return simulate_longitudinal(1000, 1, **EVERYTHING)


def visits(scans: pd.DataFrame):
    return scans.groupby("participant_id", sort=False)


def test_people_come_back_at_irregular_times():
    scans = simulate_longitudinal(1, 2).scans
    assert scans["scan_id"].is_unique and scans["participant_id"].nunique() == 160
    assert set(visits(scans).size()) == {2, 3, 4, 5}
    gaps = visits(scans)["years"].diff().dropna()
    assert gaps.between(0.599, 1.601).all() and gaps.round(2).nunique() > 60
    assert (visits(scans)["years"].first() == 0).all()
    assert (visits(scans)[["site", "diagnosis", "sex", "baseline_age"]].nunique() == 1).all(axis=None)
    np.testing.assert_allclose(scans["age"], scans["baseline_age"] + scans["years"])
    assert set(scans["scanner"]) == {"A1", "A2", "B1", "B2", "C1", "C2", "D1"}
    assert 0.3 < (visits(scans)["diagnosis"].first() == "MCI").mean() < 0.5
    dataset = load_dataset(scans, np.random.default_rng(0).normal(size=(len(scans), 2)))
    assert len(dataset.scans) == len(scans)


def test_an_upgrade_is_never_undone_and_some_people_see_it():
    scans = simulate_longitudinal(1, 2, n_people=400, moving=0).scans
    assert (scans["scanner"].str[0] == scans["site"]).all()
    generation = scans["scanner"].str[1].astype(int)
    assert (generation.groupby(scans["participant_id"]).diff().dropna() >= 0).all()
    crossed = generation.groupby(scans["participant_id"]).nunique() == 2
    has_upgrade = visits(scans)["site"].first() != "D"
    assert crossed[has_upgrade].mean() == pytest.approx(0.6, abs=0.12)
    few = simulate_longitudinal(1, 2, n_people=400, moving=0, crossing=0.05).scans
    assert (visits(few)["scanner"].nunique() == 2).mean() < 0.08


def test_a_simultaneous_upgrade_is_between_the_first_and_the_second_visit_of_everybody():
    scans = simulate_longitudinal(1, 2, simultaneous=True).scans
    later = visits(scans).cumcount() > 0
    assert (scans["scanner"].str[1] == np.where(later, "2", "1")).all()
    assert scans["scanner"].nunique() == 8


def test_people_move_and_travelers_tour_all_sites_twice(study):
    scans = study.scans
    cohort = scans[scans["participant_id"].str.startswith("P")]
    elsewhere = cohort["scanner"].str[0] != cohort["site"]
    assert 0.05 < elsewhere.groupby(cohort["participant_id"]).any().mean() < 0.25
    assert (elsewhere.groupby(cohort["participant_id"]).diff().dropna() >= 0).all()  # nobody comes back
    tour = scans[scans["participant_id"] == "T01"]
    assert sorted(tour["scanner"][:4]) == ["A1", "B1", "C1", "D1"] and sorted(tour["scanner"][4:]) == [
        "A2",
        "B2",
        "C2",
        "D1",
    ]
    assert tour["years"].iloc[3] < 0.2 and tour["years"].iloc[4:].between(4, 4.2).all()


def test_features_are_the_sum_of_effects_and_noise(study):
    truth, scans = study.truth, study.scans
    effects = {name: table.fillna(0) for name, table in truth.effects.items()}
    noise = study.features - truth.mean - scanner_bias(scans, truth)
    years = scans[["years"]].to_numpy()
    noise -= effects["participant"].loc[scans["participant_id"]].to_numpy()
    noise -= effects["sampling"].loc[scans["site"]].to_numpy()
    noise -= (scans[["diagnosis"]] == "MCI").to_numpy() * effects["disorder"].to_numpy()
    noise -= years * participant_slopes(study).loc[scans["participant_id"]].to_numpy()
    rest = covariate_columns(scans).drop(columns="years")
    noise -= rest.to_numpy() @ effects["covariate"].loc[rest.columns].to_numpy()
    z = noise / truth.scales["noise"]
    assert truth.noise_ratio.std() > 0.1 and np.exp(np.log(truth.noise_ratio).mean()) == pytest.approx(1)
    for scanner, ratio in truth.noise_ratio.items():
        part = z[(scans["scanner"] == scanner).to_numpy()]
        assert part.var() == pytest.approx(ratio, rel=5 * (2 / part.size) ** 0.5)
    at = scanner_bias(scans.assign(age=AGE), truth)
    np.testing.assert_allclose(at, effects["measurement"].loc[scans["scanner"]])


def test_effects_have_their_size_and_correlation(study):
    truth = study.truth
    for family, rms in {**LONGITUDINAL_RMS, **EVERYTHING["sizes"]}.items():
        assert np.sqrt((truth.scales[family] ** 2).mean()) == pytest.approx(rms, rel=0.1)
        if family == "noise":
            continue
        z = (truth.effects[family] / truth.scales[family]).to_numpy()
        assert z.mean() == pytest.approx(0, abs=4.5 / z.size**0.5)
        assert z.var() == pytest.approx(1, abs=4.5 * (2 / z.size) ** 0.5)
    z = [(truth.effects[name] / truth.scales[name]).to_numpy().ravel() for name in ("participant", "participant_slope")]
    assert np.corrcoef(z)[0, 1] == pytest.approx(0.5, abs=0.02) and truth.slope_correlation == 0.5
    for name, (mean, sd) in COVARIATES.items():
        slopes = truth.effects["covariate"].loc[name]
        assert slopes.mean() == pytest.approx(mean, abs=4.5 * sd / 1000**0.5)
        assert slopes.std() == pytest.approx(sd, rel=0.1)


def test_an_option_changes_only_what_it_is_for_and_fewer_features_are_the_first_of_more():
    base, fewer = simulate_longitudinal(12, 3), simulate_longitudinal(5, 3)
    np.testing.assert_array_equal(fewer.features, base.features[:, :5])
    assert list(fewer.feature_names) == list(base.feature_names[:5])
    biased = simulate_longitudinal(12, 3, sizes={"measurement_slope": 0.002})
    np.testing.assert_allclose(biased.features - base.features, scanner_bias(base.scans, biased.truth)
                               - scanner_bias(base.scans, base.truth), atol=1e-12)  # fmt: skip
    assert (base.truth.effects["measurement_slope"] == 0).all(axis=None) and "sampling" not in base.truth.hyper.index
    flat = simulate_longitudinal(12, 3, sizes={"disorder_slope": 0, "participant_slope": 0})
    years = base.scans[["years"]].to_numpy()
    change = (participant_slopes(base) - participant_slopes(flat)).loc[base.scans["participant_id"]].to_numpy()
    np.testing.assert_allclose(base.features - flat.features, years * change, atol=1e-12)
    moved = simulate_longitudinal(12, 3, simultaneous=True)
    for family in ("participant", "participant_slope", "disorder", "covariate"):
        pd.testing.assert_frame_equal(moved.truth.effects[family], base.truth.effects[family])
    assert simulate_longitudinal(2, dtype="float32").features.dtype == np.float32


def test_written_files_hold_the_truth(tmp_path, study):
    folder = simulate_longitudinal(6, 7, **EVERYTHING).write(tmp_path / "one")
    again = simulate_longitudinal(6, 7, **EVERYTHING).write(tmp_path / "two")
    for path in folder.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes()
    with np.load(folder / "truth.npz", allow_pickle=False) as truth:
        assert truth["slope_correlation"] == 0.5 and truth["effects/participant_slope"].shape == (162, 6)
        assert list(truth["levels/covariate"]) == ["baseline_age", "sex", "years"]
        assert list(truth["levels/measurement"]) == list(truth["scanner"]) == list(study.truth.noise_ratio.index)
        assert set(truth["family"]) == set(LONGITUDINAL_RMS)
    dataset = bayesharm.load_dataset(folder / "scans.csv", folder / "features.npy")
    assert dataset.features.n_features == 6


def test_oracle_is_the_multivariate_normal_conditional():
    study = simulate_longitudinal(2, 11, **EVERYTHING | {"n_people": 30})
    scans, truth, oracle = study.scans, study.truth, longitudinal_oracle(study)
    years, age = scans["years"].to_numpy(), scans["age"].to_numpy() - AGE
    older = longitudinal_oracle(study, AGE + 5)["measurement"]

    def same(column):
        labels = scans[column].to_numpy()
        return labels[:, None] == labels

    patient = (scans["diagnosis"] == "MCI").to_numpy()
    person, scanner = same("participant_id"), same("scanner")
    fixed = np.column_stack([np.ones(len(scans)), covariate_columns(scans)])
    names = list(truth.effects["measurement"].index)
    center = np.eye(7) - 1 / 7
    for f in range(2):
        sd = {family: scale[f] for family, scale in truth.scales.items()}
        cov = np.diag(sd["noise"] ** 2 * truth.noise_ratio.loc[scans["scanner"]].to_numpy())
        own = sd["participant"] * sd["participant_slope"] * 0.5
        between = (
            sd["participant"] ** 2 + own * (years[:, None] + years) + sd["participant_slope"] ** 2 * np.outer(years, years)
        )
        cov += person * between + scanner * (sd["measurement"] ** 2 + sd["measurement_slope"] ** 2 * np.outer(age, age))
        cov += same("site") * sd["sampling"] ** 2
        cov += np.outer(patient, patient) * (sd["disorder"] ** 2 + sd["disorder_slope"] ** 2 * np.outer(years, years))
        inverse = np.linalg.inv(cov)
        spread = np.linalg.inv(fixed.T @ inverse @ fixed)
        weights = spread @ fixed.T @ inverse
        np.testing.assert_allclose(oracle["covariate"].mean.iloc[:, f], (weights @ study.features[:, f])[1:], atol=1e-9)
        np.testing.assert_allclose(oracle["covariate"].sd.iloc[:, f], np.sqrt(np.diag(spread))[1:], rtol=1e-6)
        project = inverse - inverse @ fixed @ weights
        cross = center @ (np.array(names)[:, None] == scans["scanner"].to_numpy()) * sd["measurement"] ** 2
        np.testing.assert_allclose(oracle["measurement"].mean.iloc[:, f], cross @ project @ study.features[:, f], atol=1e-9)
        posterior = center * sd["measurement"] ** 2 - cross @ project @ cross.T
        np.testing.assert_allclose(oracle["measurement"].sd.iloc[:, f], np.sqrt(np.diag(posterior)), rtol=1e-6)
        cross += center @ (np.array(names)[:, None] == scans["scanner"].to_numpy()) * sd["measurement_slope"] ** 2 * 5 * age
        posterior = center * (sd["measurement"] ** 2 + (5 * sd["measurement_slope"]) ** 2) - cross @ project @ cross.T
        np.testing.assert_allclose(older.mean.iloc[:, f], cross @ project @ study.features[:, f], atol=1e-9)
        np.testing.assert_allclose(older.sd.iloc[:, f], np.sqrt(np.diag(posterior)), rtol=1e-6)
        # The slope of the first person is that of the population, of the diagnosis and the person's own.
        is_own = (scans["participant_id"] == scans["participant_id"][0]).to_numpy()
        cross = is_own * (own + sd["participant_slope"] ** 2 * years)
        cross = cross + patient[0] * patient * sd["disorder_slope"] ** 2 * years
        mean = weights[3] @ study.features[:, f] + cross @ project @ study.features[:, f]
        assert oracle["participant_slope"].mean.iloc[0, f] == pytest.approx(mean, abs=1e-9)


def test_oracle_is_calibrated():
    study = simulate_longitudinal(40, 5, n_people=80, noise_ratio_log_sd=0.5)
    oracle, slopes = longitudinal_oracle(study), participant_slopes(study)
    z = (oracle["participant_slope"].mean - slopes) / oracle["participant_slope"].sd
    assert (z**2).mean(axis=None) == pytest.approx(1, abs=0.1)  # 3,200 slopes, correlated within a feature
    true = study.truth.effects["measurement"]
    z = (oracle["measurement"].mean - (true - true.mean())) / oracle["measurement"].sd
    assert (z**2).mean(axis=None) == pytest.approx(1, abs=0.4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(n_features=0), "(?s)n_features.*got: 0"),
        (dict(n_people=3), "(?s)n_people.*at least 4"),
        (dict(min_visits=6), "(?s)min_visits.*1 to 5"),
        (dict(crossing=1.1), "(?s)crossing.*got: 1.1.*0 to 1"),
        (dict(patients=-0.1), "(?s)patients.*got: -0.1"),
        (dict(n_travelers=-1), "(?s)n_travelers.*at least 0"),
        (dict(sizes={"scanner": 1}), "(?s)sizes.*'scanner': 1.*'measurement'"),
        (dict(sizes={"noise": 0}), "(?s)sizes.*'noise': 0.*above 0"),
        (dict(slope_correlation=2), "(?s)slope_correlation.*-1 to 1"),
        (dict(noise_ratio_log_sd=np.nan), "(?s)noise_ratio_log_sd.*got: nan"),
        (dict(dtype="int8"), "(?s)dtype.*'float64'"),
    ],
)
def test_options_without_meaning_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        simulate_longitudinal(**{"n_features": 2, **options})


def run(*arguments: object):
    return CliRunner().invoke(app, ["simulate", *map(str, arguments)])


def test_the_command_writes_a_longitudinal_study(tmp_path):
    options = ("--design", "longitudinal", "--edges", 3, "--people", 12, "--crossing", 1, "--travelers", 1)
    result = run("--out", tmp_path / "study", *options)
    assert result.exit_code == 0 and "bayesharm check" in result.output
    scans = pd.read_csv(tmp_path / "study" / "scans.csv")
    assert scans["participant_id"].nunique() == 13 and np.load(tmp_path / "study" / "features.npy").shape == (len(scans), 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--people", 160, "--crossing", 0), "(?s)srpbs has no such option.*--people and --crossing"),
        (("--design", "longitudinal", "--hub-and-spoke"), "(?s)longitudinal has no such option.*--hub-and-spoke"),
        (("--design", "longitudinal", "--crossing", 1.5), "(?s)value of 'crossing' is not possible.*0 to 1"),
    ],
)
def test_the_command_refuses_options_of_the_other_design(tmp_path, options, message):
    result = run("--out", tmp_path / "study", *options)
    assert result.exit_code == 2 and re.search(message, result.stderr)
    assert not (tmp_path / "study").exists()
