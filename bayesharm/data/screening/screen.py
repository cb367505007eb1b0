"""Screening of a dataset before a fit: identity, coding and meaning of its tables."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from bayesharm.data.dataset import Dataset
from bayesharm.data.finding import Finding


def screen(
    dataset: Dataset, *, covariates: Sequence[str] = (), factors: Sequence[str] = (), accept: Sequence[str] = ()
) -> list[Finding]:
    """Find what is wrong or suspicious in the scans table and the features of a study.

    Parameters
    ----------
    dataset : Dataset
    covariates : sequence of str
        Columns of the scans table that the model uses as covariates.
    factors : sequence of str
        Columns of the scans table that the model uses as protocol factors.
    accept : sequence of str
        Codes of findings that the user has checked: errors with these codes become caveats.

    Returns
    -------
    list of Finding
        Errors first.
    """
    return screen_scans(dataset.scans, covariates=covariates, factors=factors)


def screen_scans(scans: pd.DataFrame, *, covariates: Sequence[str] = (), factors: Sequence[str] = ()) -> list[Finding]:
    """Find what is wrong or suspicious in the scans table alone; parameters as in :func:`screen`."""
    return []
