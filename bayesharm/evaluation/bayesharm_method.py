"""bayesharm under the interface of the baselines."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bayesharm.baselines import Applied
from bayesharm.data.dataset import Dataset
from bayesharm.harmonization.harmonize import harmonize
from bayesharm.harmonization.noise_scaling import noise_factors
from bayesharm.results.posterior import Posterior


@dataclass(frozen=True, eq=False)
class BayesFitted:
    """A posterior under the interface of the other methods; with the noise of scanners made equal, or not."""

    posterior: Posterior
    match_noise: bool = False

    @property
    def bias(self) -> pd.DataFrame:
        return self._table("mean")

    @property
    def sd(self) -> pd.DataFrame:
        """Posterior sd of `bias`."""
        return self._table("sd")

    def _table(self, what: str) -> pd.DataFrame:
        return self.posterior.effect(self.posterior.spec.removed_effect)[what].to_pandas()

    @property
    def scanners(self) -> tuple[str, ...]:
        return tuple(self.posterior.scanners)

    @property
    def notes(self) -> tuple[str, ...]:
        return ()

    def apply(self, dataset: Dataset) -> Applied:
        known = np.flatnonzero(dataset.scans["scanner"].isin(self.scanners))
        values, sd, factor = np.full((3, len(dataset.scans), dataset.features.n_features), np.nan)
        if len(known):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of a preview, again and again
                found = harmonize(self.posterior, dataset.take(known), match_noise=self.match_noise)
            values[known], sd[known] = found.mean, found.sd
            if self.match_noise:
                at = pd.Index(self.posterior.features).get_indexer(pd.Index(found.names))
                log_lambda = self.posterior.variance_ratios().log_noise
                of_scanner = noise_factors(self.posterior, log_lambda, -1, at)
                factor[known] = of_scanner[pd.Index(self.scanners).get_indexer(dataset.scans["scanner"].iloc[known])]
        return Applied(values, sd, factor if self.match_noise else None)
