"""Sweeps of Gibbs sampling: scales, effects and weights of a block of features, and of its chains.

The chains of all features lie side by side, as if they were features. :mod:`bayesharm.fitting.gibbs` explains the sweep.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bayesharm.algorithms.laplace import Laplace
from bayesharm.algorithms.linalg import matvec, solve_lower
from bayesharm.conditional.contrast_moments import conditional_means, contrast_moments
from bayesharm.conditional.finite_population import FamilyLevels, family_contributions, family_sds
from bayesharm.conditional.gaussian import draw_effects
from bayesharm.inference.predictive_prior import PredictivePrior, log_predictive_prior, prior_precision
from bayesharm.inference.scales import find_mode_of_scales
from bayesharm.inference.tails import Tails, draw_weights, expected_weight
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.problem import Problem, to_coordinates, to_log_scales
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.likelihood.scan_weights import ScanTerms, fitted_values, scan_variance, weighted_moments

Array = Any  # of NumPy or of JAX
N_FITS, N_REWEIGHTINGS = 2, 5  # searches for the mode of the scales, each after some rounds of weights given scales
N_LEAPFROG = 3
STEP_SIZE = (0.5, 0.7)  # in posterior sds: together about a quarter of a period, which makes draws nearly independent
MAX_ENERGY_ERROR = 1000.0  # of a step that diverges, as in NUTS


class GibbsShape(NamedTuple):
    """Sizes that a program is compiled for.

    Attributes
    ----------
    n_chains : int
    n_groups, thin : int
        Sweeps that are kept: groups of `thin` sweeps. Effects and weights are averaged over the last sweep of each group.
    n_proposed : int
        Scales that a sweep proposes from their prior, all but the noise in turn.
    """

    n_chains: int
    n_groups: int
    thin: int = 2
    n_proposed: int = 0

    @property
    def n_draws(self) -> int:
        """Sweeps of each chain that are kept."""
        return self.n_groups * self.thin


class Sums(NamedTuple):
    """Sums over groups of sweeps, those of the contrasts relative to a reference."""

    mean: Array
    square: Array
    variance: Array
    weight: Array
    fitted: Array


class WeightedBlock:
    """Values of features, and what follows from weights of their scans."""

    def __init__(
        self,
        problem: Problem,
        terms: ScanTerms,
        levels: FamilyLevels,
        ratios: VarianceRatios,
        tails: Tails,
        values: Array,
    ) -> None:
        self.problem, self.ratios, self.tails, self.gain = problem, ratios, tails, problem.likelihood.gain(ratios)
        self.terms, self.levels = terms.with_gain(self.gain), levels.with_gain(self.gain)
        self.values, self.observed = values, ~jnp.isnan(values)
        self.y = jnp.where(self.observed, values, 0.0)
        self.class_counts = terms.squares(self.observed.astype(values.dtype))

    def moments(self, weight: Array) -> Moments:
        return weighted_moments(self.terms, self.y, jnp.where(self.observed, weight, 0.0), self.class_counts)

    def condition(self, weight: Array, log_scales: Array) -> Any:
        likelihood, moments = self.problem.likelihood, self.moments(weight)
        given = likelihood.condition(likelihood.weighted(self.ratios, moments), log_scales)
        return given, likelihood.eliminated_products(self.ratios, moments)

    def squares(self, effects: Array, log_scales: Array) -> Array:
        """Squared residuals over the noise variance."""
        variance = scan_variance(self.terms, self.ratios, self.gain, log_scales, self.problem.participant_scale)
        return (self.y - fitted_values(self.terms, effects)) ** 2 / variance

    def approximate(self, prior: PredictivePrior) -> tuple[Array, Laplace]:
        """Find typical weights, expected ones given the mean of the effects, and the mode of the scales, in turn."""
        problem, mean = self.problem, jnp.asarray(prior.mean).mean(1)[:, None]

        def reweight(_: int, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            weight, log_scales = carry
            effects = conditional_means(problem.likelihood, *self.condition(weight, log_scales))
            return expected_weight(self.squares(effects, log_scales), self.tails), log_scales

        def fit(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Laplace]:
            weight, _ = jax.lax.fori_loop(0, N_REWEIGHTINGS, reweight, carry)
            laplace = find_mode_of_scales(problem, self.ratios, self.moments(weight), prior)
            return (weight, to_log_scales(problem.participant_scale, laplace.mode)), laplace

        start = jnp.ones_like(self.y), jnp.broadcast_to(mean, (len(mean), self.y.shape[1])).astype(self.y.dtype)
        (weight, _), laplace = jax.lax.scan(fit, start, length=N_FITS)
        return weight, jax.tree.map(lambda leaf: leaf[-1], laplace)


class WeightedChains(NamedTuple):
    """The chains of a block, side by side as if they were features."""

    block: WeightedBlock
    prior: PredictivePrior
    center: Array
    factor: Array
    reference: Array
    keys: Array

    def run(self, position: Array, weight: Array, n_warmup: int, shape: GibbsShape) -> tuple[Any, ...]:
        """Run all sweeps; return sums over groups, the last position, weights and squares, and draws.

        There is one loop for all sweeps, so that a sweep is compiled once: the first group begins with the warm-up.
        """
        state = position, weight, jnp.zeros_like(weight)
        shapes = jax.eval_shape(lambda state: self.sweep(0, state, shape)[1], state)
        empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

        def group(carry: Any, k: Array) -> Any:
            state, sums = carry
            n_before = jnp.where(k == 0, n_warmup, 0)

            def advance(i: Array, carry: Any) -> Any:
                state, kept, _ = carry
                state, last = self.sweep(k * (n_warmup + shape.thin) + i, state, shape)
                place = jnp.maximum(i - n_before, 0)
                return state, jax.tree.map(lambda all, new: all.at[place].set(new), kept, last[:2]), last

            space = jax.tree.map(lambda leaf: jnp.stack([leaf] * shape.thin), empty[:2])
            state, kept, last = jax.lax.fori_loop(0, n_before + shape.thin, advance, (state, space, empty))
            log_scales, _, given, products, effects = last
            mean, variance = contrast_moments(self.block.problem, given, products)
            away = mean - self.reference
            finite_sd, centered = family_sds(self.block.levels, effects, log_scales[0])
            residuals = self.block.values - fitted_values(self.block.terms, effects)
            contribution = family_contributions(self.block.levels, centered, residuals)
            means = fitted_values(self.block.terms, conditional_means(self.block.problem.likelihood, given, products))
            new = Sums(away, away**2, variance, expected_weight(state[2], self.block.tails), means)
            return (state, jax.tree.map(jnp.add, sums, new)), (*kept, finite_sd, contribution)

        zero, scans = jnp.zeros_like(self.reference), jnp.zeros_like(weight)
        start = state, Sums(zero, zero, zero, scans, scans)
        (state, sums), kept = jax.lax.scan(group, start, jnp.arange(shape.n_groups))
        return sums, *state, kept

    def sweep(
        self, k: Array | int, state: tuple[Array, Array, Array], shape: GibbsShape
    ) -> tuple[tuple[Array, Array, Array], Any]:
        """Draw scales, effects and weights."""
        problem, block, (position, weight, _) = self.block.problem, self.block, state
        likelihood, moments = problem.likelihood, block.moments(weight)
        statistics = likelihood.weighted(block.ratios, moments)
        keys = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, k), 5), out_axes=1)(self.keys)

        def log_scales_at(position: Array) -> Array:
            return to_log_scales(problem.participant_scale, self.center + matvec(self.factor, position))

        def log_density(log_scales: Array) -> Array:
            log_prior = log_predictive_prior(self.prior, log_scales, problem.hierarchy.offset_sd)
            return likelihood.log_likelihood(statistics, log_scales) + log_prior

        position, diverging = hamiltonian_step(lambda z: -log_density(log_scales_at(z)), position, keys[0], keys[1])
        log_scales = log_scales_at(position)
        if shape.n_proposed:
            log_scales = self.propose_from_prior(log_density, log_scales, k, keys[4], shape.n_proposed)
            position = solve_lower(self.factor, to_coordinates(problem.participant_scale, log_scales) - self.center)
        products = likelihood.eliminated_products(block.ratios, moments)
        given = likelihood.condition(statistics, log_scales)
        n_columns = likelihood.n_dense + likelihood.n_eliminated
        normal = jax.vmap(lambda key: jax.random.normal(key, (n_columns,), position.dtype), out_axes=1)(keys[2])
        effects = draw_effects(likelihood, given, products, normal)
        squares = block.squares(effects, log_scales)
        weight = draw_weights(keys[3], squares, block.tails, weight)
        return (position, weight, squares), (log_scales, diverging, given, products, effects)

    def propose_from_prior(self, log_density: Any, log_scales: Array, k: Array | int, keys: Array, n_proposed: int) -> Array:
        """Propose new values of some scales from a Normal prior given the others, and accept them or not."""
        mean, precision = prior_precision(self.prior, self.block.problem.hierarchy.offset_sd)
        draws = jax.vmap(lambda key: jax.random.normal(key, (2, n_proposed), log_scales.dtype), out_axes=2)(keys)

        def propose(j: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            log_scales, value = carry
            c = 1 + (k * n_proposed + j) % (len(mean) - 1)
            away = precision[c] @ (log_scales - mean[:, None]) - precision[c, c] * (log_scales[c] - mean[c])
            center, sd = mean[c] - away / precision[c, c], precision[c, c] ** -0.5
            before, after = (log_scales[c] - center) / sd, draws[0, j]
            proposed = log_scales.at[c].set(center + sd * after)
            new_value = log_density(proposed)
            log_ratio = new_value - value + 0.5 * (after**2 - before**2)
            is_accepted = jax.scipy.stats.norm.logcdf(draws[1, j]) < log_ratio
            return jnp.where(is_accepted, proposed, log_scales), jnp.where(is_accepted, new_value, value)

        return jax.lax.fori_loop(0, n_proposed, propose, (log_scales, log_density(log_scales)))[0]


def hamiltonian_step(potential: Any, position: Array, keys: Array, accept_keys: Array) -> tuple[Array, Array]:
    """One step of Hamiltonian Monte Carlo for each feature; return positions and whether the step diverged."""

    @jax.jit  # traced once
    def value_and_gradient(position: Array) -> tuple[Array, Array]:
        value, pull = jax.vjp(potential, position)
        return value, pull(jnp.ones_like(value))[0]

    def uniform(key: Array) -> Array:
        return jax.random.uniform(key, (2,), position.dtype)

    momentum = jax.vmap(lambda key: jax.random.normal(key, position.shape[:1], position.dtype), out_axes=1)(keys)
    accept, jitter = jax.vmap(uniform, out_axes=1)(accept_keys)
    step = STEP_SIZE[0] + (STEP_SIZE[1] - STEP_SIZE[0]) * jitter

    def leapfrog(_: int, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        place, momentum, _, gradient = carry
        momentum = momentum - 0.5 * step * gradient
        place = place + step * momentum
        value, gradient = value_and_gradient(place)
        return place, momentum - 0.5 * step * gradient, value, gradient

    value, gradient = value_and_gradient(position)
    new, ahead, new_value, _ = jax.lax.fori_loop(0, N_LEAPFROG, leapfrog, (position, momentum, value, gradient))
    error = new_value + 0.5 * (ahead**2).sum(0) - value - 0.5 * (momentum**2).sum(0)
    is_accepted = jnp.log(accept) < -error  # not where the error is NaN
    return jnp.where(is_accepted, new, position), ~(error < MAX_ENERGY_ERROR) & jnp.isfinite(value)
