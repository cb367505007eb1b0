"""A study whose features are the derivatives of another tool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from bayesharm.data.features import Features, match_names
from bayesharm.data.readers.detect import read_derivatives
from bayesharm.data.readers.options import ReaderOptions
from bayesharm.data.scans import Check, check_unique, read_scans_and_rules, refuse_one_scanner, resolve_columns
from bayesharm.io.tables import TableSource, table_columns
from bayesharm.progress import Progress


def read_derived_study(
    scans: TableSource,
    features: Any,
    columns: Mapping[str, str] | None,
    select: str | Sequence[str] | None,
    check: Check,
    options: ReaderOptions,
    progress: Progress,
) -> tuple[pd.DataFrame, Features, dict[str, Any], dict[str, str]]:
    """Read the scans table, and the features from the derivatives of a tool.

    Parameters
    ----------
    scans, features, columns, select, check, progress
        As in :func:`bayesharm.load_dataset`; `features` is a folder, a table or a list of tables.
    options : ReaderOptions

    Returns
    -------
    table : DataFrame
        The scans that have features, with the columns that the tool offers.
    features : Features
        In the order of the table.
    reading : dict
        Tool, files, atlas and missing values, for `run.json`.
    rules : dict
        How text of the scans table was read as numbers, by column.

    Raises
    ------
    InputError
        The scans, the derivatives or an option are not valid.
    """
    mapping = resolve_columns(table_columns(scans, "the scans table"), columns)
    table, rules = read_scans_and_rules(scans, columns, check=check)
    check_unique(table)
    found = read_derivatives(features, table, "scan_id" in mapping, options, select, progress)
    table = table.iloc[found.rows].reset_index(drop=True)
    if check == "fit":
        refuse_one_scanner(table)
    table = table.assign(**{name: values for name, values in found.columns.items() if name not in table})
    aligned = Features.from_matrix(found.matrix)
    if select is not None:
        aligned = aligned.take(match_names(aligned.names, select))
    return table, aligned, {**found.provenance, "notes": list(found.notes)}, rules
