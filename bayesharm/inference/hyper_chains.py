"""NUTS chains of the hyperposterior, in segments: whitened, and adapted to the draws of the segments before."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayesharm.algorithms.devices import working_on
from bayesharm.algorithms.diagnostics import diagnose
from bayesharm.algorithms.nuts import sample_batched
from bayesharm.algorithms.programs import program
from bayesharm.algorithms.random_streams import Stage, stage_key
from bayesharm.inference.hyper_target import MANY_FEATURES, CenteredTarget, HyperTarget, eta_and_log_omega, log_density
from bayesharm.inference.importance import subsample
from bayesharm.model.spec import Priors

Array = jax.Array


@dataclass(frozen=True)
class NutsSchedule:
    """Segments of the NUTS chains of the hyperposterior, in whitened coordinates.

    Attributes
    ----------
    n_evaluations, min_samples, max_samples : int
        Samples × features that a density is computed from, and limits of the samples of each feature.
    n_warmup : int
        Iterations before the first segment.
    step_size, step_size_of_few : float
        The latter for fewer than `MANY_FEATURES` features, whose hyperposterior is less Gaussian.
    min_efficiency : float
        Effective draws per draw; with fewer, the draws so far count as warm-up.
    shortening : float
        Factor of the step size after such a warm-up.
    max_segments : int
    ess_margin : float
        Effective draws that end the chains, over those that convergence takes.
    hopeless_rhat : float
        R-hat after the last segment from which the draws are not used.
    max_condition : float
        Condition number of the draws' covariance from which the chains are stuck.
    """

    n_evaluations: int = 2**17
    min_samples: int = 128
    max_samples: int = 1024
    n_warmup: int = 50
    step_size: float = 0.6
    step_size_of_few: float = 0.4
    min_efficiency: float = 0.2
    shortening: float = 0.7
    max_segments: int = 14
    ess_margin: float = 1.25
    hopeless_rhat: float = 1.3
    max_condition: float = 1e12


SCHEDULE = NutsSchedule()


class ChainState(NamedTuple):
    """NUTS chains between two segments.

    Attributes
    ----------
    mode : (2 × scale,) array
    factor : (2 × scale, 2 × scale) array
        Whitening: a position is ``mode + factor z``.
    start : (2 × scale, chain) array
        z from which the next segment starts.
    step_size : float
    segments : tuple of (chain, draw, 2 × scale) arrays
        Positions since the last warm-up; omega_excess has either sign.
    diverging : int
        Divergences in these.
    """

    mode: np.ndarray
    factor: np.ndarray
    start: np.ndarray
    step_size: float
    segments: tuple[np.ndarray, ...] = ()
    diverging: int = 0

    @property
    def positions(self) -> np.ndarray:
        """Draws of all segments, (chain, draw, 2 × scale)."""
        return np.concatenate(self.segments, axis=1)


@dataclass(frozen=True, eq=False)
class ChainSampler:
    """NUTS on a target in single precision, segment by segment.

    Attributes
    ----------
    priors : Priors
    target : HyperTarget
    seed, n_chains : int
    n_draws : int
        Draws of each chain in a segment.
    """

    priors: Priors
    target: HyperTarget
    seed: int
    n_chains: int
    n_draws: int

    def initial(self, centered: CenteredTarget) -> ChainState:
        """Start the chains at random around the mode."""
        key = stage_key(self.seed, Stage.START)
        start = np.asarray(0.5 * jax.random.normal(key, (len(centered.mode), self.n_chains)))
        return ChainState(centered.mode, centered.factor, start, SCHEDULE.step_size)

    def extend(self, state: ChainState, segment: int) -> ChainState:
        """Sample one more segment; a thread for each half of the chains."""
        key = jax.random.fold_in(stage_key(self.seed, Stage.HYPER), segment)
        keys = jax.random.split(key, self.n_chains)
        device = jax.config.jax_default_device

        def sample(chains: np.ndarray) -> tuple[Array, Array]:
            with working_on(device, "float32"):
                mode, factor, start = (
                    part.astype(np.float32) for part in (state.mode, state.factor, state.start[:, chains])
                )
                n_warmup = 0 if segment else SCHEDULE.n_warmup
                draws = _sample_segment(
                    self.priors, self.target, mode, factor, start, keys[chains], n_warmup, state.step_size, self.n_draws
                )
                return jax.block_until_ready(draws)

        with ThreadPoolExecutor() as pool:
            halves = list(pool.map(sample, np.array_split(np.arange(self.n_chains), 2)))
        positions = np.concatenate([np.asarray(positions, float) for positions, _ in halves])
        diverging = state.diverging + sum(int(diverging) for _, diverging in halves)
        return state._replace(segments=(*state.segments, positions), diverging=diverging)

    def convergence(self, state: ChainState) -> tuple[float, float]:
        """Return the largest R-hat and the smallest bulk effective sample size of eta and log omega."""
        draws = np.concatenate(split_draws(self.priors, state.positions), axis=2)[..., None]
        diagnostics = diagnose(draws, np.zeros((*draws.shape[:2], 1), bool))
        return diagnostics.rhat.max(), np.nan_to_num(diagnostics.ess_bulk.min())

    def adapt(self, state: ChainState, segment: int, ess: float) -> ChainState | None:
        """Adapt whitening and step size to the draws; None if the chains are stuck.

        Draws show the shape of the posterior better than its curvature at one point. If they are very dependent, those of
        the first half of the segments are discarded as warm-up.
        """
        last = state.segments[-1][:, -1]
        is_inefficient = ess < SCHEDULE.min_efficiency * self.n_chains * state.positions.shape[1]
        if segment == 0 or is_inefficient:
            whitening = _whitening_of(state.positions)
            if whitening is None:
                return None
            state = state._replace(mode=whitening[0], factor=whitening[1])
        if is_inefficient and segment < SCHEDULE.max_segments // 2:
            state = state._replace(step_size=state.step_size * SCHEDULE.shortening, segments=(), diverging=0)
        elif segment == 0 and self.target.log_weights.shape[2] < MANY_FEATURES:
            state = state._replace(step_size=min(state.step_size, SCHEDULE.step_size_of_few))
        return state._replace(start=np.linalg.solve(state.factor, (last - state.mode).T))


def _whitening_of(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return mean and covariance factor of draws with positive omega_excess; None if the covariance is degenerate."""
    dimension = positions.shape[2]
    pooled = positions.reshape(-1, dimension).copy()
    pooled[:, dimension // 2 :] = np.abs(pooled[:, dimension // 2 :])  # with either sign there may be two modes
    covariance = np.cov(pooled.T)
    if not np.isfinite(covariance).all() or np.linalg.cond(covariance) > SCHEDULE.max_condition:
        return None
    return pooled.mean(0), np.linalg.cholesky(covariance)


def affordable_samples(n_samples: int, n_features: int) -> int:
    """Return the number of samples of each feature that NUTS uses."""
    affordable = np.clip(SCHEDULE.n_evaluations // n_features, SCHEDULE.min_samples, SCHEDULE.max_samples)
    return min(n_samples, int(affordable))


def subsampled(priors: Priors, centered: CenteredTarget, seed: int) -> HyperTarget:
    """Reduce a target to the samples that NUTS can afford, chosen by their weights at positions around the mode."""
    target, (_, n_samples, n_features) = centered.target, centered.target.log_weights.shape
    n_kept = affordable_samples(n_samples, n_features)
    if n_kept == n_samples:
        return target
    key, key_around = jax.random.split(stage_key(seed, Stage.SUBSAMPLE))
    z = np.asarray(jax.random.normal(key_around, (len(centered.mode), 32)))
    around = eta_and_log_omega(priors, jnp.asarray(centered.mode[:, None] + 1.5 * centered.factor @ z))
    double = target.basis.astype(float), target.log_weights[0].astype(float)
    basis, log_weights = subsample(key, *double, around, n_kept, priors.feature_offset_sd)
    return target._replace(basis=basis, log_weights=log_weights[None], log_n_samples=np.log(n_kept))


def split_draws(priors: Priors, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Convert draws of a position to eta and log omega, (chain, draw, scale) each."""
    eta, log_omega = eta_and_log_omega(priors, jnp.moveaxis(positions, 2, 0))
    return np.moveaxis(np.asarray(eta), 0, 2), np.moveaxis(np.asarray(log_omega), 0, 2)


@program("priors", "n_draws")
def _sample_segment(
    priors: Priors,
    target: HyperTarget,
    mode: Array,
    factor: Array,
    start: Array,
    keys: Array,
    n_warmup: int,
    step_size: float,
    n_draws: int,
) -> tuple[Array, Array]:
    """Run NUTS in whitened coordinates; return positions (chain, draw, 2 × scale) and the number of divergences."""

    def potential(shared, _, z):
        target, mode, factor = shared
        return -log_density(priors, target, mode[:, None] + factor @ z)

    draws = sample_batched(
        potential,
        (target, mode, factor),
        (),
        start,
        keys,
        n_warmup=n_warmup,
        n_draws=n_draws,
        step_size=step_size,
        max_tree_depth=5,
    )
    position = mode[:, None] + jnp.einsum("ij,djc->dic", factor, draws.position)
    return jnp.transpose(position, (2, 0, 1)), draws.diverging.sum()
