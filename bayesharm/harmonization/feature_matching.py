"""Match the features of a dataset with those of a fit: by name, and in the same units."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from bayesharm.data.features import Features
from bayesharm.errors import InputError, shorten
from bayesharm.results.posterior import Posterior

# A feature seems to be in other units if it is larger than in the fit by more than this factor, or smaller.
MAX_SIZE_RATIO = 100.0
# A single feature near 0 is suspect only if its center in the fit is farther from 0 than this, in sds.
MIN_CENTER = 5.0


EDGE = "edge_"  # names of edges: edge_ and both regions


def match_features(posterior: Posterior, features: Features) -> tuple[Features, np.ndarray, list[str]]:
    """Select the features of the posterior, in the order of the dataset.

    Returns
    -------
    features : Features
    feature_indices : (feature,) int array
        Their indices in the posterior.
    notes : list of str
        Names the features that are left out, if there are any.

    Raises
    ------
    InputError
        Features of the fit are absent; or features have no names, and those of the fit have, or differ in number.
    """
    names, dropped = pd.Index(posterior.features), posterior.run.get("dropped", {})
    if features.matrix.names is None and features.n_features != len(names) + len(dropped):
        # Column numbers identify features only if the same columns are counted.
        raise InputError(
            "The features have no names, and their number differs from the fit.",
            got=f"{features.n_features} features",
            expected=f"{len(names) + len(dropped)}, in the order of the fit",
            do="give the same columns as in the fit, or label the features of both by name",
        )
    given = pd.Index(_named_as_in_fit(features.names, names))
    absent = names.difference(given, sort=False)
    if len(absent) and features.matrix.names is None:
        raise InputError(
            "The features have no names, but those of the fit have.",
            got=f"{features.n_features} features without names",
            expected=f"features named as in the fit: {shorten(names)}",
            do="give a table whose columns have the names of the features",
        )
    if len(absent):
        raise InputError(
            "Features of the fit are absent.",
            got=f"{features.n_features} features: {shorten(features.names)}",
            expected=f"the {len(names)} features of the fit; {len(absent)} are absent: {shorten(absent)}",
            do="give (or select with the same glob) the features to which the model was fitted",
        )
    indices = names.get_indexer(given)
    extra = given.to_numpy(str)[indices < 0]
    if not extra.size:
        return features, indices, []
    notes = [_describe_extra(extra, dropped)]
    return features.take(features.names[indices >= 0]), indices[indices >= 0], notes


def _named_as_in_fit(given: np.ndarray, names: pd.Index) -> list[str]:
    """Rename edges whose regions the fit names in the other order: ``edge_B_A`` is ``edge_A_B``."""
    known, found = set(names) - set(given.tolist()), []
    for name in given.tolist():
        words = name.removeprefix(EDGE).split("_") if name.startswith(EDGE) and known else []
        swapped = [EDGE + "_".join(words[k:] + words[:k]) for k in range(1, len(words))]
        swapped = [other for other in swapped if other in known]
        found.append(swapped[0] if len(swapped) == 1 else name)
    return found


def _describe_extra(extra: np.ndarray, dropped: dict[str, str]) -> str:
    """Name the features that are not in the fit, and the reason why the fit dropped some of them."""
    note = f"Features that are not in the fit are left out ({extra.size:,}): {shorten(extra, 3)}."
    if reasons := [dropped[name] for name in extra.tolist() if name in dropped]:
        note += f" The fit itself dropped {len(reasons):,} of them, the first because it is {reasons[0]}."
    return note


def root_mean_square(values: np.ndarray, group: np.ndarray | None = None) -> np.ndarray:
    """Compute the root mean square of each feature over the scans of each group; NaN where no value is finite.

    Parameters
    ----------
    values : (scan, feature) array
    group : (scan,) int array, optional
        Group of each scan; by default there is one group.

    Returns
    -------
    (group, feature) array
    """
    group = np.zeros(len(values), int) if group is None else group
    is_finite = np.isfinite(values)
    membership = np.eye(group.max(initial=0) + 1)[:, group]
    count = membership @ is_finite
    squares = membership @ np.square(values, where=is_finite, out=np.zeros(values.shape), dtype=float)
    return np.sqrt(np.divide(squares, count, out=np.full(count.shape, np.nan), where=count > 0))


def compare_units(
    posterior: Posterior, feature_indices: np.ndarray, size: np.ndarray, names: np.ndarray, scanners: Sequence[str]
) -> list[str]:
    """Name features that seem to be in other units than in the fit, on all scanners or on some.

    Parameters
    ----------
    posterior : Posterior
    feature_indices : (feature,) int array
        Indices of the features in the posterior.
    size : (scanner, feature) array
        Root mean square of the new scans, from :func:`root_mean_square`.
    names : (feature,) str array
    scanners : sequence of str

    Returns
    -------
    list of str
        One note, or none.
    """
    scales = posterior.scales
    center, unit = scales["center"].values[feature_indices], scales["feature_scale"].values[feature_indices]
    ratio = size / np.hypot(center, unit)
    is_small = ratio < 1 / MAX_SIZE_RATIO
    is_suspect = (ratio > MAX_SIZE_RATIO) | (is_small & (np.abs(center) > MIN_CENTER * unit))
    # A single feature may be near 0 in a few scans, but not most features.
    is_suspect |= is_small & (is_small.mean(1, keepdims=True) > 0.5)
    scanner_is_suspect, feature_is_suspect = is_suspect.any(1), is_suspect.any(0)
    if not scanner_is_suspect.any():
        return []
    where = ""
    if not scanner_is_suspect.all():
        where = f" in the scans of {shorten(np.array(scanners, object)[scanner_is_suspect])}"
    return [
        f"{feature_is_suspect.sum():,} of {len(names):,} features are about {np.median(ratio[is_suspect]):.3g} times as "
        f"large as in the fit{where}: {shorten(names[feature_is_suspect])}. They seem to be in other units; the correction "
        "is in the units of the fit."
    ]
