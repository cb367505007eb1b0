"""Standardization of the numeric columns of a design."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pandas as pd

from bayesharm.model.covariates import Covariate, covariate_sources, find_covariates
from bayesharm.model.slopes import SlopeColumn, find_slope_columns
from bayesharm.model.spec import ModelSpec
from bayesharm.model.used_scans import UsedScans


class Standards(NamedTuple):
    """Standardization of the numeric columns of a design, computed once from the scans of a fit.

    Attributes
    ----------
    covariates : tuple of Covariate
    slopes : tuple of SlopeColumn
    noise_unit : float
        Divisor of the relative noise variances, their geometric mean; 1 where they are not known.
    ranges : mapping of str to (float, float)
        Smallest and largest value of each numeric column; runs of earlier versions have none.
    """

    covariates: tuple[Covariate, ...] = ()
    slopes: tuple[SlopeColumn, ...] = ()
    noise_unit: float = 1.0
    ranges: Mapping[str, tuple[float, float]] = MappingProxyType({})


def standardize(study: UsedScans, spec: ModelSpec) -> Standards:
    """Standardize covariates, columns of slopes, and relative noise variances over the scans in a model.

    Raises
    ------
    ModelError, InputError
        A column is absent, does not vary, or has invalid values.
    """
    slopes = find_slope_columns(study.table, study.is_repeat_scanned, spec)
    covariates = find_covariates(study.table, spec)
    ranges = _find_ranges(study.table, [*(each.column for each in slopes), *covariate_sources(covariates)])
    return Standards(covariates, slopes, float(np.exp(np.log(study.relative_noise).mean())), ranges)


def _find_ranges(table: pd.DataFrame, names: Iterable[str]) -> dict[str, tuple[float, float]]:
    """Return the smallest and the largest value of the numeric columns among some."""
    numbers = [name for name in dict.fromkeys(names) if pd.api.types.is_numeric_dtype(table[name])]
    return {name: (float(table[name].min()), float(table[name].max())) for name in numbers}
