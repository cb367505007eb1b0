"""One block of features from values to summaries of its posterior: moments, NUTS, verdict, effects."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from bayesharm.dataset import Dataset
from bayesharm.design import Design
from bayesharm.inference.convergence import judge, pareto_k
from bayesharm.inference.effects import average_effects
from bayesharm.inference.lanes import Effort, Mixture, Pace, ScaleDraws, sample_block, start_chains
from bayesharm.inference.problem import Problem, Stage, feature_keys
from bayesharm.moments import Moments, Standard, compute_moments

# How a feature is sampled, and how again where its chains have not converged; later parts go on where the one before ended.
ROUNDS = ((Pace(15, 1.2),), (Pace(30, 0.8), Pace(0, 0.8)), (Pace(100, 0.6), *[Pace(0, 0.6)] * 3))
STREAMS = (Stage.FEATURES, Stage.RETRY, Stage.LAST_RETRY)


@dataclass(frozen=True)
class Settings:
    """How the inference works; the defaults are meant for everybody.

    Attributes
    ----------
    chains, draws : int
        NUTS chains and kept draws of each feature's scales; up to 32 features, which are sampled together, have at least
        1,000 draws.
    hyper_features : int
        At most so many features, chosen at random, teach the hyperparameters and the noise ratio.
    block_size : int
        Features sampled together; results do not depend on it beyond rounding.
    effect_draws : int
        Draws of the scales over which effects are averaged.
    keep_draws : int
        Draws of the scales kept in ``/draws``, chains together; 0 keeps none.
    dtype : {'float32', 'float64'}
        Precision in which features are sampled. What features share is always learned in double precision.
    """

    chains: int = 4
    draws: int = 125
    hyper_features: int = 512
    block_size: int = 64
    effect_draws: int = 100
    keep_draws: int = 0
    dtype: str = "float32"


@dataclass(frozen=True, eq=False)
class Study:
    """What is fitted, and how; the same for all features.

    Attributes
    ----------
    dataset : Dataset
    design : Design
    problem : Problem
    unit : float, optional
        That all features share.
    seed : int
    settings : Settings
    """

    dataset: Dataset
    design: Design
    problem: Problem
    unit: float | None
    seed: int
    settings: Settings

    def moments(self, features: np.ndarray) -> tuple[Moments, Standard]:
        """Moments of some features, in runs of neighbours so that a file is read in pieces."""
        parts = []
        for run in np.split(features, np.flatnonzero(np.diff(features) != 1) + 1):
            for start in range(0, len(run), 512):
                piece = run[start : start + 512]
                values = self.dataset.features.read(int(piece[0]), int(piece[-1]) + 1)
                parts.append(compute_moments(self.design, self.problem.plan.layout, values, self.unit))
        moments = Moments(*(np.concatenate(part, axis=-1) for part in zip(*(m for m, _ in parts), strict=True)))
        standard = Standard(*(np.concatenate(part) for part in zip(*(s for _, s in parts), strict=True)))
        return moments, standard

    def summarize(
        self, log_ratio: np.ndarray, moments: Moments, standard: Standard, draws: ScaleDraws
    ) -> dict[str, np.ndarray]:
        """Summaries of draws of the scales, and of the effects given them, in the features' units."""
        log_scales = np.asarray(draws.log_scales, float)
        pooled = log_scales.reshape(-1, *log_scales.shape[2:])
        few = pooled[np.linspace(0, len(pooled) - 1, self.settings.effect_draws).astype(int)]
        with jax.enable_x64(True):  # variances are differences of squares
            effects = average_effects(self.problem, log_ratio, moments, jnp.asarray(few))
        verdict = judge(log_scales, np.asarray(draws.diverging))
        effect_mean, effect_sd = (np.asarray(part) * standard.sd for part in effects)
        finite = np.isfinite(effect_mean).all(0) & np.isfinite(effect_sd).all(0)
        scales = np.exp(pooled) * standard.sd
        q05, q50, q95 = np.quantile(scales, [0.05, 0.5, 0.95], axis=0)
        found = {
            "mean": scales.mean(0),
            "sd": scales.std(0),
            "q05": q05,
            "q50": q50,
            "q95": q95,
            "ess_bulk": verdict.ess_bulk,
            "rhat": verdict.rhat,
            "divergences": verdict.divergences,
            "converged": verdict.converged & finite,
            "khat": pareto_k(np.asarray(draws.log_ratios)),
            "centre": standard.centre,
            "unit": standard.sd,
            "effect_mean": effect_mean,
            "effect_sd": effect_sd,
            "draws": np.full(len(standard.sd), len(pooled)),
            "steps": np.asarray(draws.n_steps).sum((0, 1)),
        }
        if kept := self.settings.keep_draws:
            found["kept"] = scales[np.linspace(0, len(scales) - 1, kept).astype(int)]
        return found


@dataclass(frozen=True, eq=False)
class BlockSampler:
    """Samples a block of features; safe to call from several threads.

    Attributes
    ----------
    study : Study
    log_ratio : (scanner,) array
    mixture : Mixture
        Predictive prior of all features.
    """

    study: Study
    log_ratio: np.ndarray
    mixture: Mixture

    def sample(self, block: np.ndarray, turn: int = 0) -> dict[str, np.ndarray]:
        """Summaries of the posterior of a block of features, from one of the `ROUNDS`."""
        with jax.enable_x64(self.study.settings.dtype == "float64"):  # the switch belongs to a thread
            moments, standard = self.study.moments(block)
            draws = self._draws(block, moments, turn)
        return self.study.summarize(self.log_ratio, moments, standard, draws)

    def _draws(self, block: np.ndarray, moments: Moments, turn: int) -> ScaleDraws:
        """One run of the chains, in parts that all take the same program."""
        keys = feature_keys(self.study.seed, STREAMS[turn], block)
        mixture = self.mixture._replace(log_weight=self.mixture.log_weight[:, block])
        effort = Effort(self.study.settings.chains, self.study.settings.draws)
        last, parts = start_chains(keys, len(mixture.mean), effort.n_chains), []
        for k, pace in enumerate(ROUNDS[turn]):
            part = sample_block(
                self.study.problem,
                self.log_ratio,
                moments,
                mixture,
                feature_keys(self.study.seed, Stage.NODES, block),
                jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, k),
                last,
                effort,
                pace,
            )
            last = part.last
            parts.append(part)
        if len(parts) == 1:
            return parts[0]
        along = {
            name: jnp.concatenate([getattr(part, name) for part in parts], axis=1)
            for name in ("log_scales", "diverging", "n_steps")
        }
        return parts[-1]._replace(**along)
