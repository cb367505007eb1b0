"""Matching of the rows of features, an array or a table, to the rows of a scans table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from bayesharm.data.features import Features
from bayesharm.errors import InputError, shorten
from bayesharm.io.tables import TableSource, read_table, to_labels

SEARCHED_COLUMNS = 20  # first columns of a features table that may identify its scans


def find_label_column(source: TableSource, names: Sequence[str], scan_ids: pd.Series) -> str | None:
    """Return the first column of a features table whose values are, for the most part, the scans; None without one."""
    first = list(names)[:SEARCHED_COLUMNS]
    frame = read_table(source, text=first, columns=first, what="the features")
    for name in first:
        if pd.Series(to_labels(frame[name])[0]).isin(scan_ids).mean() > 0.5:
            return name
    return None


def align_rows(
    table: pd.DataFrame, features: Features, has_scan_ids: bool, unmatched: str = "error"
) -> tuple[pd.DataFrame, Features, list[str]]:
    """Sort labeled features into the order of the scans table; accept unlabeled features of the same length unchanged.

    Parameters
    ----------
    table : DataFrame
    features : Features
    has_scan_ids : bool
        Whether the user's scans table has identifiers.
    unmatched : {"error", "drop"}
        How to treat scans without features, and features of scans that are not in the table.

    Returns
    -------
    table : DataFrame
        The scans that have features.
    features : Features
    notes : list of str
        About scans and features that were left out.

    Raises
    ------
    InputError
        The features are not those of the scans.
    """
    ids = features.matrix.scan_ids
    if ids is None:
        n_scans, n_features = len(table), features.n_features
        if features.n_scans != n_scans:
            looks_transposed = n_features == n_scans
            raise InputError(
                "The features look transposed." if looks_transposed else "Features and scans do not align.",
                got=f"features of shape ({features.n_scans}, {n_features}) for a table of {n_scans} scans",
                expected=f"one row per scan: shape ({n_scans}, number of features)",
                do="transpose the array (array.T): rows are scans, columns are features"
                if looks_transposed
                else "make the array from the same scans in the same order, or add scan_id to both",
            )
        return table, features, []
    if not has_scan_ids:
        raise InputError(
            "The features have a scan_id, but the scans table has none.",
            got=f"features for scans {shorten(ids)} and a scans table without 'scan_id'",
            expected="the same identifiers in both",
            do='add the column to the scans table, or map it: columns={"scan_id": "…"} (--scan in the shell)',
        )
    wanted, index = table["scan_id"], pd.Index(ids)
    if index.has_duplicates:
        repeated = index[index.duplicated()].unique()
        raise InputError(
            "A scan_id occurs more than once in the features.",
            got=f"{len(repeated)} repeated: {shorten(repeated)}",
            expected="one row per scan",
            do="remove the repeated rows",
        )
    rows = index.get_indexer(pd.Index(wanted))
    missing, extra = wanted[rows < 0], index.difference(pd.Index(wanted), sort=False)
    if len(missing) == len(wanted):
        refuse_transposed(table, features.names.tolist())
    if (len(missing) or len(extra)) and (unmatched == "error" or len(missing) == len(wanted)):
        raise InputError(
            "Features and scans do not align.",
            got=f"{len(missing)} scans without features ({shorten(missing) or 'none'}); "
            f"features of {len(extra)} scans not in the scans table ({shorten(extra) or 'none'})",
            expected="the same scan_id in both, in any order",
            do="write identifiers the same way in both (001 is not 1), or leave out scans that are in only one of them: "
            "missing_files='drop' (--missing-files drop in the shell)",
        )
    notes = [f"{len(missing)} scans without features were left out: {shorten(missing)}."] if len(missing) else []
    if len(extra):
        notes.append(f"Features of {len(extra)} scans that are not in the scans table were left out: {shorten(extra)}.")
    return table[rows >= 0].reset_index(drop=True), features.align(rows[rows >= 0]), notes


def refuse_transposed(table: pd.DataFrame, names: Sequence[str]) -> None:
    """Raise an `InputError` if most scans are names of columns."""
    if table["scan_id"].isin(names).mean() > 0.5:
        scans = set(table["scan_id"])
        raise InputError(
            "The features look transposed.",
            got=f"columns named after scans: {shorten(name for name in names if name in scans)}",
            expected="one row per scan, with a column 'scan_id', and one column per feature",
            do="transpose the table",
        )


def check_row_alignment(scans: pd.DataFrame | None, X: Any, n_rows: int) -> pd.DataFrame:
    """Return `scans` after checking that its rows are those of X, in the same order.

    Raises
    ------
    InputError
        There is no table, or its rows are not those of X.
    """
    if not isinstance(scans, pd.DataFrame):
        raise InputError(
            "There is no scans table.",
            got=f"scans={scans!r}" if scans is None else f"scans of type {type(scans).__name__}",
            expected="a pandas DataFrame with one row for each row of X: participant_id, scanner, …",
            do="pass scans=…; in pipelines and cross-validation use sklearn.set_config(enable_metadata_routing=True) and "
            "params={'scans': …}, or, if X is a DataFrame, BayesHarmonizer(scans=…)",
        )
    if len(scans) != n_rows:
        raise InputError(
            "X and scans differ in length.",
            got=f"{n_rows} rows of X, {len(scans)} of scans",
            expected="one row of scans for each row of X, in the same order",
            do="select the same rows of both",
        )
    if isinstance(X, pd.DataFrame) and not any(X.index.equals(labels) for labels in _labels(scans)):
        row = next(k for k, pair in enumerate(zip(X.index, scans.index, strict=True)) if pair[0] != pair[1])
        raise InputError(
            "The rows of X and scans have different labels or a different order.",
            got=f"in row {row + 1}, scan {X.index[row]!r} in X and {scans.index[row]!r} in scans",
            expected="the same index in both (or a column scan_id of scans equal to the index of X)",
            do="pass scans.loc[X.index], or, if the rows are in the same order, scans.set_index(X.index)",
        )
    return scans


def _labels(scans: pd.DataFrame) -> list[pd.Index]:
    """Return the candidates for row labels: the index of the scans table, and its column scan_id if there is one."""
    return [scans.index, *([pd.Index(scans["scan_id"])] if "scan_id" in scans else [])]


def select_rows(scans: pd.DataFrame, X: Any) -> pd.DataFrame:
    """Select the rows of the scans table that belong to X, by its index.

    Raises
    ------
    InputError
        X has no index, or a label is not in the table exactly once.
    """
    if not isinstance(X, pd.DataFrame):
        raise InputError(
            "The rows of X do not identify their scans.",
            got=f"X of type {type(X).__name__}",
            expected="a pandas DataFrame with scan identifiers as index",
            do="pass a DataFrame (set_output(transform='pandas') for earlier pipeline steps), or pass scans to the method",
        )
    labels = _labels(scans)[-1]
    if labels.has_duplicates or not X.index.isin(labels).all():
        repeated, absent = labels[labels.duplicated()].unique(), X.index[~X.index.isin(labels)]
        raise InputError(
            "The rows of X do not match the scans table.",
            got=f"no scan {shorten(absent, 3)}" if len(absent) else f"more than one scan {shorten(repeated, 3)}",
            expected="exactly one row for each scan, identified by the column scan_id or the index",
            do="use the same scan identifiers in the index of X and in the table",
        )
    return scans.iloc[labels.get_indexer(X.index)]
