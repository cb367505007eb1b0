"""Joint sampling of features and their hyperparameters, against brute force; the hyperparameters of correlated features."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from studies import random_study
from tiny_study import (
    EQUAL,
    N_FEATURES,
    SCALES,
    SCANNERS,
    TinyStudy,
    assert_no_larger_than_chance,
    hyperposterior,
    standardized,
)

from bayesharm.data.dataset import load_dataset
from bayesharm.fitting.fit import fit
from bayesharm.inference import joint
from bayesharm.inference.expansion import expand_at_modes, expand_likelihood, gradient_by_ratios
from bayesharm.inference.gaussian_likelihood import condition_scales, move_scales, place_scales
from bayesharm.inference.hyper_approximation import approximate_hyperparameters
from bayesharm.inference.joint import SCHEDULE
from bayesharm.inference.joint_density import Parameters, log_density, start_whitening, to_parameters
from bayesharm.inference.learning import learn_by_importance, learn_by_sampling, temper_draws
from bayesharm.likelihood.moments import compute_moments
from bayesharm.likelihood.problem import Gaussian, make_problem, to_log_scales
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.model.catalog import load_model
from bayesharm.model.design import build_design


@pytest.fixture(autouse=True, scope="module")
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def study() -> TinyStudy:
    return TinyStudy(EQUAL, seed=0)


@pytest.fixture(scope="module")
def problem(study):
    return make_problem(study.design)


@pytest.fixture(scope="module")
def exact(study, problem):
    return hyperposterior(study.quadrature(), problem.log_medians)


def learn(study, problem):
    return learn_by_sampling(problem, study.moments, np.arange(N_FEATURES), N_FEATURES, seed=1, n_draws=250, target_ess=1000)


@pytest.fixture(scope="module")
def learned(study, problem):
    return learn(study, problem)


def test_hyperparameters_are_those_of_brute_force(learned, exact):
    hyper, draws = learned
    mean, sd, error = exact
    found = np.concatenate([hyper.eta, hyper.omega], axis=-1)
    assert_no_larger_than_chance(standardized(found, mean, sd, np.hypot(error / sd, 0.03)))  # 0.03: the grid's own
    assert hyper.diverging <= SCHEDULE.max_divergent * found[..., 0].size
    assert draws.scales.log_scales.shape == (*found.shape[:2], len(SCALES), N_FEATURES)


def test_a_preview_of_the_hyperparameters_is_near(study, problem, exact):
    hyper, _ = learn_by_importance(problem, study.moments, np.arange(N_FEATURES), N_FEATURES, seed=1)
    mean, sd, _ = exact
    found = np.concatenate([hyper.eta, hyper.omega], axis=-1)
    assert (np.abs(found.mean((0, 1)) - mean) < 0.75 * sd).all()
    assert ((0.6 < found.std((0, 1)) / sd) & (found.std((0, 1)) / sd < 1.5)).all()


def test_the_same_seed_gives_the_same_draws(learned, study, problem):
    jax.tree.map(np.testing.assert_array_equal, learn(study, problem), learned)


def test_divergent_draws_are_made_anew_with_half_the_step_size(learned, study, problem, monkeypatch):
    """One draw in ten of the first segment after the warm-up is said to diverge."""
    extend, sizes = joint._Chains.extend, []

    def recorded(chains, whitening, start, step_size, segment):
        found = extend(chains, whitening, start, step_size, segment)
        sizes.append(step_size)
        planted = (np.arange(250) % 10 == 0) & (segment == 1)
        return found._replace(diverging=found.diverging | planted)

    monkeypatch.setattr(joint._Chains, "extend", recorded)
    hyper, draws = learn(study, problem)
    assert len(sizes) > 2 and (sizes[2] == sizes[1] / 2).all()
    assert hyper.eta.shape[1] == draws.log_ratios.shape[1] == 250 * (len(sizes) - 2)  # not the first two
    assert hyper.diverging <= SCHEDULE.max_divergent * hyper.eta[..., 0].size


def make_case(feature_scaling: str, n_features: int = 2):
    """With feature offset, ratios and people who were scanned once."""
    scans = random_study(5)
    design = build_design(scans, replace(load_model("traveling_and_cohort"), feature_scaling=feature_scaling))
    moments = compute_moments(design, np.random.default_rng(1).normal(size=(len(scans), n_features)))[0]
    return design, make_problem(design), jax.tree.map(jnp.asarray, moments)


@pytest.mark.parametrize("feature_scaling", ["per_feature", "common"])
def test_the_density_is_the_priors_by_hand_and_the_collapsed_likelihood(feature_scaling):
    design, problem, moments = make_case(feature_scaling)
    rng, priors, n_scales = np.random.default_rng(2), design.spec.priors, len(design.scales)
    eta, omega_excess = rng.normal(-1, 0.3, n_scales), rng.choice([-1, 1], n_scales) * rng.uniform(0.2, 0.6, n_scales)
    omega = np.sqrt(omega_excess**2 + 0.05**2)
    log_scales = eta[:, None] + omega[:, None] * rng.normal(size=(n_scales, 2))
    raw = rng.normal(0, 0.3, (2, len(design.scanners)))
    raw_ratios = np.pad(raw.ravel(), (0, len(design.scanners)))
    found = float(jax.jit(log_density, static_argnums=0)(
        problem, moments, Parameters(*map(jnp.asarray, (eta, omega_excess, raw_ratios, log_scales)))
    ))  # fmt: skip
    ratios = VarianceRatios.of_variances(*jnp.asarray(raw - raw.mean(1, keepdims=True)))
    statistics = problem.likelihood.weighted(ratios, moments)
    expected = float(problem.likelihood.log_likelihood(statistics, jnp.asarray(log_scales)).sum())
    offset_sd = priors.feature_offset_sd * (feature_scaling == "per_feature")
    covariance = np.diag(omega**2) + offset_sd**2
    expected += stats.multivariate_normal(eta, covariance).logpdf(log_scales.T).sum()
    for values, mean, sd in (
        (eta, np.log(design.scale_medians), priors.eta_sd), (omega_excess, 0, priors.omega_sd),
        (raw, 0, [[priors.noise_ratio_sd], [priors.bias_ratio_sd]]),
    ):  # fmt: skip
        expected += (stats.norm.logpdf(values, mean, sd) - stats.norm.logpdf(0, 0, sd)).sum()
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_positions_keep_volumes_as_they_say():
    """The log determinant of the map from positions to parameters, by finite differences."""
    _, problem, moments = make_case("per_feature")
    approximation = approximate_hyperparameters(problem, moments, 2)
    whitening = start_whitening(problem, approximation)
    size = len(whitening.center) + whitening.likelihood.center.size

    @jax.jit
    def flat(position):
        parameters, log_determinant = to_parameters(problem, whitening, position)
        parameters = parameters._replace(raw_ratios=parameters.raw_ratios[problem.is_free])
        return jnp.concatenate([part.ravel() for part in parameters]), log_determinant

    truth, said = [], []
    for position in 0.7 * np.random.default_rng(3).normal(size=(4, size)):
        steps = 1e-5 * np.eye(size)
        jacobian = [(flat(position + step)[0] - flat(position - step)[0]) / 2e-5 for step in steps]
        truth.append(np.linalg.slogdet(np.stack(jacobian))[1])
        said.append(float(flat(position)[1]))
    np.testing.assert_allclose(np.array(truth) - truth[0], np.array(said) - said[0], atol=1e-6)


def test_states_of_chains_are_the_same_in_other_coordinates():
    """Potential and gradient, against those computed anew."""
    _, problem, moments = make_case("per_feature")
    whitening = start_whitening(problem, approximate_hyperparameters(problem, moments, 2))
    size = len(whitening.center) + whitening.likelihood.center.size

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def potential(position, whitening):
        parameters, log_determinant = to_parameters(problem, whitening, position)
        return -log_density(problem, moments, parameters) - log_determinant, parameters

    def evaluate(positions, whitening):
        each = [potential(position, whitening) for position in positions]
        (values, parameters), gradients = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
        return joint.ChainState(positions, values, gradients), parameters

    last, parameters = evaluate(0.7 * np.random.default_rng(5).normal(size=(40, size)), whitening)
    draws = jax.tree.map(lambda leaf: leaf[:, None], parameters)
    segment = joint._Segment(draws, np.zeros((40, 1)), np.zeros((40, 1)), last, np.ones(40))
    moved, adapted = joint.adapt_whitening(problem, whitening, segment)
    assert not np.allclose(adapted.factor, whitening.factor, rtol=0.1)
    again, same = evaluate(moved.position, adapted)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-8), (again, same), (moved, parameters))


def test_the_gaussian_approximation_is_exact_where_the_likelihood_is_gaussian():
    """Mean and covariance given the hyperparameters, and the evidence as an integral over the scales."""
    _, problem, moments = make_case("per_feature", 1)
    n_scales = len(problem.log_medians)
    likelihood = expand_likelihood(problem, VarianceRatios.equal(problem.n_scanners), moments, jnp.full((n_scales, 1), -0.7))
    likelihood = likelihood._replace(jacobian=jnp.eye(n_scales)[..., None])
    rng = np.random.default_rng(4)
    eta, log_omega = rng.normal(-1, 0.3, n_scales), rng.normal(-0.5, 0.3, n_scales)
    found = condition_scales(likelihood, jnp.asarray(eta), jnp.asarray(log_omega), 2.0)
    prior = np.diag(np.exp(2 * log_omega)) + 4.0
    precision, center = likelihood.precision[..., 0], likelihood.center[:, 0]
    mode = center + np.linalg.solve(precision, likelihood.gradient[:, 0])  # of the Gaussian likelihood
    covariance = np.linalg.inv(precision + np.linalg.inv(prior))
    away = eta - likelihood.log_scales[:, 0] + center
    np.testing.assert_allclose(found.factor[..., 0] @ found.factor[..., 0].T, covariance, rtol=1e-6, atol=1e-10)
    mean = covariance @ (precision @ mode + np.linalg.solve(prior, away))
    np.testing.assert_allclose(found.mean[:, 0], mean, rtol=1e-8)
    peak = likelihood.value[0] + 0.5 * (mode - center) @ precision @ (mode - center)
    normal = stats.multivariate_normal(away, prior + np.linalg.inv(precision))
    constant = 0.5 * (n_scales * np.log(2 * np.pi) - np.linalg.slogdet(precision)[1])
    np.testing.assert_allclose(found.log_evidence[0], peak + normal.logpdf(mode) + constant, rtol=1e-8)


def test_scales_move_with_the_hyperparameters():
    """They keep their distance, in posterior sds, from the mean."""
    _, problem, moments = make_case("per_feature")
    n_scales, ratios = len(problem.log_medians), VarianceRatios.equal(problem.n_scanners)
    likelihood = expand_likelihood(problem, ratios, moments, jnp.full((n_scales, 2), -0.7))
    rng = np.random.default_rng(8)
    by_ratios, z = rng.normal(size=(n_scales, problem.n_ratios, 2)), rng.normal(size=(3, n_scales, 2))
    old, new = (
        [rng.normal(mean, 0.3, (3, n)) for mean, n in ((-1, n_scales), (-0.5, n_scales), (0, problem.n_ratios))]
        for _ in range(2)
    )

    def place(hyper):
        placed = []
        for eta, log_omega, away, each in zip(*map(jnp.asarray, (*hyper, z)), strict=True):
            moved = likelihood._replace(gradient=likelihood.gradient + np.einsum("srf,r->sf", by_ratios, away))
            conditioned = condition_scales(moved, eta, log_omega, 2.0)
            placed.append(to_log_scales(problem.participant_scale, place_scales(conditioned, each)))
        return np.stack(placed)

    found = move_scales(problem, likelihood, by_ratios, old, new, place(old))
    np.testing.assert_allclose(found, place(new), atol=1e-8)


def test_the_gradient_changes_with_the_ratios_as_it_says():
    _, problem, moments = make_case("per_feature")
    rng = np.random.default_rng(9)
    center = rng.normal(-0.5, 0.2, (len(problem.log_medians), 2))
    vector, away = rng.normal(0, [[0.3], [1e-3]], (2, problem.n_ratios)) * problem.is_free
    slopes = gradient_by_ratios(problem, problem.ratios(vector), moments, center)
    assert not slopes[:, ~problem.is_free].any()

    def gradient(vector):
        return expand_likelihood(problem, problem.ratios(vector), moments, center).gradient

    change = gradient(vector + away) - gradient(vector - away)
    np.testing.assert_allclose(2 * np.einsum("srf,r->sf", slopes, away), change, rtol=1e-3, atol=1e-6)


def test_chains_of_a_large_study_start_above_its_potential(study, problem, monkeypatch):
    """Above, so that the first proposal is taken: a chain that takes none never moves."""
    approximation = approximate_hyperparameters(problem, study.moments, N_FEATURES)
    value = approximation.likelihood.value - 1e8  # that of a million scans
    far = approximation._replace(likelihood=approximation.likelihood._replace(value=value))
    starts = []

    def stop(chains, whitening, start, *others):
        starts.append(start)
        raise StopIteration

    monkeypatch.setattr(joint._Chains, "extend", stop)
    with pytest.raises(StopIteration):
        joint.sample_joint(problem, study.moments, far, seed=1)
    assert (starts[0].potential > 1e5 - float(np.sum(value))).all()


@pytest.mark.parametrize("many_dense", [0, 60])
def test_an_expansion_has_the_derivatives_of_the_likelihood(many_dense, monkeypatch):
    """By either program: that with few dense effects, and that with many."""
    monkeypatch.setattr("bayesharm.inference.expansion.MANY_DENSE", many_dense)
    _, problem, moments = make_case("per_feature")
    ratios = VarianceRatios.equal(problem.n_scanners)
    center = jnp.asarray(np.random.default_rng(5).normal(-0.5, 0.2, (len(problem.log_medians), 2)))
    found = expand_likelihood(problem, ratios, moments, center)
    statistics = problem.likelihood.weighted(ratios, moments)

    @jax.jit
    @jax.grad
    def gradient(x):
        log_scales = to_log_scales(problem.participant_scale, center.at[:, 0].set(x))
        return problem.likelihood.log_likelihood(statistics, log_scales)[0]

    at = np.asarray(center[:, 0])
    np.testing.assert_allclose(found.gradient[:, 0], gradient(at), rtol=1e-8, atol=1e-8)
    steps = 1e-5 * np.eye(len(at))
    hessian = np.stack([(gradient(at + step) - gradient(at - step)) / 2e-5 for step in steps])
    curvature, axes = np.linalg.eigh(-(hessian + hessian.T) / 2)
    expected = (axes * np.maximum(curvature, 1e-3)) @ axes.T
    np.testing.assert_allclose(found.precision[..., 0], expected, atol=1e-3 * curvature.max())


def test_the_search_finds_the_modes_from_far_away():
    _, problem, moments = make_case("per_feature")
    ratios, n_scales = VarianceRatios.equal(problem.n_scanners), len(problem.log_medians)
    prior = Gaussian(problem.log_medians, np.full(n_scales, 0.5))
    statistics = problem.likelihood.weighted(ratios, moments)
    precision = np.linalg.inv(np.diag(prior.sd**2) + problem.priors.feature_offset_sd**2)

    @jax.jit
    @jax.grad
    def slope(coordinates):
        log_scales = to_log_scales(problem.participant_scale, coordinates)
        away = log_scales - problem.log_medians[:, None]
        return problem.likelihood.log_likelihood(statistics, log_scales).sum() - 0.5 * (away * (precision @ away)).sum()

    for start in (-4.0, -0.7, 2.0):
        found, conditioned = expand_at_modes(problem, ratios, moments, prior, np.full((n_scales, 2), start))
        sds = np.sqrt((np.asarray(conditioned.factor) ** 2).sum(1))
        assert (np.abs(slope(found.center)) * sds < 0.1).all()  # the search ends at a step of 0.02, a tenth of such sds


def test_a_feature_without_noise_does_not_spoil_the_others():
    """Scans of a person that are identical on a scanner: its noise has no lower bound but its prior."""
    study = TinyStudy(EQUAL, seed=0, by_scanner=True)
    features, scans = study.features.copy(), study.scans
    person, scanner = scans.participant_id.astype(int), scans.scanner.map(SCANNERS.index)
    rng = np.random.default_rng(1)
    features[:, 0] = rng.normal(size=5)[person] + rng.normal(size=4)[scanner] + 1e-7 * rng.normal(size=len(scans))
    problem = make_problem(study.design)
    good, found = (
        approximate_hyperparameters(problem, compute_moments(study.design, values)[0], N_FEATURES)
        for values in (study.features, features)
    )
    assert np.isfinite(np.concatenate([found.mode, found.ratios.mean.to_vector()])).all()
    sd = np.sqrt((good.factor**2).sum(1))
    others = [1, 2, 4, 5]  # eta and log omega_excess of participants and scanners
    assert (np.abs(found.mode - good.mode) < 1.5 * sd)[others].all()  # it informs them too


@pytest.mark.parametrize("power", [0.1, 0.5, 1.0])
def test_tempered_draws_are_those_of_the_weaker_likelihood(power):
    """A Gaussian likelihood and prior, for which the result is known."""
    rng = np.random.default_rng(6)
    prior_mean, prior_sd, data = np.array([0.0, 1.0, -1.0]), np.array([1.0, 0.5, 2.0]), np.array([1.0, 2.0, 0.5])
    root = rng.normal(size=(3, 3))
    information, prior = root @ root.T, np.diag(prior_sd**-2)

    def posterior(power):
        covariance = np.linalg.inv(power * information + prior)
        return covariance @ (power * information @ data + prior @ prior_mean), covariance

    draws = rng.multivariate_normal(*posterior(1.0), size=(4, 20_000))
    found = temper_draws(draws, prior_mean, prior_sd, power).reshape(-1, 3)
    mean, covariance = posterior(power)
    np.testing.assert_allclose(found.mean(0), mean, atol=0.03)
    np.testing.assert_allclose(np.cov(found.T), covariance, atol=0.04 * np.abs(covariance).max())
    stuck = np.repeat(draws[:, :1], 10, axis=1)  # more parameters than different draws
    np.testing.assert_array_equal(temper_draws(stuck[:2], prior_mean, prior_sd, power), stuck[:2])
    constant = np.zeros((4, 10, 2))  # a model without ratios
    np.testing.assert_array_equal(temper_draws(constant, np.zeros(2), np.ones(2), 0.5), constant)


@pytest.mark.slow
def test_scales_that_the_data_do_not_bound_keep_their_prior():
    """Sites recruit identical populations and patients do not differ: only the prior bounds these eta from below."""
    rng, n_features = np.random.default_rng(7), 12
    visits = [(f"t{i}", name) for i in range(5) for name in "ABC" for _ in range(2)]
    visits += [(f"c{i}", name) for i, name in enumerate("ABCD" * 4)]
    scans = pd.DataFrame(visits, columns=["participant_id", "scanner"])
    scans["scan_id"] = np.arange(len(scans)).astype(str)
    scans["diagnosis"] = ["HC"] * 30 + ["HC", "HC", "HC", "HC", "MDD", "MDD", "MDD", "MDD"] * 2
    person = rng.normal(0, 0.7, (scans.participant_id.nunique(), n_features))[pd.factorize(scans.participant_id)[0]]
    bias = rng.normal(0, 0.5, (4, n_features))[pd.factorize(scans.scanner)[0]]
    features = person + bias + rng.normal(0, 0.5, person.shape)
    posterior = fit(load_dataset(scans, features), "traveling_and_cohort", seed=1)
    hyper = posterior.tree["hyper"]
    assert hyper.attrs["features"] == n_features and hyper.attrs["rhat_max"] < 1.02
    assert posterior.run["n_converged"] == n_features
    low, high = hyper["eta"].sel(family="measurement").quantile([0.0005, 0.9995]).values + np.log(features.std(0)).mean()
    assert low < np.log(0.5) < high
    spread = hyper["eta"].std(("chain", "draw"))
    assert spread.sel(family="disorder") > 1.5 * spread.sel(family="measurement")
