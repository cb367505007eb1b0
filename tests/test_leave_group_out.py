"""Leave-group-out densities against the conditional densities of the dense covariance of all scans."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from scipy import stats
from studies import random_study, sized_scanners, two_ratios

from bayesharm.conditional.held_out_groups import arrange_folds
from bayesharm.conditional.leave_group_out import leave_group_out
from bayesharm.data.features import Features
from bayesharm.likelihood.moments import MomentReader
from bayesharm.likelihood.problem import make_problem
from bayesharm.model.catalog import load_model
from bayesharm.model.design import build_design

N_FEATURES, N_NODES = 3, 2


CASES = {
    "covariate": (6, ("age",), "traveling_and_cohort", 0.0),
    "no diagnosis": (3, (), "traveling_and_cohort", 0.0),
    "cohort": (1, (), "cohort", 0.0),
    "missing values": (9, ("age",), "traveling_and_cohort", 0.2),
}


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES)
def study(request):
    seed, covariates, model, missing = request.param
    scans = random_study(seed)
    design = build_design(scans, replace(load_model(model), covariates=covariates))
    rng = np.random.default_rng(seed)
    features = rng.normal(3, 2, (len(scans), N_FEATURES))
    features[np.random.default_rng(1).random(features.shape) < missing] = np.nan
    features = Features.from_array(features)
    medians = np.log(design.scale_medians)[:, None]
    log_scales = medians + rng.normal(0, 0.4, (N_NODES, len(design.scales), N_FEATURES))
    with jax.enable_x64(True):
        problem = make_problem(design, has_missing=missing > 0)
        reader = MomentReader(features, design, has_missing=missing > 0)
        moments, standard = reader(np.arange(N_FEATURES))
    values = (reader.values(np.arange(N_FEATURES)) - standard.center) / standard.sd
    return scans, design, problem, moments, values, log_scales, rng.normal(0, 0.4, 2 * len(design.scanners))


def covariance_of(scans, design, log_scales, log_ratio):
    scale, x = np.exp(log_scales), design.matrix.toarray()
    prior = np.where(design.column_scale < 0, design.column_sd, scale[design.column_scale])
    ratio, size = np.split(np.exp(log_ratio), 2)
    for scanner in sized_scanners(scans, design.spec):
        place = design.scanners.index(scanner)
        prior[design.of_scanner[place, 0]] *= size[place] ** 0.5
    noise = scale[0] ** 2 * ratio[design.class_scanner] + scale[design.single_scan_scale] ** 2 * design.class_single_scan
    return (x * prior**2) @ x.T + np.diag(noise[design.scan_class])


@pytest.mark.parametrize("by", ["participant", "thirds", "scanner"])
def test_they_are_the_conditional_densities_of_the_dense_covariance(study, by):
    scans, design, problem, moments, values, log_scales, log_ratio = study
    person = np.unique(design.participants, return_inverse=True)[1]
    folds = {"participant": person, "thirds": np.where(person % 4 == 3, -1, person % 4),
             "scanner": design.class_scanner[design.scan_class]}[by]  # fmt: skip
    units = np.unique(np.where(folds < 0, -1, person), return_inverse=True)[1] - (folds < 0).any()
    with jax.enable_x64(True):
        held = arrange_folds(design, folds, units if by == "thirds" else None)
        found = leave_group_out(problem, two_ratios(log_ratio), moments, values, log_scales, held, below=True)
    assert np.isnan(found.below[:, folds < 0]).all()
    for node in range(N_NODES):
        for f in range(N_FEATURES):
            covariance, y = covariance_of(scans, design, log_scales[node, :, f], log_ratio), values[:, f]
            seen = ~np.isnan(y)
            assert np.isnan(found.below[node, ~seen, f]).all()
            for fold in range(folds.max() + 1):
                out, rest = (folds == fold) & seen, (folds != fold) & seen
                if not out.any():
                    assert found.folds[node, fold, f] == 0
                    continue
                gain = np.linalg.solve(covariance[np.ix_(rest, rest)], covariance[np.ix_(rest, out)]).T
                mean, spread = gain @ y[rest], covariance[np.ix_(out, out)] - gain @ covariance[np.ix_(rest, out)]
                expected = stats.multivariate_normal(mean, spread).logpdf(y[out])
                np.testing.assert_allclose(found.folds[node, fold, f], expected, rtol=1e-8)
                below = stats.norm(mean, np.sqrt(np.diag(spread))).cdf(y[out])
                np.testing.assert_allclose(found.below[node, out, f], below, atol=1e-6)
                if by != "thirds":
                    assert found.units[node, fold, f] == found.folds[node, fold, f]
                    continue
                for unit in np.unique(units[out]):
                    own = units[out] == unit
                    density = stats.multivariate_normal(mean[own], spread[np.ix_(own, own)]).logpdf(y[out][own])
                    np.testing.assert_allclose(found.units[node, unit, f], density, rtol=1e-8)


def test_a_node_without_noise_is_lost_and_stops_nothing(study):
    """There the scans that are left out say all, within rounding, and what the others say cannot be told."""
    scans, design, problem, moments, values, log_scales, log_ratio = study
    far = log_scales.copy()
    far[0, 0] = -18.0  # noise
    far[0, problem.participant_scale] = -18.0
    person = np.unique(design.participants, return_inverse=True)[1]
    with jax.enable_x64(True):
        held = arrange_folds(design, person % 3)
        found, whole = (
            leave_group_out(problem, two_ratios(log_ratio), moments, values, x, held, below=True) for x in (far, log_scales)
        )
    assert not np.isnan(found.folds).any() and not np.isnan(found.units).any()
    assert (np.isnan(found.below) == np.isnan(values)).all()
    assert np.isposinf(found.folds[0]).any() == (design.spec.name != "cohort")  # there nobody is scanned twice
    np.testing.assert_allclose(found.folds[1], whole.folds[1], rtol=1e-9)
