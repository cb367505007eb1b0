"""Values of features that are no measurements: codes for missing, zeros, row numbers, outlying values."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pandas as pd

from bayesharm.data.features import Features
from bayesharm.data.finding import Finding
from bayesharm.data.screening.coding import FAR, find_codes
from bayesharm.data.screening.sweep import Sweep
from bayesharm.data.screening.words import MISSING_CODES, tokens
from bayesharm.errors import shorten

FEW = 1e-3  # share of the values, below which impossible zeros concern single features and not the result
ZERO_FAR = 5  # robust sds between the median of a feature and 0, from which a single 0 is no measurement
MOST_ZEROS = 0.2  # share of scans
ROW_NAMES = frozenset("x index idx row rows rowname rownames rownumber row.names unnamed no nr number id 1".split())
FLAT_FEATURES = 10  # features that a scan with one value everywhere must have
DETAILED = 2000  # features with suspicious values that are looked at one by one


def screen_values(features: Features, scans: pd.DataFrame, sweep: Sweep) -> Iterator[Finding]:
    """Find values of features that are no measurements."""
    yield from _row_numbers(features, scans, sweep)
    coded, findings = _codes(features, scans, sweep)
    yield from findings
    yield from _zero_filled(features, scans, sweep)
    yield from _far(features, scans, sweep, coded)


def _columns(features: Features, indices: np.ndarray) -> np.ndarray:
    """Read some features, (scan, feature)."""
    chosen = features.take(features.names[indices])
    return chosen.read(0, chosen.n_features)


def _row_numbers(features: Features, scans: pd.DataFrame, sweep: Sweep) -> Iterator[Finding]:
    """Features that number the rows of their table."""
    n = features.n_scans
    if n < 8:
        return
    named = np.array([bool(tokens(name) & ROW_NAMES) for name in sweep.names.tolist()])
    is_range = (sweep.high - sweep.low == n - 1) & np.isin(sweep.low, (0, 1))
    candidates = np.flatnonzero(is_range | named)
    position = np.arange(n) if features.rows is None else np.argsort(features.rows, kind="stable")
    numbered = []
    for k in candidates:
        values = _columns(features, np.array([k]))[:, 0]
        if np.isfinite(values).all() and (values % 1 == 0).all() and len(np.unique(values)) == n:
            in_order = bool((np.diff(values[position]) > 0).all())
            if is_range[k] or in_order:
                numbered.append(str(sweep.names[k]))
    if numbered:
        yield Finding(
            "row-number-feature",
            "error",
            "Some features number the rows of the table.",
            got=f"{shorten(numbered)}, with the numbers of the rows",
            expected="measurements only",
            do="choose the features with --features (select=… in Python), or remove the column; R and pandas write it with "
            "the names of the rows",
            columns=tuple(numbered),
        )


def _codes(features: Features, scans: pd.DataFrame, sweep: Sweep) -> tuple[np.ndarray, list[Finding]]:
    """Return the features with codes for missing values or impossible zeros, (feature,) bool array, and findings."""
    with np.errstate(invalid="ignore"):
        is_zero = (
            ((sweep.low == 0) | (sweep.high == 0)) & (np.abs(sweep.median) > ZERO_FAR * sweep.scale) & (sweep.scale > 0)
        )
    is_code = np.isin(sweep.low, MISSING_CODES) | np.isin(sweep.high, MISSING_CODES)
    candidates = np.flatnonzero(is_code | is_zero)
    n_more, candidates = max(0, len(candidates) - DETAILED), candidates[:DETAILED]
    findings, coded = [], np.zeros(features.n_features, bool)
    hits: dict[str, list[tuple[int, int, float]]] = {"missing-code-feature": [], "impossible-zero-feature": []}
    values = _columns(features, candidates) if len(candidates) else np.empty((len(scans), 0))
    for k, column in zip(candidates, values.T, strict=True):
        codes, _, _ = find_codes(column)
        zeros = (column == 0) if is_zero[k] else np.zeros(len(column), bool)
        rest = np.abs(column[np.isfinite(column) & ~zeros & ~codes])
        if not len(rest) or zeros.mean() > MOST_ZEROS or rest.min() < 0.1 * np.median(rest):
            zeros[:] = False
        hits["missing-code-feature"] += [(int(row), int(k), float(column[row])) for row in np.flatnonzero(codes)]
        hits["impossible-zero-feature"] += [(int(row), int(k), 0.0) for row in np.flatnonzero(zeros)]
        coded[k] = codes.any() or zeros.any()
    for code, found in hits.items():
        if found:
            findings.append(_on_codes(code, found, scans, sweep.names, n_more))
    return coded, findings


def _on_codes(
    code: str, found: list[tuple[int, int, float]], scans: pd.DataFrame, names: np.ndarray, n_more: int
) -> Finding:
    rows, columns = sorted({row for row, _, _ in found}), sorted({column for _, column, _ in found})
    where = scans["scan_id"].iloc[rows]
    examples = [f"{value:g} in {str(names[k])!r} of scan {scans['scan_id'].iloc[row]!r}" for row, k, value in found[:3]]
    is_zero = code.startswith("impossible")
    is_rare = len(found) < FEW * len(scans) * len(names) if is_zero else not _is_repeated(found)
    return Finding(
        code,
        "caveat" if is_rare else "error",
        "Some features are 0 in a few scans, where all other values are far from 0."
        if is_zero
        else "Some features have values that are usual codes for 'missing'.",
        got=f"{len(found)} values in {len(columns)} features"
        + (f" (and {n_more} more features were not looked at)" if n_more else "")
        + f" of {len(rows)} scans ({shorten(where)}): {', '.join(examples)}",
        expected="measurements, and empty cells (NaN) where there are none",
        do="replace these values by empty cells or remove the scans"
        + ("; FreeSurfer writes 0.0 for a region that it has not found" if is_zero else ""),
        scans=tuple(where),
        columns=tuple(str(names[k]) for k in columns),
    )


def _is_repeated(found: list[tuple[int, int, float]]) -> bool:
    """Whether one code occurs twice: a single 99 may be a measurement."""
    return max(Counter(value for _, _, value in found).values()) > 1


def _zero_filled(features: Features, scans: pd.DataFrame, sweep: Sweep) -> Iterator[Finding]:
    """Scans with many exact zeros where the others have none, and scans with the same value everywhere."""
    share = sweep.n_zeros / features.n_features
    filled = (share > max(0.02, 3 / features.n_features)) & (np.median(share) == 0) & (np.quantile(share, 0.8) < 0.01)
    if features.dtype.kind == "f" and filled.any() and (sweep.sample % 1 != 0).mean() > 0.5:
        where = scans["scan_id"][filled]
        yield Finding(
            "zero-filled",
            "caveat",
            "Some scans have many values that are exactly 0, where the other scans have none.",
            got=f"{len(where)} scans: {shorten(where)}; the first has 0 in {share[filled][0]:.0%} of its features",
            expected="measurements, and empty cells (NaN) where there are none",
            do="check whether these zeros stand for missing values",
            scans=tuple(where),
        )
    if features.n_features >= FLAT_FEATURES:
        with np.errstate(invalid="ignore"):
            flat = np.nanmax(sweep.sample, axis=1, initial=-np.inf) == np.nanmin(sweep.sample, axis=1, initial=np.inf)
        if flat.any():
            yield Finding(
                "flat-scan",
                "error",
                "Some scans have the same value in all features.",
                got=f"{shorten(scans['scan_id'][flat])}, with {sweep.sample[flat][0, 0]:g} everywhere",
                expected="features that differ",
                do="compute these scans again, or remove them",
                scans=tuple(scans["scan_id"][flat]),
            )


def _far(features: Features, scans: pd.DataFrame, sweep: Sweep, coded: np.ndarray) -> Iterator[Finding]:
    """Values more than ten robust sds from the median; of skewed measures also on the scale of logarithms."""
    with np.errstate(invalid="ignore", divide="ignore"):
        reach = np.maximum(sweep.high - sweep.median, sweep.median - sweep.low) / sweep.scale
        far = np.flatnonzero((reach > FAR) & (sweep.scale > 0) & ~coded)
    n_values, by_scan, wild = 0, np.zeros(len(scans), int), []
    for part in np.array_split(far, max(1, len(far) // DETAILED)) if len(far) else []:
        values = _columns(features, part)
        is_far = _is_far(values)
        amounts = np.nanmin(values, axis=0) >= 0
        if amounts.any():  # the same on the scale of logarithms; with an offset, for zeros
            offset = np.maximum(0.5 * sweep.median[part[amounts]], sweep.scale[part[amounts]])
            is_far[:, amounts] &= _is_far(np.log(values[:, amounts] + offset))
        n_values, by_scan = n_values + int(is_far.sum()), by_scan + is_far.sum(1)
        wild += [str(name) for name in sweep.names[part[is_far.any(0)]]]
    if n_values:
        rows = np.argsort(-by_scan, kind="stable")[:3]
        top = ", ".join(f"{scans['scan_id'].iloc[k]!r} ({by_scan[k]})" for k in rows if by_scan[k])
        yield Finding(
            "outlying-feature",
            "caveat",
            f"Some values of features are more than {FAR} robust standard deviations from the median.",
            got=f"{n_values} values in {len(wild)} of {features.n_features} features ({shorten(wild, 3)}), "
            f"in {np.count_nonzero(by_scan)} scans; most in {top}",
            expected="values near those of the other scans",
            do="look at these scans: a failed segmentation or registration is better left out",
            scans=tuple(scans["scan_id"][by_scan > 0]),
            columns=tuple(wild),
        )


def _is_far(values: np.ndarray) -> np.ndarray:
    low, median, high = np.nanquantile(values, [0.25, 0.5, 0.75], axis=0)
    deviation = np.abs(values - median)
    scale = np.maximum((high - low) / 1.349, 1.4826 * np.nanmedian(deviation, axis=0))
    with np.errstate(invalid="ignore"):
        return (deviation > FAR * scale) & (scale > 0)


WHOLE_BRAIN = re.compile(
    r"e?tiv|icv|e?ticv|estimatedtotalintracranialvol\w*|brainseg\w*|supratentorial\w*|maskvol\w*|totalgray\w*|"
    r"subcortgray\w*|[lr]h\w*cortexvol|cortexvol|\w*cerebralwhitematter\w*|corticalwhitematter\w*|"
    r"([lr]h)?mean_?thickness(thickness)?|([lr]h)?(whitesurfarea|surfaceholes)\w*|wholebrain\w*|brainvol\w*|intracranial\w*",
    re.IGNORECASE,
)


def screen_kinds(names: np.ndarray) -> Iterator[Finding]:
    """Find measures of the whole brain among regional features."""
    whole = [str(name) for name in names.tolist() if WHOLE_BRAIN.fullmatch(re.sub(r"[\W_]+", "", str(name)))]
    if whole and len(whole) < 0.5 * len(names):
        yield Finding(
            "whole-brain-feature",
            "caveat",
            "Some features are measures of the whole brain, among features of regions.",
            got=f"{len(whole)} of {len(names)}: {shorten(whole)}",
            expected="features of one kind",
            do="leave them out with --features, unless you want to harmonize them too",
            columns=tuple(whole),
        )
