"""Sampling of one block of features whose noise has heavy tails: weights, scales and effects, and their summaries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayesharm.algorithms.random_streams import Stage, feature_keys
from bayesharm.fitting.context import FitContext
from bayesharm.fitting.feature_summary import Arrays, Sizes, summarize_draws
from bayesharm.fitting.gibbs import ChainState, GibbsDraws, sample_weighted_block
from bayesharm.fitting.gibbs_sweep import N_LEAPFROG, GibbsShape
from bayesharm.inference.predictive_prior import PredictivePrior
from bayesharm.inference.scales import ScaleDraws, start_chains
from bayesharm.inference.tails import Tails
from bayesharm.likelihood.moments import Moments, Standardization
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.likelihood.scan_weights import compute_weighted_moments

# Sweeps that are discarded in each run of the chains of a feature: one run at first, and more in two retries. Each run of a
# retry continues where the one before ended.
RETRY_SCHEDULE = ((6,), (20, 0), (20, 0, 0, 0))
STREAMS = (Stage.FEATURES, Stage.RETRY, Stage.LAST_RETRY)


@dataclass(frozen=True, eq=False)
class WeightedBlockSampler:
    """Sampler of a block of features with Student-t noise; safe to call from several threads.

    Attributes
    ----------
    context : FitContext
    ratios : VarianceRatios
    prior : PredictivePrior
        Predictive prior of all features.
    tails : Tails
    """

    context: FitContext
    ratios: VarianceRatios
    prior: PredictivePrior
    tails: Tails

    @property
    def is_compiled(self) -> bool:
        """Whether the program of a block has been compiled."""
        return sample_weighted_block.n_compiled > 0

    def sample(self, block: np.ndarray, retry: int = 0) -> Arrays:
        """Summarize the posterior of a block of features, without those that only fill it up.

        Parameters
        ----------
        block : (feature,) int array
        retry : int
            Position in `RETRY_SCHEDULE`.

        Returns
        -------
        dict of arrays
            As of :func:`bayesharm.fitting.feature_summary.summarize_features`, and ``scan_weight``, (scan, feature).
        """
        _, standardization = self.context.moments(block)
        values = standardize(self.context, block, standardization)
        draws = self.draw(block, values, retry)
        scales = ScaleDraws(
            draws.log_scales,
            draws.diverging,
            jnp.full(draws.diverging.shape, N_LEAPFROG),
            draws.log_weights,
            draws.state.position,
        )
        thinned = draws.log_scales[:, self.shape.thin - 1 :: self.shape.thin]
        thinned = thinned[:, :, : draws.finite_sd.shape[2]]  # noise ratios have no sizes
        flat = (part.reshape(-1, *part.shape[2:]) for part in (draws.finite_sd, draws.contribution, thinned))
        effects = draws.effect_mean, np.sqrt(draws.effect_variance)
        n_features = len(np.unique(block))
        moments = self.moments(values, draws.weight)
        return summarize_draws(
            self.context, pull_in(values, draws), moments, standardization, scales, effects, Sizes(*flat), n_features
        ) | {"scan_weight": np.where(np.isnan(values), np.nan, draws.weight)[:, :n_features].astype(np.float16)}

    @property
    def shape(self) -> GibbsShape:
        """Sizes of the chains."""
        settings, n_scales = self.context.settings, len(self.prior.mean)
        thin = GibbsShape._field_defaults["thin"]
        n_proposed = 0 if self.prior.mean.shape[1] == 1 else n_scales - 1  # few features hardly pool
        return GibbsShape(settings.chains, -(-settings.n_draws // thin), thin, n_proposed)

    def draw(self, block: np.ndarray, values: np.ndarray, retry: int = 0) -> GibbsDraws:
        """Run the chains, in consecutive runs of one compiled program.

        Parameters
        ----------
        block : (feature,) int array
        values : (scan, feature) array
            Standardized.
        retry : int
        """
        context, shape = self.context, self.shape
        prior = self.prior._replace(log_weight=self.prior.log_weight[:, block])
        with context.devices.in_use(context.settings.dtype):
            importance_keys = feature_keys(context.seed, Stage.IMPORTANCE, block)
            keys = feature_keys(context.seed, STREAMS[retry], block)
            position = start_chains(keys, len(prior.mean), shape.n_chains)
            scans = np.zeros((shape.n_chains, *values.shape), context.settings.dtype)
            state, runs = ChainState(position, scans, scans), []
            for k, n_warmup in enumerate(RETRY_SCHEDULE[retry]):
                run_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, k)
                run = sample_weighted_block(
                    context.problem, context.scan_terms, context.levels, self.ratios, self.tails,
                    values.astype(context.settings.dtype), prior, importance_keys, run_keys, state, n_warmup, k == 0, shape,
                    mesh=context.devices.mesh,
                )  # fmt: skip
                state = run.state
                runs.append(jax.tree.map(np.asarray, run))
        return join_runs(runs)

    def moments(self, values: np.ndarray, weight: np.ndarray) -> Moments:
        """Compute moments with weights, in double precision; both arrays are (scan, feature)."""
        with self.context.devices.in_use("float64"):
            moments = compute_weighted_moments(self.context.scan_terms, values.astype(float), weight.astype(float))
            return jax.tree.map(np.asarray, moments)


def standardize(context: FitContext, block: np.ndarray, standardization: Standardization) -> np.ndarray:
    """Read standardized features, (scan of the design, feature); NaN where a scan is missing."""
    return (context.values(block) - standardization.center) / standardization.sd


def pull_in(values: np.ndarray, draws: GibbsDraws) -> np.ndarray:
    """Shrink the residual of each value by its weight: what is left determines the effects as a Gaussian value would."""
    return draws.fitted + np.minimum(draws.weight, 1.0) * (values - draws.fitted)


def join_runs(runs: list[GibbsDraws]) -> GibbsDraws:
    """Join consecutive runs of the same chains."""
    if len(runs) == 1:
        return runs[0]
    parts = {name: [getattr(run, name) for run in runs] for name in GibbsDraws._fields}
    joined: dict[str, Any] = {
        name: np.concatenate(parts[name], axis=1) for name in ("log_scales", "diverging", "finite_sd", "contribution")
    }
    joined |= {name: np.mean(parts[name], axis=0) for name in ("weight", "fitted", "effect_mean")}
    joined["effect_variance"] = np.mean(parts["effect_variance"], axis=0) + np.var(parts["effect_mean"], axis=0)
    return runs[-1]._replace(**joined)
