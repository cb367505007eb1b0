"""NUTS on the hyperparameters, the variance ratios and the scales of many features together, in whitened coordinates.

Some fifteen leapfrog steps make a nearly independent draw of a position of :mod:`bayesharm.inference.joint_density`.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayesharm.algorithms.devices import working_on
from bayesharm.algorithms.diagnostics import MAX_RHAT, MIN_ESS, diagnose
from bayesharm.algorithms.numpyro_parts import ParamInfo, hmc
from bayesharm.algorithms.programs import program
from bayesharm.algorithms.random_streams import Stage, stage_key
from bayesharm.inference.gaussian_likelihood import GaussianLikelihood
from bayesharm.inference.hyper_approximation import HyperApproximation
from bayesharm.inference.joint_density import (
    Parameters,
    Whitening,
    free_ratios,
    log_density,
    start_whitening,
    to_parameters,
)
from bayesharm.inference.scales import N_SAMPLES, ScaleDraws
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.problem import Problem

Array = jax.Array


@dataclass(frozen=True)
class JointSchedule:
    """Warm-up and segments of the chains.

    Attributes
    ----------
    n_warmup : int
        Iterations that adapt the step size. The draws of the first segment, which follows, adapt the whitening.
    step_size : float
        At first, in posterior sds.
    target_accept : float
        Acceptance probability that the step size is adapted to.
    max_tree_depth : int
    max_segments : int
        After the first.
    start_sd : float
        Spread of the chains at the start, in posterior sds.
    max_divergent : float
        Share of divergent draws above which steps are halved and the draws made anew; in the end, above which all features
        count as divergent.
    max_halvings : int
        Of the steps.
    """

    n_warmup: int = 100
    step_size: float = 0.4
    target_accept: float = 0.8
    max_tree_depth: int = 5
    max_segments: int = 12
    start_sd: float = 0.5
    max_divergent: float = 0.01
    max_halvings: int = 2


SCHEDULE = JointSchedule()
ANY_PROPOSAL = 1e6  # added to the potential at the start, so high that the first proposal of the warm-up is taken


class JointDraws(NamedTuple):
    """Draws of the parameters, (chain, draw, …).

    Attributes
    ----------
    eta : (chain, draw, scale) array
    log_omega : (chain, draw, group) array
    raw_ratios : (chain, draw, ratio) array
    scales : ScaleDraws
    n_divergent : int
    """

    eta: np.ndarray
    log_omega: np.ndarray
    raw_ratios: np.ndarray
    scales: ScaleDraws
    n_divergent: int


def sample_joint(
    problem: Problem,
    moments: Moments,
    approximation: HyperApproximation,
    *,
    seed: int,
    n_chains: int = 4,
    n_draws: int = 125,
    target_ess: float = MIN_ESS,
    on_segment: Callable[[str], object] = lambda text: None,
) -> JointDraws:
    """Sample all parameters together, in double precision, segment by segment until the chains have converged.

    Parameters
    ----------
    problem : Problem
    moments : Moments
        Of all features.
    approximation : HyperApproximation
        Of the same features.
    seed, n_chains : int
    n_draws : int
        Draws of each chain in a segment.
    target_ess : int
        Bulk effective sample size that each scale needs.
    on_segment : callable
        Receives a line of progress after each segment.
    """
    chains = _Chains(problem, moments, seed, n_chains, n_draws)
    whitening = start_whitening(problem, approximation)
    size = n_chains, len(whitening.center) + whitening.likelihood.center.size
    position = SCHEDULE.start_sd * np.asarray(jax.random.normal(stage_key(seed, Stage.START), size))
    potential = ANY_PROPOSAL - float(np.sum(approximation.likelihood.value))  # that of large studies is large
    start = ChainState(position, np.full(n_chains, potential), np.zeros(size))
    first = chains.extend(whitening, start, np.full(n_chains, SCHEDULE.step_size), 0)
    on_segment("adapted to the posterior")
    start, whitening = adapt_whitening(problem, whitening, first)
    step_size, segments, n_halvings = np.full(n_chains, first.step_size.mean()), [], 0
    for k in range(1, SCHEDULE.max_segments + 1):
        segments.append(chains.extend(whitening, start, step_size, k))
        start = segments[-1].last
        share = np.mean([segment.diverging for segment in segments])
        if share > SCHEDULE.max_divergent and n_halvings < SCHEDULE.max_halvings and k < SCHEDULE.max_segments:
            step_size, segments, n_halvings = step_size / 2, [], n_halvings + 1
            on_segment(f"{share:.1%} of the draws diverged: again, with half the step size")
            continue
        draws = _join(problem, segments)
        rhat, ess, is_enough = _convergence(problem, draws, target_ess)
        on_segment(f"{len(segments) * n_draws * n_chains:,} draws: R-hat {rhat:.3f}, effective sample size {ess:,.0f}")
        if is_enough:
            break
    return draws._replace(scales=ScaleDraws(*map(jnp.asarray, draws.scales)))


def compile_chain(problem: Problem, moments: Moments, n_draws: int) -> None:
    """Compile the program of a chain while other work is done; steps that are far too long end each draw at once."""
    n_scales, n_features = len(problem.log_medians), moments.squares.shape[1]
    n_shared = n_scales + problem.hierarchy.n_groups + len(free_ratios(problem))
    nothing, one = np.zeros((n_scales, n_features)), np.repeat(np.eye(n_scales)[..., None], n_features, axis=2)
    likelihood = GaussianLikelihood(*map(jnp.asarray, (nothing, nothing, one, nothing[0], nothing, one)))
    whitening = Whitening(jnp.ones(n_shared), jnp.eye(n_shared), likelihood)
    position, key = np.zeros(n_shared + nothing.size), jax.random.key(0)
    start = ChainState(position, np.asarray(ANY_PROPOSAL), position)
    jax.block_until_ready(run_chain(problem, moments, whitening, start, key, 0, np.float64(1e6), n_draws))


class ChainState(NamedTuple):
    """Position of a chain, and its potential there with the gradient (a JAX pytree)."""

    position: Array | np.ndarray
    potential: Array | np.ndarray
    gradient: Array | np.ndarray


class _Segment(NamedTuple):
    """Draws of all chains in one segment, (chain, draw, …), and where they ended."""

    parameters: Parameters
    diverging: np.ndarray
    n_steps: np.ndarray
    last: ChainState  # of all chains
    step_size: np.ndarray  # (chain,)


@dataclass(frozen=True, eq=False)
class _Chains:
    """Chains of one problem; each runs in a thread of its own."""

    problem: Problem
    moments: Moments
    seed: int
    n_chains: int
    n_draws: int

    def extend(self, whitening: Whitening, start: ChainState, step_size: np.ndarray, segment: int) -> _Segment:
        """Run all chains for one more segment; the first one begins with a warm-up."""
        key = jax.random.fold_in(stage_key(self.seed, Stage.JOINT), segment)
        n_warmup, device = 0 if segment else SCHEDULE.n_warmup, jax.config.jax_default_device

        def run(chain: int) -> Any:
            with working_on(device, "float64"):
                draws = run_chain(
                    self.problem, self.moments, whitening, ChainState(*(part[chain] for part in start)),
                    jax.random.fold_in(key, chain), n_warmup, step_size[chain], self.n_draws,
                )  # fmt: skip
                return jax.tree.map(np.asarray, draws)

        with ThreadPoolExecutor() as pool:
            chains = list(pool.map(run, range(self.n_chains)))
        return _Segment(*jax.tree.map(lambda *parts: np.stack(parts), *chains))


@program("problem", "n_draws")
def run_chain(
    problem: Problem,
    moments: Moments,
    whitening: Whitening,
    start: ChainState,
    key: Array,
    n_warmup: int,
    step_size: float,
    n_draws: int,
) -> tuple[Parameters, Array, Array, ChainState, Array]:
    """Run NUTS from a state; return draws of the parameters, divergences, leapfrog steps, last state and step size.

    NUTS does not evaluate the start again: each evaluation in the program takes a third of its compilation.

    Parameters
    ----------
    problem, moments, whitening
    start : ChainState
    key : PRNG key
    n_warmup : int
        `SCHEDULE.n_warmup` iterations that adapt the step size, or 0.
    step_size : float
    n_draws : int
    """

    @jax.jit  # a program within the program, so that it is traced once and not at each use in NUTS
    @jax.value_and_grad
    def value_and_gradient(position: Array) -> Array:
        parameters, log_determinant = to_parameters(problem, whitening, position)
        return -log_density(problem, moments, parameters) - log_determinant

    @jax.custom_vjp
    def potential(position: Array) -> Array:
        return value_and_gradient(position)[0]

    potential.defvjp(value_and_gradient, lambda gradient, cotangent: (cotangent * gradient,))
    init, step = hmc(potential, algo="NUTS")
    state = init(
        ParamInfo(*start),
        SCHEDULE.n_warmup,
        step_size,
        adapt_mass_matrix=False,
        target_accept_prob=SCHEDULE.target_accept,
        max_tree_depth=SCHEDULE.max_tree_depth,
        rng_key=key,
    )
    state = state._replace(i=SCHEDULE.n_warmup - n_warmup)  # past the warm-up, nothing adapts

    def describe(state: Any) -> tuple[Parameters, Array, Array]:
        return to_parameters(problem, whitening, state.z)[0], state.diverging, state.num_steps

    def advance(k: Array, carry: Any) -> Any:  # one loop for warm-up and draws, so that NUTS is compiled once
        state, draws = carry
        state = step(state, (), {})
        return state, jax.tree.map(lambda kept, new: kept.at[jnp.maximum(k - n_warmup, 0)].set(new), draws, describe(state))

    empty = jax.tree.map(lambda leaf: jnp.zeros((n_draws, *leaf.shape), leaf.dtype), jax.eval_shape(describe, state))
    state, (parameters, diverging, n_steps) = jax.lax.fori_loop(0, n_warmup + n_draws, advance, (state, empty))
    last = ChainState(state.z, state.potential_energy, state.z_grad)
    return parameters, diverging, n_steps, last, state.adapt_state.step_size


def adapt_whitening(problem: Problem, whitening: Whitening, segment: _Segment) -> tuple[ChainState, Whitening]:
    """Whiten hyperparameters and ratios by the draws of a segment; also return the last states in new coordinates.

    Draws show the shape of the posterior better than its curvature at one point.
    """
    eta, omega_excess, raw, _ = segment.parameters
    # of either sign, omega_excess may have two modes
    draws = np.concatenate([eta, np.abs(omega_excess), raw[..., free_ratios(problem)]], axis=-1)
    pooled = draws.reshape(-1, draws.shape[-1])
    share = len(pooled) / (len(pooled) + 2 * pooled.shape[1])  # few draws do not determine a covariance
    covariance = share * np.cov(pooled.T) + (1 - share) * np.asarray(whitening.factor @ whitening.factor.T)
    if not np.isfinite(covariance).all():
        return segment.last, whitening
    factor = np.linalg.cholesky(covariance)
    adapted = Whitening(jnp.asarray(pooled.mean(0)), jnp.asarray(factor), whitening.likelihood)
    n_shared = len(adapted.center)
    position, potential, gradient = segment.last
    shared = whitening.center[:, None] + whitening.factor @ position[:, :n_shared].T
    moved = np.linalg.solve(factor, shared - adapted.center[:, None]).T
    slope = gradient[:, :n_shared] @ np.linalg.solve(whitening.factor, factor)
    position, gradient = (
        np.concatenate([new, old[:, n_shared:]], axis=1) for new, old in ((moved, position), (slope, gradient))
    )
    return ChainState(position, potential, gradient), adapted


def _join(problem: Problem, segments: list[_Segment]) -> JointDraws:
    """Join the draws of segments; in NumPy, since JAX would compile its operations for every number of segments."""
    (eta, omega_excess, raw, log_scales), diverging, n_steps = jax.tree.map(
        lambda *parts: np.concatenate(parts, axis=1), *[segment[:3] for segment in segments]
    )
    parts = np.split(omega_excess, len(segments), axis=1)
    log_omega = np.concatenate([np.asarray(problem.hierarchy.log_omega(part)) for part in parts], axis=1)
    n_features = log_scales.shape[-1]
    counts = diverging & (diverging.mean() > SCHEDULE.max_divergent)  # a divergence counts for every feature
    arrays: dict[str, Any] = {
        "log_scales": log_scales,
        "diverging": np.repeat(counts[..., None], n_features, axis=2),
        "n_steps": np.repeat(n_steps[..., None], n_features, axis=2),
        "log_weights": np.full((N_SAMPLES, n_features), np.nan),
        "last": log_scales[:, -1],
    }
    scales = ScaleDraws(**arrays)
    return JointDraws(eta, log_omega, raw, scales, int(diverging.sum()))


def center_ratios(problem: Problem, raw: np.ndarray) -> np.ndarray:
    """Center log lambda, log kappa and log g over scanners, (..., ratio)."""
    return raw @ problem.centering.T


def _convergence(problem: Problem, draws: JointDraws, target_ess: float) -> tuple[float, float, bool]:
    """Return the largest R-hat and the smallest effective sample size of all parameters, and whether they suffice."""
    ratios = center_ratios(problem, draws.raw_ratios)[..., free_ratios(problem)]
    eta = draws.eta @ problem.hierarchy.centering.T
    shared = np.concatenate([eta, draws.log_omega, ratios], axis=-1)[..., None]
    of_shared = diagnose(shared, np.zeros((*shared.shape[:2], 1), bool))
    of_scales = diagnose(np.asarray(draws.scales.log_scales), np.asarray(draws.scales.diverging))
    rhat = float(np.maximum(of_shared.rhat.max(), of_scales.rhat.max()))
    ess, ess_of_scales = float(of_shared.ess_bulk.min()), float(of_scales.ess_bulk.min())
    return rhat, min(ess, ess_of_scales), rhat < MAX_RHAT and ess > MIN_ESS and ess_of_scales > target_ess
