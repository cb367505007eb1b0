"""Numeric columns of new scans against the values in the fit: codes, other units, extrapolation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from bayesharm.data.finding import Finding, refuse_errors
from bayesharm.data.screening.screen import accept_findings
from bayesharm.data.screening.words import MISSING_CODES, with_values
from bayesharm.results.nodes import read_ranges
from bayesharm.results.posterior import Posterior

MOST_WIDTHS = 5.0  # widths of the range beyond it, from which on other columns than those of biases are refused


def check_ranges(
    posterior: Posterior, scans: pd.DataFrame, columns: Iterable[str], accept: Sequence[str] | None = None
) -> list[str]:
    """Compare the numeric columns of new scans, on which a correction depends, with their values in the fit.

    Parameters
    ----------
    posterior : Posterior
    scans : DataFrame
    columns : iterable of str
        Columns of slopes and covariates; others are skipped.
    accept : sequence of str, optional
        Codes of findings that the user has checked, where they can be accepted; those of the fit are.

    Returns
    -------
    list of str
        Notes on values outside of the range of the fit.

    Raises
    ------
    InputError
        Values are codes for missing, or are too far outside of the range. A column on which biases depend may be outside
        by the width of the range, others by five widths: people may be followed longer, and move more, than in the fit.
    """
    names = list(dict.fromkeys(columns))
    ranges, notes, errors = read_ranges(posterior.sufficient_statistics, posterior.spec) if names else {}, [], []
    of_biases = {family.slope for family in posterior.spec.slopes if family.by == "scanner"}
    for name in names:
        if name not in ranges or name not in scans:
            continue
        values = pd.to_numeric(scans[name], errors="coerce").to_numpy(float)
        low, high = ranges[name]
        width, beyond = high - low, np.maximum(low - values, values - high)  # NaN where a value is missing
        is_code = np.isin(values, MISSING_CODES) & (((values < 0) & (low >= 0)) | (beyond > width / 2))
        is_far = (beyond > width * (1 if name in of_biases else MOST_WIDTHS)) & ~is_code
        is_outside = (beyond > 1e-9 * width) & ~is_far & ~is_code
        within = f"{low:.6g} to {high:.6g}"

        def quote(rows: np.ndarray, values: np.ndarray = values) -> str:
            return with_values(list(scans["scan_id"][rows]), [f"{value:g}" for value in values[rows]])

        if is_code.any():
            errors.append(_error(
                "missing-code", f"The column {name!r} has values that are usual codes for 'missing'.", quote(is_code),
                f"a measurement for every scan; the fit has {within}", "fill in the values or remove these scans", name,
            ))  # fmt: skip
        if is_far.any():
            errors.append(_error(
                "other-units", f"The column {name!r} is far outside of the range of the fit: other units?",
                f"{is_far.sum():,} of {len(scans):,} scans: {quote(is_far)}",
                f"values like those of the fit, {within}; a correction cannot be extrapolated so far",
                f"give {name!r} in the units of the fit, leave these scans out, or fit again with such scans", name,
            ))  # fmt: skip
        if is_outside.any():
            notes.append(
                f"{name} is outside of the range of the fit, {within}, in {is_outside.sum():,} of {len(scans):,} scans: "
                f"{quote(is_outside)}. What depends on it is extrapolated there."
            )
    accepted = [finding["code"] for finding in posterior.run.get("findings", ()) if finding["accepted"]]
    found = accept_findings(errors, [*accepted, *(accept or ())])
    refuse_errors(found, can_be_accepted=accept is not None)
    return [*notes, *(finding.sentence for finding in found)]


def _error(code: str, what: str, got: str, expected: str, do: str, column: str) -> Finding:
    return Finding(code, "error", what, got, expected, do, columns=(column,))
