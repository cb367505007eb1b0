"""The dataset: the scans table and the features, validated and aligned by scan_id."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from bayesharm.data.dataset_card import count_parts, study_card
from bayesharm.data.derived_study import read_derived_study
from bayesharm.data.features import Features, find_flaws, match_names
from bayesharm.data.finding import Finding
from bayesharm.data.missing_values import Missing, check_options, refuse_unfit
from bayesharm.data.phenotypes import read_phenotypes
from bayesharm.data.readers.detect import is_derivative
from bayesharm.data.readers.options import ReaderOptions
from bayesharm.data.reading_findings import find_columns_of_scans, find_in_reading
from bayesharm.data.row_matching import align_rows, find_label_column, refuse_transposed
from bayesharm.data.scans import (
    Check,
    check_unique,
    read_scans_and_rules,
    refuse_one_scanner,
    resolve_columns,
)
from bayesharm.data.transforms import TransformName, transform_features
from bayesharm.errors import InputError, listed, shorten
from bayesharm.io.arrays import open_array
from bayesharm.io.feature_tables import open_table
from bayesharm.io.tables import TableSource, index_name, is_path, is_table, table_columns
from bayesharm.notebook import one_line
from bayesharm.progress import Progress, no_progress


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A study: the scans table and the features of each scan.

    Attributes
    ----------
    scans : DataFrame
        One row per scan (see `bayesharm.data.scans.read_scans`).
    features : Features
        Rows in the order of `scans`; values in the user's units, or in those of the declared transform; NaN where missing.
    dropped : dict
        Features that were left out, with the reason: name -> reason.
    dropped_scans : dict
        Scans that were left out, with the reason: scan_id -> reason.
    n_missing : int
        Number of missing values.
    origin : dict, optional
        Arguments of :func:`load_dataset`, if the study was read from files.
    files : tuple of Path
        Files of the scans and the features, if any; features are read when needed.
    findings : tuple of Finding
        Caveats about the reading of the tables, such as decimal commas.
    reading : mapping
        How the derivatives of another tool were read, for `run.json`; empty for arrays and other tables.
    """

    scans: pd.DataFrame
    features: Features
    dropped: Mapping[str, str] = field(default_factory=dict)
    dropped_scans: Mapping[str, str] = field(default_factory=dict)
    n_missing: int = 0
    origin: Mapping[str, Any] | None = None
    files: tuple[Path, ...] = ()
    findings: tuple[Finding, ...] = ()
    reading: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return one_line("Dataset", count_parts(self.scans, self.features.n_features))

    def _repr_html_(self) -> str:
        facts = {"missing values": self.n_missing or None, "transform": self.features.transform}
        folded = {
            "Features left out": [f"{name}: {why}" for name, why in self.dropped.items()],
            "Scans left out": [f"{name}: {why}" for name, why in self.dropped_scans.items()],
            "Caveats": [finding.sentence for finding in self.findings],
        }
        return study_card(self.scans, self.features.names, facts, folded)

    def take(self, rows: np.ndarray) -> Dataset:
        """Return the dataset of these scans, given their row numbers, in this order."""
        scans = self.scans.iloc[rows].reset_index(drop=True)
        return replace(self, scans=scans, features=self.features.align(rows), origin=None)

    def sorted(self) -> Dataset:
        """Return the dataset in a canonical order of scans: row order then affects no result, not even by rounding."""
        keys = [self.scans[name].to_numpy(str) for name in ("scan_id", "scanner", "participant_id")]
        order = np.lexsort(keys)
        scans = self.scans.iloc[order].reset_index(drop=True)
        return replace(self, scans=scans, features=self.features.align(order))

    def transformed(self, name: str | None) -> Dataset:
        """Return the dataset in the units of a fit, made with this transform; it may be in these units already.

        Raises
        ------
        InputError
            The dataset has another transform, or values that cannot be transformed.
        """
        given = self.features.transform
        if given == name:
            return self
        if given is not None or name is None:
            raise InputError(
                "The data and the fit have different transforms.",
                got=f"data with transform={given!r}, a fit with transform={name!r}",
                expected="the same for both",
                do="load the data without a transform: that of the fit is then applied",
            )
        return replace(self, features=transform_features(self.features, name, self.scans["scan_id"]))

    def in_transformed_units(self) -> Dataset:
        """Return the dataset without the memory of its transform: results of the values stay in transformed units."""
        return replace(self, features=replace(self.features, transform=None), origin=None)


def load_dataset(
    scans: TableSource,
    features: Any = None,
    *,
    columns: Mapping[str, str] | None = None,
    select: str | Sequence[str] | None = None,
    missing: Missing = "model",
    bad_features: Literal["error", "drop", "keep"] = "error",
    transform: TransformName | None = None,
    check: Check = "fit",
    progress: Progress = no_progress,
    **derivatives: Any,
) -> Dataset:
    """Read a study from files or memory. Inputs are never modified; arrays on disk are read block by block.

    Parameters
    ----------
    scans : path or DataFrame
        Table with one row per scan: .csv, .tsv, .parquet, or in memory.
    features : path, array or DataFrame, optional
        A folder or a table of another tool, such as XCP-D or FreeSurfer, or a list of such tables; or
        .npy, .npz, .zarr, .csv, .tsv, .parquet, or in memory; (scan, feature), or (scan, region, region)
        for square matrices. A table or an array with ``scan_id`` may be in any order; a bare array must have the
        order of the scans table. Omit it if the features are columns of the scans table.
    columns : mapping, optional
        bayesharm's name -> the user's column, such as ``{"participant_id": "subject"}``.
    select : str or sequence of str, optional
        Shell glob(s) that select features by name. Required if the features are columns of the scans table.
    missing : {"model", "drop-features", "drop-scans", "error"}
        How to treat missing values (NaN): keep them, so that a fit uses the exact likelihood of the observed scans of each
        feature; omit the features that have any (`Dataset.dropped`); omit the scans that have any
        (`Dataset.dropped_scans`); or raise an error.
    bad_features : {"error", "drop", "keep"}
        How to treat features that are constant or have infinite values: raise an error, omit them and list them in
        `Dataset.dropped`, or keep them, for :func:`bayesharm.check`. Incomplete features without two different observed
        values are omitted in any case.
    transform : {"fisher-z"}, optional
        Analyze the features in other units: Fisher z, arctanh(r), of correlations r. Results that are data, such as
        harmonized values and predictions, return to r; effects and scales are in z. For new scans of a fitted model, the
        transform of the fit is used without being given.
    check : {"fit", "apply"}
        "apply" is for new scans of a fitted model: features are not checked (missing values stay missing), and
        one scanner is enough.
    progress : callable, optional
        Receives reports while files of other tools are read, see :class:`bayesharm.progress.Progress`.
    **derivatives
        Options for the folder or table of another tool (XCP-D, FreeSurfer, …): `format`, `atlas`, `measure`,
        `entities`, `labels`, `label_column` and `missing_files`, see
        :class:`bayesharm.data.readers.options.ReaderOptions`.

    Raises
    ------
    InputError
        The scans, the features or an option are not valid.
    TypeError
        An option is unknown.
    """
    check_options(missing=missing, bad_features=bad_features, check=check)
    if unknown := [name for name in derivatives if name not in ReaderOptions.__dataclass_fields__]:
        raise TypeError(
            f"load_dataset() has no option {listed(unknown)}. Choices of the model, such as covariates and formula, are "
            "options of fit() and check()."
        )
    options, given_scans = ReaderOptions(**derivatives), scans
    scans, notes = read_phenotypes(scans)
    reading: dict[str, Any] = {"notes": notes} if notes else {}
    if features is None:
        table, aligned, rules = _from_wide_table(scans, columns, select, check)
    elif is_derivative(features, options):
        table, aligned, reading, rules = read_derived_study(scans, features, columns, select, check, options, progress)
        reading["notes"] = notes + reading["notes"]
    else:
        header = table_columns(scans, "the scans table")
        mapping = resolve_columns(header, columns)
        table, rules = read_scans_and_rules(scans, columns, check=check)
        check_unique(table)
        if is_table(features):
            unaligned = _from_feature_table(table, features, mapping, header, select, options.label_column)
        else:
            unaligned = Features.from_matrix(open_array(features))
        has_scan_ids = "scan_id" in mapping
        table, aligned, left_out = align_rows(table, unaligned, has_scan_ids, options.missing_files)
        if left_out:
            reading["notes"] = [*notes, *left_out]
            if check == "fit":
                refuse_one_scanner(table)
        if select is not None and not is_table(features):
            aligned = aligned.take(match_names(aligned.names, select))
    misplaced = find_columns_of_scans(aligned, select) if features is None and select and check == "fit" else ()
    if transform is not None:
        _refuse_second_transform(reading)
        aligned = transform_features(aligned, transform, table["scan_id"])
    files = tuple(Path(source).resolve() for source in (given_scans, features) if is_path(source))
    findings = (*find_in_reading(given_scans, features, rules, aligned), *misplaced)
    if check == "apply":
        return Dataset(table, aligned, files=files, reading=reading, findings=findings)
    plain = {"missing": missing, "bad_features": bad_features, "transform": transform}
    origin = _origin(given_scans, features, columns, select, plain)
    if origin is not None:
        origin |= options.given
    if bad_features == "keep":
        return Dataset(table, aligned, origin=origin, files=files, reading=reading, findings=findings)
    dataset = _without_flaws(table, aligned, missing, bad_features)
    return replace(dataset, origin=origin, files=files, reading=reading, findings=findings)


def _refuse_second_transform(reading: Mapping[str, Any]) -> None:
    """Raise an `InputError` if a tool writes Fisher z."""
    if reading.get("unit") == "z":
        raise InputError(
            "The values are Fisher z already.",
            got=f"matrices of {reading.get('tool', 'a tool')}, which are in z, and a transform to Fisher z",
            expected="correlations r, or no transform",
            do="leave --transform out (transform in Python)",
        )


def _origin(
    scans: TableSource,
    features: Any,
    columns: Mapping[str, str] | None,
    select: str | Sequence[str] | None,
    options: Mapping[str, str | None],
) -> dict[str, Any] | None:
    """Return the arguments of `load_dataset` as plain data; None unless scans and features are files."""
    files = {"scans": scans} | ({} if features is None else {"features": features})
    if not all(is_path(file) for file in files.values()):
        return None
    globs = [select] if isinstance(select, str) else select
    return {name: os.path.abspath(file) for name, file in files.items()} | {
        "columns": dict(columns or {}),
        "select": None if globs is None else list(globs),
        **options,
    }


def _from_wide_table(
    source: TableSource, columns: Mapping[str, str] | None, select: str | Sequence[str] | None, check: Check
) -> tuple[pd.DataFrame, Features, dict[str, str]]:
    header = table_columns(source, "the scans table")
    used = set(resolve_columns(header, columns).values())
    available = [name for name in header if name not in used and not name.startswith("Unnamed:")]
    if select is None:
        raise InputError(
            "No features are selected.",
            got=f"only a scans table, with columns {shorten(header, 10)}",
            expected="features in a separate file or array, or a glob for columns of the scans table",
            do="pass `features`, or select='thickness_*' (--features 'thickness_*' in the shell)",
        )
    names = match_names(available, select)
    table, rules = read_scans_and_rules(source, columns, exclude=names, check=check)
    check_unique(table)
    return table, Features.from_matrix(open_table(source, names)), rules


def _from_feature_table(
    table: pd.DataFrame,
    source: TableSource,
    mapping: Mapping[str, str],
    header: Sequence[str],
    select: str | Sequence[str] | None,
    label_column: str | None,
) -> Features:
    """Open features from a table that identifies its scans in a column or index."""
    feature_columns = table_columns(source, "the features")
    usual = (mapping.get("scan_id", "scan_id"), "scan_id", index_name(source))
    candidates = usual if label_column is None else (label_column,)
    id_column = next((name for name in candidates if name in feature_columns), None)
    if id_column is None and label_column is None and "scan_id" in mapping:
        id_column = find_label_column(source, feature_columns, table["scan_id"])
    if id_column is None:
        refuse_transposed(table, feature_columns)
        raise InputError(
            "The features table does not identify its scans.",
            got="columns " + shorten(feature_columns, 10),
            expected=f"a column '{candidates[0]}' with the identifiers of the scans table",
            do='name the column that does: label_column="…" (--label-column in the shell); or pass a bare array '
            "(DataFrame.to_numpy()) with its rows in the order of the scans table",
        )
    available = [name for name in feature_columns if name != id_column and not name.startswith("Unnamed:")]
    names = available if select is None else match_names(available, select)
    shared = [name for name in names if name in header]
    if shared and select is None:
        raise InputError(
            "Some columns are in both the features table and the scans table.",
            got=shorten(shared),
            expected="only scan_id and features in the features table",
            do="remove these columns from it, or select the features with `select` (--features in the shell)",
        )
    return Features.from_matrix(open_table(source, names, id_column))


def _without_flaws(table: pd.DataFrame, features: Features, missing: str, bad_features: str) -> Dataset:
    """Return the dataset as the options ask for it, or raise an `InputError` about flaws of the features."""
    flaws = find_flaws(features)
    refuse_unfit(table, features, flaws, missing, bad_features)
    omitted = flaws.unfit | (flaws.missing > 0 if missing == "drop-features" else False)
    dropped = flaws.reasons(features.names, omitted)
    kept = features.take(features.names[~omitted]) if omitted.any() else features
    dataset = Dataset(table, kept, dropped, n_missing=int(flaws.missing[~omitted].sum()))
    if missing == "drop-scans" and dataset.n_missing:
        return _without_scans(dataset)
    return dataset


def _without_scans(dataset: Dataset) -> Dataset:
    """Return the dataset without scans that lack a feature; features that are constant then are dropped, too."""
    by_scan = find_flaws(dataset.features).missing_by_scan
    complete = np.flatnonzero(by_scan == 0)
    if len(complete) < 2:
        raise InputError(
            "Nearly every scan lacks some feature.",
            got=f"{len(complete)} of {len(by_scan)} scans with all features",
            expected="at least two complete scans",
            do="use missing='model' or missing='drop-features' (--missing in the shell)",
        )
    n_features = dataset.features.n_features
    lacking = np.flatnonzero(by_scan)
    reasons = {str(dataset.scans["scan_id"].iloc[k]): f"lacks {by_scan[k]} of {n_features} features" for k in lacking}
    taken = dataset.take(complete)
    flaws = find_flaws(taken.features)
    dropped = {**dataset.dropped, **flaws.reasons(taken.features.names, flaws.unfit)}
    refuse_one_scanner(taken.scans)
    refuse_unfit(taken.scans, taken.features, flaws, "model", "drop")  # if no feature is left
    kept = taken.features.take(taken.features.names[~flaws.unfit]) if flaws.unfit.any() else taken.features
    return replace(taken, features=kept, dropped=dropped, dropped_scans=reasons, n_missing=0)
