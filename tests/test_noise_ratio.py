"""Noise ratios of each scanner and feature: their hierarchical prior, and all that follows from a fit with them."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import logsumexp
from studies import random_study

import bayesharm
from bayesharm.errors import InputError
from bayesharm.fitting.context import load_fit_context
from bayesharm.harmonization.noise_scaling import noise_factors
from bayesharm.harmonization.scanner_ratios import ScannerRatios, read_feature_noise
from bayesharm.inference.gaussian_likelihood import GaussianLikelihood, condition_scales
from bayesharm.inference.hyper_target import center_target, find_mode, log_density, plain_target
from bayesharm.inference.importance import log_prior, quadratic_features
from bayesharm.inference.joint_density import Parameters
from bayesharm.inference.joint_density import log_density as log_joint_density
from bayesharm.inference.learning import learn_by_importance
from bayesharm.inference.predictive_prior import predictive_moments
from bayesharm.likelihood.hierarchy import Hierarchy
from bayesharm.likelihood.moments import compute_moments
from bayesharm.likelihood.problem import make_problem
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.model.catalog import load_model
from bayesharm.model.configure import configure_model
from bayesharm.model.design import build_design
from bayesharm.model.labels import NOISE_RATIO
from bayesharm.model.spec import Priors
from bayesharm.results.nodes import median_log_scales

N_SDS, N_SCANNERS = 3, 4
PRIORS = Priors(feature_offset_sd=0.8)
HIERARCHY = Hierarchy(PRIORS, N_SDS + N_SCANNERS, N_SDS)
OMEGA, N_FEATURES = 0.3, 30
Z90, Z = 1.6449, 4.3  # half a 90% interval; errors beyond have a probability of 2e-5


@pytest.fixture(autouse=True, scope="module")
def x64():
    with jax.enable_x64(True):
        yield


def dense_prior(omega: np.ndarray) -> np.ndarray:
    """Covariance of the log-scales of a feature; omega (group,)."""
    shares = np.array([1.0] * N_SDS + [0.0] * N_SCANNERS)
    sd = np.concatenate([omega[:N_SDS], np.full(N_SCANNERS, omega[N_SDS])])
    return np.diag(sd**2) + PRIORS.feature_offset_sd**2 * np.outer(shares, shares)


def centered(eta: np.ndarray) -> np.ndarray:
    return np.concatenate([eta[:N_SDS], eta[N_SDS:] - eta[N_SDS:].mean()])


def random_hyperparameters(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """eta of every scale, and omega_excess of every group."""
    rng = np.random.default_rng(seed)
    return rng.normal(-0.5, 0.3, N_SDS + N_SCANNERS), rng.uniform(0.1, 0.4, N_SDS + 1)


def test_sds_alone_share_the_feature_offset():
    rng, (eta, omega) = np.random.default_rng(0), random_hyperparameters(0)
    x = rng.normal(size=(HIERARCHY.n_scales, 5))
    normal = stats.multivariate_normal(eta, dense_prior(omega))
    log_sd = np.log(HIERARCHY.of_scales(omega))
    found = log_prior(quadratic_features(jnp.asarray(x)), eta[:, None], log_sd[:, None], HIERARCHY.offset_sd)[0]
    np.testing.assert_allclose(found, normal.logpdf(x.T), rtol=1e-12)

    a = rng.normal(size=(7, 7))
    precision, gradient, center = a @ a.T + np.eye(7), rng.normal(size=7), rng.normal(size=7)
    parts = center[:, None], center[:, None], np.eye(7)[..., None], np.zeros(1), gradient[:, None], precision[..., None]
    conditioned = condition_scales(GaussianLikelihood(*map(jnp.asarray, parts)), eta, log_sd, HIERARCHY.offset_sd)
    posterior = precision + np.linalg.inv(normal.cov)
    mean = center + np.linalg.solve(posterior, gradient + np.linalg.solve(normal.cov, eta - center))
    np.testing.assert_allclose(conditioned.mean[:, 0], mean, rtol=1e-10)
    factor = conditioned.factor[..., 0]
    np.testing.assert_allclose(factor @ factor.T, np.linalg.inv(posterior), rtol=1e-10)

    # a shift of eta of all sds is left to the offset; eta of noise ratios is not
    draws = rng.normal(0, 0.3, (4000, 1)) * (np.arange(7) < N_SDS) + 0.1 * rng.normal(size=(4000, 7))
    sd = predictive_moments(draws, np.full(draws.shape, 0.2), HIERARCHY.offset_sd).sd
    np.testing.assert_allclose(sd, np.hypot(0.1, 0.2), rtol=0.03)


def test_the_posterior_of_the_hyperparameters_is_that_by_hand():
    rng, (eta, omega_excess) = np.random.default_rng(1), random_hyperparameters(1)
    log_scales, weights = rng.normal(-0.5, 0.4, (50, 7, 3)), rng.normal(size=(50, 3))
    medians = np.array([-0.3, -0.8, -1.2] + [0.0] * N_SCANNERS)
    target = plain_target(medians, quadratic_features(jnp.asarray(log_scales)), jnp.asarray(weights))
    position = np.concatenate([eta, omega_excess])[:, None]
    found = float(log_density(HIERARCHY, target, jnp.asarray(position))[0])
    omega = np.hypot(omega_excess, PRIORS.omega_floor)
    prior = stats.multivariate_normal(centered(eta), dense_prior(omega)).logpdf(log_scales.swapaxes(1, 2))
    expected = (logsumexp(weights + prior, axis=0) - np.log(50)).sum()
    sds = np.array([PRIORS.eta_sd] * N_SDS + [PRIORS.noise_ratio_sd / 2] * N_SCANNERS)
    expected -= 0.5 * (((eta - medians) / sds) ** 2).sum() + 0.5 * ((omega_excess / PRIORS.omega_sd) ** 2).sum()
    np.testing.assert_allclose(found, expected, rtol=1e-10)

    # counted from the mode, the density is the same but for a constant
    laplace = find_mode(HIERARCHY, target, jnp.asarray(np.concatenate([eta, np.log(omega_excess)])[:, None]))
    moved = center_target(HIERARCHY, target, laplace, np.float64)
    shift = np.concatenate([moved.origin, np.zeros(len(omega_excess))])[:, None]
    difference = [
        float(log_density(HIERARCHY, target, jnp.asarray(at))[0] - log_density(HIERARCHY, moved.target, at - shift)[0])
        for at in (position, position + 0.1)
    ]
    np.testing.assert_allclose(difference, moved.offset.sum(), rtol=1e-8)


def test_lambda_is_the_mean_of_the_noise_ratios():
    """The likelihood depends on their sum; the joint density is the priors by hand and this likelihood."""
    scans = random_study(6)
    design = build_design(scans, replace(load_model("traveling_and_cohort"), noise_ratio="scanner-feature"))
    problem = make_problem(design)
    assert design.n_eta == len(design.scales) - len(design.scanners) == len(design.hyper_groups) - 1
    moments = jax.tree.map(jnp.asarray, compute_moments(design, np.random.default_rng(1).normal(size=(len(scans), 2)))[0])
    rng, n_scanners, priors = np.random.default_rng(2), len(design.scanners), design.spec.priors
    log_scales, log_noise = rng.normal(-0.5, 0.3, (len(design.scales), 2)), rng.normal(0, 0.3, n_scanners)
    zero = np.zeros(n_scanners)

    def log_likelihood(log_scales, log_noise) -> np.ndarray:
        statistics = problem.likelihood.weighted(VarianceRatios.of_variances(log_noise, zero), moments)
        return np.asarray(problem.likelihood.log_likelihood(statistics, jnp.asarray(log_scales)))

    ratios = VarianceRatios.of_variances(log_noise, zero)
    shifted = log_scales + problem.half_log_lambda(ratios)[:, None]
    together = log_likelihood(shifted, zero)
    np.testing.assert_allclose(log_likelihood(log_scales, log_noise), together, rtol=1e-10)

    hierarchy = problem.hierarchy
    eta, omega_excess = rng.normal(-0.5, 0.3, hierarchy.n_scales), rng.normal(0, 0.3, hierarchy.n_groups)
    raw = np.zeros(problem.n_ratios)
    assert not problem.is_free[:n_scanners].any()
    found = float(log_joint_density(problem, moments, Parameters(*map(jnp.asarray, (eta, omega_excess, raw, shifted)))))
    n = design.n_eta
    omega = np.hypot(omega_excess, priors.omega_floor)[design.scale_group]
    covariance = np.diag(omega**2)
    covariance[:n, :n] += priors.feature_offset_sd**2
    mean = np.concatenate([eta[:n], eta[n:] - eta[n:].mean()])
    expected = together.sum() + stats.multivariate_normal(mean, covariance).logpdf(shifted.T).sum()
    expected -= 0.5 * (((eta[:n] - np.log(design.scale_medians[:n])) / priors.eta_sd) ** 2).sum()
    expected -= 0.5 * ((2 * eta[n:] / priors.noise_ratio_sd) ** 2).sum()  # raw log lambda
    expected -= 0.5 * ((omega_excess / priors.omega_sd) ** 2).sum()
    np.testing.assert_allclose(found, expected, rtol=1e-10)


class Study:
    """Travelers on four scanners, with noise ratios of each scanner and feature, and a fit."""

    def __init__(self) -> None:
        visits = [(f"p{i}", f"s{k}") for i in range(14) for k in range(N_SCANNERS) for _ in range(2)]
        self.scans = pd.DataFrame(visits, columns=["participant_id", "scanner"])
        self.scans.insert(0, "scan_id", [f"scan{n}" for n in range(len(visits))])
        rng = np.random.default_rng(8)
        person, scanner = (self.scans[name].factorize()[0] for name in ("participant_id", "scanner"))
        log_noise = np.array([0.8, 0.2, -0.3, -0.7])[:, None] + 2 * OMEGA * rng.normal(size=(N_SCANNERS, N_FEATURES))
        self.log_noise = log_noise  # of the variance, each feature from its mean on
        self.unit = 10.0 ** rng.integers(0, 3, N_FEATURES)
        values = 0.7 * rng.normal(size=(14, N_FEATURES))[person] + 0.4 * rng.normal(size=(N_SCANNERS, N_FEATURES))[scanner]
        values += np.exp(log_noise / 2)[scanner] * rng.normal(size=(len(visits), N_FEATURES))
        self.features = values * self.unit
        self.dataset = bayesharm.load_dataset(self.scans, self.features)
        self.posterior = bayesharm.fit(
            self.dataset,
            "traveling",
            noise_ratio="scanner-feature",
            seed=3,
            draws=100,
            target_ess=150,
            effect_draws=20,
            keep_draws="all",
        )


@pytest.fixture(scope="module")
def study() -> Study:
    return Study()


@pytest.fixture(scope="module")
def posterior(study):
    return study.posterior


def ratios_of(posterior):
    scales = posterior.scales
    return scales.isel(family=np.flatnonzero(scales["term"].values == NOISE_RATIO))


def test_the_run_has_a_factor_for_each_scanner_and_one_omega(posterior, tmp_path):
    assert posterior.hyper["family"].values.tolist() == ["noise", "participant", "measurement", "noise_ratio"]
    assert (posterior.hyper["eta"].sel(family="noise_ratio") == 0).all()
    assert ratios_of(posterior)["family"].values.tolist() == [f"noise_ratio_s{k}" for k in range(N_SCANNERS)]
    assert posterior.finite_population["family"].values.tolist() == ["noise", "participant", "measurement"]
    low, high = posterior.hyper["omega"].sel(family="noise_ratio").quantile([0.001, 0.999])
    assert low < OMEGA < high < 0.6 and low > 0.15
    factor = ratios_of(posterior)["q50"].values  # no units, although those of the features differ by a factor of 100
    assert ((0.3 < factor) & (factor < 3)).all() and abs(np.log(factor).mean()) < 0.1
    np.testing.assert_allclose(median_log_scales(posterior.scales)[3:], np.log(factor))
    loaded = bayesharm.load_posterior(posterior.save(tmp_path / "run"))
    assert loaded.hyper["family"].values.tolist() == posterior.hyper["family"].values.tolist()
    summary = str(bayesharm.summarize(loaded))
    assert "noise_ratio " in summary and "nan" not in summary
    assert "noise_ratio" not in str(bayesharm.variance_components(loaded))


def test_the_noise_of_every_scanner_and_feature_is_found(study, posterior):
    log_lambda = np.log(posterior.hyper["noise_ratio"].values).reshape(-1, N_SCANNERS)
    draws = np.log(posterior.tree["draws"].to_dataset()["scales"].values)
    log_noise = 2 * (draws[:, :1] + draws[:, 3:]) + log_lambda.mean(0)[:, None]  # (draw, scanner, feature)
    true = study.log_noise + 2 * np.log(study.unit)
    z = (log_noise.mean(0) - true) / log_noise.std(0)
    assert 0.8 < np.sqrt((z**2).mean()) < 1.2 and 0.82 < (np.abs(z) < Z90).mean() < 0.97
    shared = 2 * draws[:, 0].mean(0) + log_lambda.mean(0)[:, None]
    assert ((log_noise.mean(0) - true) ** 2).mean() < 0.6 * ((shared - true) ** 2).mean()
    error = log_lambda.mean(0) - [0.8, 0.2, -0.3, -0.7]
    expected = 2 * OMEGA / np.sqrt(N_FEATURES)
    assert (np.abs(error) < Z * np.hypot(expected, log_lambda.std(0))).all()
    assert (log_lambda.std(0) > 0.6 * expected).all()  # lambda is the mean of as many draws as there are features


def test_importance_samples_agree_with_joint_sampling(study, posterior):
    context = load_fit_context(posterior, study.dataset)
    features = np.arange(N_FEATURES)
    with context.devices.in_use("float64"):
        n_independent = posterior.hyper.attrs["n_independent_features"]
        hyper, _ = learn_by_importance(context.problem, context.moments(features)[0], features, n_independent, seed=1)
    known = posterior.hyper
    for found, expected in ((hyper.omega[..., :4], known["omega"]), (hyper.eta[..., :3], known["eta"][..., :3])):
        expected = expected.values
        away = np.abs(found.mean((0, 1)) - expected.mean((0, 1))) / expected.std((0, 1))
        assert (away < 0.5).all(), away
    log_lambda = np.log(posterior.hyper["noise_ratio"].values).reshape(-1, N_SCANNERS)
    assert (np.abs(hyper.ratios.mean.log_noise - log_lambda.mean(0)) < 0.5 * log_lambda.std(0)).all()
    sd = np.sqrt(np.diag(hyper.ratios.covariance)[:N_SCANNERS])
    assert ((0.6 < sd / log_lambda.std(0)) & (sd / log_lambda.std(0) < 1.6)).all()


def test_matching_noise_uses_the_noise_of_each_feature(study, posterior):
    """Scans of two scanners have residuals of the same size afterwards, in features where they had not."""
    at, scanners = np.array([4, 11, 2]), ("s2", "unknown", "s0")
    log_noise = read_feature_noise(posterior, scanners, at)
    median = posterior.scales["q50"]
    np.testing.assert_allclose(log_noise[0], 2 * np.log(median.sel(family="noise_ratio_s2").values[at]))
    assert (log_noise[1] == 0).all()
    ratios = ScannerRatios(np.log([2.0, 1.0, 0.5]), np.zeros(3))
    person, noise = (median.sel(family=name).values[at] ** 2 for name in ("participant", "noise"))
    variance = person + noise * np.array([[2.0], [1.0], [0.5]]) * np.exp(log_noise)
    for target, wanted in ((-1, person + noise), (2, variance[2])):
        found = noise_factors(posterior, ratios, target, at, log_noise)
        np.testing.assert_allclose(found, np.sqrt(wanted / variance))

    def spread(values: np.ndarray) -> np.ndarray:
        """Log sd of differences of two scans of a person, (scanner, feature)."""
        table = pd.DataFrame(values).groupby([study.scans.participant_id, study.scans.scanner]).diff().dropna()
        return np.log(table.groupby(study.scans.scanner.loc[table.index]).std().to_numpy())

    plain, matched = (bayesharm.harmonize(posterior, study.dataset, match_noise=match).mean for match in (False, True))
    before, after = spread(plain), spread(matched)
    assert (after.std(0) < before.std(0)).mean() > 0.85 and after.std(0).mean() < 0.6 * before.std(0).mean()


def test_a_new_scanner_has_one_ratio_for_all_features(study, posterior):
    new = study.scans.assign(scanner="new", scan_id=[f"new{n}" for n in range(len(study.scans))])[::8]
    values = study.features[::8]
    dataset = bayesharm.load_dataset(new.reset_index(drop=True), values, check="apply")
    adapted = bayesharm.adapt(posterior, dataset)
    assert "The noise of 'new' has one ratio for all features" in " ".join(adapted.run["notes"])
    assert set(adapted.hyper["scanner"].values) == {"new", *posterior.scanners}
    assert np.isfinite(adapted.effect("measurement")["mean"].values).all()
    assert (read_feature_noise(adapted, ("new",), np.arange(3)) == 0).all()
    scans = pd.DataFrame({"scan_id": ["a", "b"], "participant_id": ["x", "y"], "scanner": ["s0", "new"], "traveling": True})
    sd = bayesharm.predict(adapted, scans).sd
    log_scales = median_log_scales(adapted.scales)
    ratio = adapted.variance_ratios()
    names = list(adapted.scanners)
    noise = (
        np.exp(2 * log_scales[0] + ratio.log_noise[names.index("s0")] + 2 * log_scales[3]),
        np.exp(2 * log_scales[0] + ratio.log_noise[names.index("new")]),
    )
    unit = adapted.scales["feature_scale"].values
    for row, expected in zip(sd, noise, strict=True):
        assert (row**2 > expected * unit**2).all()


def test_the_choice_is_checked():
    spec = configure_model("traveling", pd.DataFrame(), noise_ratio="scanner-feature")
    assert spec.noise_ratio == "scanner-feature"
    with pytest.raises(InputError, match="(?s)Unknown noise_ratio.*got: 'feature'.*homogeneous, scanner, scanner-feature"):
        configure_model("traveling", pd.DataFrame(), noise_ratio="feature")


def test_simulated_noise_ratios_of_features_change_the_noise_alone():
    plain, study = (bayesharm.simulate_srpbs(6, 3, feature_noise_log_sd=sd, dtype="float64") for sd in (0.0, 0.3))
    assert plain.truth.feature_noise is None
    factor = study.truth.feature_noise.loc[study.scans["scanner"]].to_numpy()
    noiseless = bayesharm.simulate_srpbs(6, 3, sizes={"noise": 1e-13}, dtype="float64").features
    np.testing.assert_allclose(study.features - noiseless, factor * (plain.features - noiseless), atol=1e-9)
    with pytest.raises(InputError, match="feature_noise_log_sd"):
        bayesharm.simulate_srpbs(6, 3, feature_noise_log_sd=-1)
