"""Longitudinal ComBat: its mixed model against dense matrices, its empirical Bayes against integrals, its corrections."""

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, optimize, stats

from bayesharm import InputError, load_dataset
from bayesharm.baselines import get_method
from bayesharm.baselines.long_combat import empirical_bayes
from bayesharm.baselines.mixed_model import fit_mixed_model, predict_random_effects

SCANNERS = list("ABC")
NOISE = {"A": 0.5, "B": 1.0, "C": 2.0}


def make_scans(n_people: int, seed: int = 0) -> pd.DataFrame:
    """People with two to five visits at irregular times, each visit on any scanner."""
    rng = np.random.default_rng(seed)
    n_visits = rng.integers(2, 6, n_people)
    person = np.repeat(np.arange(n_people), n_visits)
    years = np.concatenate([np.r_[0, rng.uniform(0.5, 1.5, n - 1).cumsum()] for n in n_visits])
    return pd.DataFrame({
        "participant_id": [f"p{i}" for i in person], "scanner": rng.choice(SCANNERS, len(person)), "years": years,
        "age": rng.uniform(50, 80, n_people)[person], "diagnosis": rng.choice(["HC", "AD"], n_people)[person],
    })  # fmt: skip


def make_values(scans: pd.DataFrame, n_features: int, noise: float = 0.3, seed: int = 1) -> tuple[np.ndarray, pd.DataFrame]:
    """Additive effects of scanners, unequal noise, trajectories of people; and the scanner effects."""
    rng = np.random.default_rng(seed)
    person = pd.factorize(scans["participant_id"])[0]
    people = rng.normal(0, 1, (person.max() + 1, n_features, 2)) @ np.array([[1, 0.1], [0, 0.3]])
    bias = pd.DataFrame(rng.normal(0, 0.5, (3, n_features)), index=SCANNERS)
    values = 10 + people[person, :, 0] + (people[person, :, 1] - 0.2) * scans[["years"]].to_numpy()
    values += bias.loc[scans["scanner"]].to_numpy()
    spread = noise * scans["scanner"].map(NOISE).to_numpy()[:, None]
    return values + spread * rng.normal(size=values.shape), bias


def dense_reml(y: np.ndarray, fixed: np.ndarray, random: np.ndarray, groups: np.ndarray) -> dict[str, np.ndarray]:
    """REML from the density of error contrasts, by dense matrices and a search without gradients."""
    n, q = random.shape
    together = groups[:, None] == groups
    contrasts = np.linalg.svd(fixed)[0][:, fixed.shape[1] :]

    def covariance(parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        factor = np.zeros((q, q))
        factor[np.tril_indices(q)] = parameters[1:]
        people = factor @ factor.T
        return np.exp(2 * parameters[0]) * np.eye(n) + together * (random @ people @ random.T), people

    def minus_log_density(parameters: np.ndarray) -> float:
        inner = contrasts.T @ covariance(parameters)[0] @ contrasts
        return -stats.multivariate_normal(cov=inner).logpdf(contrasts.T @ y)

    start = np.r_[np.log(y.std()), (y.std() * np.eye(q))[np.tril_indices(q)]]
    options = {"maxiter": 4000, "maxfev": 4000, "xatol": 1e-7, "fatol": 1e-10}
    found = optimize.minimize(minus_log_density, start, method="Nelder-Mead", options=options).x
    found = optimize.minimize(minus_log_density, found, method="Nelder-Mead", options=options).x
    total, people = covariance(found)
    inverse = np.linalg.inv(total)
    spread = np.linalg.inv(fixed.T @ inverse @ fixed)
    coefficients = spread @ fixed.T @ inverse @ y
    weighted = inverse @ (y - fixed @ coefficients)
    blup = np.stack([people @ random[groups == j].T @ weighted[groups == j] for j in range(groups.max() + 1)])
    return {"noise": np.exp(found[0]), "people": people, "coefficients": coefficients, "spread": spread, "blup": blup}


@pytest.mark.parametrize("case", ["intercepts", "slopes", "no variance of people"])
def test_the_mixed_model_is_that_of_dense_matrices(case):
    scans = make_scans(14, seed=3)
    y = make_values(scans, 1, seed=2)[0][:, 0]
    groups = pd.factorize(scans["participant_id"])[0]
    if case == "no variance of people":  # people differ less than by noise: the estimate is on the boundary
        y = y - pd.Series(y).groupby(groups).transform("mean").to_numpy()
    fixed = np.column_stack([pd.get_dummies(scans["scanner"], dtype=float), scans["years"], scans["age"]])
    random = np.column_stack([np.ones(len(y)), scans["years"]])[:, : 2 if case == "slopes" else 1]
    expected = dense_reml(y, fixed, random, groups)
    model = fit_mixed_model(y[:, None], fixed, random, groups)
    blup = predict_random_effects(y[:, None] - fixed @ model.coefficients, random, groups, model.factor)
    assert (expected["people"][0, 0] < 1e-6) == (case == "no variance of people")
    np.testing.assert_allclose(model.noise_sd[0], expected["noise"], rtol=1e-4)
    np.testing.assert_allclose(model.random_covariance[0], expected["people"], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(model.coefficients[:, 0], expected["coefficients"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.covariance[0], expected["spread"], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(blup[:, 0], expected["blup"], atol=1e-3)


def test_random_effects_ignore_missing_values():
    scans, rng = make_scans(8), np.random.default_rng(2)
    groups = pd.factorize(scans["participant_id"])[0]
    random = np.column_stack([np.ones(len(scans)), scans["years"]])
    residuals, factor = rng.normal(size=(len(scans), 3)), np.tril(rng.normal(size=(3, 2, 2)))
    residuals[[0, 4, 5], [0, 1, 1]] = np.nan
    found = predict_random_effects(residuals, random, groups, factor)
    for f in range(3):
        for j in range(8):
            rows = (groups == j) & np.isfinite(residuals[:, f])
            z, people = random[rows], factor[f] @ factor[f].T
            expected = people @ z.T @ np.linalg.solve(z @ people @ z.T + np.eye(rows.sum()), residuals[rows, f])
            np.testing.assert_allclose(found[j, f], expected, atol=1e-12)


def test_empirical_bayes_is_a_pair_of_posterior_means():
    """Under the priors whose moments are those of the estimates; the integrals know no formula of conjugate priors."""
    rng = np.random.default_rng(5)
    values = rng.normal(rng.normal(0.4, 0.3, 30), rng.gamma(20, 1 / 20, 30), (9, 30))
    gamma, delta2 = empirical_bayes(np.concatenate([values, rng.normal(size=(6, 30))]), np.repeat([0, 1], [9, 6]))
    mean, variance = values.mean(axis=0), values.var(axis=0, ddof=1)
    shape = variance.mean() ** 2 / variance.var(ddof=1) + 2
    priors = stats.norm(mean.mean(), mean.std(ddof=1)), stats.invgamma(shape, scale=variance.mean() * (shape - 1))

    def posterior_mean(prior, density, low, high):
        total = integrate.quad(lambda x: prior.pdf(x) * density(x), low, high)[0]
        return integrate.quad(lambda x: x * prior.pdf(x) * density(x), low, high)[0] / total

    for f in (0, 11, 29):
        center = posterior_mean(priors[0], lambda x, f=f: stats.norm(x, delta2[0, f] ** 0.5).pdf(values[:, f]).prod(), -3, 4)
        spread = posterior_mean(priors[1], lambda x, f=f: stats.norm(gamma[0, f], x**0.5).pdf(values[:, f]).prod(), 1e-3, 20)
        np.testing.assert_allclose([gamma[0, f], delta2[0, f]], [center, spread], rtol=1e-5)


def test_empirical_bayes_of_equal_features_shrinks_nothing():
    values = np.random.default_rng(0).normal(size=(12, 1))
    codes = np.repeat([0, 1], 6)
    alone, twice = empirical_bayes(values, codes), empirical_bayes(np.repeat(values, 2, axis=1), codes)
    np.testing.assert_allclose(twice, np.repeat(alone, 2, axis=2), rtol=1e-12)
    np.testing.assert_allclose(alone[1][:, 0], [values[:6].var(ddof=1), values[6:].var(ddof=1)])


@pytest.fixture(scope="module")
def study():
    scans = make_scans(120)
    values, bias = make_values(scans, 25)
    return load_dataset(scans, values), bias


def test_scanner_effects_and_noise_are_found_and_removed(study):
    """300 scans of 120 people; sd of an estimate at most 0.05 on the noisiest scanner."""
    dataset, bias = study
    scans, values = dataset.scans, dataset.features.read(0, 25)
    fitted = get_method("longcombat", slope="years").fit(dataset, ["age", "diagnosis:years"])
    error = fitted.bias - (bias - bias.mean()).to_numpy()
    assert np.sqrt((error**2).mean(axis=None)) < 0.06
    np.testing.assert_allclose(fitted.bias.mean(), 0, atol=1e-12)
    scale = fitted.scale.mean(axis=1)
    # Predicted trajectories pass noise on to the other scans of a person: differences of noise are underestimated.
    assert 1.85 < scale["C"] / scale["A"] < 2 < NOISE["C"] / NOISE["A"]
    applied = fitted.apply(dataset)
    np.testing.assert_allclose(applied.factor, 1 / fitted.scale.loc[scans["scanner"]].to_numpy())
    after = get_method("longcombat", slope="years").fit(load_dataset(scans, applied.values), ["age", "diagnosis:years"])
    assert np.abs(after.bias).max(axis=None) < 0.05 < np.abs(fitted.bias).max(axis=None)
    assert after.scale.mean(axis=1)["C"] / after.scale.mean(axis=1)["A"] < 0.75 * scale["C"] / scale["A"]
    assert applied.sd is None and np.isfinite(applied.values).all() and not np.allclose(applied.values, values)


def test_the_weighted_sum_of_unshrunken_effects_is_zero_and_they_are_the_means_of_standardized_data(study):
    dataset, _ = study
    one = load_dataset(dataset.scans, dataset.features.read(0, 1))
    fitted = get_method("longcombat").fit(one, ["years"])
    assert any("A single feature" in note for note in fitted.notes)
    np.testing.assert_allclose(fitted.weights @ fitted.additive, 0, atol=1e-10)
    means = fitted.model.coefficients[:3]
    np.testing.assert_allclose(fitted.additive, means - fitted.weights @ means, atol=1e-10)


def test_sigma_of_residuals_gives_larger_scales_and_the_same_effects(study):
    """Residuals of predicted trajectories vary less than noise; without empirical Bayes nothing else depends on sigma."""
    one = load_dataset(study[0].scans, study[0].features.read(0, 1))
    first, second = (get_method("longcombat", sigma=sigma).fit(one, ["years"]) for sigma in ("REML", "MSR"))
    np.testing.assert_allclose(first.additive, second.additive)
    assert (second.scale > first.scale).all(axis=None)


def test_units_of_features_and_of_time_do_not_matter(study):
    dataset, _ = study
    scans, values = dataset.scans, dataset.features.read(0, 5)
    first = get_method("longcombat", slope="years").fit(load_dataset(scans, values), ["age"])
    days = load_dataset(scans.assign(days=365.25 * scans["years"] + 1e4), 1000 * values + 1e9)
    second = get_method("longcombat", slope="days").fit(days, ["age"])
    np.testing.assert_allclose(second.bias, 1000 * first.bias, rtol=1e-4, atol=1e-3)
    first, second = first.apply(load_dataset(scans, values)).values, second.apply(days).values
    np.testing.assert_allclose(second - 1e9, 1000 * first, rtol=1e-4)


def test_people_who_were_not_in_the_fit_have_the_trajectory_of_their_own_scans(study):
    dataset, _ = study
    is_new = dataset.scans["participant_id"].isin(["p0", "p1"]).to_numpy()
    fitted = get_method("longcombat", slope="years").fit(dataset.take(np.flatnonzero(~is_new)), [])
    assert not fitted.notes and fitted.encoding.columns == ("years",)
    new = dataset.take(np.flatnonzero(is_new))
    corrected = fitted.apply(new).values
    everyone = fitted.apply(dataset).values
    np.testing.assert_allclose(corrected, everyone[is_new], atol=1e-12)  # other people do not matter
    whole = get_method("longcombat", slope="years").fit(dataset, []).apply(dataset).values[is_new]
    assert np.abs(corrected - whole).max() < 0.1 < np.abs(corrected - new.features.read(0, 25)).max()
    elsewhere = new.scans.assign(scanner=new.scans["scanner"].where(new.scans.index > 0, "unknown"))
    rest = fitted.apply(load_dataset(elsewhere, new.features.read(0, 25), check="apply")).values
    alone = fitted.apply(new.take(np.arange(1, len(new.scans)))).values
    assert np.isnan(rest[0]).all()
    np.testing.assert_allclose(rest[1:], alone, atol=1e-12)  # nor do scans that cannot be corrected


def test_scans_without_a_covariate_are_not_corrected(study):
    dataset, _ = study
    fitted = get_method("longcombat", slope="years").fit(dataset, ["age", "diagnosis"])
    scans = dataset.scans.copy()
    scans.loc[0, "years"], scans.loc[1, "diagnosis"] = np.nan, "unknown"
    applied = fitted.apply(load_dataset(scans, dataset.features.read(0, 25), check="apply"))
    assert np.flatnonzero(np.isnan(applied.values).all(axis=1)).tolist() == [0, 1]
    assert any("2 scans lack a covariate" in note for note in applied.notes)


def test_scans_that_allow_no_trajectories_are_not_corrected_with_the_reason(study):
    dataset, _ = study
    first = dataset.take(np.flatnonzero(~dataset.scans["participant_id"].duplicated()))
    two = dataset.take(np.flatnonzero(dataset.scans.groupby("participant_id").cumcount() < 2))
    for few, options in ((first, {}), (two, {"slope": "years"})):
        fitted = get_method("longcombat", **options).fit(few, ["age"])
        assert fitted.scanners == () and fitted.bias.isna().all(axis=None)
        assert any("120 participants with" in note and "more than" in note for note in fitted.notes)
        assert np.isnan(fitted.apply(dataset).values).all()
    assert get_method("longcombat").fit(two, ["age"]).scanners == tuple(SCANNERS)


def test_a_scanner_with_one_scan_and_features_without_noise_are_left_out(study):
    dataset, _ = study
    scans, values = dataset.scans.copy(), dataset.features.read(0, 3)
    scans.loc[0, "scanner"] = "single"
    values[:, 1] = scans["scanner"].map({"A": 1.0, "B": 2.0, "C": 3.0, "single": 0.0})
    values[:, 2] = values[:, 1] + 0.1 * pd.factorize(scans["participant_id"])[0] ** 2
    fitted = get_method("longcombat").fit(load_dataset(scans, values), ["years"])
    assert fitted.scanners == tuple(SCANNERS)
    assert any(note.startswith("single: a single scan") for note in fitted.notes)
    assert any("No estimate for 2 of 3 features" in note for note in fitted.notes)
    missing = np.isnan(fitted.apply(load_dataset(scans, values)).values)
    assert missing[0].all() and missing[:, 1:].all() and missing.sum() == 2 * len(scans) + 1


def test_time_that_scanners_tell_is_left_out_with_a_note(study):
    dataset, _ = study
    visits = dataset.scans.assign(scanner=dataset.scans.groupby("participant_id").cumcount().map(list("ABCDE").__getitem__))
    scans = visits.assign(visit=visits["scanner"].map("ABCDE".index))
    fitted = get_method("longcombat", slope="visit").fit(load_dataset(scans, dataset.features.read(0, 4)), ["age"])
    assert fitted.encoding.columns == ("age",)
    assert any("Omitted" in note and "visit" in note for note in fitted.notes)
    assert fitted.scanners == tuple("ABCDE")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slope": "visit"}, r"(?s)numeric column.*got: slope='visit'.*'years', 'age'"),
        ({"slope": "diagnosis"}, r"(?s)numeric column.*got: slope='diagnosis'"),
        ({"slope": "one"}, r"(?s)column that varies.*'one', which is 1"),
        ({"sigma": "ML"}, r"(?s)Unknown estimate.*'REML' or 'MSR'"),
    ],
)
def test_options_that_cannot_be_used_are_refused(study, options, message):
    dataset = load_dataset(study[0].scans.assign(one=1.0), study[0].features.read(0, 2))
    with pytest.raises(InputError, match=message):
        get_method("longcombat", **options).fit(dataset, ["age"])


def test_an_interaction_is_a_product_with_both_main_effects(study):
    dataset, _ = study
    scans = dataset.scans.assign(ad=1.0 * (dataset.scans["diagnosis"] == "HC"))  # AD is first, and so without a column
    other = load_dataset(scans.assign(product=scans["ad"] * scans["years"]), dataset.features.read(0, 25))
    expected = get_method("adjusted_glm").fit(other, ["ad", "years", "product"]).bias
    pd.testing.assert_frame_equal(get_method("adjusted_glm").fit(dataset, ["diagnosis:years"]).bias, expected)
    with pytest.raises(InputError, match="no covariate 'visit'"):
        get_method("adjusted_glm").fit(dataset, ["age:visit"])
