"""Bayesharm as one of the harmonization methods that are compared."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from bayesharm.baselines import Applied
from bayesharm.data.dataset import Dataset
from bayesharm.harmonization.harmonize import harmonize
from bayesharm.harmonization.noise_scaling import noise_factors
from bayesharm.harmonization.options import CorrectionOptions
from bayesharm.harmonization.scanner_ratios import read_feature_noise, read_ratios
from bayesharm.harmonization.selection import choose_families
from bayesharm.harmonization.value_ranges import columns_of_correction, screen_ranges
from bayesharm.results.posterior import Posterior


@dataclass(frozen=True, eq=False)
class BayesFitted:
    """A posterior with the interface of the baselines.

    Attributes
    ----------
    posterior : Posterior
    options : CorrectionOptions
        Options of :func:`bayesharm.harmonize`.
    """

    posterior: Posterior
    options: CorrectionOptions = CorrectionOptions()

    @property
    def bias(self) -> pd.DataFrame:
        """Posterior mean of the scanner effects that the model removes, scanner × feature."""
        return self._effects("mean")

    @property
    def sd(self) -> pd.DataFrame:
        """Posterior sd of `bias`."""
        return self._effects("sd")

    def _effects(self, statistic: str) -> pd.DataFrame:
        return self.posterior.effect(self.posterior.spec.removed_effect)[statistic].to_pandas()

    @property
    def scanners(self) -> tuple[str, ...]:
        """Scanners that can be harmonized."""
        return tuple(self.posterior.scanners)

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks of the method: none."""
        return ()

    def apply(self, dataset: Dataset) -> Applied:
        """Harmonize the scans on known scanners and in the ranges of the fit; the values of other scans are NaN."""
        family = choose_families(self.posterior.spec, self.options.remove)[0]
        columns = columns_of_correction(self.posterior, family, self.options.match_noise)
        refused = [each for each in screen_ranges(self.posterior, dataset.scans, columns)[0] if each.severity == "error"]
        notes = tuple(f"could not correct some scans: {finding.what}" for finding in refused)
        far = {scan for finding in refused for scan in finding.scans}
        is_known = dataset.scans["scanner"].isin(self.scanners) & ~dataset.scans["scan_id"].astype(str).isin(far)
        rows = np.flatnonzero(is_known)
        values, sd, factors = np.full((3, len(dataset.scans), dataset.features.n_features), np.nan)
        if len(rows):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # a preview would warn for every fold
                harmonized = harmonize(self.posterior, dataset.take(rows), **asdict(self.options))
            values[rows], sd[rows] = harmonized.mean, harmonized.sd
            if self.rescales:
                factors[rows] = self._factors(dataset.scans["scanner"].iloc[rows], harmonized.names)
        return Applied(values, sd, factors if self.rescales else None, notes)

    @property
    def rescales(self) -> bool:
        """Whether deviations are rescaled."""
        return self.options.match_noise or self.options.match_gain

    def _factors(self, scanner: pd.Series, names: np.ndarray) -> np.ndarray:
        """Return the factors of deviations that match gain and noise, (scan, feature)."""
        target = -1 if self.options.target is None else self.scanners.index(self.options.target)
        indices = pd.Index(self.posterior.features).get_indexer(pd.Index(names))
        ratios = read_ratios(self.posterior, self.scanners, seed=0).mean
        if self.options.match_noise:  # of both steps together
            log_noise = read_feature_noise(self.posterior, self.scanners, indices)
            by_scanner = noise_factors(self.posterior, ratios, target, indices, log_noise)
        else:
            by_scanner = np.exp((ratios.log_gain[target] if target >= 0 else 0.0) - ratios.log_gain)[:, None]
        return by_scanner[pd.Index(self.scanners).get_indexer(scanner)]
