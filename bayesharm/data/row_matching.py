"""Which scan each row of an array or DataFrame is of, where the scans are in a table of their own."""

from __future__ import annotations

from typing import Any

import pandas as pd

from bayesharm.errors import InputError, shorten


def check_rows(scans: pd.DataFrame | None, X: Any, n_rows: int) -> pd.DataFrame:
    """The table of the scans of X, row by row.

    Raises
    ------
    InputError
        It is not there, or not about these rows.
    """
    if not isinstance(scans, pd.DataFrame):
        raise InputError(
            "There is no table of scans.",
            got=f"scans={scans!r}" if scans is None else f"scans of type {type(scans).__name__}",
            expected="a pandas DataFrame with one row for each row of X: participant_id, scanner, …",
            do="give scans=…; to pipelines and cross-validation with sklearn.set_config(enable_metadata_routing=True) "
            "and params={'scans': …}, or to the constructor, BayesHarmonizer(scans=…), where X is a DataFrame",
        )
    if len(scans) != n_rows:
        raise InputError(
            "X and scans differ in length.",
            got=f"{n_rows} rows of X, {len(scans)} of scans",
            expected="one row of scans for each row of X, in the same order",
            do="choose the same rows of both",
        )
    if isinstance(X, pd.DataFrame) and not any(X.index.equals(labels) for labels in _labels(scans)):
        differs = next(k for k, pair in enumerate(zip(X.index, scans.index, strict=True)) if pair[0] != pair[1])
        raise InputError(
            "The rows of X and of scans have different labels, or another order.",
            got=f"in row {differs + 1} scan {X.index[differs]!r} of X and {scans.index[differs]!r} of scans",
            expected="one index in both (or a column scan_id in scans that is the index of X)",
            do="scans.loc[X.index], or, if the rows do belong together, scans.set_index(X.index)",
        )
    return scans


def _labels(scans: pd.DataFrame) -> list[pd.Index]:
    """What may name the rows of a table of scans."""
    return [scans.index, *([pd.Index(scans["scan_id"])] if "scan_id" in scans else [])]


def find_rows(scans: pd.DataFrame, X: Any) -> pd.DataFrame:
    """The scans of X in a table of all of them.

    Raises
    ------
    InputError
        X has no index, or the table does not say which scans these are.
    """
    if not isinstance(X, pd.DataFrame):
        raise InputError(
            "Nothing says which rows of the table of scans X is about.",
            got=f"X of type {type(X).__name__}",
            expected="a pandas DataFrame whose index names scans",
            do="give a DataFrame, with set_output(transform='pandas') of the steps before this one, or scans to the method",
        )
    labels = _labels(scans)[-1]
    if labels.has_duplicates or not X.index.isin(labels).all():
        repeated, absent = labels[labels.duplicated()].unique(), X.index[~X.index.isin(labels)]
        raise InputError(
            "The rows of X are not found in the table of scans.",
            got=f"no scan {shorten(absent, 3)}" if len(absent) else f"more than one scan {shorten(repeated, 3)}",
            expected="one row for each scan, named in the column scan_id or in the index",
            do="name scans alike in the index of X and in the table",
        )
    return scans.iloc[labels.get_indexer(X.index)]
