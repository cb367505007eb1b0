"""One block of features from values to summaries of its posterior: moments, NUTS, verdict, effects."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from bayesharm.algorithms.random_streams import Stage, feature_keys
from bayesharm.fitting.feature_summary import summarize_features
from bayesharm.fitting.study import FitContext
from bayesharm.inference.predictive_prior import PredictivePrior
from bayesharm.inference.scales import NutsSettings, SampleShape, ScaleDraws, approximate_block, sample_block, start_chains
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.ratios import VarianceRatios

# How a feature is sampled, and how again where its chains have not converged; later parts go on where the one before ended.
RETRY_SCHEDULE = (
    (NutsSettings(15, 1.2),),
    (NutsSettings(30, 0.8), NutsSettings(0, 0.8)),
    (NutsSettings(100, 0.6), *[NutsSettings(0, 0.6)] * 3),
)
STREAMS = (Stage.FEATURES, Stage.RETRY, Stage.LAST_RETRY)


@dataclass(frozen=True, eq=False)
class BlockSampler:
    """Samples a block of features; safe to call from several threads.

    Attributes
    ----------
    study : Study
    ratios : VarianceRatios
    mixture : Mixture
        Predictive prior of all features.
    """

    study: FitContext
    ratios: VarianceRatios
    mixture: PredictivePrior

    def sample(self, block: np.ndarray, turn: int = 0) -> dict[str, np.ndarray]:
        """Summaries of a block of features, from one turn of the `RETRY_SCHEDULE`, without those that fill it up."""
        with self.study.devices.in_use(self.study.settings.dtype):
            moments, standard = self.study.moments(block)
            draws = self._draws(block, moments, turn)
        return summarize_features(self.study, block, self.ratios, moments, standard, draws, len(np.unique(block)))

    def _draws(self, block: np.ndarray, moments: Moments, turn: int) -> ScaleDraws:
        """One run of the chains, in parts that all take the same program; or none."""
        mixture = self.mixture._replace(log_weight=self.mixture.log_weight[:, block])
        node_keys, mesh = feature_keys(self.study.seed, Stage.IMPORTANCE, block), self.study.devices.mesh
        if self.study.settings.preview:
            return approximate_block(self.study.problem, self.ratios, moments, mixture, node_keys, mesh=mesh)
        keys = feature_keys(self.study.seed, STREAMS[turn], block)
        effort = SampleShape(self.study.settings.chains, self.study.settings.n_draws)
        last, parts = start_chains(keys, len(mixture.mean), effort.n_chains), []
        for k, pace in enumerate(RETRY_SCHEDULE[turn]):
            part = sample_block(
                self.study.problem,
                self.ratios,
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
