"""Draws of the scales of each feature against quadrature."""

from time import process_time

import jax
import numpy as np
import pytest
from quadrature import Quadrature
from threadpoolctl import threadpool_limits
from tiny_study import (
    EQUAL,
    EQUAL_RATIOS,
    N_FEATURES,
    PRIOR,
    SCALES,
    TinyStudy,
    assert_no_larger_than_chance,
    standardized,
)

from bayesharm.algorithms.random_streams import Stage, feature_keys
from bayesharm.inference.predictive_prior import PredictivePrior
from bayesharm.inference.scales import NutsSettings, SampleShape, sample_block, start_chains
from bayesharm.likelihood.problem import make_problem

SHAPE, SETTINGS = SampleShape(n_chains=4, n_draws=300), NutsSettings(n_warmup=15, step_size=1.2)


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


def lanes_of(tree, lanes):
    return jax.tree.map(lambda leaf: leaf[..., lanes], tree)


@pytest.fixture(scope="module")
def prior():
    rng = np.random.default_rng(3)
    mean = PRIOR.mean[:, None] + rng.normal(0, 0.2, (len(SCALES), 32))
    log_sd = np.log(PRIOR.sd)[:, None] + rng.normal(0, 0.3, mean.shape)
    return PredictivePrior(mean, log_sd, rng.normal(0, 1, (32, N_FEATURES)))


@pytest.fixture(scope="module")
def sample(study, problem, prior):
    """Draws of some features, from moments and weights that may be replaced."""

    def sample(features, moments=study.moments):
        moments, weight = lanes_of((moments, prior.log_weight), features)
        keys = [feature_keys(7, stage, features) for stage in (Stage.IMPORTANCE, Stage.FEATURES)]
        start = start_chains(keys[1], len(SCALES), SHAPE.n_chains)
        draws = sample_block(
            problem, EQUAL_RATIOS, moments, prior._replace(log_weight=weight), *keys, start, SHAPE, SETTINGS
        )
        return jax.tree.map(np.asarray, draws)

    return sample


@pytest.fixture(scope="module")
def block(sample):
    return sample(np.arange(N_FEATURES))


def test_scales_have_the_posterior_of_quadrature(block, prior, exact):
    mean, sd = exact.posterior(prior.mean.T, np.exp(prior.log_sd).T, prior.log_weight)
    assert block.log_scales.shape == (4, 300, len(SCALES), N_FEATURES)
    assert_no_larger_than_chance(standardized(block.log_scales, mean, sd))
    assert block.diverging.mean() < 0.002 and block.n_steps.mean() < 8


def test_log_ratios_give_the_marginal_likelihood(block, prior, exact):
    """Their mean is the likelihood integrated over the prior; 128 samples know it within a few percent."""
    terms = exact.log_marginal(prior.mean.T, np.exp(prior.log_sd).T) + prior.log_weight
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
    for part in moments.to_arrays().values():
        part[:, 5] = np.nan
    draws, others = sample(np.arange(N_FEATURES), moments), np.arange(N_FEATURES) != 5
    jax.tree.map(np.testing.assert_array_equal, lanes_of(draws, others), lanes_of(block, others))
    assert draws.diverging[..., 5].all() and (draws.log_weights[:, 5] == -np.inf).all()


def test_the_time_of_a_block_is_that_of_some_products_of_matrices(block, sample):
    """A tenfold slowdown of sampling fails: processor time, the shortest of five, against a gigaflop of one thread."""
    matrix = np.random.default_rng(0).normal(size=(400, 400))

    def gigaflop() -> None:
        for _ in range(8):
            matrix @ matrix

    times = np.full((5, 2), np.inf)
    with threadpool_limits(1):
        for turn in times:
            for k, work in enumerate((lambda: sample(np.arange(N_FEATURES)), gigaflop)):
                start = process_time()
                work()
                turn[k] = process_time() - start
    ours, theirs = times.min(0)
    assert ours < 16 * theirs
