"""Every stage of the inference against brute force: quadrature, dense algebra, scipy.

Where a result is random, the tolerance comes from its own Monte-Carlo error, for a false-alarm rate of 2e-5 a test.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from numpyro.diagnostics import effective_sample_size
from quadrature import Quadrature
from scipy import stats
from studies import random_study, sized_scanners, with_protocol

from bayesharm.algorithms.laplace import Laplace
from bayesharm.algorithms.nuts import sample_batched
from bayesharm.algorithms.random_streams import Stage, feature_keys
from bayesharm.algorithms.student_t import draw_importance_sample
from bayesharm.conditional.effects import average_effects
from bayesharm.inference import hyperposterior as population
from bayesharm.inference.hyperparameters import ENOUGH_FEATURES, Hyperparameters, components, fit_hyperparameters
from bayesharm.inference.hyperposterior import predict
from bayesharm.inference.importance import (
    find_modes,
    log_importance_weights,
    log_marginal,
    log_prior,
    quadratic_features,
    subsample,
)
from bayesharm.inference.predictive_prior import PredictivePrior, log_predictive_prior, make_predictive_prior
from bayesharm.inference.scales import NutsSettings, SampleShape, sample_block, start_chains
from bayesharm.inference.variance_ratios import RatioPosterior, fit_variance_ratios, variance_ratio_covariance
from bayesharm.likelihood.layout import lay_out
from bayesharm.likelihood.moments import compute_moments
from bayesharm.likelihood.problem import Gaussian, make_problem, to_coordinates, to_log_scales
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.model.catalog import load_model
from bayesharm.model.design import FIXED, build_design
from bayesharm.model.spec import Priors

FALSE_ALARMS = 2e-5


@pytest.fixture(autouse=True, scope="module")
def x64():
    with jax.enable_x64(True):
        yield


def assert_no_larger_than_chance(z, degrees_of_freedom: float = np.inf) -> None:
    """Standardized errors, the largest of all compared with what it may be by chance."""
    z = np.asarray(z)
    limit = stats.t.isf(FALSE_ALARMS / 2 / z.size, degrees_of_freedom)
    assert np.isfinite(z).all() and np.abs(z).max() < limit, (z.round(1), limit)


def standardized(draws: np.ndarray, mean: np.ndarray, sd: np.ndarray, own_error: float = 0.0) -> np.ndarray:
    """Errors of the mean and of the sd of draws (chain, draw, …), in Monte-Carlo standard errors.

    `own_error` is a further standard error, in sds, that the draws do not show.
    """
    squares = (draws - mean) ** 2 / sd**2
    ess, ess_squares = effective_sample_size(draws), effective_sample_size(squares)
    assert ess.min() > 200 and ess_squares.min() > 200
    error = np.hypot(1 / np.sqrt(ess), own_error)
    error_squares = np.hypot(squares.std((0, 1)) / np.sqrt(ess_squares), 2 * own_error)
    return np.stack([(draws.mean((0, 1)) - mean) / sd / error, (squares.mean((0, 1)) - 1) / error_squares])


# NUTS on Gaussians: a mean and a covariance of its own in each lane

N_LANES, DIMENSION, N_DRAWS = 8, 3, 2000


def potential(shared, own, z):
    mean, precision = own
    away = z - mean
    return 0.5 * shared * jnp.sum(away * jnp.sum(precision * away, axis=1), axis=0)


@pytest.fixture(scope="module")
def gaussians():
    rng = np.random.default_rng(0)
    mean = rng.normal(0, 3, (DIMENSION, N_LANES))
    rotation = np.linalg.qr(rng.normal(size=(N_LANES, DIMENSION, DIMENSION)))[0]
    variances = np.exp(rng.uniform(-0.7, 0.7, (N_LANES, 1, DIMENSION)))
    covariance = (variances * rotation) @ rotation.transpose(0, 2, 1)
    own = (jnp.asarray(mean), jnp.asarray(np.linalg.inv(covariance).transpose(1, 2, 0)))
    return own, mean, covariance


@pytest.fixture(scope="module")
def sample_gaussians():
    """Draws of some lanes, with keys that belong to the lanes."""

    @jax.jit
    def sample(own, lanes):
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(5), lanes)
        return sample_batched(
            potential, 1.0, own, own[0] + 1.0, keys, n_warmup=20, n_draws=N_DRAWS, step_size=0.8, max_tree_depth=5
        )

    return sample


def lanes_of(tree, lanes):
    return jax.tree.map(lambda leaf: leaf[..., lanes], tree)


@pytest.fixture(scope="module")
def gaussian_draws(gaussians, sample_gaussians):
    return sample_gaussians(gaussians[0], jnp.arange(N_LANES))


def test_nuts_finds_means_and_covariances(gaussians, gaussian_draws):
    _, mean, covariance = gaussians
    factor = np.linalg.inv(np.linalg.cholesky(covariance))
    white = np.einsum("lij,djl->ldi", factor, np.asarray(gaussian_draws.position) - mean)
    products = np.einsum("ldi,ldj->ldij", white, white)[:, :, *np.tril_indices(DIMENSION)]
    expected = np.eye(DIMENSION)[np.tril_indices(DIMENSION)]
    by_lane = []
    for values, truth in ((white, 0.0), (products, expected)):
        ess = np.array([effective_sample_size(lane[None]) for lane in values])
        assert ess.min() > 400
        by_lane.append(((values.mean(1) - truth) / values.std(1) * np.sqrt(ess)).ravel())
    assert_no_larger_than_chance(np.concatenate(by_lane))
    assert_no_larger_than_chance(standardized(white, np.zeros(DIMENSION), np.ones(DIMENSION)))


def test_nuts_reports_its_work(gaussian_draws):
    steps = np.asarray(gaussian_draws.n_steps)
    assert steps.shape == (N_DRAWS, N_LANES) and 3 < steps.mean() < 31 and steps.max() <= 31  # 2⁵ − 1
    assert not np.asarray(gaussian_draws.diverging).any()


def test_a_lane_is_the_same_alone(gaussians, gaussian_draws, sample_gaussians):
    alone = sample_gaussians(lanes_of(gaussians[0], [3]), jnp.array([3]))
    np.testing.assert_allclose(alone.position[..., 0], gaussian_draws.position[..., 3], atol=1e-8)
    np.testing.assert_array_equal(alone.n_steps[:, 0], gaussian_draws.n_steps[:, 3])


def test_a_lane_of_nan_spoils_no_other(gaussians, gaussian_draws, sample_gaussians):
    mean, precision = gaussians[0]
    draws = sample_gaussians((mean, precision.at[0, 0, 2].set(jnp.nan)), jnp.arange(N_LANES))
    others = np.arange(N_LANES) != 2
    np.testing.assert_array_equal(lanes_of(draws, others).position, lanes_of(gaussian_draws, others).position)
    assert np.asarray(draws.diverging)[:, 2].all()


# A study so small that its posteriors are found by quadrature

SCANNERS = ("A", "B", "C", "D")
SCALES = ("noise", "participant", "measurement")
N_FEATURES, N_NODES = 12, 2048  # as many nodes as `fit_hyperparameters` takes, so that they share programs
AXES = (np.linspace(-2.0, 0.6, 40), np.linspace(-4.0, 1.4, 36), np.linspace(-4.0, 1.4, 36))
EQUAL = np.zeros(2 * len(SCANNERS))
EQUAL_RATIOS = VarianceRatios.equal(len(SCANNERS))
PRIOR = Gaussian(np.log([0.6, 0.6, 0.6]), np.array([0.3, 0.5, 0.5]))


class FitContext:
    """Five travelers on three or four of four scanners, one of them twice on one."""

    def __init__(self, log_ratio: np.ndarray, seed: int, by_scanner: bool = False) -> None:
        missing = [(0, "A"), (1, "D"), (2, "A")]
        visits = [(i, name) for i in range(5) for name in SCANNERS if (i, name) not in missing] + [(4, "A")]
        self.scans = pd.DataFrame(visits, columns=["participant_id", "scanner"]).astype(str)
        self.scans["scan_id"] = [f"scan{n}" for n in range(len(visits))]
        self.scans["site"], self.scans["diagnosis"] = "home", "HC"
        rng = np.random.default_rng(seed)
        log_noise, log_bias = np.split(np.asarray(log_ratio, float), 2)
        person, scanner = self.scans.participant_id.astype(int), self.scans.scanner.map(SCANNERS.index)
        noise, participant, measurement = np.exp(
            np.log([[0.5], [0.6], [0.4]]) + [[0.4], [0.6], [0.6]] * rng.normal(size=(3, N_FEATURES))
        )
        self.features = (
            3
            + participant * rng.normal(size=(5, N_FEATURES))[person]
            + measurement * (np.exp(log_bias / 2)[:, None] * rng.normal(size=(len(SCANNERS), N_FEATURES)))[scanner]
            + noise * np.exp(log_noise / 2)[scanner][:, None] * rng.normal(size=(len(visits), N_FEATURES))
        )
        ratios = ("scanner", "scanner") if by_scanner else ("homogeneous", "homogeneous")
        spec = load_model("traveling")
        self.spec = replace(spec, noise_ratio=ratios[0], bias_ratio=ratios[1], feature_scaling="common")  # no amplitude
        self.design = build_design(self.scans, self.spec)
        assert self.design.scales == SCALES
        self.moments, _ = compute_moments(self.design, lay_out(self.design), self.features)

    def quadrature(self, log_ratio: np.ndarray = EQUAL, axes=AXES) -> Quadrature:
        return Quadrature(self.scans, self.spec, SCALES, axes, self.features, log_ratio)


@pytest.fixture(scope="module")
def study() -> FitContext:
    return FitContext(EQUAL, seed=0)


@pytest.fixture(scope="module")
def problem(study):
    return make_problem(study.design)


@pytest.fixture(scope="module")
def exact(study) -> Quadrature:
    return study.quadrature()


@pytest.fixture(scope="module")
def place(problem):
    """Laplace approximations of all features under priors that are narrower than `PRIOR`, equal to it, and wider."""

    def place(moments) -> tuple[Laplace, ...]:
        start = jnp.broadcast_to(problem.log_medians[:, None], (len(SCALES), N_FEATURES))
        return tuple(
            find_modes(problem, EQUAL_RATIOS, moments, Gaussian(PRIOR.mean, width * PRIOR.sd), start)
            for width in (0.5, 1.0, 2.0, 4.0)
        )

    return place


# Importance sampling


def random_proposals(rng, n_features: int, sizes) -> tuple[Laplace, ...]:
    def proposal(size):
        factor = np.tril(rng.normal(0, 0.3, (n_features, 3, 3)), -1) + np.diag([1.0, 0.7, 1.3])
        mode = rng.normal(0, 0.3, (3, n_features))
        return Laplace(jnp.asarray(mode), jnp.asarray(size * factor.transpose(1, 2, 0)), np.ones(n_features, bool))

    return tuple(proposal(size) for size in sizes)


@pytest.mark.parametrize("sizes", [[1.3], [0.7, 1.2, 1.5, 3.0]], ids=["one proposal", "mixture"])
def test_nodes_are_unbiased_and_fill_the_space(sizes):
    """A standard normal's mass, mean and second moments by importance sampling; a random shift for each feature."""
    n_features, n_nodes = 400, 256
    proposals = random_proposals(np.random.default_rng(1), n_features, sizes)
    keys = feature_keys(0, Stage.NODES, np.arange(n_features))
    nodes = jax.tree.map(np.asarray, draw_importance_sample(keys, proposals, n_nodes))

    for f in range(3):
        densities = [
            stats.multivariate_t(p.mode[:, f], p.factor[:, :, f] @ p.factor[:, :, f].T, df=7).pdf(nodes.log_scales[:, :, f])
            for p in proposals
        ]
        np.testing.assert_allclose(nodes.log_proposal[:, f], np.log(np.mean(densities, axis=0)), atol=1e-10)

    x = nodes.log_scales
    weight = np.exp(stats.norm.logpdf(x).sum(1) - nodes.log_proposal)
    products = np.einsum("nif,njf->nijf", x, x)[:, *np.tril_indices(3)]
    values = weight[:, None] * np.concatenate([np.ones_like(x[:, :1]), x, products], axis=1)
    for n in (n_nodes, n_nodes // 8):  # the noise ratio is learned from the first few nodes
        errors = values[:n].mean(0) - np.r_[1, 0, 0, 0, 1, 0, 1, 0, 0, 1][:, None]
        assert_no_larger_than_chance(errors.mean(1) / errors.std(1) * np.sqrt(n_features), n_features - 1)
    independent = weight.std(0).mean() / np.sqrt(n_nodes)  # the spread that independent points would have
    assert (values[:, 0].mean(0) - 1).std() < 0.6 * independent


def test_prior_of_many_hyperparameters_is_scipys():
    rng = np.random.default_rng(2)
    x, mean, log_sd = rng.normal(size=(5, 3, 4)), rng.normal(size=(3, 2)), rng.normal(size=(3, 2))
    basis = quadratic_features(x)
    assert basis.shape == (6, 5, 4) and quadratic_features(x[0]).shape == (6, 4)
    expected = stats.norm.logpdf(x[None], mean.T[:, None, :, None], np.exp(log_sd).T[:, None, :, None]).sum(2)
    np.testing.assert_allclose(jax.jit(log_prior)(basis, mean, log_sd), expected, atol=1e-10)
    with_amplitude = jax.jit(log_prior, static_argnums=3)(basis, mean, log_sd, 0.5)
    for h in range(2):
        normal = stats.multivariate_normal(mean[:, h], np.diag(np.exp(2 * log_sd[:, h])) + 0.25)
        np.testing.assert_allclose(with_amplitude[h], normal.logpdf(np.moveaxis(x, 1, -1)), atol=1e-10)


@pytest.mark.parametrize("pair", [0, 2])
def test_coordinates_go_there_and_back_and_keep_volumes(pair):
    x = np.random.default_rng(0).normal(0, 2, (5, 3, 4))
    there = to_coordinates(pair, jnp.asarray(x))
    np.testing.assert_allclose(to_log_scales(pair, there), x, atol=1e-12)
    jacobian = jax.jacfwd(lambda y: to_log_scales(pair, y[:, None])[:, 0])(there[0, :, 0])
    np.testing.assert_allclose(abs(np.linalg.det(jacobian)), 1, atol=1e-12)
    if pair:
        np.testing.assert_allclose(np.exp(2 * there[:, 0]), np.exp(2 * x[:, 0]) + np.exp(2 * x[:, pair]))


def test_marginal_likelihood_is_that_of_quadrature(study, problem, place, exact):
    """For three priors; nodes drawn again and again say how well one set of them knows it."""
    mean = PRIOR.mean + np.array([[0.0, 0.0, 0.0], [0.1, -0.3, 0.3], [0.0, 0.3, -0.3]])
    sd = PRIOR.sd * np.array([[1.0, 1.0, 1.0], [0.7, 1.5, 0.7], [1.5, 0.7, 2.0]])
    proposals, n_repeats = place(study.moments), 20

    def estimate(seed):
        nodes = draw_importance_sample(feature_keys(seed, Stage.NODES, np.arange(N_FEATURES)), proposals, N_NODES)
        weight = log_importance_weights(problem, EQUAL_RATIOS, study.moments, nodes)
        return jax.jit(log_marginal)(quadratic_features(nodes.log_scales), weight, mean.T, np.log(sd.T))

    found = np.array([estimate(seed) for seed in range(n_repeats)])
    relative = np.exp(found - exact.log_marginal(mean, sd)) - 1
    z = relative.mean(0) / np.hypot(relative.std(0, ddof=1), 0.01) * np.sqrt(n_repeats)  # 1%: the grid's own error
    assert_no_larger_than_chance(z, n_repeats - 1)
    assert relative.std(0).max() < 0.1


def test_thinned_nodes_keep_the_expectation_of_marginal_likelihoods():
    """At hyperparameters that the thinning was not told; the largest shares are kept as they are."""
    rng, n_nodes, n_kept, n_repeats = np.random.default_rng(8), 256, 32, 400
    basis = quadratic_features(jnp.asarray(rng.normal(size=(n_nodes, 3, 5))))
    weight = jnp.asarray(rng.normal(size=(n_nodes, 5)))
    told = (jnp.asarray(rng.normal(0, 0.2, (3, 8))), jnp.full((3, 8), np.log(0.4)))
    hyper = jnp.asarray(rng.normal(0, 0.2, (3, 2))), jnp.full((3, 2), np.log(0.5))
    exact = log_marginal(basis, weight, *hyper)

    def estimate(key):
        return log_marginal(*subsample(key, basis, weight, told, n_kept), *hyper)

    ratio = np.exp(np.array([estimate(key) for key in jax.random.split(jax.random.key(0), n_repeats)]) - exact)
    z = (ratio.mean(0) - 1) / ratio.std(0, ddof=1) * np.sqrt(n_repeats)
    assert_no_larger_than_chance(z, n_repeats - 1)
    plain = np.exp(np.array([log_marginal(basis[:, k::8], weight[k::8], *hyper) for k in range(8)]) - exact)
    assert (ratio.std(0) < 0.5 * plain.std(0)).all()  # of as many nodes as they come
    whole = log_marginal(*subsample(jax.random.key(0), basis, weight, told, n_nodes), *hyper)
    np.testing.assert_allclose(whole, exact, atol=1e-10)


# Hyperparameters


@pytest.fixture(scope="module")
def hyper(study, problem) -> Hyperparameters:
    return fit_hyperparameters(problem, study.moments, np.arange(N_FEATURES), N_FEATURES, seed=1, n_draws=250)


def hyperposterior(exact: Quadrature, log_medians: np.ndarray, n_draws: int = 6000):
    """Mean, sd and standard error of (eta, omega) by adaptive importance sampling from multivariate Student-t."""
    rng = np.random.default_rng(0)
    center, spread = np.r_[log_medians, np.log([0.4] * 3)], np.diag([0.25] * 3 + [1.0] * 3)
    for n in (2000, 4000, 4000, n_draws):
        proposal = stats.multivariate_t(center, spread, df=5)
        x = proposal.rvs(n, random_state=rng)
        eta, log_excess = x[:, :3], x[:, 3:]
        omega = np.hypot(np.exp(log_excess), 0.05)
        parts = zip(np.array_split(eta, 20), np.array_split(omega, 20), strict=True)
        log_weight = np.concatenate([exact.log_marginal(*part).sum(1) for part in parts]) - proposal.logpdf(x)
        log_weight += (
            stats.norm.logpdf(eta, log_medians, 1.0) + log_excess + stats.halfnorm.logpdf(np.exp(log_excess), scale=0.5)
        ).sum(1)
        weight = np.exp(log_weight - log_weight.max())
        weight /= weight.sum()
        center, spread = weight @ x, 1.2 * np.cov(x.T, aweights=weight)
    assert 1 / (weight**2).sum() > 500
    values = np.concatenate([eta, omega], axis=1)
    mean = weight @ values
    return mean, np.sqrt(weight @ (values - mean) ** 2), np.sqrt(weight**2 @ (values - mean) ** 2)


def test_hyperparameters_are_those_of_brute_force(hyper, exact, problem):
    mean, sd, error = hyperposterior(exact, problem.log_medians)
    draws = np.concatenate([hyper.eta, hyper.omega], axis=-1)
    own_error = np.hypot(error / sd, 0.05)  # the nodes make an error that is the same in all draws
    assert_no_larger_than_chance(standardized(draws, mean, sd, own_error))
    assert hyper.diverging < 0.05 * hyper.eta[..., 0].size


@pytest.mark.parametrize("way", ["_weigh", "_run_chains"])
def test_both_ways_to_draw_hyperparameters_give_those_of_brute_force(way, study, problem, exact, monkeypatch):
    """Importance sampling, and NUTS where that fails, which takes fewer nodes."""
    other = {"_weigh": "_run_chains", "_run_chains": "_weigh"}[way]
    monkeypatch.setattr(population, other, lambda *arguments: None)
    found = fit_hyperparameters(problem, study.moments, np.arange(N_FEATURES), N_FEATURES, seed=3, n_draws=250)
    mean, sd, error = hyperposterior(exact, problem.log_medians)
    draws = np.concatenate([found.eta, found.omega], axis=-1)
    assert_no_larger_than_chance(standardized(draws, mean, sd, np.hypot(error / sd, 0.05)))


def test_many_hyperparameters_at_once_have_the_density_of_one():
    rng, priors = np.random.default_rng(9), Priors(feature_offset_sd=0.5)
    basis, weight = quadratic_features(jnp.asarray(rng.normal(size=(64, 3, 5)))), jnp.asarray(rng.normal(size=(64, 5)))
    medians, points = rng.normal(size=3), rng.normal(size=(6, 40))
    points[3:] = np.abs(points[3:])
    points[4, 7] *= -1
    expected = population._log_density(priors, medians, basis, weight, jnp.asarray(points))
    found = population._log_densities(priors, medians, jnp.moveaxis(basis, 2, 0), weight.T, jnp.asarray(points))
    assert np.isneginf(found[7]) and np.isfinite(found).sum() == 39
    difference = np.delete(found - expected, 7)
    np.testing.assert_allclose(difference, 5 * np.log(64), atol=1e-8)  # the mean over nodes is a sum there


def test_marginal_likelihoods_at_the_draws_are_those_of_quadrature(hyper, exact):
    n_draws = hyper.eta[..., 0].size
    some = components(n_draws)
    eta, omega = (part.reshape(n_draws, -1)[some][::2] for part in (hyper.eta, hyper.omega))
    resolved = (omega > 0.1).all(1)
    assert hyper.log_marginal.shape == (N_FEATURES, len(some)) and resolved.sum() > 20
    error = hyper.log_marginal[:, ::2].T - exact.log_marginal(eta, omega)
    assert np.sqrt((error[resolved] ** 2).mean()) < 0.1


def test_the_predictive_prior_has_the_moments_of_the_draws(hyper):
    rng = np.random.default_rng(3)
    new = rng.normal(np.broadcast_to(hyper.eta, (500, *hyper.eta.shape)), hyper.omega).reshape(-1, len(SCALES))
    np.testing.assert_allclose(hyper.predictive.mean, new.mean(0), atol=0.01)
    np.testing.assert_allclose(hyper.predictive.sd, new.std(0), rtol=0.02)


def test_what_all_eta_share_is_left_to_the_amplitude():
    """Differences between the scales of a new feature are predicted as the draws predict them."""
    rng = np.random.default_rng(4)
    own, omega = np.array([0.05, 0.1, 0.2, 0.1]), np.array([0.1, 0.2, 0.3, 0.4])
    eta = rng.normal(0, 0.3, (4, 5000, 1)) + own * rng.normal(size=(4, 5000, 4))
    draws = np.broadcast_to(omega, eta.shape)
    np.testing.assert_allclose(predict(eta, draws, 1.0).sd, np.hypot(own, omega), rtol=0.02)
    np.testing.assert_allclose(predict(eta, draws, 0.0).sd, np.hypot(np.hypot(own, 0.3), omega), rtol=0.02)
    assert (predict(eta, draws * 0, 1.0).sd > 0).all()


def test_the_same_seed_gives_the_same_hyperparameters(hyper, study, problem):
    again = fit_hyperparameters(problem, study.moments, np.arange(N_FEATURES), N_FEATURES, seed=1, n_draws=250)
    jax.tree.map(np.testing.assert_array_equal, again, hyper)


@pytest.mark.slow
def test_spreads_are_found_where_noise_dominates_and_each_feature_has_its_own_unit():
    """Dividing by a feature's own sd makes its noise nearly 1 by construction; the spread must not collapse for it."""
    rng = np.random.default_rng(6)
    visits = [(str(i), f"s{k}") for i in range(16) for k in range(8) for _ in range(2)]
    scans = pd.DataFrame(visits, columns=["participant_id", "scanner"])
    scans["scan_id"], scans["site"], scans["diagnosis"] = [str(n) for n in range(len(scans))], "home", "HC"
    person, scanner = scans.participant_id.astype(int), scans.scanner.str[1:].astype(int)
    log_scales = np.log([[0.94], [0.25], [0.22]]) + 0.3 * rng.normal(size=(3, 256))
    noise, participant, measurement = np.exp(log_scales)
    features = (
        participant * rng.normal(size=(16, 256))[person]
        + measurement * rng.normal(size=(8, 256))[scanner]
        + noise * rng.normal(size=(len(scans), 256))
    )
    design = build_design(scans, replace(load_model("traveling"), noise_ratio="homogeneous", bias_ratio="homogeneous"))
    problem = make_problem(design)
    moments, _ = compute_moments(design, problem.likelihood.plan.layout, features)
    found = fit_hyperparameters(problem, moments, np.arange(256), 256, seed=2, n_draws=250)
    low, high = np.quantile(found.omega, [0.001, 0.999], axis=(0, 1))
    assert ((low < log_scales.std(1)) & (log_scales.std(1) < high)).all(), (low, log_scales.std(1), high)
    assert high.max() < 0.6 and (found.khat < 0.7).mean() > 0.9


# Ratios of the scanners: of their noise, and of their biases

LOG_RATIO = np.array([0.9, -0.6, -0.9, 0.6, 0.8, -0.8, -0.4, 0.4])


@pytest.fixture(scope="module")
def noisy() -> FitContext:
    return FitContext(LOG_RATIO, seed=4, by_scanner=True)


@pytest.fixture(scope="module")
def uneven(noisy):
    return make_problem(noisy.design)


@pytest.fixture(scope="module")
def ratio(noisy, uneven, place) -> RatioPosterior:
    nodes = draw_importance_sample(feature_keys(0, Stage.NODES, np.arange(N_FEATURES)), place(noisy.moments), N_NODES)
    mode = fit_variance_ratios(uneven, noisy.moments, nodes, PRIOR, N_FEATURES, EQUAL_RATIOS)
    return RatioPosterior(mode, variance_ratio_covariance(uneven, noisy.moments, nodes, PRIOR, N_FEATURES, mode), N_FEATURES)


def test_ratios_are_recovered_and_centered(ratio):
    sd = np.sqrt(np.diag(ratio.covariance))
    assert (np.abs(ratio.mean.to_vector() - LOG_RATIO) < 5 * sd).all()
    assert ((0.05 < sd) & (sd < 0.4)).all()
    np.testing.assert_allclose(ratio.mean.to_vector().reshape(2, -1).sum(1), 0, atol=1e-10)
    np.testing.assert_allclose(ratio.covariance.reshape(2, -1, 2 * len(SCANNERS)).sum(1), 0, atol=1e-10)


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_ratios_have_the_mode_and_curvature_of_brute_force(share, ratio, noisy, uneven, place):
    """Half a sd along each principal axis the exact log posterior falls as that of a standard normal; so where features go
    together, and count for a share of their number."""
    axes = tuple(axis[::2] for axis in AXES)
    if share < 1:
        nodes = draw_importance_sample(feature_keys(0, Stage.NODES, np.arange(N_FEATURES)), place(noisy.moments), N_NODES)
        count = share * N_FEATURES
        mode = fit_variance_ratios(uneven, noisy.moments, nodes, PRIOR, count, EQUAL_RATIOS)
        ratio = RatioPosterior(mode, variance_ratio_covariance(uneven, noisy.moments, nodes, PRIOR, count, mode), count)

    def log_posterior(log_ratio):
        marginal = noisy.quadrature(log_ratio, axes).log_marginal(PRIOR.mean[None], PRIOR.sd[None])
        return share * marginal.sum() - 0.5 * ((log_ratio / uneven.ratio_sd) ** 2).sum()

    variance, directions = np.linalg.eigh(ratio.covariance)
    np.testing.assert_allclose(variance[:2], 0, atol=1e-12)
    top = log_posterior(ratio.mean.to_vector())
    for step in (0.5 * np.sqrt(np.maximum(variance, 0)) * directions).T[2:]:
        ahead, behind = (log_posterior(ratio.mean.to_vector() + sign * step) for sign in (1, -1))
        assert abs(ahead - behind) < 0.15  # the slope, in sds
        np.testing.assert_allclose(4 * (ahead + behind - 2 * top), -1, atol=0.15)


def test_ratios_bear_nodes_far_from_everything(ratio, noisy, uneven, place):
    """Where a likelihood is no number nothing may be learned, and nothing lost."""
    nodes = draw_importance_sample(feature_keys(0, Stage.NODES, np.arange(N_FEATURES)), place(noisy.moments), N_NODES)
    moved = np.array(nodes.log_scales)
    moved[3, 0, 2], moved[7, 1, 5], moved[:, :, 9] = -40.0, 700.0, np.nan
    mode = fit_variance_ratios(
        uneven, noisy.moments, nodes._replace(log_scales=jnp.asarray(moved)), PRIOR, N_FEATURES, EQUAL_RATIOS
    )
    assert (
        np.abs(mode.to_vector() - ratio.mean.to_vector()) < 0.6 * np.sqrt(np.diag(ratio.covariance))
    ).all()  # without one of 12 features
    nowhere = nodes._replace(log_proposal=jnp.full_like(nodes.log_proposal, np.nan))
    unmoved = fit_variance_ratios(uneven, noisy.moments, nowhere, PRIOR, N_FEATURES, EQUAL_RATIOS)
    np.testing.assert_array_equal(unmoved.to_vector(), EQUAL)
    assert np.isfinite(variance_ratio_covariance(uneven, noisy.moments, nowhere, PRIOR, N_FEATURES, EQUAL_RATIOS)).all()


# Scales of each feature

EFFORT, PACE = SampleShape(n_chains=4, n_draws=300), NutsSettings(n_warmup=15, step_size=1.2)


@pytest.fixture(scope="module")
def mixture():
    rng = np.random.default_rng(3)
    mean = PRIOR.mean[:, None] + rng.normal(0, 0.2, (len(SCALES), 32))
    log_sd = np.log(PRIOR.sd)[:, None] + rng.normal(0, 0.3, mean.shape)
    return PredictivePrior(mean, log_sd, rng.normal(0, 1, (32, N_FEATURES)))


@pytest.fixture(scope="module")
def sample(study, problem, mixture):
    """Draws of some features, from moments and weights that may be replaced."""

    def sample(features, moments=study.moments):
        moments, weight = lanes_of((moments, mixture.log_weight), features)
        keys = [feature_keys(7, stage, features) for stage in (Stage.NODES, Stage.FEATURES)]
        start = start_chains(keys[1], len(SCALES), EFFORT.n_chains)
        draws = sample_block(problem, EQUAL_RATIOS, moments, mixture._replace(log_weight=weight), *keys, start, EFFORT, PACE)
        return jax.tree.map(np.asarray, draws)

    return sample


@pytest.fixture(scope="module")
def block(sample):
    return sample(np.arange(N_FEATURES))


def test_scales_have_the_posterior_of_quadrature(block, mixture, exact):
    mean, sd = exact.posterior(mixture.mean.T, np.exp(mixture.log_sd).T, mixture.log_weight)
    assert block.log_scales.shape == (4, 300, len(SCALES), N_FEATURES)
    assert_no_larger_than_chance(standardized(block.log_scales, mean, sd))
    assert block.diverging.mean() < 0.002 and block.n_steps.mean() < 8


def test_log_ratios_give_the_marginal_likelihood(block, mixture, exact):
    """Their mean is the likelihood integrated over the mixture; 128 nodes know it within a few percent."""
    terms = exact.log_marginal(mixture.mean.T, np.exp(mixture.log_sd).T) + mixture.log_weight
    error = np.log(np.exp(block.log_weights).mean(0) / np.exp(terms).sum(0))
    assert np.sqrt((error**2).mean()) < 0.1


def test_draws_of_a_feature_do_not_depend_on_its_block(block, sample):
    """Its neighbors, its place and the size of the block; but for rounding, which a smooth posterior does not amplify."""
    for features in (np.arange(N_FEATURES)[::-1], np.array([8, 3, 11, 3, 0])):
        other = sample(features)
        np.testing.assert_allclose(other.log_scales, block.log_scales[..., features], atol=1e-8)
        np.testing.assert_allclose(other.log_weights, block.log_weights[..., features], atol=1e-8)
        np.testing.assert_array_equal(other.n_steps, block.n_steps[..., features])


def test_a_feature_of_nan_spoils_no_other(block, sample, study):
    moments = jax.tree.map(np.copy, study.moments)
    for part in moments:
        part[:, 5] = np.nan
    draws, others = sample(np.arange(N_FEATURES), moments), np.arange(N_FEATURES) != 5
    jax.tree.map(np.testing.assert_array_equal, lanes_of(draws, others), lanes_of(block, others))
    assert draws.diverging[..., 5].all() and (draws.log_weights[:, 5] == -np.inf).all()


def test_few_features_keep_the_draws_of_the_hyperparameters(hyper):
    """Components are draws, weighted by one over the marginal likelihood of each feature."""
    mixture = make_predictive_prior(hyper)
    n_draws, n_components = hyper.eta[..., 0].size, mixture.mean.shape[1]
    assert 100 < n_components <= n_draws
    eta, omega = hyper.eta.reshape(n_draws, -1).T, hyper.omega.reshape(n_draws, -1).T
    index = [int(np.flatnonzero((eta == mean[:, None]).all(0))[0]) for mean in mixture.mean.T]
    assert len(set(index)) > 0.9 * n_components
    np.testing.assert_array_equal(mixture.log_weight, -hyper.log_marginal.T)
    np.testing.assert_allclose(np.exp(mixture.log_sd), omega[:, index])
    assert omega.min() > 0.05


def test_many_features_have_one_predictive_prior(hyper):
    many = make_predictive_prior(hyper._replace(log_marginal=None, khat=np.zeros(ENOUGH_FEATURES)))
    assert many.mean.shape == (len(SCALES), 1) and (many.log_weight == np.zeros((1, ENOUGH_FEATURES))).all()
    x = np.random.default_rng(0).normal(size=(2, len(SCALES), ENOUGH_FEATURES))
    expected = stats.norm.logpdf(x, hyper.predictive.mean[:, None], hyper.predictive.sd[:, None]).sum(1)
    np.testing.assert_allclose(jax.jit(log_predictive_prior, static_argnums=2)(many, x, 0.0), expected, atol=1e-10)


# Effects


@pytest.mark.parametrize("model", ["traveling_and_cohort", "protocol"])
def test_effects_are_those_of_dense_algebra(model):
    """Given the scales, to rounding; over draws of them, by the law of total variance."""
    scans = random_study(6)
    spec = with_protocol(scans) if model == "protocol" else load_model(model)
    design = build_design(scans, replace(spec, covariates=("age", "sex")))
    rng = np.random.default_rng(0)
    features = rng.normal(5, 2, (len(scans), 3))
    log_scales = np.log(design.scale_medians)[None, :, None] + rng.normal(0, 0.7, (4, len(design.scales), 3))
    log_ratio = rng.normal(0, 0.5, 2 * len(design.scanners))
    problem = make_problem(design)
    moments, _ = compute_moments(design, problem.likelihood.plan.layout, features)

    x, contrasts = design.matrix.toarray(), np.concatenate([group.contrasts for group in design.effects])
    y = features[design.rows]
    y = (y - y.mean(0)) / y.std(0)
    noise_ratio, bias_ratio = np.split(np.exp(log_ratio), 2)
    once, ratio = design.class_single_scan[design.scan_class], noise_ratio[design.class_scanner[design.scan_class]]
    assert once.any() and not once.all()
    mean, variance = np.empty((2, 4, len(contrasts), 3))
    for k, f in np.ndindex(4, 3):
        tau = np.exp(log_scales[k, :, f])
        noise = tau[0] ** 2 * ratio + once * tau[design.scales.index("participant")] ** 2
        prior = np.where(design.column_scale == FIXED, design.column_sd, tau[design.column_scale]) ** 2
        for scanner in sized_scanners(scans, design.spec):
            place = design.scanners.index(scanner)
            prior[design.of_scanner[place, 0]] *= bias_ratio[place]
        covariance = np.linalg.inv(x.T @ (x / noise[:, None]) + np.diag(1 / prior))
        mean[k, :, f] = contrasts @ covariance @ (x.T @ (y[:, f] / noise))
        variance[k, :, f] = np.diag(contrasts @ covariance @ contrasts.T)

    for k in range(4):
        found = average_effects(problem, VarianceRatios.from_vector(log_ratio), moments, jnp.asarray(log_scales[[k] * 4]))
        np.testing.assert_allclose(found[0], mean[k], atol=1e-8)
        np.testing.assert_allclose(found[1], np.sqrt(variance[k]), rtol=1e-8, atol=1e-12)
    found = average_effects(problem, VarianceRatios.from_vector(log_ratio), moments, jnp.asarray(log_scales))
    np.testing.assert_allclose(found[0], mean.mean(0), atol=1e-8)
    np.testing.assert_allclose(found[1], np.sqrt(variance.mean(0) + mean.var(0)), rtol=1e-8)
