"""Standardization of the numeric columns of a design."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bayesharm.model.covariates import Covariate, find_covariates
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
    """

    covariates: tuple[Covariate, ...] = ()
    slopes: tuple[SlopeColumn, ...] = ()
    noise_unit: float = 1.0


def standardize(study: UsedScans, spec: ModelSpec) -> Standards:
    """Standardize covariates, columns of slopes, and relative noise variances over the scans in a model.

    Raises
    ------
    ModelError, InputError
        A column is absent, does not vary, or has invalid values.
    """
    slopes = find_slope_columns(study.table, study.is_repeat_scanned, spec)
    covariates = find_covariates(study.table, spec)
    return Standards(covariates, slopes, float(np.exp(np.log(study.relative_noise).mean())))
