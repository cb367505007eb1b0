"""Tables that contradict themselves, are miscoded or mean something else: found, with few false alarms."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bad_tables import Study, cases_of, least_squares_bias, make_study, rms

import bayesharm
from bayesharm.data.dataset import load_dataset
from bayesharm.data.finding import Finding, finding_from_dict, refuse_errors
from bayesharm.data.screening.codes import CODES
from bayesharm.data.screening.covariates import test_scanners as scanner_test
from bayesharm.data.screening.harmonized import ratios
from bayesharm.data.screening.screen import screen, screen_scans
from bayesharm.data.screening.times import screen_times
from bayesharm.data.screening.words import is_elapsed_time
from bayesharm.errors import InputError

COVARIATES = ("age", "sex", "motion", "icv")


def found(findings: list[Finding], code: str) -> Finding:
    chosen = [finding for finding in findings if finding.code == code]
    assert len(chosen) == 1, [finding.code for finding in findings]
    return chosen[0]


@pytest.fixture(scope="module")
def study() -> Study:
    return make_study(n_cohort=60, bias=0.5)


# --- no false alarms


@pytest.mark.parametrize("kind", ["thickness", "volumes", "z", "counts"])
@pytest.mark.parametrize("design", [(4, 12, 0), (5, 0, 80), (2, 8, 60), (9, 20, 150), (3, 3, 0)])
def test_clean_studies_raise_nothing(kind, design):
    for seed, n_features in enumerate((1, 4, 60)):
        clean = make_study(seed, *design, n_features, bias=0.3 * seed, kind=kind, icc=0.3 + 0.3 * seed)
        assert clean.screen(*COVARIATES) == []


@pytest.mark.parametrize("travelers", ["published", "hub-and-spoke"])
def test_the_simulated_srpbs_study_raises_nothing(travelers):
    simulated = bayesharm.simulate_srpbs(50, seed=3, travelers=travelers, noise_ratio_log_sd=0.5)
    dataset = load_dataset(simulated.scans, simulated.features)
    assert screen(dataset, covariates=["age", "sex"], factors=["Manufacturer", "PhaseEncodingDirection"]) == []


@pytest.mark.parametrize(
    "select",
    ["freesurfer_*ThickAvg*", "freesurfer_*Vol*", "rfMRI_d25_fullcorr_v*", "rfMRI_d25_part*", "dMRI_TBSS*"],
)
def test_on_harmony_raises_nothing(data_dir, select):
    names = {"participant_id": "subject", "scanner": "scanner_typeloc"}
    dataset = load_dataset(data_dir / "onharmony.csv", columns=names, select=select, bad_features="drop")
    assert screen(dataset, covariates=["age", "sex"]) == []


def test_on_harmony_motion_and_snr_differ_between_scanners_in_the_same_people(data_dir):
    names = {"participant_id": "subject", "scanner": "scanner_typeloc"}
    dataset = load_dataset(data_dir / "onharmony.csv", columns=names, select="rfMRI_d25_fullcorr_v*", bad_features="drop")
    findings = screen(dataset, covariates=["age", "rfMRI_head_motion", "T1w_snr_total"])
    assert {finding.columns[0] for finding in findings} == {"rfMRI_head_motion", "T1w_snr_total"}
    assert {finding.severity for finding in findings} == {"caveat"}


def test_the_thousand_connectomes_hold_one_scan_twice_and_two_failed_regions(data_dir):
    names = {"participant_id": "sub_id", "scanner": "site"}
    dataset = load_dataset(data_dir / "fcon1000.csv", columns=names, select="*_thickness", bad_features="drop")
    findings = screen(dataset, covariates=["age", "sex"])
    assert {finding.code: finding.severity for finding in findings} == {
        "identical-scans": "caveat", "impossible-zero-feature": "caveat", "whole-brain-feature": "caveat",
    }  # fmt: skip
    twins = found(findings, "identical-scans").participants
    table = pd.read_csv(data_dir / "fcon1000.csv").set_index("sub_id")
    thickness = table.loc[list(twins)].filter(like="thickness")
    assert len(thickness) == 2 and (thickness.iloc[0] == thickness.iloc[1]).all()


# --- calibration of the tests


def test_the_tests_keep_their_rate_of_false_alarms():
    """P values of both tests without any scanner effect, one feature or covariate at a time."""
    p_covariate, mean_ratio = [], []
    for seed in range(120):
        clean = make_study(seed, 4, 6, 30, 12, bias=0.0, kind="plain", rank=1)
        travelers = clean.scans.participant_id.str.startswith("t")
        y = clean.features.to_numpy()
        p, _ = scanner_test(y[travelers, 0], clean.scans.participant_id[travelers], clean.scans.scanner[travelers])
        p_covariate.append(p)
        mean_ratio.append(np.mean(ratios(y, clean.scans)[0]))
    assert 0.01 < np.mean(np.array(p_covariate) < 0.05) < 0.10
    assert np.mean(mean_ratio) == pytest.approx(1, abs=0.12)


# --- the cases that were accepted once


def test_reused_identifiers_are_refused_by_name(data_dir):
    folder = cases_of(data_dir) / "ids-reused"
    dataset = load_dataset(folder / "idmix.csv", select="f*")
    with pytest.raises(InputError, match=r"(?s)2 problems.*values of 'sex'.*'sub-01', 'sub-04'.*--accept") as caught:
        bayesharm.fit(dataset, "traveling", covariates=["age", "sex"])
    assert "'sub-01' has age 25.8 on A, 56.9 on B" in str(caught.value)
    unique = load_dataset(folder / "idmix_ok.csv", select="f*")
    assert screen(unique, covariates=["age", "sex"]) == []
    truth = np.load(folder / "true_bias.npy")
    values = unique.features.read(0, 20)
    wrong, right = (rms(least_squares_bias(each.scans, values) - truth) for each in (dataset, unique))
    assert right < 0.75 * wrong


def test_placeholders_are_refused(data_dir):
    dataset = load_dataset(cases_of(data_dir) / "placeholder-participant" / "unknown.csv", select="f*")
    finding = found(screen(dataset), "placeholder-participant")
    assert finding.severity == "error" and finding.participants == ("unknown",) and len(finding.scans) == 18
    for name in ("-", ".", "?", "missing", "999", "-9999", "Unknown", "xxx"):
        scans = dataset.scans.drop(columns=["age", "sex"]).assign(
            participant_id=dataset.scans.participant_id.replace("unknown", name)
        )
        assert "placeholder-participant" in {f.code for f in screen(load_dataset(scans, dataset.features.read(0, 20)))}


def test_sexes_spelled_by_site_are_refused(data_dir):
    folder = cases_of(data_dir) / "sex-spelled-by-site"
    dataset, clean = (load_dataset(folder / f"sex_{name}.csv", select="f*") for name in ("mixed", "ok"))
    with pytest.raises(InputError, match=r"'sex' differ only in capitals.*\n.*'F' on 'A'; 'f' on 'C'"):
        bayesharm.fit(dataset, "traveling", covariates=["sex"])
    assert screen(clean, covariates=["sex"]) == []
    words = dataset.scans.sex.replace({"m": "M", "f": "F"})  # 'M' and 'male' remain
    both = load_dataset(dataset.scans.assign(sex=words), dataset.features.read(0, 20))
    assert "seem to mean the same" in found(screen(both, covariates=["sex"]), "category-spelling").what
    blanks = clean.scans.sex.where(clean.scans.scanner != "B", clean.scans.sex + " ")
    stripped = load_dataset(clean.scans.assign(sex=blanks), clean.features.read(0, 20))
    pd.testing.assert_series_equal(stripped.scans.sex, clean.scans.sex)


def test_codes_for_missing_ages_are_refused(data_dir):
    folder = cases_of(data_dir) / "sentinel-covariate"
    dataset, clean = (load_dataset(folder / f"sentinel{name}.csv", select="f*") for name in ("", "_ok"))
    finding = found(screen(dataset, covariates=["age"]), "missing-code")
    assert finding.severity == "error" and finding.scans == ("s056", "s057", "s059", "s069")
    assert "-9999 (scan 's056')" in finding.got
    assert screen(clean, covariates=["age"]) == []
    truth, values = np.load(folder / "true_site_bias.npy"), clean.features.read(0, 20)
    error = {}
    for name, each in (("wrong", dataset), ("right", clean)):
        scanner = pd.get_dummies(each.scans.scanner, dtype=float).to_numpy()
        effects = np.linalg.lstsq(np.column_stack([scanner, each.scans.age]), values, rcond=None)[0][:3]
        error[name] = rms(effects - effects.mean(0) - truth)
    assert error["right"] < 0.6 * error["wrong"]


def test_head_size_measured_by_the_scanner_is_named(data_dir):
    folder = cases_of(data_dir) / "icv-covariate"
    dataset = load_dataset(folder / "icv.csv", select="f*")
    finding = found(screen(dataset, covariates=["eTIV"]), "covariate-of-scanner")
    assert finding.severity == "caveat" and "122.5 more on 'C' than on 'A' in 8 travelers" in finding.got
    truth, values = np.load(folder / "true_bias.npy"), dataset.features.read(0, 20)
    travelers = dataset.scans.participant_id.duplicated(keep=False).to_numpy()
    scans = dataset.scans[travelers]
    without = least_squares_bias(scans, values[travelers]) - truth
    slope = 0.33 / 61  # per ml, from the shifts that the case reports: what the covariate carries back
    shift = scans.groupby("scanner").eTIV.mean().to_numpy()
    carried = without - slope * (shift - shift.mean())[:, None]
    assert rms(without.mean(1)) < 0.5 * rms(carried.mean(1))


def test_protocols_in_two_spellings_and_unknown_coils_are_refused(data_dir):
    dataset = load_dataset(cases_of(data_dir) / "protocol-spelling" / "protocol.csv", select="f*")
    with pytest.raises(InputError, match=r"(?s)'-' in 27 scans on.*'64ch\+spine' on 'geneva'; '64Ch\+Spine' on 'tehran'"):
        bayesharm.fit(dataset, "protocol")


def test_row_numbers_of_r_are_refused(data_dir):
    folder = cases_of(data_dir) / "r-rownumber-feature"
    with pytest.raises(InputError, match="number the rows of the table.*\n.*'X'"):
        bayesharm.fit(load_dataset(folder / "r_scans.csv", folder / "r_features.csv"))
    assert screen(load_dataset(folder / "r_scans.csv", folder / "r_features.csv", select="f*")) == []


def test_whole_brain_measures_beside_regions_are_left_out_or_named(data_dir):
    folder = cases_of(data_dir) / "aparcstats2table"
    tables = [load_dataset(folder / "scans.csv", folder / f"lh_thickness.{suffix}") for suffix in ("txt", "tsv")]
    assert tables[0].features.fingerprint() == tables[1].features.fingerprint()
    assert list(tables[0].features.names)[:2] == ["lh_r0_thickness", "lh_r1_thickness"]
    assert all(screen(dataset, covariates=["age", "sex"]) == [] for dataset in tables)
    frame = pd.read_csv(folder / "lh_thickness.tsv", sep="\t").rename(columns={"lh.aparc.thickness": "scan_id"})
    finding = found(screen(load_dataset(folder / "scans.csv", frame)), "whole-brain-feature")
    assert finding.columns == ("lh_MeanThickness_thickness", "BrainSegVolNotVent", "eTIV") and finding.severity == "caveat"


# --- more of each kind: identity


def travelers_of(study: Study) -> pd.Series:
    return study.scans.participant_id.str.startswith("t")


def test_hands_that_change(study):
    hand = pd.Series("right", study.scans.index).mask(study.scans.scan_id == "scan0001", "L")
    finding = found(study.with_scans(handedness=hand).screen(), "constants-differ")
    assert finding.severity == "error" and finding.participants == ("t00",)
    same = study.with_scans(handedness=hand.mask(hand == "L", "Rechts"))
    assert "constants-differ" not in same.codes()  # another word for the same


def test_ages_against_dates(study):
    rng, scans = np.random.default_rng(1), study.scans
    day = pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 200, len(scans)) + 365 * scans.session, "D")
    dated = study.with_scans(acq_date=day.dt.strftime("%Y-%m-%d"))
    assert dated.codes("age") == {}
    wrong = scans.age.mask(scans.scan_id == "scan0002", scans.age + 7)
    finding = found(dated.with_scans(age=wrong).screen("age"), "age-against-dates")
    assert finding.severity == "error" and finding.participants == ("t00",)


def test_ages_against_birth(study):
    age = study.scans.age - study.scans.session
    born = (pd.Timestamp("2020-06-01") - pd.to_timedelta(age * 365.25, "D")).dt.strftime("%Y%m%d")
    dated = study.with_scans(age=age, date_of_birth=born, scan_date="2020-06-01")
    assert dated.codes() == {}
    wrong = dated.with_scans(date_of_birth=born.mask(study.scans.scan_id == "scan0050", "19000101"))
    assert found(wrong.screen(), "age-against-dates").scans == ("scan0050",)


def test_ages_years_apart_need_visits(study):
    older = 20 + 12 * study.scans.groupby("participant_id").cumcount()
    without = study.with_scans(age=older)._replace(scans=study.scans.assign(age=older).drop(columns="session"))
    assert without.codes()["ages-differ"] == "error"
    visits = study.scans.groupby("participant_id").cumcount()
    assert study.with_scans(age=older, session=visits).codes() == {}


def test_participants_that_are_scans(study):
    named = study.scans.participant_id + "_ses-" + (study.scans.groupby("participant_id").cumcount() + 1).astype(str)
    finding = found(study.with_scans(participant_id=named).screen(), "participant-is-scan")
    assert finding.severity == "error" and "'t00_ses-1', 't00_ses-2'" in finding.got
    unique = study.with_scans(participant_id=study.scans.scan_id, traveling=travelers_of(study))
    assert unique.codes() == {"participant-is-scan": "error"}
    cohort = make_study(n_travelers=0)
    numbered = cohort.with_scans(participant_id=[f"{scanner}_scan{k:03d}" for k, scanner in enumerate(cohort.scans.scanner)])
    assert numbered.codes() == {}  # people scanned once, numbered by site


def test_one_scan_under_two_names(study):
    values = study.features.to_numpy().copy()
    values[70] = values[80]
    finding = found(study.with_values(values).screen(), "identical-scans")
    assert finding.severity == "error" and finding.scans == ("scan0070", "scan0080")
    values[70] = np.round(values[70], 4)
    assert found(study.with_values(values).screen(), "nearly-identical-scans").scans == ("scan0070", "scan0080")
    few = make_study(n_features=2, kind="counts")  # equal by chance
    assert few.codes() == {}


@pytest.mark.parametrize(
    ("names", "code", "severity"),
    [
        ({"t00": "T00"}, "participant-spelling", "error"),
        ({"t00": "sub-t00"}, "participant-spelling", "caveat"),
        ({"t01": "t1"}, "participant-spelling", "caveat"),
    ],
)
def test_one_person_under_two_names(study, names, code, severity):
    scanner = study.scans.scanner[study.scans.participant_id == next(iter(names))].iloc[0]
    renamed = study.scans.participant_id.where(study.scans.scanner != scanner, study.scans.participant_id.replace(names))
    assert study.with_scans(participant_id=renamed).codes() == {code: severity}


def test_one_name_for_many_people(study):
    cohort = study.scans.participant_id.str.startswith("c") & (study.scans.index % 2 == 0)
    lumped = study.scans.participant_id.mask(cohort, "volunteer")
    without = study._replace(scans=study.scans.assign(participant_id=lumped)[["scan_id", "participant_id", "scanner"]])
    findings = without.screen()
    assert {finding.code for finding in findings} == {"one-person-many-scans", "people-unlike"}
    assert all(finding.participants == ("volunteer",) for finding in findings)


def test_people_numbered_alike_by_all_sites():
    """Nobody traveled, each site counts from 1, and no other column tells: the features do."""
    cohort = make_study(n_travelers=0, n_cohort=80)
    number = cohort.scans.groupby("scanner").cumcount()
    reused = cohort._replace(
        scans=cohort.scans[["scan_id", "scanner"]].assign(participant_id=number.map("sub-{:02d}".format))
    )
    finding = found(reused.screen(), "people-unlike")
    assert finding.severity == "caveat" and len(finding.participants) == 20
    assert make_study(n_travelers=20, n_cohort=0).codes() == {}


def test_diagnoses_that_change(study):
    diagnosis = pd.Series("HC", study.scans.index).mask(study.scans.scan_id == "scan0000", "MDD")
    finding = found(study.with_scans(diagnosis=diagnosis).screen(), "diagnosis-differs")
    assert finding.severity == "caveat" and finding.participants == ("t00",)


# --- coding


@pytest.mark.parametrize("code", [-9999, -999, -99, -9, 999, 9999])
def test_codes_in_covariates_and_features(study, code):
    iq = pd.Series(np.random.default_rng(0).normal(100, 15, len(study.scans)).round(), study.scans.index)
    coded = study.with_scans(IQ=iq.mask(study.scans.index % 20 == 3, code))
    finding = found(coded.screen("IQ"), "missing-code")
    assert finding.severity == "error" and set(finding.scans) == set(study.scans.scan_id[3::20])
    assert study.with_scans(IQ=iq).codes("IQ") == {}
    values = study.features.to_numpy().copy()
    values[5, 7] = values[9, 11] = code
    finding = found(study.with_values(values).screen(), "missing-code-feature")
    assert finding.columns == ("region007", "region011") and finding.scans == ("scan0005", "scan0009")


def test_numbers_that_only_look_like_codes(study):
    score = pd.Series(np.random.default_rng(0).integers(900, 1100, len(study.scans)), study.scans.index)
    score.iloc[:3] = 999
    change = pd.Series(np.random.default_rng(0).normal(0, 10, len(study.scans)).round(), study.scans.index)
    change.iloc[:3] = -9
    centenarians = study.scans.age.mask(study.scans.scan_id == "scan0060", 99.0)
    assert study.with_scans(score=score, change=change, age=centenarians).codes("score", "change", "age") == {}


def test_zeros_where_0_is_impossible(study):
    wrong = study.with_scans(age=study.scans.age.mask(study.scans.scan_id == "scan0070", 0))
    assert found(wrong.screen("age"), "impossible-zero").scans == ("scan0070",)
    infants = study.with_scans(age=np.linspace(0, 3, len(study.scans)).round(1))
    assert "impossible-zero" not in infants.codes("age")
    values = study.features.to_numpy().copy()
    values[4, 3] = 0
    assert study.with_values(values).codes()["impossible-zero-feature"] == "caveat"  # 1 value in 3,000
    values[5:15, 3] = 0
    assert study.with_values(values).codes()["impossible-zero-feature"] == "error"


def test_edges_filled_with_zeros_and_flat_scans():
    study = make_study(kind="z", n_features=60)
    values = study.features.to_numpy().copy()
    values[8, :10] = 0
    finding = found(study.with_values(values).screen(), "zero-filled")
    assert finding.scans == ("scan0008",) and finding.severity == "caveat"
    values[8] = 0
    assert found(study.with_values(values).screen(), "flat-scan").scans == ("scan0008",)


def test_values_far_from_all_others(study):
    far = study.with_scans(icv=study.scans.icv.mask(study.scans.scan_id == "scan0070", 15000))
    assert found(far.screen("icv"), "outlying-covariate").scans == ("scan0070",)
    values = study.features.to_numpy().copy()
    values[3, :5] *= 4
    finding = found(study.with_values(values).screen(), "outlying-feature")
    assert finding.severity == "caveat" and finding.scans == ("scan0003",) and len(finding.columns) == 5


@pytest.mark.parametrize(
    ("age", "code"),
    [
        (["72 y", "864 mo"], "numbers-as-text"),
        (["1,234", "2,345"], "numbers-as-text"),
        (["31.5", "n.d."], "mixed-types"),
        (["31.5", "unknown"], "mixed-types"),
        (["2020-01-31", "2021-02-03"], "date-covariate"),
        (["20200131", "20210203"], "date-covariate"),
        (["-", "young"], "placeholder-category"),
    ],
)
def test_covariates_that_are_no_numbers(study, age, code):
    column = [age[0] if k % 3 else age[1] for k in range(len(study.scans))]
    finding = found(study.with_scans(score=column).screen("score"), code)
    assert finding.severity == "error" and len(finding.scans) >= 1


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("sex", ["male", "männlich"]),
        ("gender", ["F", "femme"]),
        ("sex", ["M", "1"]),
        ("handedness", ["right", "rechts"]),
        ("coil", ["64ch-spine", "64ch spine"]),
        ("school", ["Zürich", "Zurich"]),
    ],
)
def test_one_category_in_two_spellings(study, column, words):
    on_first = (study.scans.scanner == "scanner0") & ~travelers_of(study)
    spelled = pd.Series(words[1], study.scans.index).mask(on_first, words[0]).mask(study.scans.index % 5 == 0, "other")
    coded = study.with_scans(**{column: spelled})
    if column != "sex":
        coded = coded._replace(scans=coded.scans.drop(columns="sex"))
    assert coded.codes(column)["category-spelling"] == "error"


def test_signs_and_numbers_that_make_categories_different(study):
    for words in (["j", "j-"], ["HC+", "HC-"], ["S1.0", "S10"], ["1.5T", "15T"], ["3T", "1.5T"], ["A1", "A2"]):
        spelled = [words[k % 2] for k in range(len(study.scans))]
        assert "category-spelling" not in study.with_scans(kind=spelled).codes("kind", factors=["kind"])


def test_sexes_as_numbers(study):
    two = study.scans.sex.map({"F": 2, "M": 1})
    assert study.with_scans(sex=two).codes("sex") == {}
    third = two.mask(study.scans.scan_id == "scan0070", 9)
    assert study.with_scans(sex=third).codes("sex")["category-spelling"] == "error"


def test_names_that_a_spreadsheet_changed(study):
    dated = study._replace(features=study.features.rename(columns={"region003": "1-Mar", "region004": "2-Sep"}))
    finding = found(dated.screen(), "excel-date")
    assert finding.severity == "error" and "'1-Mar', '2-Sep'" in finding.got
    rounded = study.with_scans(participant_id=study.scans.participant_id.replace("t00", "1.23E+15"))
    assert rounded.codes()["excel-number"] == "error"
    times = study.with_scans(participant_id=study.scans.participant_id.replace("t00", "2024-03-01 00:00:00"))
    assert times.codes()["excel-date"] == "error"


@pytest.mark.parametrize("name", ["index", "X", "idx", "anything"])
@pytest.mark.parametrize("first", [0, 1])
def test_row_numbers_among_features(study, name, first):
    numbered = study._replace(features=study.features.assign(**{name: np.arange(len(study.features)) + first}))
    assert found(numbered.screen(), "row-number-feature").columns == (name,)
    shuffled = numbered._replace(scans=numbered.scans.sample(frac=1, random_state=0))
    assert "row-number-feature" in shuffled.codes()


def test_columns_of_the_scans_that_a_glob_takes_for_features():
    n, rng = 40, np.random.default_rng(0)
    scans = pd.DataFrame({"scan_id": [f"s{k}" for k in range(n)], "participant_id": [f"p{k}" for k in range(n)]})
    scans = scans.assign(scanner=np.where(np.arange(n) % 2, "A", "B"), year=2016.0 + np.arange(n) % 4, yes=np.arange(n) % 2)
    values = pd.DataFrame(rng.normal(size=(n, 5)), columns=[f"y{k}" for k in range(5)])
    table = pd.concat([scans, values], axis=1)
    finding = found(list(load_dataset(table, select="y*").findings), "scans-column-feature")
    assert finding.severity == "caveat" and finding.columns == ("year", "yes") and "y[0-9]*" in finding.do
    for select in ("y[0-9]*", ["y[0-9]*", "year", "yes"]):
        assert load_dataset(table, select=select).findings == ()
    counts = pd.concat([scans, (values > 0).astype(int) + (values > 1)], axis=1)  # the features are counts
    assert found(list(load_dataset(counts, select="y*").findings), "scans-column-feature").columns == ("year",)


# --- meaning


def test_noise_weights_that_are_no_variances(study):
    n = len(study.scans)
    seconds = 200.5 + 10 * (np.arange(n) % 30)

    def weights(values: np.ndarray) -> list[Finding]:
        return screen_scans(study.scans.assign(w=values), noise_weight="w")

    assert weights(1 / seconds) == weights(seconds / seconds.mean()) == weights(np.full(n, 20.0)) == []
    amounts = found(weights(seconds), "noise-weight")
    assert amounts.severity == "caveat" and "1 / w" in amounts.do and "200.5 to 490.5" in amounts.got
    huge = found(weights(np.where(np.arange(n) == 4, 1e6, 1.0)), "noise-weight")
    assert "1e+06 (scan" in huge.got and "1,000,000" in huge.what and huge.scans[0] == str(study.scans.scan_id[4])
    assert study.screen() == weights(np.full(n, -1.0)) == []  # the model refuses these


def test_times_that_are_no_years():
    visits = pd.DataFrame({"participant_id": [f"p{k}" for k in range(12) for _ in range(3)], "scanner": list("ABA") * 12})
    visits["scan_id"], visit = [f"s{k}" for k in range(36)], visits.groupby("participant_id").cumcount()

    def codes(**columns) -> list[tuple[str, str]]:
        return [(each.code, each.severity) for each in screen_times(visits.assign(**columns), ["time"])]

    wrong, doubtful = [("time-not-years", "error")], [("time-counts-visits", "caveat")]
    assert codes(time=visit + 1) == codes(time=visit, sex="F") == doubtful
    assert codes(time=visit, age=40.3 + visit) == codes(time=0.9 * visit) == []
    assert codes(time=365.0 * visit, age=40.0) == codes(time=365.0 * visit) == codes(time=3 * visit, age=40 + visit) == wrong
    assert codes(time=7 * visit) == codes(time=7 * visit, age=40.0) == codes(time=8 * visit, baseline_age=40.0) == []
    assert codes(time=8 * visit, age=40.0) == [("time-not-years", "caveat")]
    assert codes(time=visit, age=40.0) == doubtful
    assert codes(time=visit / 2, age=3 + 6 * visit) == []  # months of infants
    assert codes(time=3 * visit, age=480 + 36 * visit) == []  # months
    assert codes(time=2.5 * visit, age=40.0, age_at_mri=30 + 2.5 * visit) == []
    one = (40 + 2.2 * visit).mask(visits.index == 5, 52.0)
    (finding,) = screen_times(visits.assign(time=2.2 * visit, age=one), ["time"])
    assert finding.participants == ("p1",) and "1 of 12 people" in finding.got and "--time age" in finding.do
    (finding,) = screen_times(visits.assign(time=0.0, age=40 + 2.0 * visit), ["time"])
    assert "12 of 12 people" in finding.got
    days = visits.assign(days=365 * visit, years_since_first_day=20.0 * visit, age=40 + visit)
    assert list(screen_times(days, ["days"])) == []
    assert [each.severity for each in screen_times(days, ["years_since_first_day"])] == ["error"]


def test_motion_that_the_scanner_changes(study):
    louder = study.scans.motion * np.where(study.scans.scanner == "scanner1", 8, 1)
    finding = found(study.with_scans(motion=louder).screen("motion"), "covariate-of-scanner")
    assert finding.severity == "caveat" and "'scanner1'" in finding.got
    later = study.scans.age + (study.scans.scanner == "scanner1")
    assert study.with_scans(age=later).codes("age") == {}  # time passes


def test_covariates_that_are_nearly_the_scanner(study):
    number = study.scans.scanner.str[-1].astype(float)
    rng = np.random.default_rng(0)
    echo = study.with_scans(echo=(30 + number + 0.1 * rng.normal(size=len(number))).round(2))
    assert found(echo.screen("echo"), "covariate-is-scanner").do.endswith("unless travelers separate the two")
    release = study.with_scans(release=study.scans.scanner.map(lambda name: f"v{name[-1]}"))
    assert set(release.codes("release")) == {"categories-by-scanner", "covariate-is-scanner"}
    assert found(release.screen("release"), "covariate-is-scanner").do.endswith("not even travelers separate the two")
    old = study.with_scans(age=np.where(number == 0, 70, 25) + 10 * rng.normal(size=len(number)))
    assert "covariate-is-scanner" not in old.codes("age")  # people of different ages are no mistake


def test_categories_of_one_scanner(study):
    here = (study.scans.scanner == "scanner0") & (study.scans.groupby("scanner").cumcount() % 2 == 0)
    only = study.with_scans(school=np.where(here, "special", np.where(study.scans.index % 3, "high", "low")))
    finding = found(only.screen("school"), "category-on-one-scanner")
    assert finding.severity == "caveat" and "'special'" in finding.got


@pytest.mark.parametrize("kind", ["thickness", "volumes", "z"])
@pytest.mark.parametrize("factor", [10, 1000, 0.001])
def test_scanners_in_other_units(kind, factor):
    study = make_study(kind=kind, n_features=40)
    values = study.features.to_numpy() * np.where(study.scans.scanner == "scanner2", factor, 1)[:, None]
    finding = found(study.with_values(values).screen(), "mixed-units")
    assert finding.severity == "error" and "'scanner2'" in finding.got


@pytest.mark.parametrize("factor", [10, 100, 0.1])
def test_one_feature_in_other_units(study, factor):
    values = study.features.to_numpy().copy()
    values[:, 4] *= np.where(study.scans.scanner == "scanner2", factor, 1)
    assert found(study.with_values(values).screen(), "mixed-units").columns == ("region004",)
    twice = study.features.to_numpy() * np.where(study.scans.scanner == "scanner2", 2, 1)[:, None]
    assert "mixed-units" not in study.with_values(twice).codes()  # a scanner, no unit


def correlations(seed=0) -> Study:
    study = make_study(seed, kind="z", n_features=150, bias=0.3)
    centers = np.random.default_rng(seed).uniform(-0.3, 1.2, 150)
    return study.with_values(study.features.to_numpy() - study.features.to_numpy().mean(0) + centers)


def test_correlations_where_z_is_meant():
    study = correlations()
    z = study.features.to_numpy()
    assert study.codes() == {}
    assert study.with_values(np.tanh(z)).codes() == {"correlations-not-z": "caveat"}
    assert study.with_values(0.3 * z).codes() == {}  # z within -1 and 1
    some = np.where((study.scans.scanner == "scanner1").to_numpy()[:, None], np.tanh(z), z)
    finding = found(study.with_values(some).screen(), "r-and-z-mixed")
    assert finding.severity == "error" and "'scanner1'" in finding.got


def harmonize_by_site(study: Study, shrink=0.0, scale=False) -> Study:
    """Regression on the site, as ComBat does it: a part of the estimated effects stays where they are shrunken."""
    values = study.features.to_numpy()
    site = study.scans.scanner.to_numpy()
    residual = values.copy()
    for name in np.unique(site):
        rows = site == name
        residual[rows] -= (1 - shrink) * (values[rows].mean(0) - values.mean(0))
        if scale:
            center = residual[rows].mean(0)
            residual[rows] = center + (residual[rows] - center) * values.std(0) / values[rows].std(0)
    return study.with_values(residual)


@pytest.mark.parametrize("design", [(12, 0), (0, 120), (10, 80)])
def test_features_that_are_harmonized_already(design):
    study = make_study(5, 6, *design, n_features=80, rank=5)
    assert study.codes() == {}
    assert harmonize_by_site(study).codes() == {"scaled-by-scanner": "error"}
    assert harmonize_by_site(study, scale=True).codes() == {"scaled-by-scanner": "error"}
    findings = harmonize_by_site(study, shrink=0.05).screen()
    assert [finding.code for finding in findings] == ["already-harmonized"] and findings[0].severity == "caveat"


# --- the face: codes, acceptance, sentences


def test_all_codes_are_listed_and_described():
    folder = Path(bayesharm.__file__).parent
    sources = [
        *(folder / "data" / "screening").glob("*.py"),
        folder / "data" / "reading_findings.py",
        folder / "harmonization" / "value_ranges.py",
        folder / "io" / "tables.py",
    ]
    text = "\n".join(path.read_text() for path in sources if path.name != "codes.py")
    for code in CODES:
        assert f'"{code}"' in text, code
    for code in re.findall(r'Finding\(\s*"([a-z-]+)"', text):
        assert code in CODES
    page = (folder.parent / "docs" / "reference" / "tables.md").read_text()
    assert re.findall(r"^\| `([a-z-]+)`", page, re.MULTILINE) == list(CODES)


def test_errors_are_raised_together_and_can_be_accepted(study):
    wrong = study.with_scans(
        age=study.scans.age.mask(study.scans.index == 70, -9999),
        sex=study.scans.sex.mask(study.scans.scanner == "scanner0", study.scans.sex.str.lower()),
    )
    with pytest.raises(InputError, match=r"(?s)2 problems.*1\. .*2\. .*--accept category-spelling"):
        refuse_errors(wrong.screen("age", "sex"))
    findings = wrong.screen("age", "sex", accept="missing-code")
    assert [finding.severity for finding in findings] == ["error", "caveat"]
    assert findings[1].code == "missing-code" and "Accepted by the user" in findings[1].sentence
    assert all(finding.severity == "caveat" for finding in wrong.screen("age", "sex", accept=["all"]))
    with pytest.raises(InputError, match="no finding with such a code"):
        wrong.screen(accept="mising-code")
    for finding in findings:
        assert finding_from_dict(finding.to_dict()) == finding


def test_missing_and_infinite_features_are_left_out_of_the_statistics(study):
    values = study.features.to_numpy().copy()
    values[::7, ::3] = np.nan
    values[:, 5] = np.nan
    values[2, 2] = np.inf
    dataset = load_dataset(study.scans, study.features.assign(**{}), check="apply")
    assert screen(dataset) == []
    holes = load_dataset(study.scans, pd.DataFrame(values, study.features.index, study.features.columns), check="apply")
    assert screen(holes, covariates=COVARIATES) == []


@pytest.mark.parametrize("with_sex", [True, False])
def test_people_named_with_their_scanner_are_found_and_people_numbered_by_site_are_not(with_sex):
    people = [f"T{k}_{scanner}" for k in range(8) for scanner in "ABC"]
    people += [] if with_sex else [f"c{k:02d}_{'ABC'[k % 3]}" for k in range(20)]
    scans = pd.DataFrame({"scan_id": people, "participant_id": people, "scanner": [name[-1] for name in people]})
    if with_sex:
        scans["sex"] = np.repeat(list("MFFMFMMF"), 3)
    found = {finding.code: finding.severity for finding in screen_scans(scans)}
    assert found.get("participant-is-scan") == "caveat"
    numbered = [f"{k:03d}-{site}" for site in "ABC" for k in range(1, 30)]
    scans = pd.DataFrame({"scan_id": numbered, "participant_id": numbered, "scanner": [name[-1] for name in numbered]})
    if with_sex:
        scans["sex"] = np.random.default_rng(0).choice(list("MF"), len(scans))
    assert "participant-is-scan" not in {finding.code for finding in screen_scans(scans)}


def test_a_code_among_ages_is_a_caveat():
    rng = np.random.default_rng(1)
    people = [f"p{k}" for k in range(48)]
    scans = pd.DataFrame({"scan_id": people, "participant_id": people, "scanner": list("AB") * 24})
    scans["age"] = rng.integers(20, 70, 48)
    scans.loc[[3, 9], "age"] = 99
    found = [finding for finding in screen_scans(scans, covariates=["age"]) if finding.code == "missing-code"]
    assert [finding.severity for finding in found] == ["caveat"] and found[0].scans == ("p3", "p9")
    scans["age"] = rng.integers(60, 100, 48)
    assert not [finding for finding in screen_scans(scans, covariates=["age"]) if finding.code == "missing-code"]


def test_values_around_zero_of_few_scans_are_not_in_other_units():
    """Of 10,000 edges of three people on each of two scanners some are 10 times as large on one of them by chance."""
    rng = np.random.default_rng(3)
    scans = pd.DataFrame({"participant_id": [f"p{k}" for k in range(6)], "scanner": list("AAABBB")})
    scans["scan_id"] = scans.participant_id
    values = rng.normal(0, 0.2, (6, 10_000))
    assert "mixed-units" not in {finding.code for finding in screen(load_dataset(scans, values))}
    values[:3] *= 1000
    assert "mixed-units" in {finding.code for finding in screen(load_dataset(scans, values))}


def test_runs_of_one_visit_do_not_make_a_covariate_depend_on_the_scanner():
    rng = np.random.default_rng(4)
    alarms = 0
    for _ in range(40):
        rows = [(f"p{p}", scanner) for p in range(8) for scanner in "ABCD" for _ in range(4)]
        scans = pd.DataFrame(rows, columns=["participant_id", "scanner"])
        scans["scan_id"] = [f"s{k}" for k in range(len(scans))]
        scans["motion"] = np.repeat(rng.normal(5, 1, 32), 4) + rng.normal(0, 0.3, 128)
        alarms += "covariate-of-scanner" in {f.code for f in screen_scans(scans, covariates=["motion"])}
    assert alarms == 0


def test_a_single_99_among_counts_is_a_caveat():
    rng = np.random.default_rng(5)
    people = [f"p{k}" for k in range(60)]
    scans = pd.DataFrame({"scan_id": people, "participant_id": people, "scanner": list("AB") * 30})
    values = rng.poisson(8, (60, 30)).astype(float)
    values[7, 3] = 99
    found = [finding for finding in screen(load_dataset(scans, values)) if finding.code == "missing-code-feature"]
    assert [finding.severity for finding in found] == ["caveat"]
    values[8, 4] = 99
    found = [finding for finding in screen(load_dataset(scans, values)) if finding.code == "missing-code-feature"]
    assert [finding.severity for finding in found] == ["error"]


@pytest.mark.parametrize(
    ("name", "is_time"),
    [("years", True), ("years_from_baseline", True), ("TimeSinceFirstScan", True), ("followup months", True),
     ("reaction_time", False), ("EchoTime", False), ("education_years", False)],
)  # fmt: skip
def test_time_since_something_is_known_by_its_name(name, is_time):
    """It differs between scanners in the same people by itself: no caveat."""
    assert is_elapsed_time(name) == is_time
