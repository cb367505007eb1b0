"""Screening of the scans that a posterior is applied to, or adapted to."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from bayesharm.data.dataset import Dataset
from bayesharm.data.finding import refuse_errors
from bayesharm.data.screening.categories import screen_categories
from bayesharm.data.screening.coding import screen_coding
from bayesharm.data.screening.screen import accept_findings, screen
from bayesharm.model.configure import screened_columns
from bayesharm.model.formula.text import covariate_columns
from bayesharm.results.posterior import Posterior

OF_A_FIT = ("participant-is-scan",)  # findings on a whole study: a traveler of the fit may have a single new scan


def screen_new_scans(posterior: Posterior, dataset: Dataset, accept: Sequence[str] | str = ()) -> list[str]:
    """Refuse scans that contradict themselves, from which a posterior would learn; return caveats as sentences.

    Findings that were accepted in the fit are accepted here too.

    Raises
    ------
    InputError
    """
    dataset = dataset.transformed(posterior.run.get("transform"))
    findings = screen(dataset, **screened_columns(posterior.spec), accept=accept)
    findings = [
        finding for finding in accept_findings(findings, _accepted_in_fit(posterior)) if finding.code not in OF_A_FIT
    ]
    refuse_errors(findings)
    return [finding.sentence for finding in findings]


def refuse_miscoded_covariates(posterior: Posterior, scans: pd.DataFrame) -> None:
    """Refuse covariates with codes, mixed types or other spellings, where expected values are computed from them.

    Raises
    ------
    InputError
    """
    columns = covariate_columns(posterior.spec.covariates, posterior.spec.formula)
    findings = [*screen_coding(scans, columns), *screen_categories(scans, columns)]
    refuse_errors(accept_findings(findings, _accepted_in_fit(posterior)))


def _accepted_in_fit(posterior: Posterior) -> list[str]:
    return [finding["code"] for finding in posterior.run.get("findings", ()) if finding["accepted"]]
