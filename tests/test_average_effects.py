"""Averaged effects against dense linear algebra."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from studies import random_study, sized_scanners, two_ratios, with_protocol

from bayesharm.conditional.effects import average_effects
from bayesharm.likelihood.moments import compute_moments
from bayesharm.likelihood.problem import make_problem
from bayesharm.model.catalog import load_model
from bayesharm.model.design import FIXED, build_design


@pytest.fixture(autouse=True, scope="module")
def x64():
    with jax.enable_x64(True):
        yield


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
    moments, _ = compute_moments(design, features)

    x, contrasts = design.matrix.toarray(), np.concatenate([group.contrasts for group in design.effects])
    y = features[design.rows]
    y = (y - y.mean(0)) / y.std(0)
    noise_ratio, bias_ratio = np.split(np.exp(log_ratio), 2)
    once, ratio = design.class_single_scan[design.scan_class], noise_ratio[design.class_scanner[design.scan_class]]
    assert once.any() and not once.all()
    mean, variance = np.empty((2, 4, len(contrasts), 3))
    for k, f in np.ndindex(4, 3):
        tau = np.exp(log_scales[k, :, f])
        noise = tau[0] ** 2 * ratio + once * tau[design.scale_labels.index("participant")] ** 2
        prior = np.where(design.column_scale == FIXED, design.column_sd, tau[design.column_scale]) ** 2
        for scanner in sized_scanners(scans, design.spec):
            place = design.scanners.index(scanner)
            prior[design.of_scanner[place, 0]] *= bias_ratio[place]
        covariance = np.linalg.inv(x.T @ (x / noise[:, None]) + np.diag(1 / prior))
        mean[k, :, f] = contrasts @ covariance @ (x.T @ (y[:, f] / noise))
        variance[k, :, f] = np.diag(contrasts @ covariance @ contrasts.T)

    for k in range(4):
        found = average_effects(problem, two_ratios(log_ratio), moments, jnp.asarray(log_scales[[k] * 4]))
        np.testing.assert_allclose(found[0], mean[k], atol=1e-8)
        np.testing.assert_allclose(found[1], np.sqrt(variance[k]), rtol=1e-8, atol=1e-12)
    found = average_effects(problem, two_ratios(log_ratio), moments, jnp.asarray(log_scales))
    np.testing.assert_allclose(found[0], mean.mean(0), atol=1e-8)
    np.testing.assert_allclose(found[1], np.sqrt(variance.mean(0) + mean.var(0)), rtol=1e-8)
