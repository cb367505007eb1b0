"""The simulated study has the published counts and the effects it says; its oracle is the exact posterior."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest

from bayesharm.datasets import simulate, srpbs
from bayesharm.datasets.oracle import gaussian_oracle
from bayesharm.datasets.simulate import PROTOCOL_RMS, RMS, scan_levels, simulate_srpbs
from bayesharm.errors import InputError

EVERYTHING = dict(
    scale_log_sd=0.9,
    noise_ratio_log_sd=0.35,
    bias_ratio_log_sd=0.7,
    travelers="hub-and-spoke",
    without_travelers="KUT",
    tail_df=4,
)


@pytest.fixture(scope="module")
def study():
    return simulate_srpbs(2000, 1, noise_ratio_log_sd=0.5)


def traveling(simulation) -> np.ndarray:
    return (simulation.scans.groupby("participant_id")["scanner"].transform("nunique") > 1).to_numpy()


def residuals(simulation, without=("participant",)) -> np.ndarray:
    """Features (scan, feature) less mean and all effects but those of `without`, over the sd of the noise."""
    rest = simulation.features - simulation.truth.mean
    for group, effects in simulation.truth.effects.items():
        if group not in without:
            rest = rest - effects.reindex(scan_levels(simulation.scans, group)).fillna(0).to_numpy()
    return rest / simulation.truth.scales["noise"]


def test_published_counts(study):
    scans = study.scans
    assert scans.shape[0] == study.features.shape[0] == 1216
    assert scans["scan_id"].is_unique and list(scans.index) == list(range(1216))
    travelers, cohort = scans[traveling(study)], scans[~traveling(study)]
    per_person = travelers.groupby("participant_id").size()
    assert list(per_person) == [46] * 5 + [43] + [46] * 3
    assert (travelers["sex"] == "M").all() and (travelers["diagnosis"] == "HC").all()
    visits = travelers.groupby("scanner").size().to_dict()
    assert visits == {"ATT": 132, "HUH": 18, "HKH": 18} | dict.fromkeys(
        ["ATV", "COI", "KPM", "KUS", "KUT", "UTO", "SWA", "YC1", "YC2"], 27
    )
    assert cohort["participant_id"].is_unique and len(cohort) == 805
    assert pd.crosstab(cohort["site"], cohort["diagnosis"]).stack().loc[lambda n: n > 0].to_dict() == {
        ("UTO", "HC"): 142, ("UTO", "MDD"): 34, ("UTO", "SCZ"): 14,
        ("SWA", "HC"): 40, ("SWA", "SCZ"): 12, ("SWA", "ASD"): 49,
        ("KUT", "HC"): 35, ("KUT", "MDD"): 9, ("KUT", "SCZ"): 22,
        ("Hiroshima", "HC"): 105, ("Hiroshima", "MDD"): 118,
        ("ATR", "HC"): 108, ("KPM", "HC"): 52, ("KPM", "OCD"): 65,
    }  # fmt: skip


def test_site_and_protocol_belong_to_the_scanner_and_age_and_sex_to_the_person(study):
    protocol = ["site", "Manufacturer", "ManufacturersModelName", "ReceiveCoilName", "PhaseEncodingDirection"]
    by_scanner = study.scans.groupby("scanner")[protocol]
    assert (by_scanner.nunique() == 1).all(axis=None)
    assert list(by_scanner.first().loc["HUH"]) == ["Hiroshima", "GE", "Signa HDxt", "8ch", "j"]
    assert set(study.scans.query("PhaseEncodingDirection == 'j-'")["scanner"]) == {
        "COI",
        "KPM",
        "KUS",
        "YC1",
        "YC2",
    }
    assert (study.scans.groupby("participant_id")[["age", "sex", "diagnosis"]].nunique() == 1).all(axis=None)
    assert study.scans["age"].between(18, 75).all()


def test_scales_have_their_size_and_spread(study):
    truth = study.truth
    for family, rms in RMS.items():
        log_scale = np.log(truth.scales[family])
        eta, omega = truth.hyper.loc[family, ["eta", "omega"]]
        assert omega == 0.3 and np.exp(eta + omega**2) == pytest.approx(rms)
        assert log_scale.mean() == pytest.approx(eta, abs=4 * omega / 2000**0.5)
        assert log_scale.std() == pytest.approx(omega, rel=4 / 4000**0.5)
    assert np.sqrt((truth.scales["measurement"] ** 2).mean()) == pytest.approx(0.043, rel=0.05)


def test_effects_have_the_size_of_their_scales(study):
    truth = study.truth
    scales = truth.scales | {"sampling": np.nan}
    for group, effects in truth.effects.items():
        assert effects.columns.equals(pd.Index(study.feature_names))
        for label, effect in effects.iterrows():
            scale = scales[f"sampling_{label.split('/')[1]}" if group == "sampling" else group]
            z = effect.to_numpy() / scale
            assert abs(z.mean()) < 4.5 / 2000**0.5 and z.var() == pytest.approx(1, abs=4.5 * (2 / 2000) ** 0.5)
    assert {group: len(effects) for group, effects in truth.effects.items()} == {
        "measurement": 12, "sampling": 12, "disorder": 4, "participant": 9,
    }  # fmt: skip
    assert "SWA/ASD" not in truth.effects["sampling"].index


def test_features_are_the_sum_of_effects_and_noise(study):
    truth, travelers = study.truth, traveling(study)
    noise = residuals(study, without=())
    assert np.exp(np.log(truth.noise_ratio).mean()) == pytest.approx(1) and truth.noise_ratio.std() > 0.1
    for scanner, ratio in truth.noise_ratio.items():
        at = (study.scans["scanner"] == scanner).to_numpy()
        z = noise[at & travelers]
        assert z.var() == pytest.approx(ratio, rel=5 * (2 / z.size) ** 0.5)
        if (at & ~travelers).any():  # people scanned once: their participant effect is left in the noise
            z = noise[at & ~travelers]
            person = ((truth.scales["participant"] / truth.scales["noise"]) ** 2).mean()
            assert z.var() == pytest.approx(ratio + person, rel=0.03)


def test_heavy_tails_keep_the_variance_and_the_truth():
    gaussian, heavy = (simulate_srpbs(1500, 2, tail_df=df) for df in (None, 4))
    rows = traveling(heavy)
    z, g = residuals(heavy)[rows], residuals(gaussian)[rows]
    people = (heavy.truth.scales["participant"] / heavy.truth.scales["noise"]) ** 2
    assert z.var() == pytest.approx(g.var(), rel=0.03) == pytest.approx(1 + people.mean(), rel=0.05)
    assert (abs(z) > 5).mean() > 20 * (abs(g) > 5).mean()
    pd.testing.assert_frame_equal(heavy.truth.effects["sampling"], gaussian.truth.effects["sampling"])


def test_fewer_features_are_the_first_of_more_and_blocks_do_not_matter(monkeypatch):
    more = simulate_srpbs(45, 3, **EVERYTHING)
    monkeypatch.setattr(simulate, "BLOCK", 7)
    fewer = simulate_srpbs(10, 3, **EVERYTHING)
    assert np.array_equal(fewer.features, more.features[:, :10])
    assert np.array_equal(fewer.feature_names, more.feature_names[:10])
    assert list(fewer.feature_names[:3]) == ["node_001/node_002", "node_001/node_003", "node_002/node_003"]
    for group, effects in fewer.truth.effects.items():
        pd.testing.assert_frame_equal(effects, more.truth.effects[group].iloc[:, :10])
    pd.testing.assert_frame_equal(fewer.scans, more.scans)
    assert simulate_srpbs(11).feature_names[-1] == "feature_00011"
    assert not np.array_equal(simulate_srpbs(10, 4, **EVERYTHING).features, fewer.features)


def test_an_option_changes_only_what_it_is_for():
    base = simulate_srpbs(20, 5)
    rows = traveling(base)

    alike = simulate_srpbs(20, 5, sampling_bias=False)
    assert np.array_equal(alike.features[rows], base.features[rows])
    assert (alike.truth.effects["sampling"] == 0).all(axis=None) and (alike.truth.scales["sampling_SCZ"] == 0).all()
    assert list(alike.truth.hyper.index) == ["noise", "participant", "measurement", "disorder"]
    sampled = base.truth.effects["sampling"].reindex(scan_levels(base.scans, "sampling")).fillna(0)
    np.testing.assert_allclose(base.features - alike.features, sampled, atol=1e-6)

    fewer = simulate_srpbs(20, 5, without_travelers=["KUT", "COI"])
    left = ~(rows & base.scans["scanner"].isin(["KUT", "COI"]).to_numpy())
    assert left.sum() == 1216 - 54 and np.array_equal(fewer.features, base.features[left])
    assert list(fewer.scans["scan_id"]) == list(base.scans["scan_id"][left])

    double = simulate_srpbs(20, 5, dtype="float64")
    assert base.features.dtype == np.float32 and double.features.dtype == np.float64
    assert np.array_equal(double.features.astype("float32"), base.features)

    unequal = simulate_srpbs(20, 5, noise_ratio_log_sd=0.5)
    noise, scaled = residuals(base), residuals(unequal)
    ratio = np.sqrt(unequal.truth.noise_ratio.loc[base.scans["scanner"][rows]].to_numpy())
    people = base.truth.effects["participant"].loc[base.scans["participant_id"][rows]].to_numpy()
    people = people / base.truth.scales["noise"]
    np.testing.assert_allclose(scaled[rows] - people, (noise[rows] - people) * ratio[:, None], atol=1e-4)

    wider = simulate_srpbs(20, 5, bias_ratio_log_sd=0.8).truth
    assert np.exp(np.log(wider.bias_ratio).mean()) == pytest.approx(1) and wider.bias_ratio.std() > 0.1
    size = np.sqrt(wider.bias_ratio.loc[wider.effects["measurement"].index].to_numpy())[:, None]
    np.testing.assert_allclose(wider.effects["measurement"], base.truth.effects["measurement"] * size)


@pytest.mark.parametrize("left_out", [(), ("KUT",), ("ATT", "UTO"), tuple(srpbs.COHORT)])
def test_hub_and_spoke(left_out):
    study = simulate_srpbs(2, travelers="hub-and-spoke", without_travelers=left_out)
    travelers = study.scans[traveling(study)]
    hub, *spokes = [name for name in srpbs.SCANNERS if name not in left_out]
    assert hub == ("KUS" if len(left_out) == 9 else "ATV" if "ATT" in left_out else "ATT")
    assert travelers["participant_id"].nunique() == 30 and len(travelers) == 90
    assert (travelers.groupby("participant_id")["scanner"].nunique() == 3).all()
    visits = travelers["scanner"].value_counts()
    assert visits[hub] == 30 and set(visits.index) == {hub, *spokes}
    assert visits[spokes].max() - visits[spokes].min() <= 2
    assert study.features.shape == (895, 2)
    if len(spokes) > 4:  # no pair of spokes is seen by many and others by nobody
        pairs = travelers[travelers["scanner"] != hub].groupby("participant_id")["scanner"].agg(frozenset)
        assert pairs.value_counts().max() <= 2 and pairs.nunique() >= 20


@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["plain", "everything"])
def test_written_files_are_the_same_twice_and_need_no_pickle(tmp_path, options):
    study = simulate_srpbs(6, 7, **options)
    first = study.write(tmp_path / "new" / "one")
    second = simulate_srpbs(6, 7, **options).write(tmp_path / "two")
    assert sorted(p.name for p in first.iterdir()) == [
        "feature_names.txt",
        "features.npy",
        "scans.csv",
        "truth.npz",
    ]
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()
    assert np.array_equal(np.load(first / "features.npy", allow_pickle=False), study.features)
    assert (first / "feature_names.txt").read_text().split() == list(study.feature_names)
    scans = pd.read_csv(first / "scans.csv", dtype={"scan_id": str})
    assert (scans.astype(str) == study.scans.astype(str)).all(axis=None)
    with np.load(first / "truth.npz", allow_pickle=False) as truth:
        for group, effects in study.truth.effects.items():
            assert np.array_equal(truth[f"effects/{group}"], effects)
            assert list(truth[f"levels/{group}"]) == list(effects.index)
        assert np.array_equal(truth["scales/sampling_HC"], study.truth.scales["sampling_HC"])
        assert dict(zip(truth["scanner"], truth["noise_ratio"], strict=True)) == study.truth.noise_ratio.to_dict()
        assert truth["hyper"].shape == (7, 2) and list(truth["family"]) == list(RMS)


def test_writing_replaces_nothing_unasked(tmp_path):
    study = simulate_srpbs(3)
    (tmp_path / "features.npy").write_text("mine")
    with pytest.raises(InputError, match="(?s)already holds a simulation.*'features.npy' in .*another folder"):
        study.write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["features.npy"]
    with pytest.raises(InputError, match="needs a folder"):
        study.write(tmp_path / "features.npy")
    study.write(tmp_path, overwrite=True)
    assert np.load(tmp_path / "features.npy").shape == (1216, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(n_features=0), "(?s)n_features.*got: 0.*at least 1"),
        (dict(seed=-1), "(?s)seed.*got: -1"),
        (dict(scale_log_sd=-0.1), "(?s)scale_log_sd.*at least 0"),
        (dict(noise_ratio_log_sd=np.nan), "(?s)noise_ratio_log_sd.*got: nan"),
        (dict(bias_ratio_log_sd=-1), "(?s)bias_ratio_log_sd.*got: -1"),
        (dict(bias_ratio_log_sd=1, protocol={"coil": 0.1}), "same variance on all scanners"),
        (dict(travelers="none"), "(?s)travelers.*'hub-and-spoke'"),
        (dict(tail_df=2), "(?s)tail_df.*above 2"),
        (dict(dtype="int8"), "(?s)dtype.*'float64'"),
        (dict(without_travelers="KUS"), "(?s)without_travelers.*got: 'KUS'.*people of the cohort: UTO"),
        (dict(without_travelers=["KUT", "XYZ"]), "(?s)without_travelers.*got: 'XYZ'"),
    ],
)
def test_options_without_meaning_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        simulate_srpbs(**{"n_features": 2, **options})


def test_memory_stays_near_the_size_of_the_output():
    tracemalloc.start()
    study = simulate_srpbs(6000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < study.features.nbytes + 50e6


@pytest.mark.parametrize(
    "options", [{}, {"sampling_bias": False}, EVERYTHING], ids=["plain", "no sampling bias", "everything"]
)
def test_oracle_is_the_multivariate_normal_conditional(options):
    study = simulate_srpbs(3, 11, dtype="float64", **options)
    scans, truth = study.scans, study.truth
    population = (scans["site"] + "/" + scans["diagnosis"]).to_numpy()
    scanner, person, diagnosis = (scans[c].to_numpy() for c in ("scanner", "participant_id", "diagnosis"))
    once = scans.groupby("participant_id")["scan_id"].transform("size").to_numpy() == 1
    oracle = gaussian_oracle(study, block=2)
    for f in range(3):
        var = {family: scale[f] ** 2 for family, scale in truth.scales.items()}
        # covariance of all scans, entry by entry from the labels that two of them share
        cov = np.diag(var["noise"] * truth.noise_ratio.loc[scanner].to_numpy())
        sizes = var["measurement"] * truth.bias_ratio.loc[scanner].to_numpy()
        cov += sizes * (scanner[:, None] == scanner) + var["participant"] * (person[:, None] == person)
        cov += var["disorder"] * ((diagnosis[:, None] == diagnosis) & (diagnosis != "HC"))
        for group in ("HC", "MDD", "SCZ"):
            cov += var[f"sampling_{group}"] * (
                (population[:, None] == population) & (diagnosis == group) & once & once[:, None]
            )
        # flat prior of the mean: project it out
        precision = np.linalg.inv(cov)
        ones = precision.sum(0)
        precision -= np.outer(ones, ones) / ones.sum()
        names = list(srpbs.SCANNERS)
        cross = sizes * (np.array(names)[:, None] == scanner)
        center = np.eye(12) - 1 / 12
        mean = center @ cross @ precision @ study.features[:, f]
        prior = var["measurement"] * np.diag(truth.bias_ratio.loc[names])
        posterior = center @ (prior - cross @ precision @ cross.T) @ center
        np.testing.assert_allclose(oracle.mean.loc[names].iloc[:, f], mean, rtol=0, atol=1e-10)
        np.testing.assert_allclose(oracle.sd.loc[names].iloc[:, f], np.sqrt(np.diag(posterior)), rtol=1e-8)


def test_oracle_is_calibrated_and_beats_the_averages_of_travelers(study):
    oracle, true = gaussian_oracle(study), study.truth.effects["measurement"]
    true = true - true.mean()
    z = (oracle.mean - true) / oracle.sd
    assert (z**2).mean(axis=None) == pytest.approx(1, abs=0.05)
    assert (abs(z) < 1.645).mean(axis=None) == pytest.approx(0.9, abs=0.02)
    rows = traveling(study)
    averages = pd.DataFrame(study.features[rows]).groupby(study.scans["scanner"].to_numpy()[rows]).mean()
    averages = averages.loc[true.index].to_numpy()
    averages = averages - averages.mean(axis=0)
    assert ((oracle.mean - true) ** 2).mean(axis=None) < 0.6 * ((averages - true) ** 2).mean(axis=None)
    assert np.abs(oracle.mean.sum()).max() < 1e-12


def test_measurement_is_what_protocol_factors_add_up_to():
    plain, study = simulate_srpbs(2000, 3), simulate_srpbs(2000, 3, protocol=PROTOCOL_RMS)
    truth = study.truth
    protocol = study.scans.drop_duplicates("scanner").set_index("scanner").loc[truth.effects["measurement"].index]
    total = truth.factors["scanner"].loc[protocol.index]
    for name, column in srpbs.FACTORS.items():
        assert sorted(protocol[column].unique()) == list(truth.factors[name].index)
        total = total + truth.factors[name].loc[protocol[column]].to_numpy()
    np.testing.assert_allclose(truth.effects["measurement"], total, atol=1e-12)
    for name, rms in PROTOCOL_RMS.items():
        assert np.sqrt((truth.factors[name] ** 2).to_numpy().mean()) == pytest.approx(rms, rel=0.15)  # PE: 4,000 numbers
    assert np.sqrt((truth.scales["measurement"] ** 2).mean()) == pytest.approx(RMS["measurement"], rel=0.03)
    assert set(truth.hyper.index) == {*RMS, *PROTOCOL_RMS} - {"measurement"}
    for group in ("sampling", "disorder", "participant"):
        pd.testing.assert_frame_equal(truth.effects[group], plain.truth.effects[group])
    bias = (truth.effects["measurement"] - plain.truth.effects["measurement"]).loc[study.scans.scanner]
    np.testing.assert_allclose(study.features - plain.features, bias, atol=1e-5)


def test_fewer_features_have_the_protocol_factors_of_the_first_of_more():
    few, many = (simulate_srpbs(n, 3, protocol={"coil": 0.03, "scanner": 0.02}) for n in (4, 9))
    np.testing.assert_array_equal(few.features, many.features[:, :4])
    assert many.truth.factors.keys() == {"coil", "scanner"}


def test_factors_are_written_with_their_truth(tmp_path):
    folder = simulate_srpbs(2, protocol=PROTOCOL_RMS).write(tmp_path)
    truth = np.load(folder / "truth.npz")
    assert truth["effects/coil"].shape == (4, 2) and list(truth["levels/coil"]) == ["12ch", "24ch", "32ch", "8ch"]


@pytest.mark.parametrize("protocol", [{"vendor": 0.1}, {"coil": 0.0}])
def test_factors_that_cannot_be_simulated_are_refused(protocol):
    with pytest.raises(InputError, match=r"sizes cannot be used[\s\S]*'phase_encoding'[\s\S]*correct protocol"):
        simulate_srpbs(2, protocol=protocol)
