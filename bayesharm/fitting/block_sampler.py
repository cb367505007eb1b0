"""Sampling of one block of features: moments, NUTS on the scales, summaries."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from bayesharm.algorithms.random_streams import Stage, feature_keys
from bayesharm.fitting.context import FitContext
from bayesharm.fitting.feature_summary import Arrays, summarize_features
from bayesharm.inference.predictive_prior import PredictivePrior
from bayesharm.inference.scales import NutsSettings, SampleShape, ScaleDraws, approximate_block, sample_block, start_chains
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.ratios import VarianceRatios

# Runs of the chains of a feature: at first, and in two retries where they have not converged. Each run of a retry continues
# where the one before ended. The retries take smaller steps, which divergences and slow mixing call for.
RETRY_SCHEDULE = (
    (NutsSettings(15, 1.2),),
    (NutsSettings(30, 0.8), NutsSettings(0, 0.8)),
    (NutsSettings(100, 0.6), *[NutsSettings(0, 0.6)] * 3),
)
# With more scales, steps of 1.2 posterior sds are accepted less often: of 500 features with 19 scales, 17% were run again.
MANY_SCALES, SHORTER_STEP = 14, 1.1
STREAMS = (Stage.FEATURES, Stage.RETRY, Stage.LAST_RETRY)


@dataclass(frozen=True, eq=False)
class BlockSampler:
    """Sampler of a block of features; safe to call from several threads.

    Attributes
    ----------
    context : FitContext
    ratios : VarianceRatios
    prior : PredictivePrior
        Predictive prior of all features.
    """

    context: FitContext
    ratios: VarianceRatios
    prior: PredictivePrior

    @property
    def is_compiled(self) -> bool:
        """Whether the program of a block has been compiled."""
        return (approximate_block if self.context.settings.preview else sample_block).n_compiled > 0

    def sample(self, block: np.ndarray, retry: int = 0) -> Arrays:
        """Summarize the posterior of a block of features, without those that only fill it up.

        Parameters
        ----------
        block : (feature,) int array
        retry : int
            Position in `RETRY_SCHEDULE`.
        """
        with self.context.devices.in_use(self.context.settings.dtype):
            moments, standardization = self.context.moments(block)
            draws = self._draw(block, moments, retry)
        n_features = len(np.unique(block))
        return summarize_features(self.context, block, self.ratios, moments, standardization, draws, n_features)

    def _draw(self, block: np.ndarray, moments: Moments, retry: int) -> ScaleDraws:
        """Run the chains, in consecutive runs of one compiled program; or approximate, for a preview."""
        context = self.context
        prior = self.prior._replace(log_weight=self.prior.log_weight[:, block])
        node_keys, mesh = feature_keys(context.seed, Stage.IMPORTANCE, block), context.devices.mesh
        if context.settings.preview:
            return approximate_block(context.problem, self.ratios, moments, prior, node_keys, mesh=mesh)
        keys = feature_keys(context.seed, STREAMS[retry], block)
        shape = SampleShape(context.settings.chains, context.settings.n_draws)
        last, runs = start_chains(keys, len(prior.mean), shape.n_chains), []
        for k, nuts in enumerate(RETRY_SCHEDULE[retry]):
            if len(prior.mean) > MANY_SCALES:
                nuts = nuts._replace(step_size=min(nuts.step_size, SHORTER_STEP))
            run_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, k)
            run = sample_block(
                context.problem, self.ratios, moments, prior, node_keys, run_keys, last, shape, nuts, mesh=mesh
            )
            last = run.last
            runs.append(run)
        if len(runs) == 1:
            return runs[0]
        joined = {
            name: jnp.concatenate([getattr(run, name) for run in runs], axis=1)
            for name in ("log_scales", "diverging", "n_steps")
        }
        return runs[-1]._replace(**joined)
