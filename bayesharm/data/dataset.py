"""A dataset: the table of scans and their features, aligned by scan_id and checked."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from bayesharm.data.features import Features, find_flaws, match_names
from bayesharm.data.scans import Check, check_unique, read_scans, resolve_columns
from bayesharm.errors import InputError, shorten
from bayesharm.io.arrays import open_array
from bayesharm.io.feature_tables import open_table
from bayesharm.io.tables import TableSource, index_name, is_path, is_table, table_columns


@dataclass(frozen=True, eq=False)
class Dataset:
    """A study: its scans and what was measured in them.

    Attributes
    ----------
    scans : DataFrame
        One row per scan (see `bayesharm.data.scans.read_scans`).
    features : Features
        Rows aligned with `scans`; in the user's units.
    dropped : dict
        Features left out because no model can use them: name -> reason.
    origin : dict, optional
        The arguments of :func:`load_dataset`, if the study is in files.
    files : tuple of Path
        Where scans and features are read from, if these are files; features may be read later on.
    """

    scans: pd.DataFrame
    features: Features
    dropped: Mapping[str, str] = field(default_factory=dict)
    origin: Mapping[str, Any] | None = None
    files: tuple[Path, ...] = ()

    def take(self, rows: np.ndarray) -> Dataset:
        """Some scans, by their places."""
        scans = self.scans.iloc[rows].reset_index(drop=True)
        return replace(self, scans=scans, features=self.features.align(rows), origin=None)


def load_dataset(
    scans: TableSource,
    features: Any = None,
    *,
    columns: Mapping[str, str] | None = None,
    select: str | Sequence[str] | None = None,
    bad_features: Literal["error", "drop"] = "error",
    check: Check = "fit",
) -> Dataset:
    """Read a study from files or memory. Inputs are never modified, arrays on disk not held whole.

    Parameters
    ----------
    scans : path or DataFrame
        Table with one row per scan: .csv, .tsv, .parquet.
    features : path, array or DataFrame, optional
        .npy, .npz, .zarr, .csv, .tsv, .parquet, or in memory; (scan, feature), or (scan, region, region)
        for square matrices. A table or an array with ``scan_id`` is brought into the order of the scans; a
        bare array must be in that order already. Left out when the features are columns of the scans table.
    columns : mapping, optional
        Our name -> the user's column, such as ``{"participant_id": "subject"}``.
    select : str or sequence of str, optional
        Shell glob(s) that choose features by name. Needed when the features are columns of the scans table.
    bad_features : {"error", "drop"}
        What to do about features that are constant or have missing or infinite values: refuse, or leave them
        out and record them in `Dataset.dropped`.
    check : {"fit", "apply"}
        "apply" is for new scans of a fitted model: values are not checked (missing ones stay missing), and
        one scanner is fine.

    Raises
    ------
    InputError
        The study cannot be used as given; the message says what to do.
    """
    if bad_features not in ("error", "drop") or check not in ("fit", "apply"):
        raise InputError(
            "An option of load_dataset is not known.",
            got=f"bad_features={bad_features!r}, check={check!r}",
            expected="bad_features 'error' or 'drop', check 'fit' or 'apply'",
            do="use one of these",
        )
    if features is None:
        table, found = _from_wide_table(scans, columns, select, check)
    else:
        header = table_columns(scans, "the scans table")
        mapping = resolve_columns(header, columns)
        table = read_scans(scans, columns, check=check)
        check_unique(table)
        if is_table(features):
            found = _from_feature_table(table, features, mapping, header, select)
        else:
            found = Features.from_matrix(open_array(features))
        found = _aligned(table, found, named="scan_id" in mapping)
        if select is not None and not is_table(features):
            found = found.take(match_names(found.names, select))
    files = tuple(Path(source).resolve() for source in (scans, features) if is_path(source))
    if check == "apply":
        return Dataset(table, found, files=files)
    origin = _origin(scans, features, columns, select, bad_features)
    return replace(_without_flaws(table, found, bad_features), origin=origin, files=files)


def _origin(scans: TableSource, features: Any, columns, select, bad_features: str) -> dict[str, Any] | None:
    """The arguments as plain data, if they lead to files."""
    files = {"scans": scans} | ({} if features is None else {"features": features})
    if not all(is_path(file) for file in files.values()):
        return None
    chosen = [select] if isinstance(select, str) else select
    return {name: os.path.abspath(file) for name, file in files.items()} | {
        "columns": dict(columns or {}),
        "select": None if chosen is None else list(chosen),
        "bad_features": bad_features,
    }


def _from_wide_table(
    source: TableSource, columns: Mapping[str, str] | None, select: str | Sequence[str] | None, check: Check
) -> tuple[pd.DataFrame, Features]:
    header = table_columns(source, "the scans table")
    taken = set(resolve_columns(header, columns).values())
    free = [name for name in header if name not in taken and not name.startswith("Unnamed:")]
    if select is None:
        raise InputError(
            "It is not said which features to use.",
            got=f"a scans table alone, with columns {shorten(header, 10)}",
            expected="features in a file or array of their own, or a glob for columns of the scans table",
            do="give `features`, or select='thickness_*' (--features 'thickness_*' in the shell)",
        )
    names = match_names(free, select)
    table = read_scans(source, columns, leave_group_out=names, check=check)
    check_unique(table)
    return table, Features.from_matrix(open_table(source, names))


def _from_feature_table(
    table: pd.DataFrame,
    source: TableSource,
    mapping: Mapping[str, str],
    header: Sequence[str],
    select: str | Sequence[str] | None,
) -> Features:
    """Features from a table that names its scans in a column or index."""
    there = table_columns(source, "the features")
    candidates = (mapping.get("scan_id", "scan_id"), "scan_id", index_name(source))
    label = next((name for name in candidates if name in there), None)
    if label is None:
        _refuse_transposed(table, there)
        raise InputError(
            "The features table does not say which row is which scan.",
            got="columns " + shorten(there, 10),
            expected=f"a column '{candidates[0]}' with the identifiers of the scans table",
            do="add the column; or give a bare array (DataFrame.to_numpy()) with rows in the table's order",
        )
    free = [name for name in there if name != label and not name.startswith("Unnamed:")]
    names = free if select is None else match_names(free, select)
    shared = [name for name in names if name in header]
    if shared and select is None:
        raise InputError(
            "The features table repeats columns of the scans table.",
            got=shorten(shared),
            expected="scan_id and features only",
            do="remove these columns, or choose the features with `select` (--features in the shell)",
        )
    return Features.from_matrix(open_table(source, names, label))


def _aligned(table: pd.DataFrame, features: Features, named: bool) -> Features:
    """Bring labelled features into the order of the scans; take a bare array as it is if its length fits."""
    ids = features.matrix.scan_ids
    if ids is None:
        n_scans, n_features = len(table), features.n_features
        if features.n_scans != n_scans:
            turned = n_features == n_scans
            raise InputError(
                "The features look transposed." if turned else "Features and scans do not align.",
                got=f"features of shape ({features.n_scans}, {n_features}) for a table of {n_scans} scans",
                expected=f"one row per scan: shape ({n_scans}, number of features)",
                do="transpose the array (array.T): rows are scans, columns are features"
                if turned
                else "make the array from the same scans in the same order, or label both with scan_id",
            )
        return features
    if not named:
        raise InputError(
            "The features are labelled by scan_id, the scans are not.",
            got=f"features for scans {shorten(ids)} and a scans table without 'scan_id'",
            expected="the same identifiers in both",
            do='add it to the scans table, or map one: columns={"scan_id": "…"} (--scan in the shell)',
        )
    wanted, index = table["scan_id"], pd.Index(ids)
    if index.has_duplicates:
        repeated = index[index.duplicated()].unique()
        raise InputError(
            "A scan_id occurs more than once in the features.",
            got=f"{len(repeated)} repeated: {shorten(repeated)}",
            expected="one row per scan, so that features can be aligned with scans",
            do="remove the repeated rows",
        )
    rows = index.get_indexer(pd.Index(wanted))
    without, extra = wanted[rows < 0], index.difference(pd.Index(wanted), sort=False)
    if len(without) or len(extra):
        if len(without) == len(wanted):
            _refuse_transposed(table, features.names.tolist())
        raise InputError(
            "Features and scans do not align.",
            got=f"{len(without)} scans without features ({shorten(without) or 'none'}); "
            f"features of {len(extra)} scans that are not in the scans table ({shorten(extra) or 'none'})",
            expected="the same scan_id in both, in any order",
            do="remove the scans that are in one only, and write identifiers alike in both (001 is not 1)",
        )
    return features.align(rows)


def _refuse_transposed(table: pd.DataFrame, names: Sequence[str]) -> None:
    if table["scan_id"].isin(names).mean() > 0.5:
        scans = set(table["scan_id"])
        raise InputError(
            "The features look transposed.",
            got=f"columns named after scans: {shorten(name for name in names if name in scans)}",
            expected="one row per scan, with a column 'scan_id', and one column per feature",
            do="transpose the table",
        )


def _without_flaws(table: pd.DataFrame, features: Features, bad_features: str) -> Dataset:
    flaws = find_flaws(features)
    if not flaws.unfit.any():
        return Dataset(table, features)
    do = "to leave such features out and go on, use bad_features='drop' (--bad-features drop in the shell)"
    if bad_features == "drop":
        if not flaws.unfit.all():
            kept = features.take(features.names[~flaws.unfit])
            return Dataset(table, kept, flaws.reasons(features.names))
        do = "check the values; none would be left after dropping"
    total, bad = features.n_features, flaws.missing > 0
    if bad.any():
        scans = table["scan_id"][flaws.scans > 0]
        raise InputError(
            f"Values are missing or infinite in {bad.sum()} of {total} features.",
            got=f"{flaws.missing.sum()} such values, in features {shorten(features.names[bad])}, "
            f"in {len(scans)} of {len(table)} scans: {shorten(scans)}",
            expected="a finite number for every scan and feature",
            do=do,
        )
    names, level = features.names[flaws.constant], flaws.level[flaws.constant]
    raise InputError(
        f"{names.size} of {total} features are constant.",
        got=f"{shorten(names)}; the first is {level[0]:g} in every scan",
        expected="features that differ between scans",
        do=do,
    )


__all__ = ["Dataset", "load_dataset"]


def sort_dataset(dataset: Dataset) -> Dataset:
    """Scans in an order of their own, so that the order of the table does not even change rounding."""
    keys = [dataset.scans[name].to_numpy(str) for name in ("scan_id", "scanner", "participant_id")]
    order = np.lexsort(keys)
    scans = dataset.scans.iloc[order].reset_index(drop=True)
    return replace(dataset, scans=scans, features=dataset.features.align(order))
