"""Variance ratios of the scanners, of their noise and of their biases, against quadrature."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_study import AXES, EQUAL, EQUAL_RATIOS, N_FEATURES, N_SAMPLES, PRIOR, SCALES, SCANNERS, TinyStudy, place_modes

from bayesharm.algorithms.random_streams import Stage, feature_keys
from bayesharm.inference.expansion import expand_at_modes
from bayesharm.inference.importance import draw_importance_sample
from bayesharm.inference.variance_ratios import (
    RatioPosterior,
    fit_variance_ratios,
    marginal_objective,
    objective_at_modes,
    variance_ratio_covariance,
)
from bayesharm.likelihood.problem import make_problem

N_RATIOS = 2 * len(SCANNERS)  # of the noise and of the biases; all others are 1
LOG_RATIO = np.array([0.9, -0.6, -0.9, 0.6, 0.8, -0.8, -0.4, 0.4])


@pytest.fixture(autouse=True, scope="module")
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def noisy() -> TinyStudy:
    return TinyStudy(LOG_RATIO, seed=4, by_scanner=True)


@pytest.fixture(scope="module")
def uneven(noisy):
    return make_problem(noisy.design)


def logs(ratios) -> np.ndarray:
    """Logarithms of the ratios of noise and biases."""
    return ratios.to_vector()[:N_RATIOS]


def fit(problem, objective, n_independent_features) -> RatioPosterior:
    mode = fit_variance_ratios(problem, objective, EQUAL_RATIOS)
    return RatioPosterior(mode, variance_ratio_covariance(problem, objective, mode), n_independent_features)


@pytest.fixture(scope="module")
def place():
    """Modes of all features under equal scanners, as they are placed before the ratios are known."""
    return place_modes(make_problem(TinyStudy(EQUAL, seed=0).design))


@pytest.fixture(scope="module")
def ratio(noisy, uneven, place) -> RatioPosterior:
    samples = draw_importance_sample(
        feature_keys(0, Stage.IMPORTANCE, np.arange(N_FEATURES)), place(noisy.moments), N_SAMPLES
    )
    return fit(uneven, marginal_objective(uneven, noisy.moments, samples, PRIOR, N_FEATURES), N_FEATURES)


def test_prior_sds_of_the_ratios_are_their_own(uneven):
    priors = replace(uneven.priors, noise_ratio_sd=0.1, bias_ratio_sd=0.2, gain_sd=0.3)
    problem = replace(uneven, hierarchy=replace(uneven.hierarchy, priors=priors))
    np.testing.assert_array_equal(problem.ratio_sd, np.repeat([0.1, 0.2, 0.3], len(SCANNERS)))


def test_ratios_are_recovered_and_centered(ratio):
    sd = np.sqrt(np.diag(ratio.covariance))[:N_RATIOS]
    assert (np.abs(logs(ratio.mean) - LOG_RATIO) < 5 * sd).all()
    assert ((0.05 < sd) & (sd < 0.4)).all()
    np.testing.assert_allclose(ratio.mean.to_vector().reshape(3, -1).sum(1), 0, atol=1e-10)
    np.testing.assert_allclose(ratio.covariance.reshape(3, len(SCANNERS), -1).sum(1), 0, atol=1e-10)
    assert not ratio.mean.log_gain.any() and not ratio.covariance[N_RATIOS:].any()


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_ratios_have_the_mode_and_curvature_of_brute_force(share, ratio, noisy, uneven, place):
    """Half a sd along each principal axis the exact log posterior falls as that of a standard normal; so where features go
    together, and count for a share of their number."""
    axes = tuple(axis[::2] for axis in AXES)
    if share < 1:
        samples = draw_importance_sample(
            feature_keys(0, Stage.IMPORTANCE, np.arange(N_FEATURES)), place(noisy.moments), N_SAMPLES
        )
        count = share * N_FEATURES
        ratio = fit(uneven, marginal_objective(uneven, noisy.moments, samples, PRIOR, count), count)

    def log_posterior(log_ratio):
        marginal = noisy.quadrature(log_ratio, axes).log_marginal(PRIOR.mean[None], PRIOR.sd[None])
        return share * marginal.sum() - 0.5 * ((log_ratio / uneven.ratio_sd[:N_RATIOS]) ** 2).sum()

    variance, directions = np.linalg.eigh(ratio.covariance[:N_RATIOS, :N_RATIOS])
    np.testing.assert_allclose(variance[:2], 0, atol=1e-12)
    top = log_posterior(logs(ratio.mean))
    for step in (0.5 * np.sqrt(np.maximum(variance, 0)) * directions).T[2:]:
        ahead, behind = (log_posterior(logs(ratio.mean) + sign * step) for sign in (1, -1))
        assert abs(ahead - behind) < 0.15  # the slope, in sds
        np.testing.assert_allclose(4 * (ahead + behind - 2 * top), -1, atol=0.15)


def test_ratios_bear_nodes_far_from_everything(ratio, noisy, uneven, place):
    """Where a likelihood is no number nothing may be learned, and nothing lost."""
    samples = draw_importance_sample(
        feature_keys(0, Stage.IMPORTANCE, np.arange(N_FEATURES)), place(noisy.moments), N_SAMPLES
    )
    moved = np.array(samples.log_scales)
    moved[3, 0, 2], moved[7, 1, 5], moved[:, :, 9] = -40.0, 700.0, np.nan
    far = samples._replace(log_scales=jnp.asarray(moved))
    mode = fit_variance_ratios(uneven, marginal_objective(uneven, noisy.moments, far, PRIOR, N_FEATURES), EQUAL_RATIOS)
    sd = np.sqrt(np.diag(ratio.covariance))[:N_RATIOS]
    assert (np.abs(logs(mode) - logs(ratio.mean)) < 0.6 * sd).all()  # without one of 12 features
    nowhere = samples._replace(log_proposal=jnp.full_like(samples.log_proposal, np.nan))
    objective = marginal_objective(uneven, noisy.moments, nowhere, PRIOR, N_FEATURES)
    np.testing.assert_array_equal(fit_variance_ratios(uneven, objective, EQUAL_RATIOS).to_vector(), EQUAL_RATIOS.to_vector())
    assert np.isfinite(variance_ratio_covariance(uneven, objective, EQUAL_RATIOS)).all()


def test_ratios_at_the_modes_are_a_good_start(ratio, noisy, uneven):
    modes, _ = expand_at_modes(uneven, EQUAL_RATIOS, noisy.moments, PRIOR, np.full((len(SCALES), N_FEATURES), -0.5))
    start = fit(uneven, objective_at_modes(uneven, noisy.moments, modes.center, N_FEATURES), N_FEATURES)
    sd = np.sqrt(np.diag(ratio.covariance))[:N_RATIOS]
    assert (np.abs(logs(start.mean) - logs(ratio.mean)) < sd).all()
    np.testing.assert_allclose(np.sqrt(np.diag(start.covariance))[:N_RATIOS], sd, rtol=0.3)  # sampling adapts to the rest
