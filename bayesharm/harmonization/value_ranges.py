"""Numeric columns of new scans against the values in the fit: codes, other units, extrapolation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from bayesharm.data.finding import Finding, refuse_errors
from bayesharm.data.screening.screen import accept_findings
from bayesharm.data.screening.weights import compare_weights
from bayesharm.data.screening.words import MISSING_CODES, with_values
from bayesharm.model.formula.text import covariate_columns
from bayesharm.results.nodes import read_ranges
from bayesharm.results.posterior import Posterior

BIAS_WIDTHS = 2.0  # widths of the range beyond it, from which on a column of biases is refused
MOST_WIDTHS = 5.0  # the same for other columns


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
        Codes of findings that the user has checked, where a posterior adapts; those of the fit are accepted too. Noise
        weights are compared there: nothing else depends on them.

    Returns
    -------
    list of str
        Notes on values outside of the range of the fit.

    Raises
    ------
    InputError
        Values are codes for missing, or are too far outside of the range; noise weights are in other units. A column on
        which biases depend may be outside by two widths of the range, others by five: people may be followed longer, and
        move more, than in the fit.
    """
    findings, notes = screen_ranges(posterior, scans, columns)
    if accept is not None and (weights := posterior.spec.noise_weight):
        findings += compare_weights(scans, weights, posterior.sufficient_statistics.attrs["noise_unit"])
    found = accept_findings(findings, accept or ())
    refuse_errors(found, can_be_accepted=accept is not None)
    return [*notes, *(finding.sentence for finding in found)]


def screen_ranges(posterior: Posterior, scans: pd.DataFrame, columns: Iterable[str]) -> tuple[list[Finding], list[str]]:
    """Return findings, with the scans concerned, and notes; parameters as in :func:`check_ranges`.

    Findings are caveats if they were accepted in the fit.
    """
    names = list(dict.fromkeys(columns))
    if not names:
        return [], []
    ranges, notes, found = read_ranges(posterior.sufficient_statistics, posterior.spec), [], []
    of_biases = {family.slope for family in posterior.spec.slopes if family.by == "scanner"}
    labels = scans["scan_id"].astype(str).to_numpy()
    for name in names:
        if name not in ranges or name not in scans:
            continue
        values = pd.to_numeric(scans[name], errors="coerce").to_numpy(float)
        low, high = ranges[name]
        width, beyond = high - low, np.maximum(low - values, values - high)  # NaN where a value is missing
        is_far = beyond > width * (BIAS_WIDTHS if name in of_biases else MOST_WIDTHS)
        is_negative_code = (values < 0) & ((low >= 0) | (beyond > width / 2))
        is_code = np.isin(values, MISSING_CODES) & (is_far | is_negative_code)
        is_code |= (values == -1) & (low > 0)  # if 0 occurs, as in times, -1 may be a value
        is_far &= ~is_code
        is_outside = (beyond > 1e-9 * width) & ~is_far & ~is_code
        within = f"{low:.6g} to {high:.6g}"

        def quote(rows: np.ndarray, values: np.ndarray = values) -> str:
            return with_values(list(labels[rows]), [f"{value:g}" for value in values[rows]])

        if is_code.any():
            found.append(Finding(
                "missing-code", "error", f"The column {name!r} has values that are usual codes for 'missing'.",
                quote(is_code), f"a measurement for every scan; the fit has {within}",
                "fill in the values or remove these scans", scans=tuple(labels[is_code]), columns=(name,),
            ))  # fmt: skip
        if is_far.any():
            found.append(Finding(
                "other-units", "error", f"The column {name!r} is far outside of the range of the fit: other units?",
                f"{is_far.sum():,} of {len(scans):,} scans: {quote(is_far)}",
                f"values like those of the fit, {within}; a correction cannot be extrapolated so far",
                f"give {name!r} in the units of the fit, leave these scans out, or fit again with such scans",
                scans=tuple(labels[is_far]), columns=(name,),
            ))  # fmt: skip
        if is_outside.any():
            notes.append(
                f"{name} is outside of the range of the fit, {within}, in {is_outside.sum():,} of {len(scans):,} scans: "
                f"{quote(is_outside)}. What depends on it is extrapolated there."
            )
    accepted = [finding["code"] for finding in posterior.run.get("findings", ()) if finding["accepted"]]
    return accept_findings(found, accepted), notes


def columns_of_correction(posterior: Posterior, family: str, match_noise: bool) -> list[str]:
    """Return the numeric columns on which a correction depends: those of slopes, and covariates where noise is matched.

    Parameters
    ----------
    posterior : Posterior
    family : str
        Family of the biases to remove.
    match_noise : bool
    """
    slopes = [each for each in posterior.spec.slopes if each.by != "participant"]
    columns = [each.slope for each in slopes if each.name == family or (match_noise and each.by == "diagnosis")]
    return [*columns, *(covariate_columns(posterior.spec.covariates, posterior.spec.formula) if match_noise else ())]
