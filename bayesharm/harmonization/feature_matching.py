"""New features beside those of a fit: the same by name, and in the same units."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from bayesharm.data.features import Features
from bayesharm.errors import InputError, shorten
from bayesharm.results.posterior import Posterior

FACTOR = 100.0  # a feature that is so much larger than in the fit, or smaller, is in another unit
CLEAR = 5.0  # sds that a feature's center is from 0, so that being near 0 says something


def match_features(posterior: Posterior, features: Features) -> tuple[Features, np.ndarray, list[str]]:
    """Features that the posterior knows, in the order of the dataset; their places there; a note.

    Raises
    ------
    InputError
        Features of the fit are absent, or nameless ones are not as many.
    """
    known, dropped = pd.Index(posterior.features), posterior.run.get("dropped", {})
    if features.matrix.names is None and features.n_features != len(known) + len(dropped):
        # Numbers given to columns that have no names mean something only if they count the same columns.
        raise InputError(
            "The features have no names, and their number is not that of the fit.",
            got=f"{features.n_features} features",
            expected=f"{len(known) + len(dropped)}, in the order of the fit",
            do="give the same columns as in the fit, or label the features of both by name",
        )
    there = pd.Index(features.names)
    if len(absent := known.difference(there, sort=False)):
        raise InputError(
            "Features of the fit are absent.",
            got=f"{features.n_features} features: {shorten(features.names)}",
            expected=f"the {len(known)} features of the fit; {len(absent)} are absent: {shorten(absent)}",
            do="give (or choose with the same glob) the features that the model was fitted to",
        )
    at = known.get_indexer(there)
    extra = features.names[at < 0]
    if not extra.size:
        return features, at, []
    note = f"Features that were not part of the fit are left out ({extra.size:,}): {shorten(extra, 3)}"
    if reasons := [dropped[name] for name in extra.tolist() if name in dropped]:
        note += f"; unfit there: {len(reasons):,}, the first one {reasons[0]}"
    return features.take(features.names[at >= 0]), at[at >= 0], [note + "."]


def root_mean_square(values: np.ndarray, group: np.ndarray | None = None) -> np.ndarray:
    """Root mean square of each feature over the scans of each group that have it; NaN where none has.

    Parameters
    ----------
    values : (scan, feature) array
    group : (scan,) int array, optional
        By default all are of one.

    Returns
    -------
    (group, feature) array
    """
    group = np.zeros(len(values), int) if group is None else group
    there = np.isfinite(values)
    of_group = np.eye(group.max(initial=0) + 1)[:, group]
    count = of_group @ there
    squares = of_group @ np.square(values, where=there, out=np.zeros(values.shape), dtype=float)
    return np.sqrt(np.divide(squares, count, out=np.full(count.shape, np.nan), where=count > 0))


def compare_units(
    posterior: Posterior, at: np.ndarray, size: np.ndarray, names: np.ndarray, scanners: Sequence[str]
) -> list[str]:
    """A sentence about features that seem to be in other units than in the fit, on all scanners or on some.

    Parameters
    ----------
    posterior : Posterior
    at : (feature,) int array
        Places of the features in the posterior.
    size : (scanner, feature) array
        As :func:`root_mean_square` gives it, of the new scans.
    names : (feature,) str array
    scanners : sequence of str
    """
    scales = posterior.tree["scales"].to_dataset()
    center, unit = scales["center"].values[at], scales["unit"].values[at]
    ratio = size / np.hypot(center, unit)
    small = ratio < 1 / FACTOR
    other = (ratio > FACTOR) | (small & (np.abs(center) > CLEAR * unit))
    other |= small & (small.mean(1, keepdims=True) > 0.5)  # one feature may be near 0 in a few scans, not most of them
    concerned = other.any(1)
    if not concerned.any():
        return []
    where = "" if concerned.all() else f" in the scans of {shorten(np.array(scanners, object)[concerned])}"
    some = other.any(0)
    return [
        f"{some.sum():,} of {len(at):,} features are about {np.median(ratio[other]):.3g} times as large as in the fit"
        f"{where}: {shorten(names[some])}. They seem to be in other units, and what is removed from them is in those of the "
        "fit."
    ]
