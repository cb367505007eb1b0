"""NUTS on Gaussians with a mean and a covariance of their own, vectorized over the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.diagnostics import effective_sample_size
from tiny_study import assert_no_larger_than_chance, standardized

from bayesharm.algorithms.nuts import sample_batched

N_LANES, DIMENSION, N_DRAWS = 8, 3, 2000


@pytest.fixture(autouse=True, scope="module")
def x64():
    with jax.enable_x64(True):
        yield


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
