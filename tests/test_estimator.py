"""The scikit-learn transformer: its contract with scikit-learn, and no leak from test scans."""

import inspect
import io
import subprocess
import sys
import warnings
import zlib

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
from cases import of_travelers
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import bayesharm
from bayesharm import BayesHarmonizer, InputError, load_posterior
from bayesharm.harmonization.adaptation import adapt_to_new_scanners
from bayesharm.model.configure import MODEL_OPTIONS, configure_model

# A fit of every test is one of the same design, three travelers on two scanners, and works on one feature at a time: what is
# compiled for the first serves for all.
N_TRAVELERS = 3
QUICK = {"model": "traveling", "preview": True, "settings": {"hyper_features": 1, "block_size": 1}}
pytestmark = pytest.mark.filterwarnings("ignore:This is a PREVIEW")


def scans_of(X) -> pd.DataFrame | None:
    """A table of scans made from the numbers of each row alone: a row keeps its scanner in any order and any subset.

    Three people are scanned on both scanners, all others once, which the model `traveling` leaves out.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about complex numbers
            rows = np.asarray(X, np.float64)
    except (TypeError, ValueError):
        return None
    if rows.ndim != 2:
        return None
    scanner = np.array([zlib.crc32(row.tobytes()) % 2 for row in rows], int)
    person = np.array([f"once{k}" for k in range(len(rows))], object)
    for side in (0, 1):
        chosen = np.flatnonzero(scanner == side)[:N_TRAVELERS]
        person[chosen] = [f"traveler{k}" for k in range(len(chosen))]
    return pd.DataFrame({"participant_id": person, "scanner": np.array(["A", "B"])[scanner]})


class SelfDescribed(BayesHarmonizer):
    """Makes the table of scans itself, for checks that know of X and y only; everything else is that of the class."""

    def fit(self, X, y=None):
        return super().fit(X, y, scans=scans_of(X))

    def transform(self, X):
        return super().transform(X, scans=scans_of(X))

    def fit_transform(self, X, y=None):
        return self.fit(X, y).transform(X)

    def inverse_transform(self, X):
        return super().inverse_transform(X, scans=scans_of(X))


NOT_MET = {
    "check_estimators_nan_inf": "transform leaves missing values missing; test_missing_values checks what this asks of fit"
}


@pytest.mark.filterwarnings("ignore:.*features do not vary")
@parametrize_with_checks([SelfDescribed(**QUICK)], expected_failed_checks=lambda estimator: NOT_MET)
def test_scikit_learn(estimator, check, monkeypatch):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")  # without it one of the checks is skipped
    check(estimator)


def make_study(n_travelers: int = N_TRAVELERS, n_once: int = 8) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Features, float32 but for the last, and scans: B adds 3 to everything. The index of both names the scans."""
    rng = np.random.default_rng(3)
    people = [f"t{k}" for k in range(n_travelers)]
    rows = [(person, scanner) for person in people for scanner in "AB"]
    rows += [(f"once{k}", "AB"[k % 2]) for k in range(n_once)]
    scans = pd.DataFrame(rows, columns=["participant_id", "scanner"], index=[f"scan{k:02d}" for k in range(len(rows))])
    person = pd.DataFrame(rng.normal(size=(n_travelers + n_once, 4)), index=scans.participant_id.unique())
    values = person.loc[scans.participant_id].to_numpy() + 3 * (scans[["scanner"]] == "B").to_numpy()
    values = values + rng.normal(0, 0.2, values.shape)
    features = pd.DataFrame(values, index=scans.index, columns=["a", "b", "c", "d"])
    return features.astype({"a": "float32", "b": "float32", "c": "float32"}), scans


@pytest.fixture(scope="module")
def study():
    return make_study()


@pytest.fixture(scope="module")
def fitted(study):
    X, scans = study
    return BayesHarmonizer(**QUICK).fit(X, scans=scans)


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


def dataset_of(X, scans):
    return bayesharm.load_dataset(
        scans.rename_axis("scan_id").reset_index(), X.astype(float).rename_axis("scan_id").reset_index(), check="apply"
    )


def joblib_copy(estimator):
    file = io.BytesIO()
    joblib.dump(estimator, file)
    file.seek(0)
    return joblib.load(file)


def test_it_does_what_harmonize_does(study, fitted):
    X, scans = study
    found = bayesharm.harmonize(fitted.posterior_, dataset_of(X, scans))
    # The same sums in the same precision, but that three features are rounded to float32 in the end.
    np.testing.assert_allclose(fitted.transform(X, scans=scans), found.mean, rtol=1e-6)
    np.testing.assert_allclose(fitted.transform_sd(X, scans=scans), found.sd, rtol=1e-6)
    assert fitted.posterior_.features == list(fitted.get_feature_names_out()) == ["a", "b", "c", "d"]


def test_what_comes_out_has_the_form_of_what_went_in(study, fitted):
    X, scans = study
    before = X.copy()
    for found in (fitted.transform(X, scans=scans), fitted.transform_sd(X, scans=scans)):
        assert isinstance(found, pd.DataFrame)
        assert found.index.equals(X.index) and found.columns.equals(X.columns)
        assert found.dtypes.equals(X.dtypes)
    pd.testing.assert_frame_equal(X, before)
    some = scans.index[[5, 2]]
    pd.testing.assert_frame_equal(
        fitted.transform(X.loc[some], scans=scans.loc[some]), fitted.transform(X, scans=scans).loc[some]
    )
    bare = BayesHarmonizer(**QUICK).fit(X.to_numpy(), scans=scans)
    found = bare.transform(X.to_numpy(), scans=scans)
    assert type(found) is np.ndarray and found.dtype == np.float64
    assert bare.posterior_.features == list(bare.get_feature_names_out()) == ["x0", "x1", "x2", "x3"]
    labelled = bare.set_output(transform="pandas").transform(X.to_numpy(), scans=scans)
    assert list(labelled) == ["x0", "x1", "x2", "x3"]
    np.testing.assert_array_equal(labelled, found)
    assert bare.transform(X.to_numpy(np.float32), scans=scans).dtypes.eq(np.float32).all()


def test_inverse_transform_and_target(study, fitted):
    X, scans = study
    harmonized = fitted.transform(X, scans=scans)
    # Two roundings to float32 (2^-24 each, of values below 10).
    np.testing.assert_allclose(fitted.inverse_transform(harmonized, scans=scans), X, atol=3e-6)
    on_a = scans.scanner == "A"
    moved = joblib_copy(fitted).set_params(target="A").transform(X, scans=scans)
    pd.testing.assert_frame_equal(moved[on_a], X[on_a], check_exact=True)
    assert (moved[~on_a] < X[~on_a] - 1).all(axis=None)  # B adds 3, with an error of 0.1


@pytest.mark.filterwarnings("ignore")  # notes of harmonize, which it tests itself
@pytest.mark.parametrize(
    "choice", [{"remove": "measurement"}, {"target": "B"}, {"match_noise": True}, {"new_scanners": "prior"}]
)
def test_choices_of_transform_need_no_new_fit(study, fitted, choice):
    X, scans = study
    if "new_scanners" in choice:
        scans = scans.replace({"scanner": {"B": "C"}})
    harmonizer = joblib_copy(fitted).set_params(**choice)
    found = bayesharm.harmonize(fitted.posterior_, dataset_of(X, scans), **choice)
    # Three features are rounded to float32 in the end.
    np.testing.assert_allclose(harmonizer.transform(X, scans=scans), found.mean, rtol=1e-6)
    np.testing.assert_allclose(harmonizer.transform_sd(X, scans=scans), found.sd, rtol=1e-6)


def test_new_scanners_are_learned_and_then_harmonized():
    """With the numbers and notes of the two steps."""
    case = of_travelers()
    harmonizer = BayesHarmonizer(new_scanners="adapt")
    harmonizer.posterior_, harmonizer.n_features_in_ = case.fitted, case.values.shape[1]
    harmonizer.feature_names_in_ = np.array(case.fitted.features, object)
    X = pd.DataFrame(case.values, columns=case.fitted.features)
    dataset = case.part(np.full(len(case.scans), True))
    adapted, notes = adapt_to_new_scanners(case.fitted, dataset)
    with warnings.catch_warnings(record=True) as issued:
        warnings.simplefilter("always")
        values = harmonizer.transform(X, scans=case.scans)
        expected = bayesharm.harmonize(adapted, dataset)
    assert [str(each.message) for each in issued] == notes and len(notes) == 2
    np.testing.assert_array_equal(values, expected.mean)
    np.testing.assert_array_equal(harmonizer.transform_sd(X, scans=case.scans), expected.sd)
    with pytest.raises(InputError, match=r"with inverse, and scans from 's1'"):
        harmonizer.inverse_transform(values, scans=case.scans)
    old_X, old_scans = X[~case.is_new], case.scans[~case.is_new]
    back = harmonizer.inverse_transform(harmonizer.transform(old_X, scans=old_scans), scans=old_scans)
    np.testing.assert_allclose(back, old_X, rtol=1e-12)


def test_an_impossible_choice_is_refused(study, fitted):
    X, scans = study
    for choice in ({"new_scanners": "guess"}, {"match_noise": 2}):
        with pytest.raises(InputError, match="do this"):
            joblib_copy(fitted).set_params(**choice).transform(X, scans=scans)
    with pytest.raises(InputError, match="remove"):
        joblib_copy(fitted).set_params(remove="sampling").transform(X, scans=scans)


def test_a_saved_estimator_has_the_run_folder_inside(study, fitted):
    X, scans = study
    pd.testing.assert_frame_equal(joblib_copy(fitted).transform(X, scans=scans), fitted.transform(X, scans=scans))
    state = fitted.__getstate__()
    assert isinstance(state["posterior_"], bytes)
    assert state["posterior_"] == joblib_copy(fitted).__getstate__()["posterior_"]
    assert isinstance(fitted.posterior_, bayesharm.Posterior)


def test_clone_keeps_parameters_only(fitted):
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params()
    assert not hasattr(copy, "posterior_")


def over_time() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Features and scans of the study, with the columns that options of the model name."""
    X, scans = make_study()
    return X, scans.assign(
        age=40 + np.arange(len(scans)), years=np.arange(len(scans)) % 2, volumes=1 + np.arange(len(scans))
    )


@pytest.mark.parametrize(("choice", "part", "expected"), [
    ({"time": "years"}, lambda spec: {family.slope for family in spec.slopes}, {"years"}),
    ({"likelihood": "student-t"}, lambda spec: (spec.likelihood, spec.has_tails), ("student-t", True)),
    ({"noise_ratio": "scanner-feature"}, lambda spec: spec.noise_ratio, "scanner-feature"),
    ({"noise_weight": "volumes"}, lambda spec: spec.noise_weight, "volumes"),
    ({"gain": "scanner", "covariates": ["age"]}, lambda spec: (spec.gain, spec.covariates), ("scanner", ("age",))),
])  # fmt: skip
def test_options_of_the_model(choice, part, expected):
    """Each changes its part of the model, as in `bayesharm.fit`."""
    _, scans = over_time()
    model = "longitudinal" if "time" in choice else "traveling"
    harmonizer = clone(BayesHarmonizer(model, **choice))
    assert choice.items() <= harmonizer.get_params().items()
    spec, _ = harmonizer._specify(scans)
    assert part(spec) == expected != part(BayesHarmonizer(model)._specify(scans)[0])


def test_every_option_of_the_model_is_a_parameter():
    options = set(inspect.signature(bayesharm.fit).parameters) & set(inspect.signature(configure_model).parameters)
    assert options - {"model", "dataset"} == set(MODEL_OPTIONS) <= BayesHarmonizer().get_params().keys()


@pytest.mark.parametrize(("choice", "message"), [
    ({"time": "years"}, "'traveling' has no trajectories"),
    ({"likelihood": "student-t"}, "approximates Gaussian noise only"),
    ({"likelihood": "cauchy"}, "Unknown likelihood"),
    ({"likelihood": "student-t", "new_scanners": "adapt"}, "cannot learn new scanners"),
    ({"noise_ratio": "voxel"}, "Unknown noise_ratio"),
    ({"noise_weight": "absent"}, "absent"),
])  # fmt: skip
def test_wrong_options_of_the_model_are_refused(choice, message):
    """By the model, or by `bayesharm.fit`, which they reach: a preview with heavy tails."""
    X, scans = over_time()
    with pytest.raises(ValueError, match=message):
        BayesHarmonizer(**QUICK, **choice).fit(X, scans=scans)


def test_missing_values(study, fitted):
    X, scans = study
    holed = X.copy()
    holed.iloc[2, 1] = np.inf
    with pytest.raises(ValueError, match="contains infinity"):
        BayesHarmonizer(**QUICK).fit(holed, scans=scans)
    with pytest.raises(ValueError, match="contains infinity"):
        fitted.transform(holed, scans=scans)
    holed.iloc[2, 1] = np.nan
    expected, expected_sd = fitted.transform(X, scans=scans), fitted.transform_sd(X, scans=scans)
    expected.iloc[2, 1] = expected_sd.iloc[2, 1] = np.nan
    pd.testing.assert_frame_equal(fitted.transform(holed, scans=scans), expected)
    pd.testing.assert_frame_equal(fitted.transform_sd(holed, scans=scans), expected_sd)


def test_features_that_do_not_vary_are_passed_through(study, fitted):
    X, scans = study
    X = X.assign(b=1.5, d=np.where(scans.participant_id.str.startswith("t"), 2.0, X["d"]))  # d varies in people scanned once
    with pytest.warns(UserWarning, match="2 of 4 features do not vary .* 'b', 'd'") as said:
        harmonizer = BayesHarmonizer(**QUICK).fit(X, scans=scans)
    assert said[0].filename == __file__
    assert harmonizer.posterior_.features == ["a", "c"] and set(harmonizer.posterior_.run["dropped"]) == {"b", "d"}
    found = harmonizer.transform(X, scans=scans)
    pd.testing.assert_frame_equal(found[["b", "d"]], X[["b", "d"]])
    assert (harmonizer.transform_sd(X, scans=scans)[["b", "d"]] == 0).all(axis=None)
    assert (found[["a", "c"]] != X[["a", "c"]]).all(axis=None)
    with pytest.raises(InputError, match="No feature varies"):
        BayesHarmonizer(**QUICK).fit(X[["b", "d"]], scans=scans)


@pytest.mark.parametrize(("change", "message"), [
    (lambda scans: None, r"There is no scans table[\s\S]*enable_metadata_routing"),
    (lambda scans: scans.to_numpy(), r"no scans table[\s\S]*of type ndarray"),
    (lambda scans: scans.iloc[:-1], r"differ in length[\s\S]*14 rows of X, 13 of scans"),
    (lambda scans: scans.iloc[::-1], r"different order[\s\S]*in row 1, scan 'scan00' in X and 'scan13' in scans"),
    (lambda scans: scans.drop(columns="scanner"), "no column 'scanner'"),
])  # fmt: skip
def test_scans_must_belong_to_the_rows(study, fitted, change, message):
    X, scans = study
    for use in (fitted.transform, fitted.inverse_transform, fitted.transform_sd, BayesHarmonizer(**QUICK).fit):
        with pytest.raises(InputError, match=message):
            use(X, scans=change(scans))


def test_other_ways_to_write_scans(study, fitted):
    X, scans = study
    expected = fitted.transform(X, scans=scans)
    named = scans.rename_axis("scan_id").reset_index()
    pd.testing.assert_frame_equal(fitted.transform(X, scans=named), expected)
    mapped = joblib_copy(fitted).set_params(columns={"participant_id": "subject"})
    pd.testing.assert_frame_equal(mapped.transform(X, scans=scans.rename(columns={"participant_id": "subject"})), expected)


def test_before_the_fit_and_other_features_or_scanners(study, fitted):
    X, scans = study
    with pytest.raises(InputError, match="Some scanners are not in the fit"):
        fitted.transform(X, scans=scans.replace({"scanner": {"B": "C"}}))
    with pytest.raises(NotFittedError):
        BayesHarmonizer(**QUICK).transform(X, scans=scans)
    with pytest.raises(ValueError, match="feature names should match"):
        fitted.transform(X[["b", "a", "c", "d"]], scans=scans)
    with pytest.raises(ValueError, match="feature names should match"):
        fitted.transform(X.drop(columns="a"), scans=scans)
    with pytest.raises(ValueError, match="5 features, but SelfDescribed is expecting 4"):
        SelfDescribed(**QUICK).fit(X.to_numpy()).transform(np.zeros((3, 5)))


def test_a_table_given_to_the_constructor(study, fitted):
    X, scans = study
    expected = fitted.transform(X, scans=scans)
    some = X.iloc[[4, 9]]
    for table in (scans.iloc[::-1], scans.rename_axis("scan_id").reset_index()):
        harmonizer = joblib_copy(fitted).set_params(scans=table)
        pd.testing.assert_frame_equal(harmonizer.transform(some), expected.iloc[[4, 9]])
    with pytest.raises(InputError, match="scan identifiers as"), pytest.warns(UserWarning, match="valid feature names"):
        harmonizer.transform(some.to_numpy())
    with pytest.raises(InputError, match="no scan 'new'"):
        harmonizer.transform(some.rename({"scan04": "new"}))
    with pytest.raises(InputError, match="more than one scan 'scan13'"):
        harmonizer.set_params(scans=scans.iloc[[*range(14), 13]]).transform(some)


def leave_one_traveler_out(study):
    """A pipeline, what to call cross-validation with, and splits that leave out each of four travelers."""
    X, scans = study
    y = X.sum(axis=1).to_numpy()
    scale = StandardScaler().set_output(transform="pandas")
    pipeline = Pipeline([("scale", scale), ("harmonize", BayesHarmonizer(**QUICK)), ("ridge", Ridge())])
    return pipeline, X, y, scans, list(LeaveOneGroupOut().split(X, y, scans.participant_id))


@pytest.mark.filterwarnings("ignore:.*seem to be in other units")
def test_cross_validation_does_not_leak(routing):
    """What was learned of a fold is what training scans alone teach, whatever the others hold."""
    pipeline, X, y, scans, splits = leave_one_traveler_out(make_study(n_travelers=4, n_once=0))
    found = cross_validate(
        pipeline,
        X,
        y,
        cv=LeaveOneGroupOut(),
        params={"scans": scans, "groups": scans.participant_id},
        return_estimator=True,
        error_score="raise",
    )
    assert len(found["test_score"]) == 4
    for (train, test), estimator, score in zip(splits, found["estimator"], found["test_score"], strict=True):
        alone = clone(pipeline).fit(X.iloc[train], y[train], scans=scans.iloc[train])
        run = estimator["harmonize"].posterior_.run
        assert run["n_scans"] == len(train) == 6
        assert estimator["harmonize"].__getstate__()["posterior_"] == alone["harmonize"].__getstate__()["posterior_"]
        assert score == alone.score(X.iloc[test], y[test], scans=scans.iloc[test])
    spoilt = X.copy()
    spoilt.iloc[splits[0][1]] *= 1000
    again = cross_validate(
        pipeline, spoilt, y, cv=splits[:1], params={"scans": scans}, return_estimator=True, error_score="raise"
    )
    state = again["estimator"][0]["harmonize"].__getstate__()
    assert state["posterior_"] == found["estimator"][0]["harmonize"].__getstate__()["posterior_"]


def test_scoring_by_name_and_predictions_with_a_table_given_to_the_constructor():
    pipeline, X, y, scans, splits = leave_one_traveler_out(make_study(n_travelers=4, n_once=0))
    pipeline.set_params(harmonize__scans=scans)
    found = cross_validate(pipeline, X, y, cv=splits, scoring=["r2", "neg_mean_absolute_error"], error_score="raise")
    predicted = cross_val_predict(pipeline, X, y, cv=splits)
    errors = [-np.abs(predicted - y)[test].mean() for _, test in splits]
    np.testing.assert_allclose(found["test_neg_mean_absolute_error"], errors, rtol=1e-12)


def test_routing_asks_for_scans_by_itself(study, routing):
    X, scans = study
    harmonized = make_pipeline(BayesHarmonizer(**QUICK)).fit_transform(X, scans=scans)
    pipeline = make_pipeline(BayesHarmonizer(**QUICK)).fit(X, scans=scans)
    pd.testing.assert_frame_equal(pipeline.transform(X, scans=scans), harmonized)
    # Two roundings to float32 (2^-24 each, of values below 10).
    np.testing.assert_allclose(pipeline.inverse_transform(harmonized, scans=scans), X, atol=3e-6)
    with pytest.raises(InputError, match="There is no scans table"):
        pipeline.transform(X)


def test_without_scikit_learn_the_install_command_is_told():
    code = "import sys; sys.modules['sklearn'] = None\nimport bayesharm\nbayesharm.BayesHarmonizer"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "BayesHarmonizer needs scikit-learn" in told.stderr and "pip install 'bayesharm[sklearn]'" in told.stderr


def test_what_transform_gives_does_not_depend_on_diagnoses(small_run, small_study):
    """They may be what a classifier is to tell: a scan that is brought towards what its diagnosis has would give it away."""
    posterior, scans = load_posterior(small_run), pd.read_csv(small_study / "scans.csv")
    X = np.load(small_study / "features.npy").astype(float)
    harmonizer = BayesHarmonizer(match_noise=True)
    harmonizer.posterior_, harmonizer.n_features_in_ = posterior, X.shape[1]
    harmonizer.feature_names_in_ = np.array(posterior.features, object)
    X = pd.DataFrame(X, columns=posterior.features)
    first = harmonizer.transform(X, scans=scans)
    others = scans.assign(diagnosis=scans.diagnosis[::-1].to_numpy())
    np.testing.assert_array_equal(first, harmonizer.transform(X, scans=others))
    assert not np.allclose(first, harmonizer.set_params(match_noise=False).transform(X, scans=scans))
    with pytest.raises(InputError, match="needs diagnoses"):
        harmonizer.set_params(remove="measurement,sampling").transform(X, scans=scans)
