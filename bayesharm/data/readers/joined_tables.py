"""Tables of one tool, joined by scan into features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from bayesharm.data.readers.bids_names import parse_name
from bayesharm.data.readers.files import cut
from bayesharm.data.readers.label_tables import LabelTable, TableFormat, refuse_table, to_numbers, transpose
from bayesharm.data.readers.labels import checksum
from bayesharm.data.readers.matching import Record
from bayesharm.data.readers.options import ReaderOptions
from bayesharm.data.readers.reading import Reading, choose_records, drop_empty, match_all
from bayesharm.errors import shorten
from bayesharm.io.arrays import as_matrix


def read_tables(
    format: TableFormat,
    tables: Sequence[LabelTable],
    scans: pd.DataFrame,
    has_scan_ids: bool,
    options: ReaderOptions,
    select: Sequence[str],
    join_all: bool,
) -> Reading:
    """Read the features of all scans from tables of one tool, joined by scan.

    Parameters
    ----------
    format : TableFormat
    tables : sequence of LabelTable
    scans : DataFrame
        The scans table.
    has_scan_ids : bool
        Whether the user's table has identifiers of scans.
    options : ReaderOptions
    select : sequence of str
        Names of features that the user wants; measures of the whole brain are features only if they are among them.
    join_all : bool
        Whether to join tables of several measures.

    Raises
    ------
    InputError
        The options do not lead to one row for each scan, or a table is damaged.
    """
    if not join_all or options.atlas or options.measure:
        records = [Record(table.path, "", {}, {}, table.measure, table.atlas) for table in tables]
        chosen = {record.path for record in choose_records(records, options)}
        tables = [table for table in tables if table.path in chosen]
    labels = set(scans["scan_id"]) | set(scans["participant_id"])
    tables = [transpose(each) if _is_transposed(each, labels) else each for each in tables]
    matched = [
        match_all([_make_record(label, table) for label in table.labels], scans, has_scan_ids, options, lenient=True)
        for table in tables
    ]
    rows = np.flatnonzero(np.all([matching.records >= 0 for matching, _ in matched], axis=0))
    dropped = {name: reason for _, each in matched for name, reason in each.items()}
    ids = scans["scan_id"].to_numpy(str)[rows]
    frame = _join(format, tables, [matching.records[rows] for matching, _ in matched])
    whole = [name for name in frame.columns if format.is_whole_brain(name) and name not in select]
    measured = frame.drop(columns=whole)
    if not measured.shape[1]:
        raise refuse_table(tables[0].path, f"only measures of the whole brain: {shorten(whole)}", "measures of regions")
    is_code = (measured == 0) & np.array([not format.may_be_zero(name) for name in measured.columns])
    features = measured.mask(is_code)
    is_empty = features.isna().all(axis=1).to_numpy()
    dropped |= drop_empty(is_empty, ids.tolist(), options)
    kept = np.flatnonzero(~is_empty)
    missing = {
        "missing in the file": int(measured.iloc[kept].isna().to_numpy().sum()),
        "zero (region missing)": int(is_code.iloc[kept].to_numpy().sum()),
    }
    provenance: dict[str, Any] = {
        "format": format.name, "tool": format.title, "measure": ", ".join(dict.fromkeys(table.measure for table in tables)),
        "atlas": ", ".join(dict.fromkeys(table.atlas for table in tables)), "regions": features.shape[1],
        "regions_sha256": checksum(list(features.columns)), "matched": matched[0][0].rule,
        "files": [table.path.name for table in tables], "dropped": dropped, "columns": whole, "missing": missing,
    }  # fmt: skip
    return Reading(
        as_matrix(features.to_numpy()[kept], list(features.columns), ids[kept].tolist()),
        rows[kept],
        {name: frame[name].to_numpy()[kept] for name in whole},
        provenance,
        tuple(_notes(provenance, len(kept))),
    )


def _notes(provenance: dict[str, Any], n_scans: int) -> list[str]:
    notes = [
        f"{n_scans:,} scans were read from {', '.join(provenance['files'])} ({provenance['tool']}): "
        f"{provenance['regions']:,} measures of {provenance['atlas']}, {provenance['measure']}, "
        f"matched {provenance['matched']}."
    ]
    if provenance["columns"]:
        notes.append(
            "Measures of the whole brain are not features, but columns of the scans table: "
            f"{', '.join(provenance['columns'])}. "
            "To use one as a feature, name it with --features."
        )
    if any(provenance["missing"].values()):
        parts = [f"{count:,} {kind}" for kind, count in provenance["missing"].items() if count]
        notes.append(f"Values are missing: {', '.join(parts)}.")
    if provenance["dropped"]:
        notes.append(f"{len(provenance['dropped']):,} were left out: {shorten(provenance['dropped'], 3)}.")
    return notes


def _make_record(label: str, table: LabelTable) -> Record:
    """Return the record of a row. FreeSurfer adds ``.long.TEMPLATE`` to a label, and ENIGMA writes whole paths."""
    plain = label.rstrip("/\\").replace("\\", "/").rpartition("/")[2]
    short = plain.partition(".long.")[0]
    parsed = parse_name(short)
    source = parsed.source if parsed is not None and "sub" in parsed.entities else {"sub": short}
    aliases = tuple(dict.fromkeys((plain, short)))
    return Record(table.path, label, source, {}, table.measure, table.atlas, is_row=True, aliases=aliases)


def _is_transposed(table: LabelTable, labels: set[str]) -> bool:
    """Whether more columns than rows are named after scans or participants."""

    def hits(names: Sequence[str]) -> int:
        records = [_make_record(name, table) for name in names]
        people = [
            {record.identifier, *record.aliases, f"sub-{record.source['sub']}", record.source["sub"]} for record in records
        ]
        return sum(bool(each & labels) for each in people)

    return hits(table.columns) > hits(table.labels)


def _join(format: TableFormat, tables: Sequence[LabelTable], records: Sequence[np.ndarray]) -> pd.DataFrame:
    """Return the columns of all tables for the same scans; measures of the whole brain that tables share stand once."""
    columns: dict[str, np.ndarray] = {}
    repeated = []
    for table, rows in zip(tables, records, strict=True):
        names = format.name_columns(table)
        for name, values in zip(names, to_numbers(table, names)[rows].T, strict=True):
            if name not in columns:
                columns[name] = values
            elif not (format.is_whole_brain(name) and np.allclose(values, columns[name], rtol=1e-4, equal_nan=True)):
                repeated.append(name)
    if repeated:
        got = f"a feature twice: {shorten(map(cut, repeated))}"
        raise refuse_table(tables[-1].path, got, "each feature in one table and column")
    return pd.DataFrame(columns)
