"""Screening of a dataset before a fit: identity, coding and meaning of its tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import pandas as pd

from bayesharm.data.dataset import Dataset
from bayesharm.data.finding import Finding
from bayesharm.data.screening.ages import screen_ages
from bayesharm.data.screening.categories import screen_categories
from bayesharm.data.screening.codes import CODES
from bayesharm.data.screening.coding import screen_coding
from bayesharm.data.screening.covariates import screen_covariates
from bayesharm.data.screening.features import screen_features
from bayesharm.data.screening.identity import screen_identity
from bayesharm.data.screening.times import screen_times
from bayesharm.data.screening.weights import screen_weights
from bayesharm.errors import InputError, shorten


def screen(
    dataset: Dataset,
    *,
    covariates: Sequence[str] = (),
    factors: Sequence[str] = (),
    times: Sequence[str] = (),
    noise_weight: str = "",
    accept: Sequence[str] | str = (),
) -> list[Finding]:
    """Find what is wrong or suspicious in the scans table and the features of a study.

    Parameters
    ----------
    dataset : Dataset
    covariates : sequence of str
        Columns of the scans table that the model uses as covariates.
    factors : sequence of str
        Columns of the scans table that the model uses as protocol factors.
    times : sequence of str
        Columns of the scans table on which the model lets the effects of participants depend.
    noise_weight : str
        Column of the scans table with relative noise variances.
    accept : sequence of str
        Codes of findings that the user has checked, or ``all``: errors with these codes become caveats.

    Returns
    -------
    list of Finding
        Errors first.

    Raises
    ------
    InputError
        A code does not exist.
    """
    accepted = [accept] if isinstance(accept, str) else list(accept)
    if unknown := [code for code in accepted if code not in (*CODES, "all")]:
        raise InputError(
            "There is no finding with such a code.",
            got=shorten(unknown),
            expected=f"some of {', '.join(CODES)}, or all",
            do="copy the code from the message about the finding",
        )
    found = [
        *dataset.findings,
        *screen_scans(dataset.scans, covariates=covariates, factors=factors, times=times, noise_weight=noise_weight),
        *screen_features(dataset.features, dataset.scans, covariates),
    ]
    return accept_findings(found, accepted)


def screen_scans(
    scans: pd.DataFrame,
    *,
    covariates: Sequence[str] = (),
    factors: Sequence[str] = (),
    times: Sequence[str] = (),
    noise_weight: str = "",
) -> list[Finding]:
    """Find what is wrong or suspicious in the scans table alone; parameters as in :func:`screen`."""
    return [
        *screen_identity(scans),
        *screen_ages(scans, covariates),
        *screen_times(scans, times),
        *screen_weights(scans, noise_weight),
        *screen_coding(scans, covariates),
        *screen_categories(scans, covariates, factors),
        *screen_covariates(scans, covariates),
    ]


def accept_findings(findings: Iterable[Finding], accept: Sequence[str]) -> list[Finding]:
    """Return the findings, errors first; errors with accepted codes are caveats that say so."""
    changed = [
        replace(finding, severity="caveat", accepted=True, do=f"accepted by the user; otherwise: {finding.do}")
        if finding.severity == "error" and ({finding.code, "all"} & set(accept))
        else finding
        for finding in findings
    ]
    return sorted(changed, key=lambda finding: finding.severity != "error")
