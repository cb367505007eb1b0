"""Learning of the hyperparameters and the variance ratios: by joint sampling, or by importance samples of many features."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from time import monotonic
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from scipy import special

from bayesharm.algorithms.adaptive_importance import ImportanceSettings
from bayesharm.algorithms.devices import working_on
from bayesharm.algorithms.diagnostics import diagnose, pareto_k
from bayesharm.algorithms.programs import program
from bayesharm.algorithms.random_streams import Stage, feature_keys
from bayesharm.inference.expansion import gradient_by_ratios
from bayesharm.inference.gaussian_likelihood import move_scales
from bayesharm.inference.hyper_approximation import HyperApproximation, approximate_hyperparameters
from bayesharm.inference.hyper_target import (
    HyperTarget,
    center_target,
    find_mode,
    plain_target,
    sample_by_importance,
)
from bayesharm.inference.hyperparameters import MANY_FEATURES, Hyperparameters, component_indices
from bayesharm.inference.importance import log_importance_weights, log_prior, quadratic_features
from bayesharm.inference.joint import JointDraws, center_ratios, compile_chain, sample_joint
from bayesharm.inference.placement import place_importance_samples, prior_at
from bayesharm.inference.scales import ScaleDraws
from bayesharm.inference.variance_ratios import (
    RatioObjective,
    RatioPosterior,
    fit_variance_ratios,
    marginal_objective,
    variance_ratio_covariance,
)
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.problem import Gaussian, Problem

Array = jax.Array

N_SAMPLES = 1024  # importance samples of each feature
MAX_CONDITION = 1e12  # of a covariance of draws that is inverted
REPORT_SECONDS = 5.0
MAX_KHAT = 0.7  # Pareto-k above which importance samples are not reliable


class SampledTogether(NamedTuple):
    """Draws of all features together, which have moved along with the hyperparameters.

    Attributes
    ----------
    scales : ScaleDraws
    log_ratios : (chain, draw, ratio) array
        Logarithms of the variance ratios that they belong to; lambda at its mean where features have noise ratios of their
        own.
    """

    scales: ScaleDraws
    log_ratios: np.ndarray


def learn_by_sampling(
    problem: Problem,
    moments: Moments,
    features: np.ndarray,
    n_independent_features: float,
    *,
    seed: int,
    n_chains: int = 4,
    n_draws: int = 125,
    target_ess: int = 400,
    on_iteration: Callable[[str], object] = lambda text: None,
) -> tuple[Hyperparameters, SampledTogether]:
    """Sample hyperparameters, variance ratios and the scales of some features together.

    Parameters
    ----------
    problem : Problem
    moments : Moments
        Of these features.
    features : (feature,) int array
        Their indices in the study, from which their random numbers derive.
    n_independent_features : float
        Effective number of independent features.
    seed, n_chains, n_draws, target_ess : int
        As for :func:`bayesharm.inference.joint.sample_joint`.
    on_iteration : callable
        Receives lines of progress.

    Returns
    -------
    Hyperparameters
        Correlated features count by their effective number.
    SampledTogether
    """
    device = jax.config.jax_default_device

    def compile_ahead() -> None:
        with working_on(device, "float64"):
            compile_chain(problem, moments, n_draws)

    with ThreadPoolExecutor(1) as pool:
        compilation = pool.submit(compile_ahead)
        approximation = approximate_hyperparameters(problem, moments, n_independent_features, on_iteration)
        compilation.result()
    draws = sample_joint(
        problem, moments, approximation, seed=seed, n_chains=n_chains, n_draws=n_draws, target_ess=target_ess,
        on_segment=on_iteration,
    )  # fmt: skip
    return _temper_joint(problem, moments, approximation, draws)


def learn_by_importance(
    problem: Problem,
    moments: Moments,
    features: np.ndarray,
    n_independent_features: float,
    *,
    seed: int,
    n_chains: int = 4,
    n_draws: int = 250,
    on_iteration: Callable[[str], object] = lambda text: None,
) -> tuple[Hyperparameters, bool]:
    """Learn hyperparameters and variance ratios from importance samples; parameters as for :func:`learn_by_sampling`.

    With many features this is as good, and faster: the posterior of the hyperparameters is narrow then, and importance
    samples around the modes of the features give the marginal likelihoods. The posterior of the ratios is taken as Gaussian.

    Returns
    -------
    Hyperparameters
    bool
        Whether the importance samples are reliable, those of nine features in ten and those of the hyperparameters.
    """
    hierarchy, keys = problem.hierarchy, feature_keys(seed, Stage.IMPORTANCE, features)
    approximation = approximate_hyperparameters(problem, moments, n_independent_features, on_iteration)
    mode, ratios = approximation.mode, approximation.ratios.mean
    eta_sd = np.sqrt((approximation.factor**2).sum(1))[: hierarchy.n_scales].clip(0, hierarchy.eta_sd)
    start = (approximation.likelihood.center,)
    on_iteration(f"{N_SAMPLES:,} importance samples of each of {len(features)} features")
    sample, _ = place_importance_samples(problem, moments, mode, eta_sd, ratios, keys, N_SAMPLES, start)
    covariance = approximation.ratios.covariance
    if problem.is_free.any():
        prior = prior_at(hierarchy, mode)
        objective = marginal_objective(problem, moments, sample, prior, n_independent_features)
        objective = _reported(objective, on_iteration)
        ratios = fit_variance_ratios(problem, objective, ratios)
        covariance = variance_ratio_covariance(problem, objective, ratios)
    on_iteration("hyperparameters from the importance samples")
    log_weights = log_importance_weights(problem, ratios, moments, sample)
    target = plain_target(problem.log_medians, quadratic_features(np.asarray(sample.log_scales)), log_weights)
    laplace = find_mode(hierarchy, target, mode[:, None])
    prior = prior_at(hierarchy, np.asarray(laplace.mode)[:, 0])
    khat = pareto_k(np.asarray(_log_integrand(problem, target, prior)))
    centered, rng = center_target(hierarchy, target, laplace, np.float32), np.random.default_rng([seed, Stage.HYPER])
    drawn = sample_by_importance(hierarchy, centered, rng, ImportanceSettings(max_khat=MAX_KHAT))
    eta, omega_excess, _ = hierarchy.split(drawn.draw(n_chains * n_draws, rng).T)
    log_omega = np.asarray(hierarchy.log_omega(omega_excess))
    eta, log_omega = (part.T.reshape(n_chains, n_draws, -1) for part in (eta + centered.origin[:, None], log_omega))
    eta, log_omega = temper_hyperparameters(problem, eta, log_omega, _power(approximation))
    is_reliable = drawn.is_reliable and bool(np.quantile(khat, 0.9) < MAX_KHAT)
    log_evidence, n_features = None, len(keys)
    if n_features < MANY_FEATURES:
        flat = [part.reshape(-1, part.shape[-1])[component_indices(n_chains * n_draws)] for part in (eta, log_omega)]
        log_evidence = np.asarray(log_evidence_of_draws(target.basis, log_weights, *flat, hierarchy.offset_sd))
    posterior = _with_noise_ratios(problem, RatioPosterior(ratios, covariance, n_independent_features), eta)
    eta -= problem.half_log_lambda(posterior.mean)
    return Hyperparameters(eta, np.exp(log_omega), posterior, log_evidence, n_features, 0, 1.0, is_reliable), is_reliable


def _reported(objective: RatioObjective, report: Callable[[str], object]) -> RatioObjective:
    """Report evaluations, at most one every `REPORT_SECONDS`: with many dense effects one takes seconds."""
    number, reported = count(1), -math.inf

    def value_and_gradient(position: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal reported
        n = next(number)
        if monotonic() - reported >= REPORT_SECONDS:
            reported = monotonic()
            report(f"variance ratios of the scanners, evaluation {n}")
        return objective.value_and_gradient(position)

    return objective._replace(value_and_gradient=value_and_gradient)


def _with_noise_ratios(problem: Problem, posterior: RatioPosterior, eta: np.ndarray) -> RatioPosterior:
    """Put in lambda of the scanners whose features have noise ratios of their own, from draws of eta, (…, scale)."""
    scanners = np.flatnonzero(problem.noise_scale >= 0)
    if not len(scanners):
        return posterior
    log_lambda = 2 * eta.reshape(-1, eta.shape[-1])[:, problem.noise_scale[scanners]]
    mean, covariance = posterior.mean.to_vector(), posterior.covariance.copy()
    mean[scanners], covariance[np.ix_(scanners, scanners)] = log_lambda.mean(0), np.cov(log_lambda.T)
    return posterior._replace(mean=problem.ratios(mean), covariance=covariance)


@program("problem")
def _log_integrand(problem: Problem, target: HyperTarget, prior: Gaussian) -> Array:
    """Compute the log weights of importance samples under a prior of the log-scales, (sample, feature)."""
    mean, sd = (jnp.asarray(part)[:, None] for part in prior)
    return target.log_weights[0] + log_prior(target.basis, mean, jnp.log(sd), problem.hierarchy.offset_sd)[0]


@program("offset_sd")
def log_evidence_of_draws(
    basis: Array, log_weights: Array, eta: Array, log_omega: Array, offset_sd: float | tuple[float, ...]
) -> Array:
    """Estimate the log marginal likelihood of each feature under many hyperparameters, (feature, draw).

    Parameters
    ----------
    basis : (2 × scale, sample, feature) array
    log_weights : (sample, feature) array
    eta, log_omega : (draw, scale) arrays
    offset_sd : float or tuple of float
        As in :class:`~bayesharm.likelihood.hierarchy.Hierarchy`.
    """

    def of_one(hyper: tuple[Array, Array]) -> Array:
        prior = log_prior(basis, hyper[0][:, None], hyper[1][:, None], offset_sd)[0]
        return logsumexp(log_weights + prior, axis=0) - np.log(len(log_weights))

    return jax.lax.map(of_one, (jnp.asarray(eta), jnp.asarray(log_omega))).T


def _temper_joint(
    problem: Problem, moments: Moments, approximation: HyperApproximation, draws: JointDraws
) -> tuple[Hyperparameters, SampledTogether]:
    """Let correlated features count by their effective number.

    Hyperparameters and ratios are moved to the posterior in which the likelihood of each feature has the power of their
    effective number over their number (:func:`temper_draws`), and the scales move along.
    """
    power, ratios = _power(approximation), approximation.ratios
    log_scales, likelihood, mode = draws.scales.log_scales, approximation.likelihood, ratios.mean.to_vector()
    eta, log_omega = temper_hyperparameters(problem, draws.eta, draws.log_omega, power)
    raw = temper_draws(draws.raw_ratios, np.zeros(problem.n_ratios), problem.ratio_sd, power)
    log_ratios, is_learned = center_ratios(problem, raw), problem.is_free
    if power < 1:
        sampled = temper_hyperparameters(problem, draws.eta, draws.log_omega, 1.0)
        old = *sampled, center_ratios(problem, draws.raw_ratios) - mode
        flat_old, flat_new, flat = (
            [part.reshape(-1, *part.shape[2:]) for part in parts]
            for parts in (old, (eta, log_omega, log_ratios - mode), (log_scales,))
        )
        by_ratios = gradient_by_ratios(problem, ratios.mean, moments, np.asarray(likelihood.center))
        log_scales = move_scales(problem, likelihood, by_ratios, flat_old, flat_new, *flat).reshape(log_scales.shape)
    scanners = np.flatnonzero(problem.noise_scale >= 0)
    log_ratios[..., scanners], is_learned[scanners] = 2 * eta[..., problem.noise_scale[scanners]], True
    learned = log_ratios[..., is_learned][..., None]
    rhat = float(diagnose(learned, np.zeros((*learned.shape[:2], 1), bool)).rhat.max()) if learned.size else 1.0
    pooled = log_ratios.reshape(-1, problem.n_ratios)
    posterior = RatioPosterior(
        problem.ratios(pooled.mean(0)), np.atleast_2d(np.cov(pooled.T)), ratios.n_independent_features
    )
    origin = problem.half_log_lambda(posterior.mean)
    scales = draws.scales._replace(log_scales=jnp.asarray(log_scales - origin[:, None]))
    n_features = len(approximation.likelihood.value)
    few = np.zeros((n_features, len(component_indices(eta[..., 0].size)))) if n_features < MANY_FEATURES else None
    hyper = Hyperparameters(eta - origin, np.exp(log_omega), posterior, few, n_features, draws.n_divergent, rhat)
    log_ratios[..., scanners] = pooled.mean(0)[scanners]  # the features' noise ratios vary instead
    return hyper, SampledTogether(scales, log_ratios)


def _power(approximation: HyperApproximation) -> float:
    return min(1.0, approximation.ratios.n_independent_features / len(approximation.likelihood.value))


def temper_hyperparameters(
    problem: Problem, eta: np.ndarray, log_omega: np.ndarray, power: float
) -> tuple[np.ndarray, np.ndarray]:
    """Move draws of eta and log omega together to the posterior whose likelihood is raised to a power.

    Parameters
    ----------
    problem : Problem
    eta : (chain, draw, scale) array
    log_omega : (chain, draw, group) array
    power : float

    Returns
    -------
    eta, log_omega : (chain, draw, scale) arrays
        Those of noise ratios centered.
    """
    hierarchy, priors = problem.hierarchy, problem.priors
    half_normal = priors.omega_sd * special.ndtri(0.5 + (np.arange(2000) + 0.5) / 4000)
    prior_of_log_omega = np.log(np.hypot(half_normal, priors.omega_floor))
    prior_mean = np.concatenate([problem.log_medians, np.full(hierarchy.n_groups, prior_of_log_omega.mean())])
    prior_sd = np.concatenate([hierarchy.eta_sd, np.full(hierarchy.n_groups, prior_of_log_omega.std())])
    tempered = temper_draws(np.concatenate([eta, log_omega], -1), prior_mean, prior_sd, power)
    eta, log_omega = np.split(tempered, [hierarchy.n_scales], axis=-1)
    return eta @ hierarchy.centering.T, np.maximum(log_omega, np.log(priors.omega_floor))[..., hierarchy.group]


def temper_draws(draws: np.ndarray, prior_mean: np.ndarray, prior_sd: np.ndarray, power: float) -> np.ndarray:
    """Move draws of a posterior to the one whose likelihood is raised to a power, both taken as Gaussian.

    With posterior precision P and prior precision Q, the likelihood has the precision P − Q, and the new posterior
    ``power (P − Q) + Q``. Its mean moves toward the prior mean accordingly. Draws keep the shape of their distribution.

    Parameters
    ----------
    draws : (chain, draw, parameter) array
    prior_mean, prior_sd : (parameter,) arrays
    power : float
        1 changes nothing.
    """
    pooled = draws.reshape(-1, draws.shape[-1])
    mean, prior = pooled.mean(0), np.diag(prior_sd**-2.0)
    varies = pooled.std(0) > 0  # a model without ratios has constants in their place
    if power == 1 or not varies.any():
        return draws
    kept = np.ix_(varies, varies)
    covariance = np.cov(pooled[:, varies].T).reshape(varies.sum(), -1)
    if not np.isfinite(covariance).all() or np.linalg.cond(covariance) > MAX_CONDITION:
        return draws  # chains that did not move; they are reported as not converged
    precision = np.linalg.inv(covariance)
    information, axes = np.linalg.eigh(precision - prior[kept])
    likelihood = (axes * np.maximum(information, 0)) @ axes.T  # by chance, the sample covariance may exceed the prior's
    old, new = likelihood + prior[kept], power * likelihood + prior[kept]
    new_mean = mean[varies] + (1 - power) * np.linalg.solve(new, prior[kept] @ (prior_mean - mean)[varies])
    widen = np.linalg.cholesky(np.linalg.inv(new)) @ np.linalg.inv(np.linalg.cholesky(np.linalg.inv(old)))
    tempered = draws.copy()
    tempered[..., varies] = new_mean + (draws[..., varies] - mean[varies]) @ widen.T
    return tempered
