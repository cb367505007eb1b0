"""Evidence that scales are 0 against quadrature and plain Monte Carlo.

Tolerances are 4.3 standard errors of the estimates (2e-5 a comparison); seeds are fixed.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from test_inference import AXES, EQUAL, N_FEATURES, PRIOR, SCALES, FitContext

from bayesharm.algorithms.random_streams import Stage, feature_keys
from bayesharm.algorithms.student_t import draw_importance_sample
from bayesharm.inference.importance import find_modes, log_marginal, log_prior, quadratic_features
from bayesharm.inference.spike_and_slab import (
    LOG_NULL_SCALE,
    Evidence,
    evaluate_masked,
    find_evidence,
    inclusion_probabilities,
)
from bayesharm.likelihood.problem import Gaussian, make_problem

Z = 4.3
N_NODES, N_REPEATS = 2048, 20
DECISIVE = 4.0  # log Bayes factor: where the data say that a scale is there, few nodes are where it is not, and none needed
MASKS = np.array([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])  # with measurement bias and without


@pytest.fixture(scope="module", autouse=True)
def in_double_precision():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def study():
    return FitContext(EQUAL, seed=3)


@pytest.fixture(scope="module")
def weigh(study):
    """Nodes, and their weights under both masks, by seed."""
    problem = make_problem(study.design)
    start = jnp.broadcast_to(problem.log_medians[:, None], (len(SCALES), N_FEATURES))
    modes = tuple(
        find_modes(problem, EQUAL, study.moments, Gaussian(PRIOR.mean, width * PRIOR.sd), start) for width in (1.0, 2.0)
    )

    def weigh(seed: int):
        nodes = draw_importance_sample(feature_keys(seed, Stage.NODES, np.arange(N_FEATURES)), modes, N_NODES)
        return nodes.log_scales, evaluate_masked(problem, EQUAL, study.moments, nodes, modes, MASKS)

    return weigh


@pytest.fixture(scope="module")
def weighed(weigh):
    return weigh(0)


def test_marginal_likelihoods_without_a_scale_are_those_of_quadrature(study, weigh):
    """What is left of the nodes is weighed as a marginal of their proposal."""
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
        return np.stack([logsumexp(w + p[0], axis=0) - np.log(N_NODES) for w, p in zip(weights, priors, strict=True)])

    open_question = expected[0] - expected[1] < DECISIVE
    assert open_question.sum() >= 6
    relative = np.exp([estimate(seed) for seed in range(N_REPEATS)] - expected)[..., open_question] - 1
    error = np.hypot(relative.std(0, ddof=1), 0.01) / np.sqrt(N_REPEATS)  # 1%: the grid's own error
    assert (np.abs(relative.mean(0)) < 1.4 * Z * error).all()  # 1.4: Student-t of 19 degrees of freedom
    assert relative.std(0).max() < 0.15


@pytest.mark.parametrize("amplitude_sd", [0.0, 0.8])
def test_a_prior_without_a_scale_is_that_of_the_others(feature_offset_sd):
    rng = np.random.default_rng(2)
    x, mean, log_sd = rng.normal(size=(5, 3, 4)), rng.normal(size=(3, 2)), rng.normal(size=(3, 2))
    found = log_prior(quadratic_features(jnp.asarray(x)), mean, log_sd, feature_offset_sd, np.array([[1.0], [0.0], [1.0]]))
    rest = [0, 2]
    expected = log_prior(quadratic_features(jnp.asarray(x[:, rest])), mean[rest], log_sd[rest], feature_offset_sd)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("kinds", [(0,), (1,), (0, 1)], ids=["all", "none", "some"])
def test_the_evidence_is_the_average_over_the_prior(study, weighed, kinds):
    """Of three features, so that draws from the prior find where the likelihood is."""
    log_scales, weights = weighed[0][:256, :, :3], weighed[1][:, :256, :3]
    problem = make_problem(study.design)
    priors = replace(problem.priors, eta_sd=0.5)
    start = np.stack([problem.log_medians, np.full(3, np.log(0.3))])
    found = find_evidence(
        priors, problem.log_medians, log_scales, weights[np.array(kinds)], MASKS[list(kinds)], 0.7, start,
        np.random.default_rng(0),
    )  # fmt: skip
    rng, n = np.random.default_rng(1), 40_000
    eta = problem.log_medians[:, None] + priors.eta_sd * rng.normal(size=(3, n))
    log_omega = 0.5 * np.log((priors.omega_sd * rng.normal(size=(3, n))) ** 2 + priors.omega_floor**2)
    share = rng.uniform(size=(n, 1))
    told = []
    for k in kinds:
        keep = [j for j in range(3) if MASKS[k, j]]
        basis = quadratic_features(log_scales[:, jnp.array(keep)])
        told.append(np.concatenate([
            log_marginal(basis, weights[k], eta[keep][:, some], log_omega[keep][:, some])
            for some in np.array_split(np.arange(n), 40)
        ]))  # fmt: skip
    each = told[0] if len(told) == 1 else np.logaddexp(np.log(share) + told[0], np.log1p(-share) + told[1])
    total = 0.7 * each.sum(1)
    expected = logsumexp(total) - np.log(n)
    relative = np.exp(total - expected)
    error = np.hypot(relative.std() / np.sqrt(n), 1 / np.sqrt(found.n_effective))
    assert n * relative.mean() ** 2 / (relative**2).mean() > 400 and found.n_effective > 400
    assert abs(found.log_evidence - expected) < Z * error
    assert (found.share == 1).all() == (len(kinds) == 1)


def test_chances_are_those_of_two_marginal_likelihoods(weighed):
    log_scales, weights = weighed
    problem_priors = replace(FitContext(EQUAL, seed=3).spec.priors, feature_offset_sd=0.0)
    rng = np.random.default_rng(4)
    eta = PRIOR.mean + 0.1 * rng.normal(size=(5, 3))
    evidence = Evidence(0.0, 0.0, 1.0, True, eta, np.full((5, 3), 0.4), rng.uniform(size=5))
    found = inclusion_probabilities(problem_priors, log_scales, weights, MASKS, evidence)
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
