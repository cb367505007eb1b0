"""Columns of the formula of a fit for any rows, from which fitted curves follow."""

from __future__ import annotations

import pandas as pd

from bayesharm.errors import InputError, check_type, shorten
from bayesharm.model.covariates import centered_covariates, covariates_from_dict
from bayesharm.results.posterior import Posterior


def formula_columns(posterior: Posterior, scans: pd.DataFrame) -> pd.DataFrame:
    """Compute the columns of the formula of a fit for any rows, such as a grid of ages.

    With ``slopes = posterior.effect("covariate")["mean"].to_pandas()``, the fitted curves are
    ``columns @ slopes.loc[columns.columns]``, (row, feature), up to a constant of each feature.

    Parameters
    ----------
    posterior : Posterior
    scans : DataFrame
        With the columns of the scans table that the formula uses.

    Returns
    -------
    DataFrame
        A row for each row of `scans`, with its index, and a column for each level of ``/effects/covariate`` that comes from
        the formula.

    Raises
    ------
    InputError
        The run has no formula; or columns are absent, values are missing or outside of the range of the fit, or categories
        are new.
    """
    check_type(posterior, Posterior, "formula_columns", "load_posterior")
    covariates = [each for each in covariates_from_dict(posterior.sufficient_statistics.attrs) if each.basis is not None]
    if not covariates:
        raise InputError(
            "The run has no formula.",
            got=f"covariates {shorten(posterior.spec.covariates)}" if posterior.spec.covariates else "no covariates",
            expected="a fit with a formula",
            do="fit with --formula (formula= in Python)",
        )
    values = centered_covariates(scans, covariates) + [each.mean for each in covariates]
    return pd.DataFrame(values, index=scans.index, columns=[each.level for each in covariates])
