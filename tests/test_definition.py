"""The fast likelihood and the conditional posterior against their definition, on many random designs.

In double precision nothing but rounding differs: the tolerance is 1e-10. The definition itself is tested against the
covariance of all scans, written down from the model a second time (`studies.covariance`).
"""

from dataclasses import replace
from typing import NamedTuple

import jax
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from studies import EXTENDED, covariance, extend, log_normal, random_study, sized_scanners, with_protocol

from bayesharm.conditional.gaussian import condition_effects
from bayesharm.conditional.posterior import ConditionalPosterior
from bayesharm.likelihood.definition import (
    condition,
    design_matrix,
    log_likelihood,
    prior_covariance,
    prior_variance,
    scan_precision,
)
from bayesharm.likelihood.moments import Moments, compute_moments
from bayesharm.likelihood.problem import Problem, make_problem
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.model.catalog import load_model
from bayesharm.model.contrasts import EffectGroup
from bayesharm.model.design import Design, build_design

MODELS = ["cohort", "traveling", "traveling_and_cohort", "protocol"]
COVARIATES = ("age", "sex", "coil")
TOLERANCE = 1e-10


class Study(NamedTuple):
    scans: pd.DataFrame
    design: Design
    problem: Problem
    moments: Moments
    y: np.ndarray
    log_scales: np.ndarray
    ratios: VarianceRatios


CASES = [
    *((model, seed) for model in MODELS for seed in range(5)),
    *((model, seed) for model in EXTENDED for seed in (1, 2)),
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def study(request) -> Study:
    """Two features of a random study, with two draws of their scales."""
    model, seed = request.param
    scans, rng = random_study(seed), np.random.default_rng(seed)
    if model in EXTENDED:
        spec = extend(model)
    else:
        spec = with_protocol(scans) if model == "protocol" else load_model(model)
    design = build_design(scans, replace(spec, covariates=COVARIATES[: seed % 4]))
    features = rng.normal(3, 2, (len(scans), 2))
    log_scales = np.log(design.scale_medians)[:, None] + rng.normal(0, 0.7, (2, len(design.scales), 2))
    log_noise, log_bias, log_gain = rng.normal(0, 0.5, (3, len(design.scanners)))
    ratios = VarianceRatios(log_noise, log_bias, log_gain, rng.normal(0, 0.7, len(design.correlations)))
    moments, standard = compute_moments(design, features)
    y = (features[design.rows] - standard.center) / standard.sd
    with jax.enable_x64(True):
        return Study(scans, design, make_problem(design), moments, y, log_scales, ratios)


@pytest.fixture(scope="module")
def posterior(study) -> ConditionalPosterior:
    with jax.enable_x64(True):
        return condition_effects(study.problem, study.ratios, study.moments, study.log_scales)


def each(study: Study):
    """Draw, feature, standardized feature and its log-scales."""
    return ((d, f, study.y[:, f], study.log_scales[d, :, f]) for d in range(2) for f in range(2))


def identity(design: Design) -> sparse.csr_array:
    return sparse.eye_array(len(design.columns), format="csr")


def test_the_definition_is_the_normal_density_of_the_covariance_of_all_scans(study):
    noise, bias = (dict(zip(study.design.scanners, part, strict=True)) for part in (study.ratios.noise, study.ratios.bias))
    gain = dict(zip(study.design.scanners, study.ratios.gain, strict=True))
    rho = dict(zip(study.design.correlations, np.tanh(study.ratios.correlation), strict=True))
    sized = sized_scanners(study.scans, study.design.spec)
    bias = {name: size if name in sized else 1.0 for name, size in bias.items()}
    for _, _, y, log_scales in each(study):
        scales = dict(zip(study.design.scale_labels, np.exp(log_scales), strict=True))
        used, dense = covariance(study.scans, study.design.spec, scales, noise, bias, gain, rho)
        np.testing.assert_array_equal(np.flatnonzero(used), study.design.rows)
        expected = log_normal(y, dense)
        assert log_likelihood(study.design, y, log_scales, study.ratios) == pytest.approx(
            expected, rel=TOLERANCE, abs=TOLERANCE
        )


def test_the_fast_likelihood_is_that_of_the_definition(study):
    likelihood = study.problem.likelihood

    @jax.jit
    def evaluate(ratios, moments, log_scales):
        return likelihood.log_likelihood(likelihood.weighted(ratios, moments), log_scales)

    with jax.enable_x64(True):
        fast = np.stack([evaluate(study.ratios, study.moments, log_scales) for log_scales in study.log_scales])
    for draw, feature, y, log_scales in each(study):
        expected = log_likelihood(study.design, y, log_scales, study.ratios)
        expected -= 0.5 * np.log(study.design.scan_weight).sum()  # a constant that the fast likelihood leaves out
        assert abs(fast[draw, feature] - expected) < TOLERANCE


def test_the_conditional_posterior_is_that_of_the_definition(study, posterior):
    every = identity(study.design)
    mean, variance, joint = posterior.mean(every), posterior.variance(every), posterior.covariance(every)
    for draw, feature, y, log_scales in each(study):
        expected_mean, expected = condition(study.design, y, log_scales, study.ratios)
        np.testing.assert_allclose(mean[draw, feature], expected_mean, rtol=TOLERANCE, atol=TOLERANCE)
        np.testing.assert_allclose(joint[draw, feature], expected, rtol=TOLERANCE, atol=TOLERANCE)
        np.testing.assert_allclose(variance[draw, feature], np.diag(expected), rtol=TOLERANCE, atol=TOLERANCE)
        prior = prior_variance(study.design, log_scales, study.ratios)
        np.testing.assert_allclose(posterior.prior_variance[draw, feature], prior, rtol=TOLERANCE)


def test_the_posterior_of_scans_has_the_variances_of_the_definition(study):
    """Variances do not depend on the feature; those of some scans are those of a study without the others."""
    everything, every = np.full(study.design.n_scans, True), identity(study.design)
    by_travelers = np.isin(study.design.participants, study.design.travelers)
    for _, _, y, log_scales in each(study):
        _, expected = condition(study.design, y, log_scales, study.ratios)
        of_scans = ConditionalPosterior.of_scans(study.design, log_scales, study.ratios, everything)
        np.testing.assert_allclose(of_scans.covariance(every), expected, rtol=TOLERANCE, atol=TOLERANCE)
        assert not of_scans.mean(every).any()
        x = design_matrix(study.design, study.ratios).toarray()[by_travelers]
        w = scan_precision(study.design, log_scales, study.ratios)[by_travelers]
        precision = (x.T * w) @ x + np.linalg.inv(prior_covariance(study.design, log_scales, study.ratios))
        of_travelers = ConditionalPosterior.of_scans(study.design, log_scales, study.ratios, by_travelers)
        np.testing.assert_allclose(of_travelers.covariance(every), np.linalg.inv(precision), rtol=1e-9, atol=TOLERANCE)


def test_contraction_is_that_of_the_contrasts_written_out(study, posterior):
    def written_out(group: EffectGroup) -> np.ndarray:
        contrasts = group.contrasts
        prior = contrasts**2 @ prior_variance(study.design, log_scales, study.ratios)
        return 1 - np.einsum("ki,ij,kj->k", contrasts, expected, contrasts) / prior

    for draw, feature, y, log_scales in each(study):
        _, expected = condition(study.design, y, log_scales, study.ratios)
        for group in study.design.effects:
            of_group = written_out(group)
            np.testing.assert_allclose(posterior.contraction_of(group)[draw, feature], of_group, atol=1e-9)
            contraction = posterior.contraction(sparse.csr_array(group.contrasts))
            np.testing.assert_allclose(contraction[draw, feature], of_group, atol=1e-9)
