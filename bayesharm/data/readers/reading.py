"""The result of a reader, the choice of records, and unmatched scans and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from bayesharm.data.readers.matching import Matching, Record, match_records
from bayesharm.data.readers.options import ReaderOptions
from bayesharm.errors import InputError, shorten
from bayesharm.io.arrays import Matrix


@dataclass(frozen=True, eq=False)
class Reading:
    """Features of the scans in the derivatives of a tool.

    Attributes
    ----------
    matrix : Matrix
        Values, with names of the features; missing values are NaN.
    rows : (scan,) int array
        Rows of the scans table to which the rows of `matrix` belong, in the order of the table.
    columns : mapping
        Columns that the tool offers for the scans table, such as the head motion: name -> one value for each of `rows`.
    provenance : dict
        Format, tool and version, atlas, measure, rule of matching, files, dropped files and scans, and number of missing
        values, for `run.json`.
    notes : tuple of str
        Sentences for the user.
    """

    matrix: Matrix
    rows: np.ndarray
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def choose_records(records: Sequence[Record], options: ReaderOptions, usual_measure: str = "") -> list[Record]:
    """Return the records of one measure and one atlas.

    Parameters
    ----------
    records : sequence of Record
    options : ReaderOptions
        `measure`, `atlas` and `entities` choose.
    usual_measure : str
        Measure to take if there are several and none is chosen.

    Raises
    ------
    InputError
        Nothing is left, or there are several measures or atlases and none is chosen.
    """
    left = [record for record in records if options.wants(record.variant)]
    if not left:
        keys = {key: sorted({record.variant.get(key, "none") for record in records}) for key in options.entities}
        raise InputError(
            "No file has the chosen parts in its name.",
            got=" ".join(f"{key}={value}" for key, value in options.entities.items()),
            expected="; ".join(f"{key}: {shorten(values)}" for key, values in keys.items()),
            do="choose one of these with --entity, or leave the option out",
        )
    measures = sorted({record.measure for record in left})
    measure = options.measure or (usual_measure if usual_measure in measures else "")
    left = _pick(left, "measure", measures, measure)
    return _pick(left, "atlas", sorted({record.atlas for record in left}), options.atlas or "")


def _pick(records: list[Record], what: str, values: list[str], chosen: str) -> list[Record]:
    if chosen and chosen not in values:
        raise InputError(
            f"No file holds the chosen {what}.",
            got=f"{what} {chosen!r}",
            expected=f"one of {shorten(filter(None, values), 20) or 'none: these files name none'}",
            do=f"choose one of these with --{what}, or omit the option",
        )
    if not chosen and len(values) > 1:
        raise InputError(
            f"There are several {'atlases' if what == 'atlas' else 'measures'}, and none is chosen.",
            got=shorten(values, 20),
            expected=f"one {what}",
            do="choose one: " + " or ".join(f"--{what} {value}" for value in values[:6]),
        )
    return [record for record in records if not chosen or getattr(record, what) == chosen]


def match_all(
    records: Sequence[Record],
    scans: pd.DataFrame,
    has_scan_ids: bool,
    options: ReaderOptions,
    *,
    lenient: bool = False,
) -> tuple[Matching, dict[str, str]]:
    """Match records to scans, and treat scans and records without a partner as `options.missing_files` says.

    Returns
    -------
    matching : Matching
    dropped : dict
        Scans and records that are left out, with the reason.

    Raises
    ------
    InputError
        A scan or a record has no partner, and the option is "error"; or nothing matches.
    """
    matching = match_records(records, scans, has_scan_ids, lenient=lenient)
    used = set(matching.records.tolist())
    scans_without = scans["scan_id"][matching.records < 0].tolist()
    records_without = [record.label for k, record in enumerate(records) if k not in used]
    nothing = len(scans_without) == len(scans)
    noun = "rows" if records and records[0].is_row else "files"
    if nothing or (options.missing_files == "error" and (scans_without or records_without)):
        first = scans.iloc[0]
        raise InputError(
            f"No scan has its {noun}." if nothing else f"Scans and {noun} do not correspond.",
            got=f"{len(scans_without):,} of {len(scans):,} scans without {noun} ({shorten(scans_without) or 'none'}); "
            f"{len(records_without):,} of {len(records):,} {noun} without a scan ({shorten(records_without) or 'none'}); "
            f"matched {matching.rule}",
            expected="one for each scan, found by scan_id as in the derivatives (sub-01_ses-A_task-rest_run-1) or by the "
            f"columns participant_id, session, run; the first scan is {first['scan_id']!r} of {first['participant_id']!r}",
            do="correct the scans table" + ("" if nothing else ", or leave both out with --missing-files drop"),
        )
    dropped = {str(label): f"scan without {noun}" for label in scans_without}
    return matching, dropped | {label: "not a scan of the table" for label in records_without}


def drop_empty(is_empty: np.ndarray, scan_ids: Sequence[str], options: ReaderOptions) -> dict[str, str]:
    """Return the scans without a single value, which are left out, with the reason.

    Raises
    ------
    InputError
        There are such scans, and `options.missing_files` is "error"; or all scans are such.
    """
    empty = [str(label) for label, each in zip(scan_ids, is_empty, strict=True) if each]
    if empty and (options.missing_files == "error" or len(empty) == len(scan_ids)):
        raise InputError(
            f"{len(empty):,} of {len(scan_ids):,} scans have no values at all.",
            got=shorten(empty),
            expected="at least one value for each scan",
            do="remove these scans from the table, or leave them out with --missing-files drop",
        )
    return dict.fromkeys(empty, "no values at all")
