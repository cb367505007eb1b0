"""Draws of the noise variance ratios and gains of the scanners of a dataset, which several parts of a correction share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bayesharm.algorithms.random_streams import Stage
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
