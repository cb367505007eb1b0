"""Models with families by columns, slopes, known precision, gains and noise ratios of each feature.

Features lack scans in some of these tests. The oracle is the definition of the likelihood, which `test_definition.py`
checks, on the observed scans of each feature.
"""

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from posteriors import make_learned
from studies import extend, log_normal, random_study

from bayesharm.conditional.effects import average_effects
from bayesharm.conditional.gaussian import condition_effects, draw_effects
from bayesharm.data.dataset import load_dataset
from bayesharm.harmonization.adaptation import count_levels
from bayesharm.harmonization.noise_scaling import Expectation
from bayesharm.likelihood.definition import design_matrix, gain_of_scanners, prior_covariance, scan_precision
from bayesharm.likelihood.grams import compute_grams
from bayesharm.likelihood.merging import append_scans
from bayesharm.likelihood.moments import compute_moments
from bayesharm.likelihood.problem import make_problem
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.model.configure import configure_model
from bayesharm.model.design import Design, build_design
from bayesharm.results.nodes import keep_statistics, read_statistics


@pytest.fixture(autouse=True, scope="module")
def x64():
    with jax.enable_x64(True):
        yield


def make_study(model: str, seed: int):
    """Features, (scan, 3): complete; a sixth missing; half of the scans missing."""
    scans, rng = random_study(seed), np.random.default_rng(seed)
    design = build_design(scans, replace(extend(model), covariates=("sex",)[: seed % 2]))
    values = rng.normal(3, 2, (len(scans), 3))
    values[rng.random(len(scans)) < 1 / 6, 1] = np.nan
    values[rng.permutation(len(scans))[::2], 2] = np.nan
    log_scales = np.log(design.scale_medians)[:, None] + rng.normal(0, 0.7, (2, len(design.scales), 3))
    log_noise, log_bias, log_gain = rng.normal(0, 0.5, (3, len(design.scanners)))
    ratios = VarianceRatios(log_noise, log_bias, log_gain, rng.normal(0, 0.7, len(design.correlations)))
    return scans, design, values, log_scales, ratios


class Given(NamedTuple):
    """Log likelihood, weights of the scans apart, and posterior of all effects."""

    log_likelihood: float
    mean: np.ndarray
    covariance: np.ndarray


def given_scans(design: Design, y: np.ndarray, log_scales: np.ndarray, ratios: VarianceRatios, kept=slice(None)) -> Given:
    """Condition on the observed scans of one feature, by dense matrices; `kept` are the columns of the model."""
    seen = ~np.isnan(y)
    x, y = design_matrix(design, ratios).toarray()[seen][:, kept], y[seen]
    w, weight = scan_precision(design, log_scales, ratios)[seen], design.scan_weight[seen]
    prior = prior_covariance(design, log_scales, ratios)[kept][:, kept]
    log_density = log_normal(y, x @ prior @ x.T + np.diag(1 / w)) - 0.5 * np.log(weight).sum()
    posterior = np.linalg.inv((x.T * w) @ x + np.linalg.inv(prior))
    return Given(log_density, posterior @ (x.T @ (w * y)), posterior)


@pytest.mark.parametrize(("model", "seed"), [("slopes", 1), ("precision", 0), ("everything", 2)])
def test_features_that_lack_scans_have_the_likelihood_and_the_effects_of_the_definition(model, seed):
    _, design, values, log_scales, ratios = make_study(model, seed)
    moments, standard = compute_moments(design, values)
    problem, y = make_problem(design, has_missing=True), ((values - standard.center) / standard.sd)[design.rows]

    @jax.jit
    def evaluate(ratios, moments, log_scales):
        statistics = problem.likelihood.weighted(ratios, moments)
        return problem.likelihood.log_likelihood(statistics.tile(2), jnp.concatenate(list(log_scales), axis=1)).reshape(
            2, -1
        )

    found, given = evaluate(ratios, moments, log_scales), condition_effects(problem, ratios, moments, log_scales)
    contrasts = np.concatenate([group.contrasts for group in design.effects])
    mean, variance = np.empty((2, 2, len(contrasts), 3))
    for k, f in np.ndindex(2, 3):
        expected, center, posterior = given_scans(design, y[:, f], log_scales[k, :, f], ratios)
        assert found[k, f] == pytest.approx(expected, abs=1e-9)
        mean[k, :, f], variance[k, :, f] = contrasts @ center, np.diag(contrasts @ posterior @ contrasts.T)
        x = design_matrix(design, ratios)
        np.testing.assert_allclose(given.mean(x)[k, f], x @ center, atol=1e-8)
        np.testing.assert_allclose(given.covariance(x)[k, f], x @ posterior @ x.T.toarray(), atol=1e-8)
        np.testing.assert_allclose(given.variance(x)[k, f], np.diag(x @ posterior @ x.T.toarray()), atol=1e-8)
    averages = average_effects(problem, ratios, moments, jnp.asarray(log_scales))
    np.testing.assert_allclose(averages[0], mean.mean(0), atol=1e-8)
    np.testing.assert_allclose(averages[1], np.sqrt(variance.mean(0) + mean.var(0)), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("model", ["everything"])
def test_effects_of_complete_features_are_those_of_the_definition(model):
    _, design, values, log_scales, ratios = make_study(model, 1)
    values = np.random.default_rng(1).normal(size=values.shape)
    moments, standard = compute_moments(design, values)
    problem, y = make_problem(design), ((values - standard.center) / standard.sd)[design.rows]
    contrasts = np.concatenate([group.contrasts for group in design.effects])
    mean, variance = np.empty((2, 2, len(contrasts), 3))
    for k, f in np.ndindex(2, 3):
        _, center, posterior = given_scans(design, y[:, f], log_scales[k, :, f], ratios)
        mean[k, :, f], variance[k, :, f] = contrasts @ center, np.diag(contrasts @ posterior @ contrasts.T)
    averages = average_effects(problem, ratios, moments, jnp.asarray(log_scales))
    np.testing.assert_allclose(averages[0], mean.mean(0), atol=1e-8)
    np.testing.assert_allclose(averages[1], np.sqrt(variance.mean(0) + mean.var(0)), rtol=1e-7, atol=1e-9)

    # draws: linear in standard normal numbers, with the posterior covariance
    n, likelihood = len(design.columns), problem.likelihood
    one = jax.tree.map(lambda part: part[..., :1], moments)
    statistics, scales = likelihood.weighted(ratios, one), jnp.asarray(log_scales[0, :, :1])
    given, products = likelihood.condition(statistics, scales), likelihood.eliminated_products(ratios, one)
    draw = jax.jit(lambda normal: draw_effects(likelihood, given, products, normal[:, None])[:, 0])
    _, center, posterior = given_scans(design, y[:, 0], log_scales[0, :, 0], ratios)
    np.testing.assert_allclose(draw(jnp.zeros(n)), center, atol=1e-9)
    root = np.stack([draw(row) for row in jnp.eye(n)], axis=1) - center[:, None]
    np.testing.assert_allclose(root @ root.T, posterior, atol=1e-9)


@pytest.mark.parametrize("model", ["slopes", "precision", "everything"])
def test_statistics_of_old_and_new_scans_are_those_of_all(model):
    """Old scans are kept as sums only; standardization of numbers, and first visits, are those of the old scans."""
    scans, design, values, log_scales, ratios = make_study(model, 2)
    is_old = np.isin(scans.participant_id, [f"p{k}" for k in range(10)] + ["t0", "t1", "r0", "r1"])
    is_old &= ~((scans.participant_id == "t1") & (scans.groupby("participant_id").cumcount() > 1)).to_numpy()
    old_scans, new_scans = (scans[part].reset_index(drop=True) for part in (is_old, ~is_old))
    old_design = build_design(old_scans, design.spec)
    if len(old_design.scanners) < len(design.scanners):
        pytest.fail("the old scans need all scanners")
    moments, standard = compute_moments(old_design, values[is_old])
    old = read_statistics(keep_statistics(old_scans, old_design, moments), design.spec)
    y = (values[~is_old] - standard.center) / standard.sd
    both, _ = append_scans(old, load_dataset(new_scans, y), y)
    together = pd.concat([old_scans, new_scans], ignore_index=True)
    whole = build_design(together, design.spec, old_design.standards)
    place = {scale: k for k, scale in enumerate(design.scales)}
    kept = [whole.columns.index(column) for column in both.design.columns]
    stacked = np.concatenate([(values[is_old] - standard.center) / standard.sd, y])
    for k, f in np.ndindex(2, 3):
        log_scales_of = [log_scales[k, [place[scale] for scale in part.scales], f] for part in (whole, both.design)]
        expected = given_scans(whole, stacked[:, f], log_scales_of[0], ratios, kept).log_likelihood
        one = both.moments.take(np.array([f]))
        likelihood = both.likelihood
        found = likelihood.log_likelihood(likelihood.weighted(ratios, one), jnp.asarray(log_scales_of[1])[:, None])
        assert float(found[0]) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("time", ["years", "age"])
def test_people_with_trajectories_who_travel_later_leave_their_population(time):
    """The sums are those of all scans, whatever multiplies the slopes; ages are far from each other in sds of a visit."""
    rows = [(f"p{k}", f"s{k % 2}", k % 2, 40 + 3.0 * k + 2.0 * visit, 2.0 * visit) for k in range(8) for visit in range(3)]
    rows += [("t", f"s{k}", 0, 50.0, 0.0) for k in range(2)] + [
        (f"q{k}", f"s{k % 2}", k % 2, 40.0 + k, 0.0) for k in range(4)
    ]
    old = pd.DataFrame(rows, columns=["participant_id", "scanner", "site", "age", "years"]).assign(diagnosis="HC")
    new = old[old.years == 4].assign(scanner="new", age=lambda t: t.age + 1, years=5.0).iloc[:3]
    scans = pd.concat([old, new], ignore_index=True).astype({"site": str})
    scans.insert(0, "scan_id", [f"scan{k}" for k in range(len(scans))])
    old, new = scans[: len(old)], scans[len(old) :].reset_index(drop=True)
    spec = configure_model("longitudinal", old, time=time)
    y = np.random.default_rng(0).normal(size=(len(scans), 2))
    design = build_design(old, spec)
    moments, standard = compute_moments(design, y[: len(old)])
    y = (y - standard.center) / standard.sd
    dataset = load_dataset(new, y[len(old) :], check="apply")
    both, _ = append_scans(read_statistics(keep_statistics(old, design, moments), spec), dataset, y[len(old) :])
    whole = build_design(scans, spec, design.standards)
    n_scans = count_levels(both)
    assert sorted(n_scans["measurement"]) == [3, 15, 15]
    assert sorted(n_scans["participant"]) == sorted(n_scans["participant_" + time]) == [2, *[3] * 5, *[4] * 3]
    assert whole.columns == both.design.columns and set(whole.travelers) == {"p0", "p1", "p2", "t"}
    for found, expected in zip(both.grams[1:], compute_grams(whole)[1:], strict=True):
        for a, b in zip(np.atleast_1d(found), np.atleast_1d(expected), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-9)
    sums = [whole.matrix[whole.scan_class == c].T @ y[whole.scan_class == c] for c in range(len(whole.class_scanner))]
    for name, entries, offset in (("dense", both.grams.dense, 0), ("eliminated", both.grams.eliminated, whole.n_dense)):
        expected = [sums[c][offset + k] for c, k in zip(entries.classes, entries.columns, strict=True)]
        np.testing.assert_allclose(getattr(both.moments, name), expected, atol=1e-9)


@pytest.mark.parametrize("model", ["slopes", "gain", "everything"])
def test_expected_values_have_the_mean_of_the_scans(model):
    """The expected values of the scans of the fit have their weighted mean, effects that are not expected apart."""
    scans, spec = random_study(2), extend(model)
    values = np.random.default_rng(2).normal(3, 2, (len(scans), 3))
    posterior = make_learned(load_dataset(scans, values), spec)
    rng, design = np.random.default_rng(0), build_design(scans, spec)
    u, gain = np.zeros((len(design.columns), 3)), gain_of_scanners(design, posterior.variance_ratios(design.scanners))
    for group in design.effects:
        node = posterior.effect(group.name)
        node["mean"].values[:] = rng.normal(0, 1, node["mean"].shape)
        u[group.columns[:, 0]] = node["mean"].values / np.broadcast_to(group.weight, len(group.levels))[:, None]
    of_scans = gain[[design.scanners.index(name) for name in scans.scanner]]
    expectation = Expectation(posterior, scans, ("measurement",), np.arange(3), None, of_scans)(slice(None), slice(None))
    expected = np.isin(design.families, ["sampling", "disorder", "disorder_age", "covariate"])
    x = design_matrix(design, posterior.variance_ratios(design.scanners)).toarray()
    rest = values - x[:, ~expected] @ u[~expected] - expectation
    np.testing.assert_allclose(design.scan_weight @ rest, 0, atol=1e-9)
