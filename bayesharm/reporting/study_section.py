"""The section of a report on the check of the study before the fit."""

from __future__ import annotations

import pandas as pd

from bayesharm.reporting.plots import RunView
from bayesharm.reporting.section import Section


def describe_check(view: RunView) -> Section | None:
    """Describe what the study can separate, and how precisely, as it was checked before the fit."""
    check = view.posterior.run.get("check")
    if check is None:
        return None
    rows = {}
    for row in check["scanners"]:
        rows[row["scanner"]] = {
            "scans": row["n_scans"], "people": row["n_people"], "travelers": row["n_travelers"],
            **row["diagnoses"], **row["described"],
        }  # fmt: skip
        if row.get("expected_sd") is not None:
            rows[row["scanner"]] |= {"expected sd": row["expected_sd"], "from data": row["from_data"]}
    return Section(
        "What can this study separate?",
        [
            *check["verdict"]["sentences"],
            "In the table, diagnoses are numbers of people with scans on one scanner only. The expected sd is that of the "
            "scanner's effect relative to the mean of all scanners, in sd of a feature.",
        ],
        pd.DataFrame.from_dict(rows, orient="index"),
    )
