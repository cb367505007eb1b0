"""Coding of the scans table: codes for missing values, dates and text among numbers, identifiers damaged by Excel."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd

from bayesharm.data.finding import Finding
from bayesharm.data.scans import IDENTIFIERS
from bayesharm.data.screening.words import DATES, MISSING_CODES, POSITIVE, is_age, to_days, tokens, with_values
from bayesharm.errors import shorten
from bayesharm.io.numbers import is_text, parse_numbers

LEAST_PEOPLE = 8  # for outliers of covariates
AGE_CODES, AGE_GAP = (77.0, 88.0, 99.0), 5.0  # codes among ages, and years above the others from which they are suspicious
FAR, CODE_FAR = 10, 4  # robust sds from the median: of a value that is suspicious, and of one that is a usual code too
_MONTHS = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
EXCEL_DATE = re.compile(
    rf"\d{{1,2}}[-/ ](?:{_MONTHS})(?:[-/ ]\d{{2,4}})?|(?:{_MONTHS})[-/ ]\d{{2,4}}|\d{{4}}-\d\d-\d\d 00:00:00(?:\.0+)?",
    re.IGNORECASE,
)
EXCEL_NUMBER = re.compile(r"\d(?:[.,]\d+)?E\+\d{2,}")


def screen_coding(scans: pd.DataFrame, covariates: Sequence[str] = ()) -> Iterator[Finding]:
    """Find damaged identifiers, and covariates with values that are no measurements."""
    for column in IDENTIFIERS:
        if column in scans:
            yield from damaged_names(scans[column].astype(str).unique(), column)
    for name in dict.fromkeys(covariates):
        if name not in scans:
            continue
        values = scans[name]
        if is_text(values):
            yield from _text(scans, name)
        elif pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
            yield from _dates_as_numbers(scans, name)
            yield from _numbers(scans, name)


def damaged_names(names: Iterable[str], column: str) -> Iterator[Finding]:
    """Find names that a spreadsheet has turned into dates or rounded numbers."""
    names = list(names)
    for pattern, code, kind in ((EXCEL_DATE, "excel-date", "dates"), (EXCEL_NUMBER, "excel-number", "rounded numbers")):
        damaged = [name for name in names if pattern.fullmatch(name.strip())]
        if damaged:
            yield Finding(
                code,
                "error",
                f"A spreadsheet seems to have turned some names of {column} into {kind}.",
                got=f"{len(damaged)} of {len(names)}: {shorten(damaged)}",
                expected="names as they were given, such as MARCH1 and not 1-Mar",
                do="import the column as text in the spreadsheet, or take the names from their source",
                columns=(column,),
            )


def _text(scans: pd.DataFrame, name: str) -> Iterator[Finding]:
    """A covariate of text that may have been numbers or dates."""
    values = scans[name]
    known = values.notna() & (values.astype(str).str.strip() != "")
    text = values[known].astype(str).str.strip()
    if not len(text):
        return
    if to_days(text) is not None:
        yield _about(scans, name, "date-covariate", known, "is a date", "a number, such as years since the first scan",
                     "make it a number of days or years, or leave it out of the covariates")  # fmt: skip
        return
    if doubt := parse_numbers(text).doubt:
        yield _about(scans, name, "numbers-as-text", known, f"holds numbers as text that can be read in two ways: {doubt}",
                     "numbers in one notation, with decimal points and no units", "write plain numbers: 1234.5")  # fmt: skip
        return
    readable = text.map({word: parse_numbers(pd.Series([word])).values is not None for word in text.unique()}).astype(bool)
    mostly = readable.mean() >= 0.5 or (readable.mean() >= 0.05 and text[readable].nunique() > 5)
    if mostly and not readable.all():
        yield _about(
            scans, name, "mixed-types", known & ~readable.reindex(scans.index, fill_value=True),
            "mixes numbers and words",
            "numbers in all cells, or the name of a category in all cells",
            "correct these values; leave cells without a value empty; give categories names that are no numbers",
        )  # fmt: skip


def _about(scans: pd.DataFrame, name: str, code: str, rows: pd.Series, what: str, expected: str, do: str) -> Finding:
    where = scans["scan_id"][rows]
    return Finding(
        code,
        "error",
        f"The covariate {name!r} {what}.",
        got=with_values(list(where), [repr(str(value)) for value in scans[name][rows]], 4),
        expected=expected,
        do=do,
        scans=tuple(where),
        columns=(name,),
    )


def _dates_as_numbers(scans: pd.DataFrame, name: str) -> Iterator[Finding]:
    """A covariate of dates as YYYYMMDD, which jump at the end of each month."""
    if to_days(scans[name]) is not None and (scans[name].dropna() > 1e7).all():
        yield _about(scans, name, "date-covariate", scans[name].notna(), "is a date written as a number",
                     "a number that grows evenly with time, such as years since the first scan",
                     "make it a number of days or years, or leave it out of the covariates")  # fmt: skip
    elif tokens(name) & DATES and scans[name].dropna().between(20000, 60000).all():
        yield Finding(
            "date-covariate",
            "caveat",
            f"The covariate {name!r} looks like day numbers of Excel.",
            got=f"{scans[name].min():g} to {scans[name].max():g}",
            expected="a covariate of known unit",
            do="check that the time of the scan is meant; its slope is per day",
            columns=(name,),
        )


def _numbers(scans: pd.DataFrame, name: str) -> Iterator[Finding]:
    """Codes for missing values, impossible zeros and far values among the numbers of a covariate."""
    values = scans[name].astype(float).to_numpy()
    is_code, is_zero, is_far = find_codes(values, tokens(name) & POSITIVE or is_age(name))
    if is_far.any():  # few people with many scans have a small spread: people are compared
        known = pd.Series(np.where(is_code | is_zero, np.nan, values))
        people = known.groupby(scans["participant_id"].to_numpy()).median().dropna().to_numpy()
        is_far = is_far & far_from(values, people) if len(people) >= LEAST_PEOPLE else np.zeros(len(values), bool)
    for code, wrong, what in (
        ("missing-code", is_code, "has values that are usual codes for 'missing'"),
        ("impossible-zero", is_zero, "is 0 in some scans, where 0 is impossible"),
    ):
        if wrong.any():
            rows = pd.Series(wrong, scans.index)
            yield Finding(
                code,
                "error",
                f"The covariate {name!r} {what}.",
                got=with_values(list(scans["scan_id"][rows]), [f"{value:g}" for value in values[wrong]]),
                expected=f"a measurement for every scan; the others are {_range(values[~wrong])}",
                do="fill in the values or remove these scans",
                scans=tuple(scans["scan_id"][rows]),
                columns=(name,),
            )
    if is_age(name):
        yield from _codes_among_ages(scans, name, values)
    if is_far.any():
        rows = pd.Series(is_far, scans.index)
        yield Finding(
            "outlying-covariate",
            "caveat",
            f"The covariate {name!r} has values more than {FAR} robust standard deviations from its median.",
            got=with_values(list(scans["scan_id"][rows]), [f"{value:g}" for value in values[is_far]]),
            expected=f"values like the others, {_range(values[~is_far])}",
            do="check these values: they weigh heavily in a linear effect",
            scans=tuple(scans["scan_id"][rows]),
            columns=(name,),
        )


def _codes_among_ages(scans: pd.DataFrame, name: str, values: np.ndarray) -> Iterator[Finding]:
    """Ages of 77, 88 or 99 in several scans, above all other ages but not so far that they must be codes."""
    for code in AGE_CODES:
        same = values == code
        others = values[np.isfinite(values) & ~np.isin(values, AGE_CODES)]
        if same.sum() > 1 and len(others) > 2 and others.max() < code - AGE_GAP:
            where = scans["scan_id"][same]
            yield Finding(
                "missing-code",
                "caveat",
                f"The covariate {name!r} is {code:g} in several scans, which is a usual code for 'missing'.",
                got=f"{int(same.sum())} scans: {shorten(where)}; the others are {_range(others)}",
                expected="an age for every scan",
                do="check these ages; fill them in or remove these scans",
                scans=tuple(where),
                columns=(name,),
            )


def find_codes(values: np.ndarray, positive: object = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find usual codes for missing values that stand apart, zeros that are impossible, and other far values.

    Parameters
    ----------
    values : (scan,) array
    positive : bool-like
        Whether the name of the column says that 0 is impossible.

    Returns
    -------
    is_code, is_zero, is_far : (scan,) bool arrays
    """
    finite = np.isfinite(values)
    candidate = finite & np.isin(values, MISSING_CODES)
    rest = values[finite & ~candidate]
    is_code = np.zeros(len(values), bool)
    if candidate.any() and len(rest) > 2:
        low, high = rest.min(), rest.max()
        gap = np.maximum(low - values, values - high)
        sign_differs = (values < 0) & (low >= 0)
        is_code = candidate & (((gap > 0) & (_distance(values, rest) > CODE_FAR)) | sign_differs)
    rest_finite = finite & ~is_code
    is_zero = np.zeros(len(values), bool)
    others = values[rest_finite & (values != 0)]
    if positive and len(others) > 2 and others.min() > 0:
        is_zero = rest_finite & (values == 0) & (others.min() > 0.1 * np.median(others))
    usual = values[rest_finite & ~is_zero]
    is_far = np.zeros(len(values), bool)
    if len(usual) > 4:
        is_far = rest_finite & ~is_zero & far_from(values, usual)
    return is_code, is_zero, is_far


def far_from(values: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """Whether values are far from the usual ones; of amounts also on the scale of logarithms, as head motion is skewed."""
    is_far = _distance(values, usual) > FAR
    if (usual > 0).all():
        with np.errstate(invalid="ignore", divide="ignore"):
            is_far &= (_distance(np.log(values), np.log(usual)) > FAR) | (values <= 0)
    return is_far


def _distance(values: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """Return distances from the median of the usual values, in their robust sds; 0 where these have none."""
    low, median, high = np.quantile(usual, [0.25, 0.5, 0.75])
    scale = max(1.4826 * np.median(np.abs(usual - median)), (high - low) / 1.349)
    if scale == 0:
        return np.zeros(len(values))
    return np.abs(values - median) / scale


def _range(values: np.ndarray) -> str:
    usual = values[np.isfinite(values)]
    return f"{usual.min():g} to {usual.max():g}" if len(usual) else "missing"
