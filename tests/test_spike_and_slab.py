"""Evidence that scales are 0 against quadrature and plain Monte Carlo.

Tolerances are 4.3 standard errors of the estimates (2e-5 a comparison); seeds are fixed.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from tiny_study import AXES, EQUAL, EQUAL_RATIOS, N_FEATURES, N_SAMPLES, PRIOR, SCALES, TinyStudy, log_marginal

from bayesharm.algorithms.random_streams import Stage, feature_keys
from bayesharm.inference.hyper_target import mixture_target
from bayesharm.inference.importance import (
    draw_importance_sample,
    find_modes,
    log_prior,
    quadratic_features,
)
from bayesharm.inference.spike_and_slab import (
    LOG_NULL_SCALE,
    Evidence,
    compute_evidence,
    inclusion_probabilities,
    masked_log_weights,
)
from bayesharm.likelihood.hierarchy import Hierarchy
from bayesharm.likelihood.problem import Gaussian, make_problem

Z = 4.3
N_REPEATS = 20
DECISIVE = 4.0  # log Bayes factor: above it few samples are near a scale of 0, and none are needed
MASKS = np.array([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])  # with measurement bias and without


@pytest.fixture(scope="module", autouse=True)
def in_double_precision():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def study():
    return TinyStudy(EQUAL, seed=3)


@pytest.fixture(scope="module")
def weigh(study):
    """Log-scales of importance samples and their log weights under both masks, by seed."""
    problem = make_problem(study.design)
    start = jnp.broadcast_to(problem.log_medians[:, None], (len(SCALES), N_FEATURES))
    modes = tuple(
        find_modes(problem, EQUAL_RATIOS, study.moments, Gaussian(PRIOR.mean, width * PRIOR.sd), start)
        for width in (1.0, 2.0)
    )

    def weigh(seed: int):
        sample = draw_importance_sample(feature_keys(seed, Stage.IMPORTANCE, np.arange(N_FEATURES)), modes, N_SAMPLES)
        return sample.log_scales, masked_log_weights(problem, EQUAL_RATIOS, study.moments, sample, modes, MASKS)

    return weigh


@pytest.fixture(scope="module")
def weighed(weigh):
    return weigh(0)


def test_marginal_likelihoods_without_a_scale_are_those_of_quadrature(study, weigh):
    """The remaining coordinates of the samples are weighted by the marginal density of their proposal."""
    at_zero = study.quadrature(axes=(*AXES[:2], LOG_NULL_SCALE + np.array([-0.5, 0.0, 0.5])))
    pinned = np.r_[PRIOR.mean[:2], LOG_NULL_SCALE], np.r_[PRIOR.sd[:2], 0.01]
    expected = np.stack([
        study.quadrature().log_marginal(PRIOR.mean[None], PRIOR.sd[None])[0],
        at_zero.log_marginal(pinned[0][None], pinned[1][None])[0],
    ])  # fmt: skip

    def estimate(seed: int) -> np.ndarray:
        log_scales, weights = weigh(seed)
        basis = quadratic_features(log_scales)
        priors = [log_prior(basis, PRIOR.mean[:, None], np.log(PRIOR.sd)[:, None], keep=mask[:, None])
                  for mask in MASKS]  # fmt: skip
        return np.stack([logsumexp(w + p[0], axis=0) - np.log(N_SAMPLES) for w, p in zip(weights, priors, strict=True)])

    open_question = expected[0] - expected[1] < DECISIVE
    assert open_question.sum() >= 6
    relative = np.exp([estimate(seed) for seed in range(N_REPEATS)] - expected)[..., open_question] - 1
    error = np.hypot(relative.std(0, ddof=1), 0.01) / np.sqrt(N_REPEATS)  # 1%: the grid's own error
    assert (np.abs(relative.mean(0)) < 1.4 * Z * error).all()  # 1.4: Student-t of 19 degrees of freedom
    assert relative.std(0).max() < 0.15


@pytest.mark.parametrize("feature_offset_sd", [0.0, 0.8])
def test_a_prior_without_a_scale_is_that_of_the_others(feature_offset_sd):
    rng = np.random.default_rng(2)
    x, mean, log_sd = rng.normal(size=(5, 3, 4)), rng.normal(size=(3, 2)), rng.normal(size=(3, 2))
    found = log_prior(quadratic_features(jnp.asarray(x)), mean, log_sd, feature_offset_sd, np.array([[1.0], [0.0], [1.0]]))
    rest = [0, 2]
    expected = log_prior(quadratic_features(jnp.asarray(x[:, rest])), mean[rest], log_sd[rest], feature_offset_sd)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("components", [(0,), (1,), (0, 1)], ids=["all", "none", "some"])
def test_the_evidence_is_the_average_over_the_prior(study, weighed, components):
    """Of three features, so that draws from the prior find where the likelihood is."""
    log_scales, weights = weighed[0][:256, :, :3], weighed[1][:, :256, :3]
    problem = make_problem(study.design)
    priors = replace(problem.priors, eta_sd=0.5)
    hierarchy = replace(problem.hierarchy, priors=priors)
    start = np.concatenate([problem.log_medians, np.full(3, np.log(0.3))])
    chosen = weights[np.array(components)], MASKS[list(components)]
    target = mixture_target(hierarchy, problem.log_medians, quadratic_features(log_scales), *chosen, 0.7)
    found = compute_evidence(hierarchy, target, start, np.random.default_rng(0))
    rng, n = np.random.default_rng(1), 40_000
    eta = problem.log_medians[:, None] + priors.eta_sd * rng.normal(size=(3, n))
    log_omega = 0.5 * np.log((priors.omega_sd * rng.normal(size=(3, n))) ** 2 + priors.omega_floor**2)
    share = rng.uniform(size=(n, 1))
    log_likelihoods = []
    for k in components:
        keep = [j for j in range(3) if MASKS[k, j]]
        basis = quadratic_features(log_scales[:, jnp.array(keep)])
        log_likelihoods.append(np.concatenate([
            log_marginal(basis, weights[k], eta[keep][:, block], log_omega[keep][:, block])
            for block in np.array_split(np.arange(n), 40)
        ]))  # fmt: skip
    mixed = log_likelihoods[0]
    if len(components) == 2:
        mixed = np.logaddexp(np.log(share) + mixed, np.log1p(-share) + log_likelihoods[1])
    total = 0.7 * mixed.sum(1)
    expected = logsumexp(total) - np.log(n)
    relative = np.exp(total - expected)
    error = np.hypot(relative.std() / np.sqrt(n), 1 / np.sqrt(found.ess))
    assert n * relative.mean() ** 2 / (relative**2).mean() > 400 and found.ess > 400
    assert abs(found.log_evidence - expected) < Z * error
    assert (found.share == 1).all() == (len(components) == 1)


def test_inclusion_probabilities_are_those_of_two_marginal_likelihoods(weighed):
    log_scales, weights = weighed
    hierarchy = Hierarchy(replace(TinyStudy(EQUAL, seed=3).spec.priors, feature_offset_sd=0.0), 3, 3)
    rng = np.random.default_rng(4)
    eta = PRIOR.mean + 0.1 * rng.normal(size=(5, 3))
    evidence = Evidence(0.0, 0.0, 1.0, True, eta, np.full((5, 3), 0.4), rng.uniform(size=5))
    found = inclusion_probabilities(hierarchy, log_scales, weights, MASKS, evidence)
    keep = np.array([0, 1])
    with_it = log_marginal(quadratic_features(log_scales), weights[0], evidence.eta.T, np.log(evidence.omega.T))
    without = log_marginal(
        quadratic_features(log_scales[:, keep]), weights[1], evidence.eta.T[keep], np.log(evidence.omega.T[keep])
    )
    share = evidence.share[:, None]
    expected = share / (share + (1 - share) * np.exp(without - with_it))
    np.testing.assert_allclose(found.probability, expected.mean(0), rtol=1e-10)
    own = np.logaddexp(np.log(share) + with_it, np.log1p(-share) + without)  # which hyperparameters have seen
    factor = logsumexp(with_it - own, axis=0) - logsumexp(without - own, axis=0)
    np.testing.assert_allclose(found.log_bayes_factor, factor, rtol=1e-8)
    assert (found.error > 0).all() and (found.error[found.log_bayes_factor < DECISIVE] < 0.15).all()
