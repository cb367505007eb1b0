"""Declared transforms: features that are analyzed in other units than those of the user's data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from bayesharm.data.features import Features
from bayesharm.errors import InputError, shorten

TransformName = Literal["fisher-z"]

# Gauss–Hermite nodes of a standard normal. With 9 of them, the sd of r is exact to 1e-5 for sds of z up to 0.4.
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(21)
_PAIRS = [(x, 2 * w / _WEIGHTS.sum()) for x, w in zip(_NODES, _WEIGHTS, strict=True) if x > 1e-9]


@dataclass(frozen=True)
class Transform:
    """A transform of the features, and its way back.

    Attributes
    ----------
    unit : str
        Unit of the transformed values.
    forward, inverse : callable
        Functions of arrays. `forward` gives ±inf outside of the domain, and keeps NaN.
    inverse_moments : callable
        Takes ``inverse(center)`` and `sd` of Gaussian transformed values, and returns mean and sd in the user's units.
    """

    unit: str
    forward: Callable[[np.ndarray], np.ndarray]
    inverse: Callable[[np.ndarray], np.ndarray]
    inverse_moments: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def fisher_z(r: np.ndarray) -> np.ndarray:
    """Return arctanh(r) as float64; ±inf for |r| ≥ 1."""
    values = np.asarray(r, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.abs(values) >= 1, np.copysign(np.inf, values), np.arctanh(values))


def correlation_moments(r: np.ndarray, sd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and sd of tanh(z) for z ~ N(arctanh(r), sd²), by Gauss–Hermite quadrature.

    By the addition theorem tanh(arctanh(r) + x) = r + (1 − r²) d / (1 + r d), where d = tanh(x). The nodes ±x are combined,
    so that nothing cancels, however small the sd is.

    Parameters
    ----------
    r, sd : arrays that broadcast
    """
    q = np.square(r, dtype=np.float64)
    mean, square = np.zeros(np.broadcast_shapes(np.shape(r), np.shape(sd))), 0.0
    for x, weight in _PAIRS:
        d2 = np.tanh(x * sd) ** 2
        per_pair = weight * d2 / (1 - q * d2)
        mean += per_pair
        square = square + per_pair * (1 + q * d2) / (1 - q * d2)
    return r - r * (1 - q) * mean, (1 - q) * np.sqrt(square - q * mean**2)


TRANSFORMS: dict[str, Transform] = {"fisher-z": Transform("Fisher z", fisher_z, np.tanh, correlation_moments)}


def find_transform(name: str) -> Transform:
    """Return a transform by its name.

    Raises
    ------
    InputError
        There is none of this name.
    """
    if name not in TRANSFORMS:
        raise InputError(
            "This transform does not exist.",
            got=f"transform={name!r}",
            expected=" or ".join(map(repr, TRANSFORMS)),
            do="choose one of these, or leave it out to analyze the values as they are",
        )
    return TRANSFORMS[name]


def transform_features(features: Features, name: str, scan_ids: pd.Series) -> Features:
    """Return features whose values are transformed when they are read; all values are checked first.

    Parameters
    ----------
    features : Features
        In the user's units.
    name : str
        Of the transform.
    scan_ids : (scan,) Series
        For the error.

    Raises
    ------
    InputError
        There is no such transform, or values are outside of its domain.
    """
    transform, stored = find_transform(name), features.matrix.read
    _refuse_out_of_range(features, scan_ids)
    matrix = replace(features.matrix, read=lambda at: transform.forward(stored(at)))
    return replace(features, matrix=matrix, transform=name)


def _refuse_out_of_range(features: Features, scan_ids: pd.Series) -> None:
    """Raise an `InputError` about correlations that are not between -1 and 1."""
    n_one = n_beyond = n_values = 0
    low, high = np.inf, -np.inf
    bad_scans, bad_features = np.zeros(features.n_scans, bool), np.zeros(features.n_features, bool)
    for start, stop in features.blocks():
        values = features.read(start, stop)
        size = np.abs(values)
        is_bad = size >= 1
        n_values += int(np.isfinite(values).sum())
        if is_bad.any():
            bad_scans |= is_bad.any(1)
            bad_features[start:stop] = is_bad.any(0)
            n_one += int((size == 1).sum())
            n_beyond += int((size > 1).sum())
            low, high = min(low, values[is_bad].min()), max(high, values[is_bad].max())
    if not bad_scans.any():
        return
    counts = [f"{n_beyond:,} beyond -1 and 1"] * (n_beyond > 0) + [f"{n_one:,} exactly 1 or -1"] * (n_one > 0)
    are_z = n_beyond > 0.001 * n_values
    raise InputError(
        "Some values have no Fisher z: they are not between -1 and 1.",
        got=f"{' and '.join(counts)} of {n_values:,} values ({low:.4g} to {high:.4g}), "
        f"in features {shorten(features.names[bad_features])}, in scans {shorten(scan_ids[bad_scans])}",
        expected="correlations between -1 and 1, without the diagonal of the matrices",
        do="give correlations r; if these values are Fisher z already, fit them without the transform"
        if are_z
        else "leave out these features or scans; a correlation of exactly 1 is that of two identical time series",
    )
