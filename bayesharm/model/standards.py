"""Standardization of the numeric columns of a design."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pandas as pd

from bayesharm.errors import InputError, shorten
from bayesharm.model.covariates import Covariate, centered_covariates, covariate_sources, find_covariates
from bayesharm.model.slopes import SlopeColumn, find_slope_columns
from bayesharm.model.spec import ModelSpec
from bayesharm.model.used_scans import UsedScans

ROUNDING = 1e-9  # sds of a column within scanners, up to which it is the same


class Standards(NamedTuple):
    """Standardization of the numeric columns of a design, computed once from the scans of a fit.

    Attributes
    ----------
    covariates : tuple of Covariate
    slopes : tuple of SlopeColumn
    noise_unit : float
        Divisor of the relative noise variances, their geometric mean; 1 where they are not known.
    ranges : mapping of str to (float, float)
        Smallest and largest value of each numeric column, in all scans of the fit and of adaptations.
    """

    covariates: tuple[Covariate, ...] = ()
    slopes: tuple[SlopeColumn, ...] = ()
    noise_unit: float = 1.0
    ranges: Mapping[str, tuple[float, float]] = MappingProxyType({})

    def widened(self, table: pd.DataFrame) -> Standards:
        """Return the same with ranges that contain the values of new scans."""
        numbers = {name: pd.to_numeric(table[name], errors="coerce") for name in self.ranges if name in table}
        ranges = dict(self.ranges)
        for name, values in numbers.items():
            low, high = ranges[name]
            ranges[name] = (float(np.fmin(low, values.min())), float(np.fmax(high, values.max())))
        return self._replace(ranges=ranges)


def standardize(study: UsedScans, spec: ModelSpec) -> Standards:
    """Standardize covariates, columns of slopes, and relative noise variances over the scans in a model.

    Raises
    ------
    ModelError, InputError
        A column is absent, does not vary, or has invalid values; or a covariate is the same in all scans of a scanner.
    """
    slopes = find_slope_columns(study.table, study.is_repeat_scanned, spec)
    covariates = find_covariates(study.table, spec)
    of_slopes = {each.column for each in slopes}  # which the model itself adds; the screening has a caveat
    _refuse_properties_of_scanners(study.table, covariates, of_slopes)
    ranges = _find_ranges(study.table, [*(each.column for each in slopes), *covariate_sources(covariates)])
    return Standards(covariates, slopes, float(np.exp(np.log(study.relative_noise).mean())), ranges)


def _find_ranges(table: pd.DataFrame, names: Iterable[str]) -> dict[str, tuple[float, float]]:
    """Return the smallest and the largest value of the numeric columns among some."""
    numbers = [name for name in dict.fromkeys(names) if pd.api.types.is_numeric_dtype(table[name])]
    return {name: (float(table[name].min()), float(table[name].max())) for name in numbers}


def _refuse_properties_of_scanners(table: pd.DataFrame, covariates: tuple[Covariate, ...], exempt: set[str]) -> None:
    """Refuse covariates that do not vary within any scanner: harmonizing would leave their part of the bias in the data.

    Travelers cannot separate such a covariate from the scanners, since it changes whenever the scanner does.
    """
    scanner, scanners = pd.factorize(table.scanner)
    if not covariates or len(scanners) == len(table):
        return
    columns = centered_covariates(table, covariates) / [each.sd for each in covariates]
    means = pd.DataFrame(columns).groupby(scanner).transform("mean").to_numpy()
    varies = np.abs(columns - means).max(axis=0) > ROUNDING
    names = list(dict.fromkeys(each.name for each in covariates))
    varying = exempt | {each.name for each, one in zip(covariates, varies, strict=True) if one}
    if same := [name for name in names if name not in varying]:
        raise InputError(
            f"{shorten(same)} cannot be covariates: they are the same in all scans of a scanner, and so part of its effect."
            if len(same) > 1
            else f"{same[0]!r} cannot be a covariate: it is the same in all scans of a scanner, and so part of its effect.",
            got=f"{len(scanners)} scanners; no column of {shorten(same)} varies within any of them, nor can travelers "
            "separate the two",
            expected="covariates that vary within scanners",
            do="leave it out; for properties of the scanners, such as coils, use --model protocol with --protocol",
        )
