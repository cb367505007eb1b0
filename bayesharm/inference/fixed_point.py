"""Fixed-point iteration for the hyperparameters of the scales and the variance ratios of the scanners.

The effects and the scales of each feature are integrated out, which leaves some ten parameters and no funnel. Laplace
approximations, importance samples, variance ratios and hyperparameters depend on one another. Each step places importance
samples where the hyperparameters are, and then updates ratios and hyperparameters, until they agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayesharm.algorithms.diagnostics import pareto_k
from bayesharm.algorithms.laplace import Laplace
from bayesharm.inference.hyper_target import HyperTarget, find_mode, plain_target
from bayesharm.inference.importance import ImportanceSample, log_importance_weights, log_prior, quadratic_features
from bayesharm.inference.placement import PlacedSample, merge_samples, place_importance_samples, prior_at
from bayesharm.inference.variance_ratios import RatioPosterior, fit_variance_ratios, variance_ratio_covariance
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.problem import Gaussian, Problem, to_coordinates
from bayesharm.likelihood.ratios import VarianceRatios

Array = jax.Array


@dataclass(frozen=True)
class HyperSettings:
    """Fixed-point iteration for the hyperparameters; reasons and measurements are in `docs/method.md`.

    Attributes
    ----------
    max_iterations : int
        Four or five are usual.
    n_ratio_iterations : int
        First iterations, which update the variance ratios too. Later ones keep them, so that samples of several iterations
        can be merged.
    n_small_iterations : int
        First iterations, with the smaller importance samples. With small samples the omega of a scale near 0 can
        alternate between two values.
    evaluations, preview_evaluations : tuple of int
        Samples × features of these iterations, and of later ones.
    min_samples, max_samples : int
        Limits of the samples of each feature.
    max_merged : int
        Samples that are merged: those of the last iterations with the same ratios.
    max_step : float
        Largest step of eta and log omega_excess; further away the samples have no weight.
    initial_omega : float
    tolerance, min_prior_sd : float
        Change of the prior's means and sds, over the sds (or the minimum, if larger), at which the iteration ends.
    ratio_tolerance : float
        Change of the log variance ratios at which the iteration ends.
    max_khat : float
        Pareto-k of nine features in ten below which samples cover the posterior at the new mode, so that the iteration can
        end even if the mode moves.
    """

    max_iterations: int = 10
    n_ratio_iterations: int = 4
    n_small_iterations: int = 3
    evaluations: tuple[int, int] = (2**18, 2**20)
    preview_evaluations: tuple[int, int] = (2**17, 2**17)
    min_samples: int = 256
    max_samples: int = 2048
    max_merged: int = 3
    max_step: float = 0.8
    initial_omega: float = 0.4
    tolerance: float = 0.25
    min_prior_sd: float = 0.05
    ratio_tolerance: float = 0.01
    max_khat: float = 0.5


SETTINGS = HyperSettings()


class HyperState(NamedTuple):
    """State of the fixed-point iteration.

    Attributes
    ----------
    n_iterations : int
        Completed ones.
    center : (2 × scale,) array
        eta and log omega_excess around which the next importance samples are placed.
    eta_sd : (scale,) array
        Posterior sd of eta.
    ratios : VarianceRatios
    starts : tuple of (scale, feature) arrays
        Coordinates where the search for each mode begins.
    placed : tuple of PlacedSample
        Samples of the last iterations, weighted under the current ratios.
    target : HyperTarget, or None
        Hyperposterior given these samples.
    approximation : Laplace, or None
        Laplace approximation of it; the center moves toward its mode by at most `max_step`.
    scale_change : float
        Largest change of the prior in the last iteration, in prior sds.
    ratio_change : float
        Largest change of a log variance ratio.
    """

    n_iterations: int
    center: np.ndarray
    eta_sd: np.ndarray
    ratios: VarianceRatios
    starts: tuple[Array, ...]
    placed: tuple[PlacedSample, ...] = ()
    target: HyperTarget | None = None
    approximation: Laplace | None = None
    scale_change: float = np.inf
    ratio_change: float = np.inf

    def __str__(self) -> str:
        scales, ratios = f"{self.scale_change:.2f}", f"{self.ratio_change:.3f}"
        return f"iteration {self.n_iterations}: scales moved by {scales} of their spread, variance ratios by {ratios}"


@dataclass(frozen=True, eq=False)
class HyperIteration:
    """The iteration for a sample of features: its data, and its steps.

    Attributes
    ----------
    problem : Problem
    moments : Moments
    keys : (feature,) PRNG keys
    n_independent : float
        Effective number of independent features, for the variance ratios.
    n_samples : tuple of int
        Importance samples of each feature in the first iterations, and later.
    """

    problem: Problem
    moments: Moments
    keys: Array
    n_independent: float
    n_samples: tuple[int, int]

    @property
    def fits_ratios(self) -> bool:
        """Whether the model has variance ratios."""
        return self.problem.noise_ratio or self.problem.bias_ratio

    def prior(self, center: np.ndarray) -> Gaussian:
        """Return the prior of the log-scales at eta and log omega_excess."""
        return prior_at(center, self.problem.priors.omega_floor)

    def initial(self) -> HyperState:
        """Start at the prior medians and equal scanners."""
        log_medians, n_features = self.problem.log_medians, len(self.keys)
        center = np.concatenate([log_medians, np.full(len(log_medians), np.log(SETTINGS.initial_omega))])
        start = jnp.broadcast_to(jnp.asarray(log_medians)[:, None], (len(log_medians), n_features))
        ratios = VarianceRatios.equal(self.problem.n_scanners)
        return HyperState(
            0, center, np.zeros(len(log_medians)), ratios, (to_coordinates(self.problem.participant_scale, start),)
        )

    def step(self, state: HyperState) -> HyperState:
        """Place samples, update the ratios in the first iterations, and find the mode of the hyperparameters."""
        index = state.n_iterations
        # the first iterations share their random numbers, so that they differ by the placement and not by chance
        keys = self.keys
        if index > SETTINGS.n_ratio_iterations:
            keys = jax.vmap(jax.random.fold_in, (0, None))(keys, index)
        sample, modes = self.place(state, keys, self.n_samples[index >= SETTINGS.n_small_iterations])
        old = self.prior(state.center)
        ratios = state.ratios
        if self.fits_ratios and index < SETTINGS.n_ratio_iterations:
            ratios = fit_variance_ratios(self.problem, self.moments, sample, old, self.n_independent, ratios)
        kept = state.placed[1 - SETTINGS.max_merged :] if index > SETTINGS.n_ratio_iterations else ()
        placed = (*kept, self.weigh(sample, modes, ratios))
        target = self.target(placed)
        approximation = self.find_mode(target, state.center)
        mode, eta_sd = np.asarray(approximation.mode)[:, 0], _eta_sd(approximation, self.problem.priors.eta_sd)
        new = self.prior(mode)
        change = np.maximum(np.abs(new.mean - old.mean), np.abs(new.sd - old.sd))
        return HyperState(
            index + 1,
            state.center + np.clip(mode - state.center, -SETTINGS.max_step, SETTINGS.max_step),
            eta_sd,
            ratios,
            tuple(mode.mode for mode in modes),
            placed,
            target,
            approximation,
            np.max(change / np.maximum(old.sd, SETTINGS.min_prior_sd)),
            np.max(np.abs(ratios.to_vector() - state.ratios.to_vector())),
        )

    def has_settled(self, state: HyperState) -> bool:
        """Whether ratios no longer change, and the mode is near the center or covered by the samples."""
        if state.target is None or state.approximation is None or not state.ratio_change < SETTINGS.ratio_tolerance:
            return False
        if state.scale_change < SETTINGS.tolerance:
            return True
        if state.n_iterations <= SETTINGS.n_ratio_iterations + 1:
            return False
        prior = self.prior(np.asarray(state.approximation.mode)[:, 0])
        khat = self.khat(state.target, jnp.asarray(prior.mean)[:, None], jnp.log(jnp.asarray(prior.sd))[:, None])
        return bool(np.quantile(khat, 0.9) < SETTINGS.max_khat)

    def final_samples(self, state: HyperState) -> HyperState:
        """Place samples once more at the final center, and weigh all under the final ratios."""
        sample, modes = self.place(state, self.keys, self.n_samples[1])
        ratios = state.ratios
        kept = state.placed[1 - SETTINGS.max_merged :] if state.n_iterations > SETTINGS.n_ratio_iterations + 1 else ()
        if self.fits_ratios and state.n_iterations > SETTINGS.n_ratio_iterations:
            prior = self.prior(state.center)
            ratios = fit_variance_ratios(self.problem, self.moments, sample, prior, self.n_independent, ratios)
            kept = tuple(self.weigh(each.sample, each.modes, ratios) for each in kept)
        placed = (*kept, self.weigh(sample, modes, ratios))
        return state._replace(ratios=ratios, placed=placed, target=self.target(placed))

    def ratio_posterior(self, state: HyperState) -> RatioPosterior:
        """Return the ratios with their covariance, from the samples placed last."""
        covariance = np.zeros((self.problem.n_ratios, self.problem.n_ratios))
        if self.fits_ratios:
            sample, prior = state.placed[-1].sample, self.prior(state.center)
            covariance = variance_ratio_covariance(
                self.problem, self.moments, sample, prior, self.n_independent, state.ratios
            )
        return RatioPosterior(state.ratios, covariance, self.n_independent)

    def place(self, state: HyperState, keys: Array, n_samples: int) -> tuple[ImportanceSample, tuple[Laplace, ...]]:
        """Place importance samples around the center of a state."""
        return place_importance_samples(
            self.problem, self.moments, state.center, state.eta_sd, state.ratios, keys, n_samples, state.starts
        )

    def weigh(self, sample: ImportanceSample, modes: tuple[Laplace, ...], ratios: VarianceRatios) -> PlacedSample:
        """Weigh importance samples under variance ratios."""
        return PlacedSample(sample, modes, log_importance_weights(self.problem, ratios, self.moments, sample))

    def target(self, placed: tuple[PlacedSample, ...]) -> HyperTarget:
        """Return the hyperposterior given importance samples."""
        log_scales, log_weights = merge_samples(placed)
        return plain_target(self.problem.log_medians, quadratic_features(log_scales), log_weights)

    def find_mode(self, target: HyperTarget, center: np.ndarray) -> Laplace:
        """Find the mode of the hyperposterior from eta and log omega_excess."""
        return find_mode(self.problem.priors, target, jnp.asarray(center)[:, None])

    def khat(self, target: HyperTarget, mean: Array, log_sd: Array) -> np.ndarray:
        """Compute Pareto-k of each feature's importance weights under a Normal prior, (feature,)."""
        prior = log_prior(target.basis, mean, log_sd, self.problem.priors.feature_offset_sd)[0]
        return pareto_k(np.asarray(target.log_weights[0] + prior))


def count_samples(n_evaluations: int, n_features: int) -> int:
    """Return the importance samples of each feature: a power of 2, for which quasi-random points are balanced."""
    return int(np.clip(2 ** int(np.log2(n_evaluations / n_features)), SETTINGS.min_samples, SETTINGS.max_samples))


def _eta_sd(approximation: Laplace, prior_sd: float) -> np.ndarray:
    """Posterior sd of eta, at most the prior's, (scale,)."""
    factor = np.asarray(approximation.factor)[:, :, 0]
    return np.sqrt((factor[: len(factor) // 2] ** 2).sum(1)).clip(0, prior_sd)
