"""Importance samples and marginal likelihoods against quadrature and SciPy.

Where a result is random, the tolerance comes from its own Monte-Carlo error, for a false-alarm rate of 2e-5 a test.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quadrature import Quadrature
from scipy import stats
from tiny_study import (
    EQUAL,
    EQUAL_RATIOS,
    N_FEATURES,
    N_SAMPLES,
    PRIOR,
    TinyStudy,
    assert_no_larger_than_chance,
    log_marginal,
    place_modes,
)

from bayesharm.algorithms.laplace import Laplace
from bayesharm.algorithms.random_streams import Stage, feature_keys
from bayesharm.inference.importance import (
    draw_importance_sample,
    log_importance_weights,
    log_prior,
    quadratic_features,
)
from bayesharm.likelihood.problem import make_problem, to_coordinates, to_log_scales


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
def exact(study) -> Quadrature:
    return study.quadrature()


def random_proposals(rng, n_features: int, sizes) -> tuple[Laplace, ...]:
    def proposal(size):
        factor = np.tril(rng.normal(0, 0.3, (n_features, 3, 3)), -1) + np.diag([1.0, 0.7, 1.3])
        mode = rng.normal(0, 0.3, (3, n_features))
        return Laplace(jnp.asarray(mode), jnp.asarray(size * factor.transpose(1, 2, 0)), np.ones(n_features, bool))

    return tuple(proposal(size) for size in sizes)


@pytest.mark.parametrize("sizes", [[1.3], [0.7, 1.2, 1.5, 3.0]], ids=["one proposal", "mixture"])
def test_nodes_are_unbiased_and_fill_the_space(sizes):
    """A standard normal's mass, mean and second moments by importance sampling; a random shift for each feature."""
    n_features, n_samples = 400, 256
    proposals = random_proposals(np.random.default_rng(1), n_features, sizes)
    keys = feature_keys(0, Stage.IMPORTANCE, np.arange(n_features))
    samples = jax.tree.map(np.asarray, draw_importance_sample(keys, proposals, n_samples))

    for f in range(3):
        densities = [
            stats.multivariate_t(p.mode[:, f], p.factor[:, :, f] @ p.factor[:, :, f].T, df=7).pdf(
                samples.log_scales[:, :, f]
            )
            for p in proposals
        ]
        np.testing.assert_allclose(samples.log_proposal[:, f], np.log(np.mean(densities, axis=0)), atol=1e-10)

    x = samples.log_scales
    weight = np.exp(stats.norm.logpdf(x).sum(1) - samples.log_proposal)
    products = np.einsum("nif,njf->nijf", x, x)[:, *np.tril_indices(3)]
    values = weight[:, None] * np.concatenate([np.ones_like(x[:, :1]), x, products], axis=1)
    for n in (n_samples, n_samples // 8):  # the noise ratio is learned from the first few samples
        errors = values[:n].mean(0) - np.r_[1, 0, 0, 0, 1, 0, 1, 0, 0, 1][:, None]
        assert_no_larger_than_chance(errors.mean(1) / errors.std(1) * np.sqrt(n_features), n_features - 1)
    independent = weight.std(0).mean() / np.sqrt(n_samples)  # the spread that independent points would have
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


def test_marginal_likelihood_is_that_of_quadrature(study, problem, exact):
    """For three priors; samples drawn again and again say how well one set of them knows it."""
    mean = PRIOR.mean + np.array([[0.0, 0.0, 0.0], [0.1, -0.3, 0.3], [0.0, 0.3, -0.3]])
    sd = PRIOR.sd * np.array([[1.0, 1.0, 1.0], [0.7, 1.5, 0.7], [1.5, 0.7, 2.0]])
    proposals, n_repeats = place_modes(problem)(study.moments), 20

    def estimate(seed):
        samples = draw_importance_sample(feature_keys(seed, Stage.IMPORTANCE, np.arange(N_FEATURES)), proposals, N_SAMPLES)
        weight = log_importance_weights(problem, EQUAL_RATIOS, study.moments, samples)
        return log_marginal(quadratic_features(samples.log_scales), weight, mean.T, np.log(sd.T))

    found = np.array([estimate(seed) for seed in range(n_repeats)])
    relative = np.exp(found - exact.log_marginal(mean, sd)) - 1
    z = relative.mean(0) / np.hypot(relative.std(0, ddof=1), 0.01) * np.sqrt(n_repeats)  # 1%: the grid's own error
    assert_no_larger_than_chance(z, n_repeats - 1)
    assert relative.std(0).max() < 0.1
