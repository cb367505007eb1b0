"""Features that need a look before a fit: constant, duplicated, or with missing values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from bayesharm.data.features import Features, Flaws, find_flaws

TOLERANCE = 1e-5  # of standardized features times a random vector, in which equal columns agree within single precision


@dataclass(frozen=True, eq=False)
class FeatureCheck:
    """The features of a study.

    Attributes
    ----------
    n_features : int
    constant : tuple of str
        Features with one value in all scans.
    empty : tuple of str
        Features without any value.
    infinite : tuple of str
        Features with infinite values.
    duplicated : tuple of tuple of str
        Groups of features with equal values, up to unit, offset and sign.
    missing : DataFrame by feature
        `n_missing` scans without a value, most first; only features with any.
    missing_scans : DataFrame by scan
        `n_missing` features without a value, most first; only scans with any.
    """

    n_features: int
    constant: tuple[str, ...]
    empty: tuple[str, ...]
    infinite: tuple[str, ...]
    duplicated: tuple[tuple[str, ...], ...]
    missing: pd.DataFrame
    missing_scans: pd.DataFrame


def check_features(features: Features, scan_ids: pd.Series) -> FeatureCheck:
    """Find constant, duplicated and incomplete features, block by block."""
    flaws = find_flaws(features)
    names = features.names.astype(object)
    by_feature = pd.Series(flaws.missing, index=pd.Index(names, name="feature"), name="n_missing")
    by_scan = pd.Series(flaws.missing_by_scan, index=pd.Index(scan_ids, name="scan_id"), name="n_missing")
    return FeatureCheck(
        n_features=features.n_features,
        constant=tuple(names[flaws.constant]),
        empty=tuple(names[flaws.empty]),
        infinite=tuple(names[flaws.infinite > 0]),
        duplicated=_find_duplicates(features, flaws),
        missing=_most_first(by_feature),
        missing_scans=_most_first(by_scan),
    )


def _most_first(counts: pd.Series) -> pd.DataFrame:
    return counts[counts > 0].sort_values(ascending=False, kind="stable").to_frame()


def _find_duplicates(features: Features, flaws: Flaws) -> tuple[tuple[str, ...], ...]:
    """Groups of equal features: those whose standardized values have the same products with three random vectors."""
    vectors = np.random.default_rng(0).standard_normal((features.n_scans, 3))
    keys = np.empty((features.n_features, 3))
    for start, stop in features.blocks():
        block = features.read(start, stop)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            if (flaws.missing + flaws.infinite)[start:stop].any():
                known = np.isfinite(block)
                block[~known] = 0
                block -= block.sum(0) / known.sum(0)
                block[~known] = 0
            else:
                block -= block[0]  # so that squares lose no digits
            mean, square = block.mean(0), np.einsum("nf,nf->f", block, block) / len(block)
            products = block.T @ vectors - np.outer(mean, vectors.sum(0))
            keys[start:stop] = products / np.sqrt((square - mean**2) * len(block))[:, None]
    usable = ~(flaws.constant | flaws.empty)
    keys *= np.where(keys[:, :1] < 0, -1, 1)
    rows = np.flatnonzero(usable & np.isfinite(keys).all(1))
    rows = rows[np.argsort(keys[rows, 0], kind="stable")]
    is_same = (np.abs(np.diff(keys[rows], axis=0)) < TOLERANCE).all(1)
    group = np.concatenate([[0], np.cumsum(~is_same)])[: len(rows)]
    groups = pd.Series(rows).groupby(group).apply(lambda each: tuple(sorted(each)))
    found = sorted(each for each in groups if len(each) > 1)
    return tuple(tuple(str(features.names[k]) for k in each) for each in found)
