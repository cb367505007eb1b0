"""One block of features from values to summaries of its posterior: moments, NUTS, verdict, effects."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from bayesharm.dataset import Dataset
from bayesharm.design import Design
from bayesharm.inference.convergence import MAX_RHAT, Verdict, judge, pareto_k, quantiles
from bayesharm.inference.devices import Devices, find_devices
from bayesharm.inference.effects import average_effects
from bayesharm.inference.lanes import Effort, Mixture, Pace, ScaleDraws, approximate_block, sample_block, start_chains
from bayesharm.inference.problem import Problem, Stage, feature_keys
from bayesharm.inference.sizes import Levels, draw_sizes, list_levels
from bayesharm.moments import MomentReader, Moments, Standard
from bayesharm.posterior import REASONS

# How a feature is sampled, and how again where its chains have not converged; later parts go on where the one before ended.
ROUNDS = ((Pace(15, 1.2),), (Pace(30, 0.8), Pace(0, 0.8)), (Pace(100, 0.6), *[Pace(0, 0.6)] * 3))
BLOCK_OF_CPU, BLOCK_OF_PREVIEW, BLOCK_OF_ACCELERATOR = 64, 128, 4096
SIZE_DRAWS = 50  # of effects, at most, from which sizes of families are computed
PIECE = 512  # features of a block that are described at once, by a thread
QUANTILES = (0.05, 0.5, 0.95)
STREAMS = (Stage.FEATURES, Stage.RETRY, Stage.LAST_RETRY)


def join_features(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Summaries of some features and of others together; the feature axis is the last of all."""
    return {key: np.concatenate([part[key] for part in parts], axis=-1) for key in parts[0]}


@dataclass(frozen=True)
class Settings:
    """How the inference works; the defaults are meant for everybody.

    Attributes
    ----------
    chains : int
        NUTS chains of each feature's scales.
    draws : int, optional
        Of each chain; by default a quarter more in all than `target_ess`. Up to 32 features, which are sampled together,
        have at least 1,000.
    target_ess : int
        Bulk effective draws that each scale of a feature must have to count as converged.
    hyper_features : int
        At most so many features, chosen at random, teach the hyperparameters and the noise ratio.
    block_size : int, optional
        Features that a device samples together; results do not depend on it beyond rounding, or beyond Monte-Carlo error
        where rounding turns a step of NUTS. Default: 64 on a processor, whose caches they fit (128 in a preview), 4,096 on
        an accelerator.
    effect_draws : int
        Draws of the scales over which effects are averaged.
    keep_draws : {'none', 'thin', 'all'} or int
        Draws of the scales kept in ``/draws``, chains together: none, 100, as many as a feature has that is not run again
        (of features that are, as many out of more), or a number.
    dtype : {'float32', 'float64'}
        Precision in which features are sampled. What features share is always learned in double precision.
    device : str, optional
        Kind of device to work on, such as `cpu` or `gpu`: all there are of it. By default what JAX takes by itself.
    preview : bool
        Sample nothing: importance sampling around the Laplace approximation of every feature, and Laplace's for what they
        share.
    """

    chains: int = 4
    draws: int | None = None
    target_ess: int = 400
    hyper_features: int = 512
    block_size: int | None = None
    effect_draws: int = 100
    keep_draws: int | str = "none"
    dtype: str = "float32"
    device: str | None = None
    preview: bool = False

    @property
    def n_draws(self) -> int:
        """Draws of each chain."""
        return self.draws or max(8, -(-5 * self.target_ess // (4 * self.chains)))

    @property
    def n_kept(self) -> int:
        """Draws of each feature that are kept."""
        words: dict[int | str, int] = {"none": 0, "thin": 100, "all": self.chains * self.n_draws}
        return int(words.get(self.keep_draws, self.keep_draws))


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
    devices : Devices
    """

    dataset: Dataset
    design: Design
    problem: Problem
    unit: float | None
    seed: int
    settings: Settings
    devices: Devices = field(default_factory=find_devices)

    @property
    def block_size(self) -> int:
        """Features at work at once, on all devices together."""
        n_devices, n_features = len(self.devices.all), len(self.dataset.features.names)
        of_cpu = BLOCK_OF_PREVIEW if self.settings.preview else BLOCK_OF_CPU
        size = self.settings.block_size or (of_cpu if self.devices.of_cpu else BLOCK_OF_ACCELERATOR)
        return n_devices * min(size, -(-n_features // n_devices))

    @cached_property
    def _reader(self) -> MomentReader:
        return MomentReader(self.dataset.features, self.design, self.problem.plan.layout, self.unit)

    def moments(self, features: np.ndarray) -> tuple[Moments, Standard]:
        """Moments of some features."""
        return self._reader(features)

    def values(self, features: np.ndarray) -> np.ndarray:
        """Some features as they are, (scan of the design, feature)."""
        return self._reader.values(features)

    @cached_property
    def _levels(self) -> Levels:
        return list_levels(self.design)

    def summarize(
        self,
        features: np.ndarray,
        log_ratio: np.ndarray,
        moments: Moments,
        standard: Standard,
        draws: ScaleDraws,
        n_own: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Summaries of draws of the scales, and of the effects given them, in the features' units; of the first `n_own`."""
        draws = jax.tree.map(np.asarray, draws)
        pooled = draws.log_scales.reshape(-1, *draws.log_scales.shape[2:])
        few = pooled[np.linspace(0, len(pooled) - 1, min(self.settings.effect_draws, len(pooled))).astype(int)]
        with self.devices.in_use("float64"):  # variances are differences of squares
            effects = average_effects(self.problem, log_ratio, moments, few.astype(float), mesh=self.devices.mesh)
            sizes: tuple = ()
            if not self.settings.preview:
                sizes = self._draw_sizes(features, log_ratio, moments, standard, np.asarray(few))
        n_own = n_own or len(standard.sd)
        pieces = [slice(start, min(start + PIECE, n_own)) for start in range(0, n_own, PIECE)]

        def of_piece(piece: slice) -> dict[str, np.ndarray]:
            found = (standard, draws, effects, sizes)
            return self._describe(*jax.tree.map(lambda leaf: np.asarray(leaf)[..., piece], found))

        if len(pieces) == 1:
            found = of_piece(pieces[0])
        else:
            with ThreadPoolExecutor() as pool:
                found = join_features(list(pool.map(of_piece, pieces)))
        waited = draws.n_steps[..., :n_own].max((0, 2)).sum()  # each draw takes as long as its slowest lane
        kept = {name: part[..., :n_own] for name, part in moments._asdict().items()}
        return found | kept | {"waited": np.full(n_own, waited)}

    def _draw_sizes(
        self, features: np.ndarray, log_ratio: np.ndarray, moments: Moments, standard: Standard, draws: np.ndarray
    ) -> tuple[jax.Array, jax.Array, np.ndarray]:
        """As :func:`draw_sizes` gives them, and the log-scales that they are of."""
        values = (self.values(features) - standard.centre) / standard.sd
        keys = feature_keys(self.seed, Stage.SIZES, features)
        some = draws[:: -(-len(draws) // SIZE_DRAWS)].astype(float)
        mesh = self.devices.mesh
        return *draw_sizes(self.problem, log_ratio, self._levels, moments, some, keys, values, mesh=mesh), some

    def _describe(
        self, standard: Standard, draws: ScaleDraws, effects: tuple, sizes: tuple[np.ndarray, ...]
    ) -> dict[str, np.ndarray]:
        log_scales = np.asarray(draws.log_scales, float)
        pooled = log_scales.reshape(-1, *log_scales.shape[2:])
        if self.settings.preview:  # no chains to judge
            nothing = np.full(log_scales.shape[2:], np.nan)
            verdict = Verdict(nothing, nothing, np.zeros(len(standard.sd), int), ~np.asarray(draws.diverging).any((0, 1)))
        else:
            verdict = judge(log_scales, np.asarray(draws.diverging), self.settings.target_ess)
        effect_mean, effect_sd = (part * standard.sd for part in effects)
        finite = np.isfinite(effect_mean).all(0) & np.isfinite(effect_sd).all(0)
        reason = self._reasons(verdict, finite)
        scales = np.exp(pooled) * standard.sd
        if self.settings.preview:  # points have the moments of the log-scales, and not their quantiles
            limits = np.exp(stats.norm.ppf(QUANTILES)[:, None, None] * pooled.std(0) + pooled.mean(0)) * standard.sd
        else:
            limits = quantiles(scales, QUANTILES)
        found = {
            "mean": scales.mean(0),
            "sd": scales.std(0),
            **dict(zip(("q05", "q50", "q95"), limits, strict=True)),
            "ess_bulk": verdict.ess_bulk,
            "rhat": verdict.rhat,
            "divergences": verdict.divergences,
            "converged": reason == 0,
            "reason": reason,
            "khat": pareto_k(np.asarray(draws.log_ratios)),
            "centre": standard.centre,
            "unit": standard.sd,
            "effect_mean": effect_mean,
            "effect_sd": effect_sd,
            "draws": np.full(len(standard.sd), len(pooled)),
            "steps": np.asarray(draws.n_steps).sum((0, 1)),
        }
        if sizes:
            finite, contribution = sizes[0] * standard.sd, np.where(np.isnan(sizes[0][0]), np.nan, sizes[1])
            away = finite - finite.mean(0)
            covariance = np.einsum("dif,djf->ijf", away, away) / (len(finite) - 1)
            larger = np.where(np.isfinite(covariance), (finite[:, :, None] > finite[:, None]).mean(0), np.nan)
            told = {"finite_sd": _with_quantiles(finite), "contribution": _with_limits(contribution)}
            told |= {"finite_covariance": covariance, "larger": larger}
            tau = np.exp(sizes[2]) * standard.sd
            told["with_scale"] = np.stack([_covariance(part, sizes[2]) for part in (tau, finite, contribution)])
            found |= {name: part.astype(np.float32) for name, part in told.items()}
        if kept := self.settings.n_kept:
            found["kept"] = scales[np.linspace(0, len(scales) - 1, kept).astype(int)].astype(np.float32)
        return found

    def _reasons(self, verdict: Verdict, finite: np.ndarray) -> np.ndarray:
        """Why each feature is marked, (feature,): places in `REASONS`."""
        applies = {
            "not finite": ~finite,
            "no mode": ~verdict.converged & self.settings.preview,  # without chains there is no other verdict
            "divergences": verdict.divergences > 0,
            "R-hat": ~(verdict.rhat < MAX_RHAT).all(0) & ~np.bool_(self.settings.preview),
            "few effective draws": ~verdict.converged,
        }
        return np.select(list(applies.values()), [REASONS.index(name) for name in applies], 0).astype(np.int8)


def _covariance(draws: np.ndarray, log_scales: np.ndarray) -> np.ndarray:
    """Of each number with the log-scale of its family; (draw, family, feature) both, perhaps fewer draws of the former."""
    others = log_scales[:: len(log_scales) // len(draws)]
    return ((draws - draws.mean(0)) * (others - others.mean(0))).sum(0) / (len(draws) - 1)


def _with_quantiles(draws: np.ndarray) -> np.ndarray:
    """Mean, sd and `QUANTILES` of (draw, …) arrays, (statistic, …): outside them lie as many new draws as they say."""
    n = len(draws)
    shares = np.clip((np.array(QUANTILES) * (n + 1) - 1) / (n - 1), 0, 1)
    return np.concatenate([draws.mean(0)[None], draws.std(0, ddof=1)[None], quantiles(draws, list(shares))])


def _with_limits(draws: np.ndarray) -> np.ndarray:
    """The same of few draws of positive numbers, as if they were log-normal."""
    logs = np.log(draws)
    middle, spread = logs.mean(0), logs.std(0, ddof=1)
    limits = [np.exp(middle + z * spread) for z in stats.t.ppf(QUANTILES, len(draws) - 1)]
    return np.stack([draws.mean(0), draws.std(0, ddof=1), *limits])


@dataclass(frozen=True, eq=False)
class BlockSampler:
    """Samples a block of features; safe to call from several threads.

    Attributes
    ----------
    study : Study
    log_ratio : (2 × scanner,) array
    mixture : Mixture
        Predictive prior of all features.
    """

    study: Study
    log_ratio: np.ndarray
    mixture: Mixture

    def sample(self, block: np.ndarray, turn: int = 0) -> dict[str, np.ndarray]:
        """Summaries of the posterior of a block of features, from one of the `ROUNDS`, without those that fill it up."""
        with self.study.devices.in_use(self.study.settings.dtype):
            moments, standard = self.study.moments(block)
            draws = self._draws(block, moments, turn)
        return self.study.summarize(block, self.log_ratio, moments, standard, draws, len(np.unique(block)))

    def _draws(self, block: np.ndarray, moments: Moments, turn: int) -> ScaleDraws:
        """One run of the chains, in parts that all take the same program; or none."""
        mixture = self.mixture._replace(log_weight=self.mixture.log_weight[:, block])
        node_keys, mesh = feature_keys(self.study.seed, Stage.NODES, block), self.study.devices.mesh
        if self.study.settings.preview:
            return approximate_block(self.study.problem, self.log_ratio, moments, mixture, node_keys, mesh=mesh)
        keys = feature_keys(self.study.seed, STREAMS[turn], block)
        effort = Effort(self.study.settings.chains, self.study.settings.n_draws)
        last, parts = start_chains(keys, len(mixture.mean), effort.n_chains), []
        for k, pace in enumerate(ROUNDS[turn]):
            part = sample_block(
                self.study.problem,
                self.log_ratio,
                moments,
                mixture,
                node_keys,
                jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, k),
                last,
                effort,
                pace,
                mesh=mesh,
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
