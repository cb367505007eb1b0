"""Features that lack scans: every quantity equals that of the dense model on the observed scans of each feature.

In float64 nothing but rounding differs, and the tolerance is 1e-8.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from posteriors import make_learned
from studies import covariance, log_normal, random_study, sized_scanners, two_ratios, with_protocol

from bayesharm.analysis.summary import summarize
from bayesharm.conditional.effects import average_effects
from bayesharm.conditional.gaussian import condition_effects
from bayesharm.data.dataset import load_dataset
from bayesharm.errors import InputError
from bayesharm.fitting.context import _check_features
from bayesharm.fitting.fit import fit
from bayesharm.harmonization.harmonize import harmonize
from bayesharm.harmonization.noise_scaling import Expectation
from bayesharm.inference.effective_features import count_independent_features
from bayesharm.likelihood.collapsed import CollapsedLikelihood
from bayesharm.likelihood.moments import compute_moments
from bayesharm.likelihood.problem import make_problem
from bayesharm.model.catalog import load_model
from bayesharm.model.design import FIXED, build_design
from bayesharm.results.posterior import load_posterior

MODELS = ["cohort", "traveling", "traveling_and_cohort", "protocol"]
COVARIATES = ("age", "sex", "coil")


@pytest.fixture(autouse=True, scope="module")
def x64():
    with jax.enable_x64(True):
        yield


def with_holes(scans, seed: int) -> np.ndarray:
    """Features, (scan, 4): complete; a sixth missing; a whole scanner missing; half of the scans missing."""
    rng = np.random.default_rng(seed)
    values = rng.normal(3, 2, (len(scans), 4))
    values[rng.random(len(scans)) < 1 / 6, 1] = np.nan
    values[(scans.scanner == "s1").to_numpy(), 2] = np.nan
    values[rng.permutation(len(scans))[::2], 3] = np.nan
    return values


def make_study(model: str, seed: int):
    scans = random_study(seed)
    spec = with_protocol(scans) if model == "protocol" else load_model(model)
    design = build_design(scans, replace(spec, covariates=COVARIATES[: seed % 4]))
    rng = np.random.default_rng(seed)
    values = with_holes(scans, seed)
    log_scales = np.log(design.scale_medians)[:, None] + rng.normal(0, 0.7, (len(design.scales), values.shape[1]))
    return scans, design, values, log_scales, rng.normal(0, 0.5, 2 * len(design.scanners))


def ratios_of(design, scans, log_ratio):
    noise, bias = (dict(zip(design.scanners, part, strict=True)) for part in np.split(np.exp(log_ratio), 2))
    sized = sized_scanners(scans, design.spec)
    return noise, {name: size if name in sized else 1.0 for name, size in bias.items()}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("model", MODELS)
def test_the_likelihood_is_that_of_the_observed_scans(model, seed):
    scans, design, values, log_scales, log_ratio = make_study(model, seed)
    moments, standard = compute_moments(design, values)
    likelihood = CollapsedLikelihood(design, has_missing=True)
    ratios = two_ratios(jnp.asarray(log_ratio))
    found = log_likelihood(likelihood, ratios, moments, log_scales)
    for k in range(values.shape[1]):
        scales = dict(zip(design.scale_labels, np.exp(log_scales[:, k]), strict=True))
        used, dense = covariance(scans, design.spec, scales, *ratios_of(design, scans, log_ratio))
        y = values[used, k]
        seen = ~np.isnan(y)
        np.testing.assert_allclose([standard.center[k], standard.sd[k]], [y[seen].mean(), y[seen].std()], rtol=1e-12)
        expected = log_normal((y[seen] - y[seen].mean()) / y[seen].std(), dense[np.ix_(seen, seen)])
        assert abs(found[k] - expected) < 1e-8
    everything, _ = compute_moments(design, values[:, :1])
    expected = log_likelihood(CollapsedLikelihood(design), ratios, everything, log_scales[:, :1])
    assert abs(found[0] - expected[0]) < 1e-8


def log_likelihood(likelihood, ratios, moments, log_scales):
    """As one program, and for three sets of the features at once."""

    @jax.jit
    def evaluate(ratios, moments, log_scales):
        statistics = likelihood.weighted(ratios, moments)
        return likelihood.log_likelihood(statistics.tile(3), jnp.tile(log_scales, 3)).reshape(3, -1)

    found = np.asarray(evaluate(ratios, moments, log_scales))
    np.testing.assert_allclose(found[1:], found[[0, 0]], rtol=1e-14)
    return found[0]


def posterior_of_effects(scans, design, y, log_scales, log_ratio):
    """Mean and covariance of all effects from the observed scans of one standardized feature."""
    seen = ~np.isnan(y)
    x, y = design.matrix.toarray()[seen], y[seen]
    noise_ratio, bias_ratio = np.split(np.exp(log_ratio), 2)
    once, ratio = design.class_single_scan[design.scan_class], noise_ratio[design.class_scanner[design.scan_class]]
    tau = np.exp(log_scales)
    noise = (tau[0] ** 2 * ratio + once * tau[design.single_scan_scale] ** 2)[seen]
    prior = np.where(design.column_scale == FIXED, design.column_sd, tau[design.column_scale]) ** 2
    for scanner in sized_scanners(scans, design.spec):
        place = design.scanners.index(scanner)
        prior[design.of_scanner[place, 0]] *= bias_ratio[place]
    posterior = np.linalg.inv(x.T @ (x / noise[:, None]) + np.diag(1 / prior))
    return posterior @ (x.T @ (y / noise)), posterior


@pytest.mark.parametrize(("model", "seed"), [("traveling_and_cohort", 6), ("cohort", 2), ("protocol", 3)])
def test_effects_are_those_of_the_observed_scans(model, seed):
    scans, design, values, log_scales, log_ratio = make_study(model, seed)
    problem, ratios = make_problem(design, has_missing=True), two_ratios(jnp.asarray(log_ratio))
    moments, standard = compute_moments(design, values)
    y = ((values - standard.center) / standard.sd)[design.rows]
    contrasts = np.concatenate([group.contrasts for group in design.effects])
    log_scales = log_scales + np.random.default_rng(1).normal(0, 0.3, (3, *log_scales.shape))
    mean, variance = np.empty((2, 3, len(contrasts), values.shape[1]))
    given = condition_effects(problem, ratios, moments, log_scales)
    for k, f in np.ndindex(3, values.shape[1]):
        effects, posterior = posterior_of_effects(scans, design, y[:, f], log_scales[k, :, f], log_ratio)
        mean[k, :, f], variance[k, :, f] = contrasts @ effects, np.diag(contrasts @ posterior @ contrasts.T)
        np.testing.assert_allclose(given.mean(design.matrix)[k, f], design.matrix @ effects, atol=1e-8)
        expected = design.matrix @ posterior @ design.matrix.T.toarray()
        np.testing.assert_allclose(given.covariance(design.matrix)[k, f], expected, atol=1e-8)
    found = average_effects(problem, ratios, moments, jnp.asarray(log_scales))
    np.testing.assert_allclose(found[0], mean.mean(0), atol=1e-8)
    np.testing.assert_allclose(found[1], np.sqrt(variance.mean(0) + mean.var(0)), rtol=1e-8, atol=1e-11)


def test_deviations_are_from_the_mean_of_the_observed_scans():
    """The expected values of the scans of the fit have the mean of the observed scans, effects of people apart."""
    scans = random_study(6).drop(columns="traveling")
    values = with_holes(scans, 6)
    posterior = make_learned(load_dataset(scans, values), replace(load_model("traveling_and_cohort"), covariates=("age",)))
    rng = np.random.default_rng(0)
    for name in posterior.effect_families:
        node = posterior.effect(name)
        node["mean"].values[:] = rng.normal(0, 1, node["mean"].shape)
    expectation = Expectation(posterior, scans, ("measurement",), np.arange(4), None)(slice(None), slice(None))
    effects = {name: posterior.effect(name)["mean"] for name in ("measurement", "participant")}
    told = effects["measurement"].sel(scanner=scans.scanner.to_numpy(object)).values
    people = effects["participant"]["participant"].values.tolist()
    told = told + np.stack([
        effects["participant"].values[people.index(person)] if person in people else np.zeros(4)
        for person in scans.participant_id
    ])  # fmt: skip
    seen = ~np.isnan(values)
    total = np.where(seen, values - told - expectation, 0).sum(0) / seen.sum(0)
    np.testing.assert_allclose(total, 0, atol=1e-9)


@pytest.mark.slow
def test_a_fit_with_holes_from_table_to_harmonized_table(tmp_path):
    """Features with too little left are dropped by name, scanners without a value are named, holes stay holes."""
    scans = random_study(6).drop(columns="traveling")
    values = np.concatenate([with_holes(scans, 6), with_holes(scans, 7)[:, :2]], axis=1)
    values[2:, 5] = np.nan
    table = pd.DataFrame(values, columns=list("abcdef")).assign(scan_id=scans.scan_id)
    scans.to_csv(tmp_path / "scans.csv", index=False)
    table.to_csv(tmp_path / "features.csv", index=False)
    dataset = load_dataset(tmp_path / "scans.csv", tmp_path / "features.csv")
    posterior = fit(dataset, "traveling_and_cohort", seed=1, preview=True, out=tmp_path / "run")
    assert posterior.features == list("abcde")
    assert posterior.run["dropped"] == {"f": f"observed in 2 of {len(scans)} scans in use, too few for the model"}
    share = 1 - (~np.isnan(values[:, :5])).sum() / values[:, :5].size
    expected = f"3 of 5 features lack scans: {share:.2%} of the values are missing."
    assert expected in posterior.run["notes"]
    n_s1 = int(np.isnan(values[scans.scanner == "s1", :5]).all(0).sum())
    assert any(f"s1 ({n_s1} features)" in note for note in posterior.run["notes"])
    opened = load_posterior(tmp_path / "run")
    observed = opened.tree["design"].to_dataset()["n_observed"]
    for scanner in opened.scanners:
        of_scanner = ~np.isnan(values[scans.scanner == scanner, :5])
        np.testing.assert_array_equal(observed.sel(scanner=scanner), of_scanner.sum(0))
    result = harmonize(opened, dataset)
    np.testing.assert_array_equal(np.isnan(result.mean), np.isnan(values[:, :5]))
    summary = str(summarize(opened))
    assert "features lack scans" in summary


def test_correlated_features_with_holes_do_not_look_independent():
    """One common factor: the effective number of features with 30% of the values missing is near that of complete ones."""
    rng = np.random.default_rng(2)
    people = np.repeat(np.arange(60), 2)
    values = 0.7 * rng.normal(size=(120, 1)) + 0.7 * rng.normal(size=(120, 60)) + rng.normal(size=(60, 60))[people]
    holed = np.where(rng.random(values.shape) < 0.3, np.nan, values)
    complete, found = (count_independent_features(each, people) for each in (values, holed))
    assert complete < 6 and found < 1.5 * complete
    independent = rng.normal(size=(120, 60))
    found = count_independent_features(np.where(np.isnan(holed), np.nan, independent), people)
    assert found > 0.8 * 60


def test_copied_values_are_found_across_holes():
    """One value per person, and the scans on the second scanner missing; a single equal pair is no copy."""
    rows = [(f"t{k}", scanner) for k in range(6) for scanner in "ABC"]
    scans = pd.DataFrame(rows, columns=["participant_id", "scanner"])
    scans["scan_id"] = [f"s{k}" for k in range(len(scans))]
    values = np.random.default_rng(8).normal(size=(18, 2))
    values[:, 1] = np.repeat(np.arange(6.0), 3)
    values[1::3, 1] = np.nan
    design = build_design(load_dataset(scans, values).sorted().scans, load_model("traveling"))
    with pytest.raises(InputError, match=r"the same in all scans of a person[\s\S]*'feature_0001'"):
        _check_features(load_dataset(scans, values).sorted(), design)
    values[:, 1] = np.random.default_rng(9).integers(0, 9, 18)
    values[[2, 4, 5, 7, 8, 10, 11, 13, 14, 16, 17], 1] = np.nan
    values[0, 1] = values[1, 1] = 4.0  # the only person with two observed scans
    dataset, _, has_missing = _check_features(load_dataset(scans, values).sorted(), design)
    assert dataset.features.n_features == 2 and has_missing
