"""Calibration of all numbers that a fit reports, with planted bugs; studies drawn from the prior follow the prior.

A small simulation-based calibration; `make calibrate` has all models and many datasets. False-alarm rate 2e-5 a test.
"""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from scipy import special, stats
from tiny_study import EQUAL, FALSE_ALARMS, TinyStudy, assert_no_larger_than_chance

from bayesharm import fit, harmonize, load_dataset, variance_components
from bayesharm.model.catalog import load_model
from bayesharm.model.design import build_design
from bayesharm.model_check.calibration import (
    N_DRAWS,
    calibrate_features,
    calibrate_hyper,
    calibrate_levels,
    calibrate_means,
    calibrate_sizes,
    pit_of_draws,
    pit_of_normal,
    pit_of_quantiles,
)
from bayesharm.reference_models.prior_studies import draw_studies

N_FEATURES, N_DATASETS = 8, 24
KINDS = ("hyper", "scale", "effect", "size", "mean", "level", "harmonized")


def design_of(spec, scans=None):
    scans = TinyStudy(EQUAL, 0).scans if scans is None else scans
    dataset = load_dataset(scans, np.random.default_rng(0).normal(size=(len(scans), N_FEATURES))).sorted()
    return dataset.scans, build_design(dataset.scans, spec)


@pytest.fixture(scope="module")
def scores() -> dict[str, np.ndarray]:
    """Normal scores of the PITs of each kind of quantity, (dataset, quantity), from fits of the model `traveling`."""
    scans, design = design_of(load_model("traveling"))
    found: dict[str, list[np.ndarray]] = {kind: [] for kind in KINDS}
    for seed, study in enumerate(draw_studies(design, N_FEATURES, range(N_DATASETS))):
        dataset, rng = load_dataset(scans, 3 + 0.2 * study.features), np.random.default_rng([seed, 1])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # notes on so few scans
            posterior = fit(dataset, "traveling", seed=seed, accept=["all"], keep_draws=N_DRAWS, target_ess=100)
            harmonized = harmonize(posterior, dataset)
        (bias,) = (group.contrasts @ study.effects for group in design.effects if group.name == "measurement")
        true = 3 + 0.2 * (study.features - bias[design.class_scanner[design.scan_class]])
        of_features = calibrate_features(posterior, design, study, rng)
        found["hyper"].append([*calibrate_hyper(posterior, design, study, rng).values()])
        found["scale"].append([pit for name, pit in of_features.items() if name.startswith("scale")])
        found["effect"].append([pit for name, pit in of_features.items() if name.startswith("effect")])
        found["size"].append([*calibrate_sizes(posterior, design, study, rng).values()])
        components = variance_components(posterior)
        found["mean"].append([*calibrate_means(components.families, design, study, rng, unit=0.2).values()])
        found["level"].append([*calibrate_levels(components.levels, design, study, rng, unit=0.2).values()])
        found["harmonized"].append([pit_of_normal(true, harmonized.mean, harmonized.sd)])
    pits = {kind: np.array([np.concatenate([*map(np.ravel, each)]) for each in rows]) for kind, rows in found.items()}
    return {kind: special.ndtri(pit) for kind, pit in pits.items()}


def errors(z: np.ndarray) -> np.ndarray:
    """Standardized errors of the means of z and of z² over datasets, which are independent.

    Normal scores of uniform PITs have the means 0 and 1, whatever the dependence of the quantities of a dataset. So have the
    errors of posterior means in posterior sds, also where a posterior is not normal.
    """
    means = np.stack([z.mean(1), (z**2 - 1).mean(1)])
    return means.mean(1) / (means.std(1, ddof=1) / np.sqrt(len(z)))


def test_posteriors_are_calibrated(scores):
    z = np.stack([errors(scores[kind]) for kind in KINDS])
    print(dict(zip(KINDS, z.round(1).tolist(), strict=True)))
    assert_no_larger_than_chance(z, N_DATASETS - 1)


@pytest.mark.parametrize(
    ("kind", "factor", "shift"),
    [
        *((kind, *bug) for kind in ("effect", "size", "harmonized") for bug in ((1 / 1.3, 0.0), (1.0, 0.3))),
        *((kind, *bug) for kind in ("hyper", "scale", "mean") for bug in ((1 / 1.5, 0.0), (1.0, 0.5))),
        *(("level", *bug) for bug in ((1 / 2, 0.0), (1.0, 1.0))),
    ],
)
def test_a_planted_bug_is_noticed(scores, kind, factor, shift):
    """Intervals 1.3 times too wide, or off by 0.3 sds; 1.5 times and 0.5 sds where the quantities of a dataset depend.

    Levels are so few that it takes intervals of twice the width, or off by an sd. To notice narrow ones takes the datasets
    of `make calibrate`; the width of intervals that rest on the prior is tested with the variance components.
    """
    limit = stats.t.isf(FALSE_ALARMS / 2 / 2 / len(KINDS), N_DATASETS - 1)
    assert np.abs(errors(factor * scores[kind] + shift)).max() > limit


def test_pits_of_every_form_are_uniform():
    """Truth and draws of one distribution, reported as draws, mean and sd, quantiles or an interval."""
    rng, n = np.random.default_rng(0), 4000
    truth, draws = rng.normal(size=n), rng.normal(size=(99, n))
    limits = np.broadcast_to(special.ndtri([[0.05], [0.5], [0.95]]), (3, n))
    for pit in (
        pit_of_draws(truth, draws, rng),
        pit_of_normal(3 + 2 * truth, np.full(n, 3.0), np.full(n, 2.0)),
        pit_of_quantiles(truth, limits, rng),
        pit_of_quantiles(truth, limits[::2], rng, (0.05, 0.95)),
    ):
        assert stats.kstest(pit, "uniform").pvalue > FALSE_ALARMS


@pytest.mark.parametrize("options", [{"gain": "scanner"}, {"noise_ratio": "scanner-feature"}, {"feature_scaling": "common"}])
def test_studies_of_other_models_are_not_drawn(options):
    """Their truth would need other formulas."""
    _, design = design_of(replace(load_model("traveling"), **options))
    with pytest.raises(NotImplementedError, match="no gains"):
        next(draw_studies(design, 4, [0]))


@pytest.mark.parametrize("covariates", [(), ("age",)])
def test_studies_are_drawn_from_the_prior_given_mean_and_sd(covariates):
    """Derivatives of their log density by the unknowns have the mean 0, and times the unknowns −1 (Stein's identities)."""
    scans = TinyStudy(EQUAL, 0).scans
    scans["age"] = np.random.default_rng(1).normal(size=len(scans)).round(2)
    spec = replace(load_model("traveling"), covariates=covariates)
    _, design = design_of(spec, scans)
    x, priors, scale = design.matrix.toarray(), spec.priors, design.column_scale
    found = []
    for study in draw_studies(design, 4, range(150)):
        np.testing.assert_allclose([study.features.mean(0), study.features.std(0)], [[0] * 4, [1] * 4], atol=1e-10)
        np.testing.assert_allclose(x @ study.effects + study.residuals, study.features, atol=1e-9)
        eta, omega, tau = study.hyper["eta"], study.hyper["omega"][:, None], np.exp(study.log_scales)
        u, variance = study.effects, np.where(scale[:, None] < 0, design.column_sd[:, None], tau[scale]) ** 2
        variance[design.bias_ratio_of >= 0] *= np.exp(study.hyper["log_bias_ratio"])[design.bias_ratio_of][:, None][
            design.bias_ratio_of >= 0
        ]
        noise = tau[0] ** 2 * np.exp(study.hyper["log_ratio"])[design.class_scanner[design.scan_class]][:, None]
        z = (study.log_scales - study.offset - eta[:, None]) / omega
        squares = np.stack(
            [(study.residuals**2 / noise - 1).sum(0)]
            + [(u**2 / variance - 1)[scale == k].sum(0) for k in range(1, len(tau))]
        )
        # each derivative times a power of omega or of the prior sd, which do not depend on the unknown itself
        by_eta = z.sum(1) - (omega[:, 0] * (eta - np.log(design.scale_medians)) / priors.eta_sd**2)
        narrowest = omega.min()
        by_offset = narrowest * ((z / omega).sum(0) - study.offset / priors.feature_offset_sd**2)
        by_scale = omega * squares - z
        by_effect = np.sqrt(variance) * (x.T @ (study.residuals / noise) - u / variance)
        of_effects = [scale == k for k in range(1, len(tau))] + [
            design.families == name for name in ("mean", *["covariate"] * len(covariates))
        ]
        found.append([
            *by_eta, *(eta * by_eta + omega[:, 0]),
            by_offset.mean(), (study.offset * by_offset + narrowest).mean(),
            *by_scale.mean(1), *(study.log_scales * by_scale + omega).mean(1),
            *(by_effect[own].mean() for own in of_effects),
            *((u / np.sqrt(variance) * by_effect + 1)[own].mean() for own in of_effects),
        ])  # fmt: skip
    found = np.array(found)
    assert_no_larger_than_chance(found.mean(0) / found.std(0, ddof=1) * np.sqrt(len(found)), len(found) - 1)
