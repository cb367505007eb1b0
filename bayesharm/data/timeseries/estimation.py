"""Connectivity of one scan: correlations of its region time series, over the volumes and regions that have values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Measure = Literal["correlation", "partial"]
IDENTICAL = 1 - 1e-7  # correlation above which two time series are the same up to the rounding of float32
SINGULAR = 1e-10  # smallest eigenvalue of a correlation matrix, relative to the largest, that can be inverted


@dataclass(frozen=True, eq=False)
class CleanSeries:
    """Time series without holes.

    Attributes
    ----------
    values : (volume, region) array
        Of the regions in `present`, centered and of unit length.
    present : (region,) bool array
        Regions with a signal.
    n_dropped : int
        Volumes that were dropped because a region with a signal had no value in them.
    """

    values: np.ndarray
    present: np.ndarray
    n_dropped: int

    @property
    def n_volumes(self) -> int:
        """Number of volumes that remain."""
        return len(self.values)


def clean(values: np.ndarray) -> CleanSeries:
    """Drop volumes and regions without values.

    Volumes without any value, as censored ones, are dropped. A region is missing if it has no value in more than half of the
    other volumes, or is constant. Then volumes are dropped in which another region has no value.

    Parameters
    ----------
    values : (volume, region) array of numbers
    """
    numbers = np.asarray(values, dtype=np.float64)
    is_finite = np.isfinite(numbers)
    kept = is_finite.any(axis=1)
    present = is_finite[kept].mean(axis=0) > 0.5 if kept.any() else np.zeros(numbers.shape[1], bool)
    kept &= is_finite[:, present].all(axis=1)
    chosen = numbers[kept][:, present]
    n_dropped = len(numbers) - len(chosen)
    if not chosen.size:
        return CleanSeries(chosen[:, :0], np.zeros(numbers.shape[1], bool), n_dropped)
    largest = np.abs(chosen).max(axis=0)
    scaled = chosen / np.where(largest > 0, largest, 1)  # squares of huge numbers stay finite
    centered = scaled - scaled.mean(axis=0)
    length = np.sqrt((centered**2).sum(axis=0))
    precision = np.finfo(values.dtype if values.dtype.kind == "f" else float).eps
    varies = length > 4 * precision * np.sqrt(len(chosen))
    present[np.flatnonzero(present)[~varies]] = False
    return CleanSeries(centered[:, varies] / length[varies], present, n_dropped)


def correlate(series: CleanSeries, measure: Measure) -> np.ndarray | None:
    """Compute the connectivity of the regions that are present, from their empirical covariance.

    Returns
    -------
    (present, present) array or None
        None if the covariance cannot be inverted for partial correlations.
    """
    correlation = series.values.T @ series.values
    if measure == "partial":
        if not correlation.size:
            return correlation
        eigenvalues, vectors = np.linalg.eigh(correlation)
        if eigenvalues[0] < SINGULAR * eigenvalues[-1]:
            return None
        precision = (vectors / eigenvalues) @ vectors.T
        scale = np.sqrt(precision.diagonal())
        correlation = -precision / np.outer(scale, scale)
    result: np.ndarray = np.where(np.abs(correlation) > IDENTICAL, np.sign(correlation), correlation)
    return result
