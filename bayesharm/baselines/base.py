"""Common interface of the methods for comparison: fit to training scans, apply to any scans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd

from bayesharm.data.dataset import Dataset
from bayesharm.errors import InputError, listed, shorten


@dataclass(frozen=True, eq=False)
class Applied:
    """Corrected values of a dataset, with its rows and columns.

    Attributes
    ----------
    values : (scan, feature) float64 array
        Corrected values, in the units of the features. NaN for scans that the method cannot correct, and for missing input.
    sd : (scan, feature) float64 array, optional
        Standard deviation of the correction, if the method estimates one.
    factor : (scan, feature) float64 array, optional
        Multiplicative part of the correction, if the method rescales: harmonized differences divided by this factor are in
        the scanner's original units.
    notes : tuple of str
        Scans that were not corrected, and why, in addition to `Fitted.notes`.
    """

    values: np.ndarray
    sd: np.ndarray | None = None
    factor: np.ndarray | None = None
    notes: tuple[str, ...] = ()


class Fitted(Protocol):
    """A fitted method.

    Attributes
    ----------
    bias : (scanner, feature) DataFrame or None
        Additive effect of each training scanner in the units of the features, minus the mean over all scanners with an
        estimate; NaN for scanners without one. None if the method has no such effect.
    scanners : tuple of str
        Scanners that the method can correct.
    notes : tuple of str
        Scans and scanners that the method could not use, and why.
    """

    @property
    def bias(self) -> pd.DataFrame | None: ...

    @property
    def scanners(self) -> tuple[str, ...]: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    def apply(self, dataset: Dataset) -> Applied:
        """Correct scans; values of scanners outside `scanners` become NaN."""


@dataclass(frozen=True)
class Method:
    """A method for comparison.

    Attributes
    ----------
    name : str
        Name in `bayesharm.baselines.METHODS`.
    fit : callable
        ``fit(train: Dataset, covariates: Sequence[str]) -> Fitted``. The method preserves the effects of `covariates`,
        columns of the scans table.
    """

    name: str
    fit: Callable[[Dataset, Sequence[str]], Fitted]


@dataclass(frozen=True, eq=False)
class Subtraction:
    """A fitted method that subtracts the same scanner effect from all scans of a scanner (see `Fitted`).

    Attributes
    ----------
    bias : (scanner, feature) DataFrame
        Effects to subtract.
    notes : tuple of str
        As in `Fitted`.
    sd : (scanner, feature) DataFrame, optional
        Standard deviation of the effects.
    """

    bias: pd.DataFrame
    notes: tuple[str, ...] = ()
    sd: pd.DataFrame | None = None

    @property
    def scanners(self) -> tuple[str, ...]:
        """Scanners that can be corrected."""
        return correctable_scanners(self.bias)

    def apply(self, dataset: Dataset) -> Applied:
        """Subtract the scanner effects."""
        check_features(dataset, self.bias.columns)
        values, scanner = read_all(dataset), dataset.scans["scanner"]
        corrected = values - self.bias.reindex(scanner).to_numpy()
        if self.sd is None:
            return Applied(corrected)
        return Applied(corrected, np.where(np.isnan(corrected), np.nan, self.sd.reindex(scanner).to_numpy()))


def bias_table(dataset: Dataset, effects: np.ndarray, scanners: Sequence[str] | None = None) -> pd.DataFrame:
    """Center scanner effects and label them, with a row for each scanner of the dataset.

    Parameters
    ----------
    dataset : Dataset
        Training scans.
    effects : (scanner, feature) array
        Effects; NaN where not estimated.
    scanners : sequence of str, optional
        Scanners of the rows of `effects`; default: all scanners of the dataset in alphabetical order.

    Returns
    -------
    (scanner, feature) DataFrame
        Effects minus their mean over scanners; NaN for scanners without an effect.
    """
    all_scanners = scanner_names(dataset)
    columns = pd.Index(dataset.features.names, name="feature")
    table = pd.DataFrame(effects, index=all_scanners if scanners is None else list(scanners), columns=columns)
    return (table - table.mean()).reindex(pd.Index(all_scanners, name="scanner"))


def no_bias(dataset: Dataset) -> pd.DataFrame:
    """Return the bias table of a method that can correct no scanner: all NaN."""
    return bias_table(dataset, np.empty((0, dataset.features.n_features)), [])


def scanner_names(dataset: Dataset) -> list[str]:
    """Return the scanners of a dataset in alphabetical order."""
    return sorted(dataset.scans["scanner"].unique())


def scanners_with_variance(dataset: Dataset) -> tuple[list[str], list[str]]:
    """Return the scanners with at least two scans, and a note that names the others, if any."""
    counts = dataset.scans["scanner"].value_counts()
    scanners = [name for name in scanner_names(dataset) if counts[name] > 1]
    if single := [name for name in scanner_names(dataset) if counts[name] == 1]:
        return scanners, [f"{listed(single)}: a single scan, too few to estimate a variance; not used and not corrected."]
    return scanners, []


def correctable_scanners(bias: pd.DataFrame) -> tuple[str, ...]:
    """Return the scanners with an estimated effect."""
    return tuple(bias.index[bias.notna().any(axis=1)])


def read_all(dataset: Dataset) -> np.ndarray:
    """Read all values as a new (scan, feature) float64 array."""
    return dataset.features.read(0, dataset.features.n_features)


def read_finite(dataset: Dataset) -> np.ndarray:
    """Read all values of training scans, which must be finite.

    Raises
    ------
    InputError
        Values are missing or infinite.
    """
    values = read_all(dataset)
    if (is_bad := ~np.isfinite(values)).any():
        raise InputError(
            "Training values are missing or infinite.",
            got=f"{is_bad.sum()} such values in {is_bad.any(axis=0).sum()} of {values.shape[1]} features",
            expected="a finite number for every scan and feature",
            do="omit these features: load_dataset(…, missing='drop-features', bad_features='drop')",
        )
    return values


def check_features(dataset: Dataset, names: pd.Index | np.ndarray) -> None:
    """Raise an `InputError` unless the dataset has the features of the fit, in the same order."""
    if not np.array_equal(dataset.features.names, np.asarray(names, dtype=str)):
        raise InputError(
            "The features are not those of the fit.",
            got=f"{dataset.features.n_features} features: {shorten(dataset.features.names)}",
            expected=f"{len(names)} features in this order: {shorten(names)}",
            do="select the same features for the training scans and the scans to correct",
        )
