"""One pass over all features, block by block, for the statistics that the screening needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from bayesharm.data.features import Features

QUANTILE_SCANS = 128  # scans from which medians and robust sds are estimated
SAMPLED_FEATURES = 400  # features kept for comparisons of scans and scanners


@dataclass(frozen=True, eq=False)
class Sweep:
    """Statistics of all features, and the values of some.

    Attributes
    ----------
    names : (feature,) str array
    low, median, high, scale : (feature,) arrays
        Extremes; median and robust sd, estimated from some scans. NaN for features without values.
    n_zeros : (scan,) int array
        Number of features that are exactly 0.
    scanners : (scanner,) str array
    level, least, most : (scanner, feature) arrays
        Mean, minimum and maximum of the absolute values on each scanner.
    double : (scan,) int array
        Scans with bit-identical features have the same number; -1: none.
    sample : (scan, sampled feature) array
        Values of features at equal steps, in order.
    sampled : (sampled feature,) int array
        Their indices.
    """

    names: np.ndarray
    low: np.ndarray
    median: np.ndarray
    high: np.ndarray
    scale: np.ndarray
    n_zeros: np.ndarray
    scanners: np.ndarray
    level: np.ndarray
    least: np.ndarray
    most: np.ndarray
    double: np.ndarray
    sample: np.ndarray
    sampled: np.ndarray


def sweep_features(features: Features, scanner: pd.Series) -> Sweep:
    """Read all features once; missing and infinite values are left out of all statistics."""
    n_scans, n_features = features.n_scans, features.n_features
    code, scanners = pd.factorize(scanner.astype(str), sort=True)
    order = np.argsort(code, kind="stable")
    starts = np.searchsorted(code[order], np.arange(len(scanners)))
    some = np.sort(np.random.default_rng(0).permutation(n_scans)[:QUANTILE_SCANS])
    sampled = np.unique(np.linspace(0, n_features - 1, min(n_features, SAMPLED_FEATURES)).astype(int))
    of_feature = {name: np.full(n_features, np.nan) for name in ("low", "median", "high", "scale")}
    of_scanner = {name: np.full((len(scanners), n_features), np.nan) for name in ("level", "least", "most")}
    sample, n_zeros = np.empty((n_scans, len(sampled))), np.zeros(n_scans, int)
    double = np.zeros(n_scans, int)
    for start, stop in features.blocks():
        block = features.read(start, stop)[order]
        finite = np.isfinite(block)
        if not finite.all():
            block[~finite] = np.nan
        columns = slice(start, stop)
        of_feature["low"][columns], of_feature["high"][columns] = np.fmin.reduce(block), np.fmax.reduce(block)
        of_feature["median"][columns], of_feature["scale"][columns] = _quantiles(block[some])
        n_zeros[order] += np.count_nonzero(block == 0, axis=1)
        inside = sampled[(sampled >= start) & (sampled < stop)]
        sample[np.ix_(order, np.flatnonzero((sampled >= start) & (sampled < stop)))] = block[:, inside - start]
        double[order] = _split(double[order], block)
        np.abs(block, out=block)
        of_scanner["least"][:, columns] = np.fmin.reduceat(block, starts)
        of_scanner["most"][:, columns] = np.fmax.reduceat(block, starts)
        count = np.add.reduceat(finite.astype(np.int32) if not finite.all() else np.ones((n_scans, 1), np.int32), starts)
        total = np.add.reduceat(np.nan_to_num(block, copy=False), starts)
        with np.errstate(invalid="ignore", divide="ignore"):
            of_scanner["level"][:, columns] = total / count
    return Sweep(features.names, n_zeros=n_zeros, scanners=np.asarray(scanners, str), double=double,
                 sample=sample, sampled=sampled, **of_feature, **of_scanner)  # fmt: skip


def _quantiles(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the median and the robust sd of each column."""
    if np.isnan(block).any():
        with np.errstate(all="ignore"):
            low, median, high = _nan_quantiles(block)
    else:
        ordered = np.sort(block, axis=0)
        n = len(ordered)
        low, median, high = ordered[n // 4], ordered[n // 2], ordered[(3 * n) // 4]
    return median, (high - low) / 1.349


def _nan_quantiles(block: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ordered, count = np.sort(block, axis=0), np.count_nonzero(~np.isnan(block), axis=0)  # NaN last
    columns = np.arange(block.shape[1])
    low, median, high = (
        np.where(count > 0, ordered[np.minimum((share * count) // 4, len(ordered) - 1), columns], np.nan)
        for share in (1, 2, 3)
    )
    return low, median, high


def _split(group: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Divide groups of equal scans by another block of features; scans without an equal one are -1."""
    candidates = np.flatnonzero(group >= 0)
    if not len(candidates):
        return group
    keys = [(group[row], block[row].tobytes()) for row in candidates]
    code, _ = pd.factorize(pd.Series(keys, dtype=object).map(hash))
    count = np.bincount(code)
    divided = np.full(len(group), -1)
    divided[candidates] = np.where(count[code] > 1, code, -1)
    return divided
