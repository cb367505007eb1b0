"""Methods to compare with: the interface that all of them keep, known answers, and what they say they cannot do."""

import hashlib

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize

from bayesharm import InputError, load_dataset
from bayesharm.baselines import (
    METHODS,
    OTHER_LIBRARIES,
    available_methods,
    get_method,
    yamashita2019,
)
from bayesharm.baselines import (
    external_process as comparators,
)
from bayesharm.data.dataset import Dataset

COVARIATES = ["diagnosis", "age"]
SCANNERS = ["A", "B", "C", "D"]
COMBATS = ["neurocombat", "neuroharmonize", "combatlearn"]

needs_environment = pytest.mark.skipif(
    not comparators.has_environment(),
    reason="the environment of the comparators is optional, in CI too; `make comparators` makes it",
)
here = [pytest.param(name, marks=[needs_environment] if name in OTHER_LIBRARIES else []) for name in METHODS]


def make_study(noise: float, n_features: int = 12, per_scanner: int = 20) -> tuple[Dataset, pd.DataFrame]:
    """Six travelers on all scanners and a cohort; patients are more often scanned on A, older people on D.

    Everything is additive: scanner, diagnosis, age, person of the travelers. Returns also the bias of the scanners.
    """
    rng = np.random.default_rng(11)
    rows = [(f"t{k}", name, "HC", 30.0) for k in range(6) for name in SCANNERS]
    for place, name in enumerate(SCANNERS):
        for k in range(per_scanner):
            diagnosis = "MDD" if k % 4 < 3 - place else "HC"
            rows.append((f"{name}{k}", name, diagnosis, 25.0 + 5 * place + rng.integers(0, 20)))
    scans = pd.DataFrame(rows, columns=["participant_id", "scanner", "diagnosis", "age"])
    bias = pd.DataFrame(rng.normal(0, 1, (4, n_features)), index=SCANNERS)
    values = 3 + bias.loc[scans.scanner].to_numpy() + rng.normal(0, noise, (len(scans), n_features))
    values += np.outer(scans.diagnosis == "MDD", rng.normal(0, 1, n_features))
    values += np.outer(scans.age - 40, rng.normal(0, 0.1, n_features))
    dataset = load_dataset(scans, values)
    return dataset, (bias - bias.mean()).set_axis(dataset.features.names, axis="columns")


def take(dataset: Dataset, rows) -> Dataset:
    rows = np.flatnonzero(rows) if np.asarray(rows).dtype == bool else np.asarray(rows)
    return Dataset(dataset.scans.iloc[rows].reset_index(drop=True), dataset.features.align(rows))


def with_values(dataset: Dataset, change) -> Dataset:
    """The same scans, with values that `change` changed in place."""
    values = dataset.features.read(0, dataset.features.n_features)
    change(values)
    return load_dataset(dataset.scans, values, check="apply")


def digest(dataset: Dataset) -> str:
    return hashlib.sha256(dataset.scans.to_csv().encode() + dataset.features.fingerprint().encode()).hexdigest()


@pytest.fixture(scope="module")
def study():
    return make_study(noise=0.3)[0]


@pytest.mark.parametrize("name", here)
def test_every_method_keeps_the_interface(study, name):
    train, rest = take(study, (study.scans.scanner != "D").to_numpy()), take(study, np.arange(len(study.scans))[::-3])
    before = digest(train), digest(rest)
    method = get_method(name)
    fitted = method.fit(train, COVARIATES)
    applied = fitted.apply(rest)
    assert (digest(train), digest(rest)) == before
    assert method.name == name
    assert fitted.scanners == ("A", "B", "C")
    assert fitted.bias.index.tolist() == ["A", "B", "C"]
    assert fitted.bias.columns.tolist() == study.features.names.tolist()
    np.testing.assert_allclose(fitted.bias.mean(), 0, atol=1e-12)
    unseen = (rest.scans.scanner == "D").to_numpy()
    assert applied.values.shape == (len(rest.scans), 12)
    assert applied.values.dtype == np.float64
    missing = np.zeros(12, bool) | (unseen[:, None] if name != "none" else False)  # none corrects any scanner
    np.testing.assert_array_equal(np.isnan(applied.values), np.broadcast_to(missing, applied.values.shape))
    if applied.sd is not None:
        np.testing.assert_array_equal(np.isnan(applied.sd), np.isnan(applied.values))
        assert (applied.sd[~unseen] >= 0).all()
    alone = fitted.apply(take(rest, np.flatnonzero(~unseen)[:1])).values
    np.testing.assert_allclose(alone[0], applied.values[~unseen][0], rtol=1e-10)  # whoever else is there


@pytest.mark.parametrize("name", here)
def test_a_missing_value_stays_missing_and_touches_nothing_else(study, name):
    fitted = get_method(name).fit(study, COVARIATES)

    def lose(values):
        values[3, 5] = np.nan

    whole, holed = fitted.apply(study).values, fitted.apply(with_values(study, lose)).values
    assert np.isnan(holed[3, 5])
    holed[3, 5] = whole[3, 5]
    np.testing.assert_array_equal(holed, whole)


def test_least_squares_finds_additive_scanner_effects_exactly_where_they_are_all_there_is():
    study, bias = make_study(noise=0)
    fitted = get_method("adjusted_glm").fit(study, COVARIATES)
    np.testing.assert_allclose(fitted.bias, bias, atol=1e-12)
    corrected = fitted.apply(study).values
    for _, rows in study.scans.groupby(COVARIATES).groups.items():  # the same people differ on no scanner
        np.testing.assert_allclose(corrected[rows], np.broadcast_to(corrected[rows[0]], (len(rows), 12)), atol=1e-11)
    plain = get_method("glm").fit(study, COVARIATES).bias
    assert np.abs(plain - bias).max(axis=None) > 0.3  # who was scanned where is taken for bias

    travelers = take(study, study.scans.participant_id.str.startswith("t").to_numpy())
    np.testing.assert_allclose(get_method("glm").fit(travelers, []).bias, bias, atol=1e-12)


def test_ridge_subtracts_what_the_regression_of_the_study_calls_measurement_whatever_the_mean_of_a_feature(study):
    def center(values):
        values -= values.mean(axis=0)

    def lift(values):
        values += 1000

    fitted = get_method("yamashita2019", ridge=3.0).fit(study, COVARIATES)
    effects = yamashita2019(with_values(study, center), ridge=3.0).effects["measurement"]
    np.testing.assert_allclose(fitted.bias, effects.loc[SCANNERS], atol=1e-12)
    assert any("age" in note for note in fitted.notes)
    expected = study.features.read(0, 12) - effects.loc[study.scans.scanner].to_numpy()
    np.testing.assert_allclose(fitted.apply(study).values, expected, atol=1e-12)
    lifted = get_method("yamashita2019", ridge=3.0).fit(with_values(study, lift), COVARIATES)
    np.testing.assert_allclose(lifted.bias, fitted.bias, atol=1e-10)  # 1000 costs three digits


def test_a_method_that_cannot_be_fitted_says_so_and_corrects_nothing(study):
    cohort = take(study, ~study.scans.participant_id.str.startswith("t").to_numpy())
    fitted = get_method("yamashita2019").fit(cohort, ["diagnosis"])
    assert fitted.scanners == ()
    assert fitted.bias.index.tolist() == SCANNERS
    assert fitted.bias.isna().all(axis=None)
    assert any("cannot be fitted" in note for note in fitted.notes)
    assert np.isnan(fitted.apply(study).values).all()


def test_covariates_that_nothing_tells_from_scanners_are_left_out_and_named(study):
    scans = study.scans.assign(field=np.where(study.scans.scanner == "A", "3T", "7T"), same=1.0, twice=2 * study.scans.age)
    other = Dataset(scans, study.features)
    fitted = get_method("adjusted_glm").fit(other, [*COVARIATES, "field", "same", "twice"])
    pd.testing.assert_frame_equal(fitted.bias, get_method("adjusted_glm").fit(study, COVARIATES).bias)
    assert any("field=7T, same and twice" in note for note in fitted.notes)


def test_covariates_that_cannot_be_used_are_refused(study):
    with pytest.raises(InputError, match=r"no covariate 'sex'"):
        get_method("adjusted_glm").fit(study, ["sex"])
    holed = Dataset(study.scans.assign(age=study.scans.age.where(study.scans.index > 2)), study.features)
    with pytest.raises(InputError, match=r"'age' has missing[\s\S]*'0', '1', '2'"):
        get_method("adjusted_glm").fit(holed, COVARIATES)


@pytest.mark.parametrize("name", ["glm", "adjusted_glm"])
def test_features_that_cannot_be_used_are_refused(study, name):
    def lose(values):
        values[3, 5] = np.inf

    with pytest.raises(InputError, match="Training values are missing or infinite"):
        get_method(name).fit(with_values(study, lose), [])
    turned = Dataset(study.scans, study.features.take(study.features.names[::-1]))
    with pytest.raises(InputError, match="not those of the fit"):
        get_method(name).fit(study, []).apply(turned)


def test_unknown_methods_and_options_are_refused_with_those_there_are():
    with pytest.raises(InputError, match=r"Unknown method[\s\S]*none, glm, adjusted_glm"):
        get_method("combat")
    with pytest.raises(InputError, match=r"Unknown option[\s\S]*got: penalty[\s\S]*ridge, reference"):
        get_method("yamashita2019", penalty=1)


def test_without_their_environment_other_libraries_are_refused_with_what_to_do(monkeypatch, tmp_path, study):
    method = METHODS["neurocombat"]
    monkeypatch.setattr(comparators, "ENVIRONMENT", tmp_path / ".venv-comparators")
    assert available_methods() == ("none", "glm", "adjusted_glm", "longcombat", "yamashita2019")
    for name in OTHER_LIBRARIES:
        with pytest.raises(InputError, match="make comparators"):
            get_method(name)
    with pytest.raises(InputError, match="make comparators"):
        method(study, COVARIATES)


@needs_environment
def test_with_their_environment_all_methods_are_there():
    assert available_methods() == tuple(METHODS)


@needs_environment
@pytest.mark.parametrize("name", COMBATS)
def test_combat_finds_scanner_effects_where_noise_is_small(name):
    """With 26 scans of a scanner and noise of sd 0.05 a mean has an sd of 0.01, a contrast given covariates less than twice
    that; empirical Bayes takes next to nothing off effects of 1."""
    study, bias = make_study(noise=0.05, n_features=40)
    fitted = get_method(name).fit(study, COVARIATES)
    assert np.sqrt(((fitted.bias - bias) ** 2).mean(axis=None)) < 0.03
    travelers = take(study, study.scans.participant_id.str.startswith("t").to_numpy())  # the same people on all scanners
    before, after = (
        pd.DataFrame(values).groupby(travelers.scans.scanner).mean().std()
        for values in (travelers.features.read(0, 40), fitted.apply(travelers).values)
    )
    assert after.mean() < 0.1 * before.mean()


@needs_environment
def test_two_libraries_are_the_same_combat(study):
    first, second = (get_method(name).fit(study, COVARIATES).bias for name in ("neurocombat", "neuroharmonize"))
    np.testing.assert_allclose(first, second, atol=1e-8)


@needs_environment
@pytest.mark.parametrize("name", COMBATS)
def test_combat_leaves_out_a_scanner_with_one_scan_and_says_so(study, name):
    on_d = np.flatnonzero(study.scans.scanner == "D")
    train = take(study, np.setdiff1d(np.arange(len(study.scans)), on_d[1:]))
    fitted = get_method(name).fit(train, COVARIATES)
    assert fitted.scanners == ("A", "B", "C")
    assert fitted.bias.loc["D"].isna().all()
    assert any(note.startswith("D: a single scan") for note in fitted.notes)
    assert np.isnan(fitted.apply(study).values[on_d]).all()


@needs_environment
@pytest.mark.parametrize("name", COMBATS)
def test_combat_corrects_no_scan_whose_covariates_it_needs_and_does_not_know(study, name):
    fitted = get_method(name).fit(study, COVARIATES)
    scans = study.scans.copy()
    scans.loc[0, "diagnosis"], scans.loc[1, "age"] = "ASD", np.nan
    applied = fitted.apply(Dataset(scans, study.features))
    lost = np.isnan(applied.values).all(axis=1)
    assert np.flatnonzero(lost).tolist() == ([] if name == "neurocombat" else [0, 1])
    assert np.isfinite(applied.values[~lost]).all()
    assert any("2 scans lack a covariate" in note for note in applied.notes) == (name != "neurocombat")


@needs_environment
@pytest.mark.parametrize("name", ["neuroharmonize", "reml"])
def test_a_library_that_takes_too_long_is_stopped_and_corrects_nothing(study, name):
    fitted = get_method(name, timeout=0.01).fit(study, COVARIATES)
    assert fitted.scanners == ()
    assert any("time limit of 0.01 s" in note for note in fitted.notes)
    assert np.isnan(fitted.apply(study).values).all()


def dense_reml(study: Dataset, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centerd scanner effects and their sd by REML, from the density of error contrasts, with dense matrices only."""
    scans = study.scans
    travels = scans.groupby("participant_id").scanner.transform("nunique") > 1
    population = (scans.site + scans.diagnosis).where(~travels)
    parts = [pd.get_dummies(labels, dtype=float).to_numpy() for labels in (scans.scanner, scans.participant_id, population)]
    fixed = np.column_stack([np.ones(len(y)), scans.diagnosis == "MDD", scans.age - 40]).astype(float)
    contrasts = np.linalg.svd(fixed)[0][:, 3:]

    def covariance(log_variance: np.ndarray) -> np.ndarray:
        noise, *others = np.exp(log_variance)
        return noise * np.eye(len(y)) + sum(v * part @ part.T for v, part in zip(others, parts, strict=True))

    def minus_log_density(log_variance: np.ndarray) -> float:
        inner = contrasts.T @ covariance(log_variance) @ contrasts
        z = contrasts.T @ y
        return 0.5 * (np.linalg.slogdet(inner)[1] + z @ np.linalg.solve(inner, z))

    options = {"maxiter": 4000, "xatol": 1e-5, "fatol": 1e-9}
    found = minimize(minus_log_density, np.log(np.full(4, 0.3)), method="Nelder-Mead", options=options).x
    variance = np.exp(found[1])
    # Contrasts know the random effects, but not the fixed ones: a joint normal, conditioned.
    inner = np.linalg.inv(contrasts.T @ covariance(found) @ contrasts)
    gain = variance * parts[0].T @ contrasts @ inner
    center = np.eye(4) - 1 / 4
    left = center @ (variance * np.eye(4) - gain @ (variance * contrasts.T @ parts[0])) @ center
    return center @ gain @ contrasts.T @ y, np.sqrt(np.diag(left))


@needs_environment
@pytest.mark.parametrize("library", ["gpboost", "statsmodels"])
def test_reml_is_that_of_dense_matrices(library):
    """Optimizers stop when the likelihood changes by 1e-9 to 1e-6 of itself; where it is flat that is 1% of a scale."""
    study = make_reml_study()
    fitted = get_method("reml", library=library).fit(study, COVARIATES)
    applied = fitted.apply(study)
    rows = [study.scans.scanner.tolist().index(name) for name in SCANNERS]
    values = study.features.read(0, study.features.n_features)
    for k in range(values.shape[1]):
        effects, sd = dense_reml(study, values[:, k])
        np.testing.assert_allclose(fitted.bias.iloc[:, k], effects, atol=0.01 * np.abs(effects).max())
        if library == "gpboost":
            np.testing.assert_allclose(applied.sd[rows, k], sd, rtol=0.02)
    assert (applied.sd is None) == (library == "statsmodels")


def make_reml_study() -> Dataset:
    """Scanners, people and populations with effects of about 1, so that no variance is estimated as 0."""
    study = make_study(noise=0.3, n_features=3, per_scanner=12)[0]
    scans, rng = study.scans, np.random.default_rng(5)
    population = (scans.site + scans.diagnosis).where(~scans.participant_id.str.startswith("t"), "none")

    def change(values):
        for labels in (scans.participant_id, population):
            codes = pd.factorize(labels)[0]
            values += rng.normal(0, 1, (codes.max() + 1, 3))[codes]

    return with_values(study, change)


@needs_environment
def test_reml_does_without_what_is_not_there(study):
    """Travelers alone have no populations, people scanned once no effect of their own."""
    travels = study.scans.participant_id.str.startswith("t").to_numpy()
    for rows in (travels, ~travels):
        fitted = get_method("reml").fit(take(study, rows), ["age"])
        assert fitted.scanners == tuple(SCANNERS)
        assert fitted.sd.notna().all(axis=None)
        assert any("no travelers" in note for note in fitted.notes) != travels[rows].all()


@needs_environment
def test_reml_does_not_depend_on_who_shares_the_features(study):
    one, two = (get_method("reml", jobs=jobs).fit(study, COVARIATES) for jobs in (1, 2))
    pd.testing.assert_frame_equal(one.bias, two.bias, rtol=0, atol=0)
    pd.testing.assert_frame_equal(one.sd, two.sd, rtol=0, atol=0)
