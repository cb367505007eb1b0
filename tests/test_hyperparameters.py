"""Hyperparameters and their predictive prior against brute force.

Where a result is random, the tolerance comes from its own Monte-Carlo error, for a false-alarm rate of 2e-5 a test.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from tiny_study import EQUAL_RATIOS, N_FEATURES, SCALES

from bayesharm.inference.hyper_target import log_densities, log_density, plain_target
from bayesharm.inference.hyperparameters import MANY_FEATURES, Hyperparameters, component_indices
from bayesharm.inference.importance import quadratic_features
from bayesharm.inference.learning import learn_by_sampling
from bayesharm.inference.predictive_prior import log_predictive_prior, make_predictive_prior, predictive_moments
from bayesharm.inference.variance_ratios import RatioPosterior
from bayesharm.likelihood.hierarchy import Hierarchy
from bayesharm.likelihood.moments import compute_moments
from bayesharm.likelihood.problem import make_problem
from bayesharm.model.catalog import load_model
from bayesharm.model.design import build_design
from bayesharm.model.spec import Priors


@pytest.fixture(autouse=True, scope="module")
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def hyper() -> Hyperparameters:
    """Few draws of few features."""
    rng = np.random.default_rng(0)
    eta, omega = rng.normal(-1, 0.1, (4, 100, len(SCALES))), rng.uniform(0.2, 0.4, (4, 100, len(SCALES)))
    evidence = rng.normal(size=(N_FEATURES, len(component_indices(400))))
    return Hyperparameters(eta, omega, RatioPosterior(EQUAL_RATIOS, np.zeros((8, 8)), N_FEATURES), evidence, N_FEATURES, 0)


def test_many_hyperparameters_at_once_have_the_density_of_one():
    rng, hierarchy = np.random.default_rng(9), Hierarchy(Priors(feature_offset_sd=0.5), 3, 3)
    basis, weight = quadratic_features(jnp.asarray(rng.normal(size=(64, 3, 5)))), jnp.asarray(rng.normal(size=(64, 5)))
    medians, points = rng.normal(size=3), rng.normal(size=(6, 40))
    points[3:] = np.abs(points[3:])
    points[4, 7] *= -1
    target = plain_target(medians, basis, weight)
    expected = log_density(hierarchy, target, jnp.asarray(points))
    by_feature = target._replace(basis=jnp.moveaxis(basis, 2, 0), log_weights=weight.T[:, None])
    found = log_densities(hierarchy, by_feature._replace(log_n_samples=0.0), jnp.asarray(points))
    assert np.isneginf(found[7]) and np.isfinite(found).sum() == 39
    difference = np.delete(found - expected, 7)
    np.testing.assert_allclose(difference, 5 * np.log(64), atol=1e-8)  # the mean over samples is a sum there


def test_the_predictive_prior_has_the_moments_of_the_draws(hyper):
    rng = np.random.default_rng(3)
    new = rng.normal(np.broadcast_to(hyper.eta, (500, *hyper.eta.shape)), hyper.omega).reshape(-1, len(SCALES))
    found = predictive_moments(hyper.eta, hyper.omega, 0.0)
    np.testing.assert_allclose(found.mean, new.mean(0), atol=0.01)
    np.testing.assert_allclose(found.sd, new.std(0), rtol=0.02)


def test_what_all_eta_share_is_left_to_the_amplitude():
    """Differences between the scales of a new feature are predicted as the draws predict them."""
    rng = np.random.default_rng(4)
    own, omega = np.array([0.05, 0.1, 0.2, 0.1]), np.array([0.1, 0.2, 0.3, 0.4])
    eta = rng.normal(0, 0.3, (4, 5000, 1)) + own * rng.normal(size=(4, 5000, 4))
    draws = np.broadcast_to(omega, eta.shape)
    np.testing.assert_allclose(predictive_moments(eta, draws, 1.0).sd, np.hypot(own, omega), rtol=0.02)
    np.testing.assert_allclose(predictive_moments(eta, draws, 0.0).sd, np.hypot(np.hypot(own, 0.3), omega), rtol=0.02)
    assert (predictive_moments(eta, draws * 0, 1.0).sd > 0).all()


@pytest.mark.slow
def test_spreads_are_found_where_noise_dominates_and_each_feature_has_its_own_unit():
    """Dividing by a feature's own sd makes its noise nearly 1 by construction; the spread must not collapse for it."""
    rng = np.random.default_rng(6)
    visits = [(str(i), f"s{k}") for i in range(16) for k in range(8) for _ in range(2)]
    scans = pd.DataFrame(visits, columns=["participant_id", "scanner"])
    scans["scan_id"], scans["site"], scans["diagnosis"] = [str(n) for n in range(len(scans))], "home", "HC"
    person, scanner = scans.participant_id.astype(int), scans.scanner.str[1:].astype(int)
    log_scales = np.log([[0.94], [0.25], [0.22]]) + 0.3 * rng.normal(size=(3, 128))
    noise, participant, measurement = np.exp(log_scales)
    features = (
        participant * rng.normal(size=(16, 128))[person]
        + measurement * rng.normal(size=(8, 128))[scanner]
        + noise * rng.normal(size=(len(scans), 128))
    )
    design = build_design(scans, replace(load_model("traveling"), noise_ratio="homogeneous", bias_ratio="homogeneous"))
    problem = make_problem(design)
    moments, _ = compute_moments(design, features)
    found, _ = learn_by_sampling(problem, moments, np.arange(128), 128, seed=2)
    low, high = np.quantile(found.omega, [0.001, 0.999], axis=(0, 1))
    assert ((low < log_scales.std(1)) & (log_scales.std(1) < high)).all(), (low, log_scales.std(1), high)
    assert high.max() < 0.7


def test_few_features_keep_the_draws_of_the_hyperparameters(hyper):
    """Components are draws, weighted by one over the marginal likelihood of each feature."""
    mixture = make_predictive_prior(hyper, 0.0)
    n_draws, n_components = hyper.eta[..., 0].size, mixture.mean.shape[1]
    assert 100 < n_components <= n_draws
    eta, omega = hyper.eta.reshape(n_draws, -1).T, hyper.omega.reshape(n_draws, -1).T
    index = [int(np.flatnonzero((eta == mean[:, None]).all(0))[0]) for mean in mixture.mean.T]
    assert len(set(index)) > 0.9 * n_components
    np.testing.assert_array_equal(mixture.log_weight, -hyper.log_evidence.T)
    np.testing.assert_allclose(np.exp(mixture.log_sd), omega[:, index])
    assert omega.min() > 0.05


def test_many_features_have_one_predictive_prior(hyper):
    many = make_predictive_prior(hyper._replace(log_evidence=None, n_features=MANY_FEATURES), 0.0)
    mean, sd = predictive_moments(hyper.eta, hyper.omega, 0.0)
    assert many.mean.shape == (len(SCALES), 1) and (many.log_weight == np.zeros((1, MANY_FEATURES))).all()
    x = np.random.default_rng(0).normal(size=(2, len(SCALES), MANY_FEATURES))
    expected = stats.norm.logpdf(x, mean[:, None], sd[:, None]).sum(1)
    np.testing.assert_allclose(jax.jit(log_predictive_prior, static_argnums=2)(many, x, 0.0), expected, atol=1e-10)
