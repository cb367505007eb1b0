"""Joint sampling of a few features and their hyperparameters, against brute force."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from numpyro.diagnostics import effective_sample_size
from numpyro.infer.util import log_density
from scipy import stats
from studies import random_study
from tiny_study import FALSE_ALARMS, N_FEATURES, SCALES, TinyStudy, hyperposterior

from bayesharm.data.dataset import load_dataset
from bayesharm.fitting import scheduler
from bayesharm.fitting.fit import fit
from bayesharm.inference.joint import MOST_DIVERGENT, collapsed_model, sample_joint
from bayesharm.likelihood.moments import compute_moments
from bayesharm.likelihood.problem import make_problem
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.model.catalog import load_model
from bayesharm.model.design import build_design

N_TOGETHER = 8


def test_joint_draws_have_the_hyperposterior_of_quadrature():
    study = TinyStudy(np.zeros(8), seed=0)
    with jax.enable_x64(True):
        problem = make_problem(study.design)
        joint = sample_joint(problem, study.moments, N_FEATURES, seed=1, n_warmup=400, n_draws=500)
    assert joint.scales.log_scales.shape == (4, 500, len(SCALES), N_FEATURES)
    assert joint.hyper.diverging <= MOST_DIVERGENT * 4 * 500
    mean, sd, error = hyperposterior(study.quadrature(), problem.log_medians)
    draws = np.concatenate([joint.hyper.eta, joint.hyper.omega], axis=-1)
    ess = effective_sample_size(draws)
    assert ess.min() > 200
    z = (draws.mean((0, 1)) - mean) / sd / np.hypot(np.hypot(1 / np.sqrt(ess), error / sd), 0.03)  # 0.03: the grid's own
    assert np.abs(z).max() < stats.norm.isf(FALSE_ALARMS / 2 / z.size), z.round(1)


@pytest.mark.parametrize("feature_scaling", ["per_feature", "common"])
def test_the_density_is_the_priors_by_hand_and_the_collapsed_likelihood(feature_scaling):
    """With feature offset, noise ratio and people who were scanned once."""
    scans, rng = random_study(5), np.random.default_rng(1)
    design = build_design(scans, replace(load_model("traveling_and_cohort"), feature_scaling=feature_scaling))
    features, n_scales, priors = rng.normal(size=(len(scans), 2)), len(design.scales), design.spec.priors
    eta, omega_excess = rng.normal(-1, 0.3, n_scales), rng.uniform(0.2, 0.6, n_scales)
    omega = np.sqrt(omega_excess**2 + 0.05**2)
    feature_offset, raw = (
        rng.normal(0, 0.5, 2) * (feature_scaling == "per_feature"),
        rng.normal(0, 0.3, (2, len(design.scanners))),
    )
    log_scales = eta[:, None] + feature_offset + omega[:, None] * rng.normal(size=(n_scales, 2))
    with jax.enable_x64(True):
        problem = make_problem(design)
        moments = jax.tree.map(jnp.asarray, compute_moments(design, features)[0])
        site = {"eta": eta, "excess": omega_excess, "log_noise": log_scales[0], "log_scale": log_scales[1:]}
        site |= {"raw": raw[0], "raw_bias": raw[1]}
        site |= {"amplitude": feature_offset} if feature_scaling == "per_feature" else {}
        found = float(log_density(collapsed_model, (problem, moments), {}, jax.tree.map(jnp.asarray, site))[0])
        ratios = VarianceRatios(*jnp.asarray(raw - raw.mean(1, keepdims=True)))
        statistics = problem.likelihood.weighted(ratios, moments)
        expected = float(problem.likelihood.log_likelihood(statistics, jnp.asarray(log_scales)).sum())
    expected += stats.norm.logpdf(eta, np.log(design.scale_medians), priors.eta_sd).sum()
    expected += stats.halfnorm.logpdf(omega_excess, scale=priors.omega_sd).sum()
    expected += stats.norm.logpdf(log_scales, eta[:, None] + feature_offset, omega[:, None]).sum()
    expected += stats.norm.logpdf(raw, 0, [[priors.noise_ratio_sd], [priors.bias_ratio_sd]]).sum()
    if feature_scaling == "per_feature":
        expected += stats.norm.logpdf(feature_offset, 0, priors.feature_offset_sd).sum()
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_scales_that_the_data_do_not_bound_are_sampled_together_first(monkeypatch):
    """Sites recruit identical populations and patients do not differ: only the prior bounds these eta from below.

    The limits are lower than in use, so that the study can be small.
    """
    monkeypatch.setattr(scheduler, "FEW_FEATURES", N_TOGETHER)
    monkeypatch.setattr(scheduler, "MOST_TOGETHER", N_TOGETHER)
    rng, n_features = np.random.default_rng(7), N_TOGETHER + 4
    visits = [(f"t{i}", name) for i in range(5) for name in "ABC" for _ in range(2)]
    visits += [(f"c{i}", name) for i, name in enumerate("ABCD" * 4)]
    scans = pd.DataFrame(visits, columns=["participant_id", "scanner"])
    scans["scan_id"] = np.arange(len(scans)).astype(str)
    scans["diagnosis"] = ["HC"] * 30 + ["HC", "HC", "HC", "HC", "MDD", "MDD", "MDD", "MDD"] * 2
    person = rng.normal(0, 0.7, (scans.participant_id.nunique(), n_features))[pd.factorize(scans.participant_id)[0]]
    bias = rng.normal(0, 0.5, (4, n_features))[pd.factorize(scans.scanner)[0]]
    features = person + bias + rng.normal(0, 0.5, person.shape)
    notes = []
    dataset = load_dataset(scans, features)
    posterior = fit(dataset, "traveling_and_cohort", seed=1, progress=lambda *line: notes.append(line[-1]))
    assert any("do not settle" in str(note) for note in notes)
    hyper = posterior.tree["hyper"]
    assert hyper.attrs["features"] == N_TOGETHER and hyper.attrs["rhat_max"] < 1.05
    assert posterior.run["n_converged"] == n_features
    low, high = hyper["eta"].sel(family="measurement").quantile([0.0005, 0.9995]).values + np.log(features.std(0)).mean()
    assert low < np.log(0.5) < high
