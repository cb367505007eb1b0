"""What every method to compare with gives: fitted to some scans, applied to others, the same for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd

from bayesharm.data.dataset import Dataset
from bayesharm.errors import InputError, shorten


@dataclass(frozen=True, eq=False)
class Applied:
    """Scans that a method has corrected; rows and columns in the order of the dataset.

    Attributes
    ----------
    values : (scan, feature) float64 array
        In the features' units. NaN in rows that the method cannot correct, and where the input is NaN.
    sd : (scan, feature) float64 array, optional
        Standard deviation of what was subtracted, if the method knows one.
    factor : (scan, feature) float64 array, optional
        What values were multiplied by, if a method does not only subtract: harmonized differences over this are differences
        in the units that the scanner measures in.
    notes : tuple of str
        Which scans it could not correct, and why, beyond what `Fitted.notes` says.
    """

    values: np.ndarray
    sd: np.ndarray | None = None
    factor: np.ndarray | None = None
    notes: tuple[str, ...] = ()


class Fitted(Protocol):
    """A method after its fit.

    Attributes
    ----------
    bias : (scanner, feature) DataFrame or None
        Additive effect of each scanner of the training scans in the features' units, minus the mean over the scanners that
        the method can do; NaN in rows of the others. None if there is no such thing.
    scanners : tuple of str
        Scanners that it can correct.
    notes : tuple of str
        Which scans and scanners the method could not use, and why.
    """

    @property
    def bias(self) -> pd.DataFrame | None: ...

    @property
    def scanners(self) -> tuple[str, ...]: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    def apply(self, dataset: Dataset) -> Applied:
        """Correct scans; those of other scanners than `scanners` become NaN."""


@dataclass(frozen=True)
class Method:
    """A method to compare with.

    Attributes
    ----------
    name : str
    fit : callable
        ``fit(train: Dataset, covariates: Sequence[str]) -> Fitted``; `covariates` are columns of the scans table whose
        effects must be preserved.
    """

    name: str
    fit: Callable[[Dataset, Sequence[str]], Fitted]


@dataclass(frozen=True, eq=False)
class Subtraction:
    """A fitted method that subtracts the effect of the scanner, the same from all of its scans (see `Fitted`).

    Attributes
    ----------
    bias : (scanner, feature) DataFrame
    notes : tuple of str
    sd : (scanner, feature) DataFrame, optional
    """

    bias: pd.DataFrame
    notes: tuple[str, ...] = ()
    sd: pd.DataFrame | None = None

    @property
    def scanners(self) -> tuple[str, ...]:
        return corrected(self.bias)

    def apply(self, dataset: Dataset) -> Applied:
        check_features(dataset, self.bias.columns)
        values, scanner = read_all(dataset), dataset.scans["scanner"]
        found = values - self.bias.reindex(scanner).to_numpy()
        if self.sd is None:
            return Applied(found)
        return Applied(found, np.where(np.isnan(found), np.nan, self.sd.reindex(scanner).to_numpy()))


def bias_table(dataset: Dataset, effects: np.ndarray, scanners: Sequence[str] | None = None) -> pd.DataFrame:
    """Effects of scanners minus their mean, as (scanner, feature) of all scanners of the dataset; NaN for those not given.

    Parameters
    ----------
    dataset : Dataset
    effects : (scanner, feature) array
        NaN where there is none.
    scanners : sequence of str, optional
        To which the rows belong; all of the dataset in alphabetical order if left out.
    """
    everyone = scanner_names(dataset)
    columns = pd.Index(dataset.features.names, name="feature")
    table = pd.DataFrame(effects, index=everyone if scanners is None else list(scanners), columns=columns)
    return (table - table.mean()).reindex(pd.Index(everyone, name="scanner"))


def no_bias(dataset: Dataset) -> pd.DataFrame:
    """The same table where a method can correct no scanner."""
    return bias_table(dataset, np.empty((0, dataset.features.n_features)), [])


def scanner_names(dataset: Dataset) -> list[str]:
    """Scanners of a dataset in alphabetical order."""
    return sorted(dataset.scans["scanner"].unique())


def corrected(bias: pd.DataFrame) -> tuple[str, ...]:
    """Scanners with an effect."""
    return tuple(bias.index[bias.notna().any(axis=1)])


def read_all(dataset: Dataset) -> np.ndarray:
    """All values, a new (scan, feature) float64 array."""
    return dataset.features.read(0, dataset.features.n_features)


def read_finite(dataset: Dataset) -> np.ndarray:
    """All values of scans to fit to.

    Raises
    ------
    InputError
        Some are missing or infinite.
    """
    values = read_all(dataset)
    if (bad := ~np.isfinite(values)).any():
        raise InputError(
            "Values to fit to are missing or infinite.",
            got=f"{bad.sum()} such values in {bad.any(axis=0).sum()} of {values.shape[1]} features",
            expected="a finite number for every scan and feature",
            do="leave these features out: load_dataset(…, bad_features='drop')",
        )
    return values


def check_features(dataset: Dataset, names: pd.Index | np.ndarray) -> None:
    """Refuse a dataset with other features than those of the fit, or in another order."""
    if not np.array_equal(dataset.features.names, np.asarray(names, dtype=str)):
        raise InputError(
            "The features are not those of the fit.",
            got=f"{dataset.features.n_features} features: {shorten(dataset.features.names)}",
            expected=f"{len(names)} features in this order: {shorten(names)}",
            do="choose the same features for the scans to fit to and those to correct",
        )
