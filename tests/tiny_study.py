"""A study so small that its posteriors are found by quadrature, and tests of random results."""

from collections.abc import Callable
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pandas as pd
from numpyro.diagnostics import effective_sample_size
from quadrature import Quadrature
from scipy import stats
from scipy.special import logsumexp

from bayesharm.algorithms.laplace import Laplace
from bayesharm.inference.importance import find_modes, log_prior
from bayesharm.likelihood.moments import Moments, compute_moments
from bayesharm.likelihood.problem import Gaussian, Problem
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.model.catalog import load_model
from bayesharm.model.design import build_design

FALSE_ALARMS = 2e-5  # probability that a test of a random result fails by chance
SCANNERS = ("A", "B", "C", "D")
SCALES = ("noise", "participant", "measurement")
N_FEATURES, N_SAMPLES = 12, 2048  # as many samples as `fit_hyperparameters` takes, so that they share programs
AXES = (np.linspace(-2.0, 0.6, 40), np.linspace(-4.0, 1.4, 36), np.linspace(-4.0, 1.4, 36))
EQUAL = np.zeros(2 * len(SCANNERS))
EQUAL_RATIOS = VarianceRatios.equal(len(SCANNERS))
PRIOR = Gaussian(np.log([0.6, 0.6, 0.6]), np.array([0.3, 0.5, 0.5]))


class TinyStudy:
    """Five travelers on three or four of four scanners, one of them twice on one."""

    def __init__(self, log_ratio: np.ndarray, seed: int, by_scanner: bool = False) -> None:
        missing = [(0, "A"), (1, "D"), (2, "A")]
        visits = [(i, name) for i in range(5) for name in SCANNERS if (i, name) not in missing] + [(4, "A")]
        self.scans = pd.DataFrame(visits, columns=["participant_id", "scanner"]).astype(str)
        self.scans["scan_id"] = [f"scan{n}" for n in range(len(visits))]
        self.scans["site"], self.scans["diagnosis"] = "home", "HC"
        rng = np.random.default_rng(seed)
        log_noise, log_bias = np.split(np.asarray(log_ratio, float), 2)
        person, scanner = self.scans.participant_id.astype(int), self.scans.scanner.map(SCANNERS.index)
        noise, participant, measurement = np.exp(
            np.log([[0.5], [0.6], [0.4]]) + [[0.4], [0.6], [0.6]] * rng.normal(size=(3, N_FEATURES))
        )
        self.features = (
            3
            + participant * rng.normal(size=(5, N_FEATURES))[person]
            + measurement * (np.exp(log_bias / 2)[:, None] * rng.normal(size=(len(SCANNERS), N_FEATURES)))[scanner]
            + noise * np.exp(log_noise / 2)[scanner][:, None] * rng.normal(size=(len(visits), N_FEATURES))
        )
        ratios = ("scanner", "scanner") if by_scanner else ("homogeneous", "homogeneous")
        spec = load_model("traveling")
        self.spec = replace(spec, noise_ratio=ratios[0], bias_ratio=ratios[1], feature_scaling="common")  # no amplitude
        self.design = build_design(self.scans, self.spec)
        assert self.design.scale_labels == SCALES
        self.moments, _ = compute_moments(self.design, self.features)

    def quadrature(self, log_ratio: np.ndarray = EQUAL, axes=AXES) -> Quadrature:
        return Quadrature(self.scans, self.spec, SCALES, axes, self.features, log_ratio)


def log_marginal(basis, log_weights, mean, log_sd, feature_offset_sd: float = 0.0):
    """Log p(feature | eta, omega) from importance samples, for every feature and many hyperparameters, (hyper, feature)."""
    terms = log_weights + log_prior(basis, mean, log_sd, feature_offset_sd)
    return logsumexp(terms, axis=1) - np.log(len(log_weights))


def place_modes(problem: Problem) -> Callable[[Moments], tuple[Laplace, ...]]:
    """Laplace approximations of all features under priors that are narrower than `PRIOR`, equal to it, and wider."""

    def place(moments: Moments) -> tuple[Laplace, ...]:
        start = jnp.broadcast_to(problem.log_medians[:, None], (len(SCALES), N_FEATURES))
        return tuple(
            find_modes(problem, EQUAL_RATIOS, moments, Gaussian(PRIOR.mean, width * PRIOR.sd), start)
            for width in (0.5, 1.0, 2.0, 4.0)
        )

    return place


def assert_no_larger_than_chance(z, degrees_of_freedom: float = np.inf) -> None:
    """Standardized errors, the largest of all compared with what it may be by chance."""
    z = np.asarray(z)
    limit = stats.t.isf(FALSE_ALARMS / 2 / z.size, degrees_of_freedom)
    assert np.isfinite(z).all() and np.abs(z).max() < limit, (z.round(1), limit)


def standardized(draws: np.ndarray, mean: np.ndarray, sd: np.ndarray, own_error: float = 0.0) -> np.ndarray:
    """Errors of the mean and of the sd of draws (chain, draw, …), in Monte-Carlo standard errors.

    `own_error` is a further standard error, in sds, that the draws do not show.
    """
    squares = (draws - mean) ** 2 / sd**2
    ess, ess_squares = effective_sample_size(draws), effective_sample_size(squares)
    assert ess.min() > 200 and ess_squares.min() > 200
    error = np.hypot(1 / np.sqrt(ess), own_error)
    error_squares = np.hypot(squares.std((0, 1)) / np.sqrt(ess_squares), 2 * own_error)
    return np.stack([(draws.mean((0, 1)) - mean) / sd / error, (squares.mean((0, 1)) - 1) / error_squares])


def hyperposterior(exact: Quadrature, log_medians: np.ndarray, n_draws: int = 6000):
    """Mean, sd and standard error of (eta, omega) by adaptive importance sampling from multivariate Student-t."""
    rng = np.random.default_rng(0)
    center, spread = np.r_[log_medians, np.log([0.4] * 3)], np.diag([0.25] * 3 + [1.0] * 3)
    for n in (2000, 4000, 4000, n_draws):
        proposal = stats.multivariate_t(center, spread, df=5)
        x = proposal.rvs(n, random_state=rng)
        eta, log_omega_excess = x[:, :3], x[:, 3:]
        omega = np.hypot(np.exp(log_omega_excess), 0.05)
        parts = zip(np.array_split(eta, 20), np.array_split(omega, 20), strict=True)
        log_weight = np.concatenate([exact.log_marginal(*part).sum(1) for part in parts]) - proposal.logpdf(x)
        log_weight += (stats.norm.logpdf(eta, log_medians, 1.0) + log_omega_excess).sum(1)
        log_weight += stats.halfnorm.logpdf(np.exp(log_omega_excess), scale=0.5).sum(1)
        weight = np.exp(log_weight - log_weight.max())
        weight /= weight.sum()
        center, spread = weight @ x, 1.2 * np.cov(x.T, aweights=weight)
    assert 1 / (weight**2).sum() > 500
    values = np.concatenate([eta, omega], axis=1)
    mean = weight @ values
    return mean, np.sqrt(weight @ (values - mean) ** 2), np.sqrt(weight**2 @ (values - mean) ** 2)
