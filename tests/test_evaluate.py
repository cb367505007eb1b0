"""Cross-validation: folds, measures, conclusions."""

import numpy as np
import pandas as pd
import pytest
from posteriors import make_learned
from typer.testing import CliRunner

from bayesharm import cross_validate, harmonize, load_dataset
from bayesharm.baselines import Fitted, get_method
from bayesharm.cli.app import app
from bayesharm.data.dataset import Dataset
from bayesharm.data.splits import split_people, split_visits
from bayesharm.errors import InputError, ModelError
from bayesharm.evaluation.bayesharm_method import BayesFitted
from bayesharm.evaluation.conclusions import draw_conclusions
from bayesharm.evaluation.fold_evaluation import FoldEvaluation
from bayesharm.evaluation.result import BAYESHARM, MATCHED_NOISE, MODEL_PREDICTION
from bayesharm.harmonization.options import CorrectionOptions
from bayesharm.model.catalog import load_model

SCANNERS, N_PEOPLE, N_FEATURES = ("A", "B", "C"), 8, 12
METHODS = ["none", "glm", BAYESHARM]
FEW = {"folds": 2, "repeats": 1, "visit_folds": 3, "preview": True, "model": "traveling"}


def make_study(seed: int = 0, with_rare: bool = False) -> tuple[pd.DataFrame, np.ndarray]:
    """People on three scanners each, whose bias is as large as people differ and noise a third of it."""
    rng = np.random.default_rng(seed)
    visits = [(f"p{i}", name) for i in range(N_PEOPLE) for name in SCANNERS]
    scans = pd.DataFrame(visits, columns=["participant_id", "scanner"])
    if with_rare:
        scans.loc[len(scans)] = ("p0", "rare")
    scans.insert(0, "scan_id", [f"s{i:02d}" for i in range(len(scans))])
    scans["age"] = scans.participant_id.map({f"p{i}": 20.0 + 5 * i for i in range(N_PEOPLE)})
    bias = {name: rng.normal(0, 1, N_FEATURES) for name in (*SCANNERS, "rare")}
    person = {f"p{i}": rng.normal(0, 1, N_FEATURES) for i in range(N_PEOPLE)}
    values = np.stack([bias[k] + person[p] for p, k in zip(scans.participant_id, scans.scanner, strict=True)])
    return scans, values + rng.normal(0, 0.3, values.shape)


@pytest.fixture(scope="module")
def study():
    return load_dataset(*make_study())


@pytest.fixture(scope="module")
def found(study):
    """Without covariates, both halves of the people have the same design, and share compiled programs."""
    return cross_validate(study, METHODS, **FEW)


def test_people_stay_together_and_kinds_of_people_are_dealt_out():
    scans, _ = make_study()
    once = pd.DataFrame({
        "participant_id": [f"once{i}" for i in range(20)], "scanner": ["A", "B"] * 10,
        "diagnosis": ["HC"] * 10 + ["MDD"] * 10,
    })  # fmt: skip
    scans = pd.concat([scans.assign(diagnosis="HC"), once], ignore_index=True)
    fold = split_people(scans, 2, np.random.default_rng(1))
    assert (pd.Series(fold).groupby(scans.participant_id).nunique() == 1).all()
    people = scans.assign(fold=fold).drop_duplicates("participant_id")
    travels = ~people.participant_id.str.startswith("once")
    assert (people[travels].fold.value_counts() == N_PEOPLE // 2).all()
    counts = people[~travels].groupby(["scanner", "diagnosis", "fold"]).size()
    assert set(counts) == {2, 3}  # of five
    assert not np.array_equal(fold, split_people(scans, 2, np.random.default_rng(2)))
    np.testing.assert_array_equal(fold, split_people(scans, 2, np.random.default_rng(1)))


def test_visits_of_a_person_and_of_a_scanner_are_spread():
    scans, _ = make_study()
    once = scans.iloc[:1].assign(participant_id="once")
    scans = pd.concat([scans, scans, once], ignore_index=True)  # two scans in each visit
    fold = split_visits(scans, 3, np.random.default_rng(0))
    assert fold[-1] == -1
    visits = scans.assign(fold=fold)[fold >= 0].groupby(["participant_id", "scanner"]).fold
    assert (visits.nunique() == 1).all()
    table = visits.first().reset_index()
    assert (table.groupby("participant_id").fold.nunique() == 3).all()
    counts = table.groupby(["scanner", "fold"]).size()
    assert counts.max() - counts.min() <= 2


def test_too_few_travelers_are_refused(study):
    with pytest.raises(InputError, match=r"too few traveling subjects[\s\S]*8 travelers for 9 folds"):
        split_people(study.scans, 9, np.random.default_rng(0))
    cohort = study.take(np.flatnonzero(study.scans.scanner == "A"))
    with pytest.raises(InputError, match="0 travelers for 2 folds"):
        cross_validate(cohort, ["none"], **FEW)


def test_unknown_methods_and_covariates_are_refused(study):
    with pytest.raises(InputError, match=r"no such method[\s\S]*'combats'"):
        cross_validate(study, ["none", "combats"], **FEW)
    with pytest.raises(InputError, match=r"no covariate 'weight'"):
        cross_validate(study, ["none"], covariates=("weight",), **FEW)


def test_a_method_that_knows_travelers_removes_what_scanners_add(found):
    value = found.measures["value"]
    assert value["share_removed", "none"] == 0
    assert value["share_removed", BAYESHARM] > 0.8  # 3 scanners from 4 people: 1 - 1 / 4 * (0.3 / 1)² is .98
    assert value["between_scanner_sd", BAYESHARM] < 0.6 * value["between_scanner_sd", "none"]
    assert value["prediction_rmse", BAYESHARM] < 0.6 * value["prediction_rmse", "none"]
    assert value["visit_rmse", BAYESHARM] < 0.6 * value["visit_rmse", "none"]
    assert value["icc", BAYESHARM] > value["icc", "none"]


def test_every_method_is_measured_on_the_same_scans(found):
    for measure, rows in found.measures.groupby("measure"):
        assert rows.n_scans.nunique() == 1, measure
        assert (rows.n_features == N_FEATURES).all()
    people = found.measures.loc["prediction_rmse"]
    assert (people.n_scans == N_PEOPLE * len(SCANNERS)).all()  # everybody was left out once


def test_differences_from_bayesharm_are_positive_where_others_are_better(found):
    goodness = {"prediction_rmse": lambda x: -x, "share_removed": lambda x: -abs(x - 1), "icc": lambda x: x}
    for measure, good in goodness.items():
        rows = found.measures.loc[measure]
        gap = good(rows.value["none"]) - good(rows.value[BAYESHARM])
        assert rows.better["none"] == pytest.approx(gap) and gap < 0
        assert rows.better_se["none"] > 0
        assert np.isnan(rows.better[BAYESHARM])


def test_intervals_of_visits_hold_them(found):
    """24 visits × 12 features, independent given the person: binomial se 1.8%, and the fit's own error."""
    row = found.measures.loc["visit_coverage", MODEL_PREDICTION]
    assert abs(row.value - 0.9) < 4.3 * 0.018
    assert row.n_scans == N_PEOPLE * len(SCANNERS)


def test_a_scanner_that_training_people_never_saw_is_left_out_for_all():
    dataset = load_dataset(*make_study(with_rare=True))
    found = cross_validate(dataset, ["none", "glm"], **FEW)
    assert "could not correct scans of 'rare'" in found.methods.notes["glm"]
    assert found.methods.notes["none"] == ""
    n_scans = found.measures.loc["prediction_rmse"].n_scans
    assert n_scans["none"] == n_scans["glm"] == N_PEOPLE * len(SCANNERS)
    assert f"{BAYESHARM}" not in found.measures.index.get_level_values("method")


@pytest.mark.slow
def test_a_person_scanned_again_and_again_and_a_rare_scanner():
    """Two scans of each visit, some of them missing, and a scanner that halves of the people never saw.

    Hands that these halves lack as well: matched noise needs them for the expected values of people, and nothing else does.
    """
    scans, values = make_study(with_rare=True)
    scans["hand"] = scans.participant_id.map({"p0": "left", "p1": "both"}).fillna("right")
    rng = np.random.default_rng(1)
    again = scans.assign(scan_id=scans.scan_id + "b").iloc[rng.permutation(len(scans))[:15]]
    dataset = load_dataset(
        pd.concat([scans, again], ignore_index=True),
        np.concatenate([values, values[again.index] + rng.normal(0, 0.3, (len(again), N_FEATURES))]),
    )
    found = cross_validate(dataset, ["none", "glm", BAYESHARM], covariates=("hand",), **FEW | {"visit_folds": 2})
    table = found.measures
    assert 0.2 < table.value["noise_floor", ""] * dataset.features.read(0, N_FEATURES).std(0).mean() < 0.42  # it is 0.3
    for measure in ("prediction_rmse", "visit_rmse"):
        assert table.loc[measure].n_scans.nunique() == 1 and table.value[measure, BAYESHARM] < table.value[measure, "none"]
    assert "could not correct scans of 'rare'" in found.methods.notes[BAYESHARM]
    assert "could not be applied" in found.methods.notes[MATCHED_NOISE] and MATCHED_NOISE in str(found)


def test_no_method_sees_what_is_held_out(study):
    """The fit of a fold gets all scans but those that are then measured."""
    fit, trained = get_method("none").fit, []

    def fit_and_note(name: str, training: Dataset) -> Fitted:
        trained.append(set(training.scans.scan_id))
        return fit(training, [])

    evaluation, scans = FoldEvaluation(study, fit_and_note, ["none"], [], "HC"), study.scans
    for evaluate, held_out in (
        (evaluation.leave_people_out, scans.participant_id.isin(["p0", "p3", "p5"]).to_numpy()),
        (evaluation.leave_visits_out, np.arange(len(scans)) % 5 == 0),
    ):
        evaluate(held_out)
        assert trained.pop() == set(scans.scan_id[~held_out]) and not trained
    assert {"icc", "visit_rmse"} <= set(evaluation.measures)


def test_matched_noise_is_match_noise_and_reports_its_factors():
    scans, values = make_study()
    dataset = load_dataset(scans, values)
    posterior = make_learned(dataset, load_model("traveling"))
    matched = CorrectionOptions(match_noise=True)
    applied, plain = BayesFitted(posterior, matched).apply(dataset), BayesFitted(posterior).apply(dataset)
    np.testing.assert_array_equal(applied.values, harmonize(posterior, dataset, match_noise=True).mean)
    assert plain.factor is None and len(np.unique(applied.factor[:, 0].round(12))) == len(SCANNERS)
    first, last = 0, len(SCANNERS) * (N_PEOPLE - 1)  # two people on one scanner: what is expected of them is the same
    np.testing.assert_allclose(
        (applied.values[last] - applied.values[first]) / applied.factor[first], plain.values[last] - plain.values[first]
    )


def test_the_dataset_is_not_modified(study):
    before = study.features.fingerprint(), study.scans.to_csv()
    cross_validate(study, ["glm"], **FEW)
    assert (study.features.fingerprint(), study.scans.to_csv()) == before


def test_what_it_says_and_writes(found, tmp_path):
    text = str(found)
    assert "held-out people" in text and "Conclusions" in text and "The fits of bayesharm are previews" in text
    assert all(len(line) <= 80 for line in text.splitlines())
    files = found.write(tmp_path / "tables")
    assert sorted(file.name for file in files) == ["measures.csv", "methods.csv"]
    table = pd.read_csv(tmp_path / "tables" / "measures.csv")
    assert table.preview.all() and {"measure", "method", "value", "se", "better"} <= set(table.columns)


def test_its_figure_shows_every_measure(found):
    from bayesharm.reporting.plots import plot_evaluation
    from bayesharm.reporting.plots.evaluation import TITLES

    figure = plot_evaluation(found)
    assert {ax.get_title() or ax.get_title(loc="left") for ax in figure.axes} >= set(TITLES.values())


def test_the_command(tmp_path):
    scans, values = make_study()
    scans.to_csv(tmp_path / "scans.csv", index=False)
    np.save(tmp_path / "features.npy", values)
    arguments = ["evaluate", str(tmp_path / "scans.csv"), str(tmp_path / "features.npy"), "--methods", "none,glm",
                 "--covariates", "age", "--repeats", "1", "--visit-folds", "3", "--out", str(tmp_path / "out"),
                 "-q"]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["evaluation.png", "measures.csv", "methods.csv"]
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2 and "already" in again.output


def table_of(**rows: tuple[float, float, float]) -> pd.DataFrame:
    """Prediction errors of methods: value, and how much better than bayesharm with its standard error."""
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=["value", "better", "better_se"])
    frame = frame.assign(se=0.01, chance=np.nan).rename_axis("method").reset_index().assign(measure="visit_rmse")
    return frame.set_index(["measure", "method"])


@pytest.mark.parametrize(
    "others, said",
    [
        ({"glm": (0.6, -0.1, 0.02), "reml": (0.55, -0.05, 0.02)}, "better than every other .* next is reml"),
        ({"glm": (0.6, -0.1, 0.02), "reml": (0.5, 0.001, 0.02)}, "no method is better .* standard error: reml"),
        ({"glm": (0.4, 0.1, 0.02), "reml": (0.5, 0.001, 0.02)}, r"better than bayesharm \(0.500 .* by .*: glm \(0.400"),
        (
            {"glm": (0.4, 0.1, 0.02), MATCHED_NOISE: (0.45, 0.05, 0.02)},
            "glm [^.]*.400 .*For comparison: bayesharm, matched noise",
        ),
    ],
)
def test_conclusions_name_the_better_methods(others, said):
    table = table_of(bayesharm=(0.5, np.nan, np.nan), **others)
    conclusions = draw_conclusions(table, pd.DataFrame(index=["bayesharm", *others]), {"preview": False})
    assert len(conclusions) == 1
    assert pd.Series(conclusions).str.contains(said).all(), conclusions


def test_conclusions_bear_differences_without_a_standard_error():
    table = table_of(bayesharm=(0.5, np.nan, np.nan), glm=(0.6, -0.1, 0.02), reml=(0.5, 0.0, np.nan))
    (said,) = draw_conclusions(table, pd.DataFrame(index=["bayesharm", "glm", "reml"]), {"preview": False})
    assert said.endswith("no method is better than bayesharm (0.500 ± 0.010).")


def test_conclusions_say_where_there_is_little_to_remove():
    rows = [("between_scanner_sd", "none", 1.0), ("noise_floor", "", 0.99)]
    table = pd.DataFrame(rows, columns=["measure", "method", "value"]).set_index(["measure", "method"])
    (said,) = draw_conclusions(table, pd.DataFrame(index=["none"]), {"preview": False})
    assert "2% exceeds noise: there is little to remove" in said


def test_options_that_make_no_sense_are_refused_before_any_work(study):
    refused = [
        ({"methods": [BAYESHARM], "model": "bla"}, ModelError, "no model 'bla'"),
        ({"methods": []}, InputError, "no method to evaluate"),
        ({"methods": "bla"}, InputError, r"no such method[\s\S]*bayesharm, none"),
        ({"folds": 1}, InputError, "folds is too small"),
        ({"repeats": 0}, InputError, "repeats is too small"),
        ({"visit_folds": 1}, InputError, "visit_folds is too small"),
        ({"covariates": "weight"}, InputError, "no covariate 'weight'"),
    ]
    of_fit = [
        ({"likelihood": "cauchy"}, "Unknown likelihood"),
        ({"likelihood": "student-t"}, "A preview approximates Gaussian noise only"),
        ({"gain": "site"}, "Unknown gain"),
        ({"noise_ratio": "feature"}, "Unknown noise_ratio"),
        ({"noise_weight": "volumes"}, "no column 'volumes' of noise weights"),
        ({"time": "age"}, "no trajectories of participants"),
        ({"model": "longitudinal", "time": "years"}, "needs the column 'years'"),
        ({"model": "auto", "time": "age"}, "same in all scans of each participant"),
        ({"formula": "age + "}, "formula"),
        ({"draw": 10}, "Unknown settings"),
        ({"chains": 0}, "setting 'chains' is impossible"),
    ]
    refused += [({"methods": [BAYESHARM]} | options, (InputError, ModelError), message) for options, message in of_fit]
    for options, kind, message in refused:
        with pytest.raises(kind, match=message):
            cross_validate(study, **(FEW | {"methods": ["none"]} | options), progress=lambda *event: pytest.fail("worked"))
    with pytest.raises(InputError, match=r"evaluate needs a Dataset[\s\S]*load_dataset"):
        cross_validate("study.csv")
    cohort = study.take(np.flatnonzero(study.scans.scanner == "A"))
    with pytest.raises(InputError, match="people scanned on several scanners"):
        cross_validate(cohort, ["none"], **FEW)
