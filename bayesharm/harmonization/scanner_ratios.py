"""Draws of the noise variance ratios and gains of the scanners of a dataset, which several parts of a correction share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bayesharm.algorithms.random_streams import Stage
from bayesharm.model.labels import NOISE_RATIO
from bayesharm.results.posterior import Posterior


class ScannerRatios(NamedTuple):
    """Logarithms of the ratios of each scanner: posterior means, (scanner,), or draws, (draw, scanner).

    Attributes
    ----------
    log_noise, log_gain : arrays
        log lambda and log g; 0 for scanners that are not in the posterior, and for gains that it does not know.
    """

    log_noise: np.ndarray
    log_gain: np.ndarray

    @property
    def mean(self) -> ScannerRatios:
        """Means over the draws."""
        return ScannerRatios(*(draws.mean(0) for draws in self))

    def at(self, draw: int) -> ScannerRatios:
        """One of the draws; after the last comes the first."""
        return ScannerRatios(*(draws[draw % len(draws)] for draws in self))


def read_feature_noise(posterior: Posterior, scanners: Sequence[object], feature_indices: np.ndarray) -> np.ndarray:
    """Read the noise ratios of scanners in each feature: twice the log of their posterior medians, (scanner, feature).

    They are 0 for scanners that are not in the fit, and where features share lambda.

    Parameters
    ----------
    posterior : Posterior
    scanners : sequence
        Names.
    feature_indices : (feature,) int array
        Indices of the features in the posterior.
    """
    scales = posterior.scales
    of_scanner = {str(scales["group"].values[k]): k for k in np.flatnonzero(scales["term"].values == NOISE_RATIO)}
    log_noise = np.zeros((len(scanners), len(feature_indices)))
    for row, name in zip(log_noise, scanners, strict=True):
        if (k := of_scanner.get(str(name), -1)) >= 0:
            row[:] = 2 * np.log(scales["q50"].values[k, feature_indices])
    return log_noise


def read_ratios(posterior: Posterior, scanners: Sequence[str], seed: int) -> ScannerRatios:
    """Read posterior draws of the ratios of some scanners.

    They are in random order: consecutive draws of a chain are correlated, and few of them may be used.
    """
    draws = [
        np.log(posterior.hyper[name].reindex(scanner=np.array(scanners, object), fill_value=1.0).values)
        for name in ("noise_ratio", "gain")
    ]
    draws = [each.reshape(-1, len(scanners)) for each in draws]
    order = np.random.default_rng([seed, Stage.HARMONIZE]).permutation(len(draws[0]))
    return ScannerRatios(*(each[order] for each in draws))
