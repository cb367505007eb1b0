"""The table of scans: who was scanned, on which scanner, recruited where, with which diagnosis."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from bayesharm.errors import InputError, shorten
from bayesharm.io.tables import TableSource, read_table, table_columns, to_labels


def find_travelers(scans: pd.DataFrame) -> np.ndarray:
    """Scans of travelers: people on two or more scanners, or marked so by the user in any of their scans."""
    people = scans.groupby("participant_id")
    traveling = people.scanner.transform("nunique") > 1
    if "traveling" in scans:
        traveling |= people.traveling.transform("any")
    return traveling.to_numpy(bool)


Check = Literal["fit", "apply"]
REQUIRED = ("participant_id", "scanner")
IDENTIFIERS = ("scan_id", "participant_id", "scanner", "site", "diagnosis")
CANONICAL = (*IDENTIFIERS, "traveling")
_TRUE, _FALSE = ("true", "yes", "t", "y", "1"), ("false", "no", "f", "n", "0")
_PLACEHOLDERS = ("na", "none", "null")


def resolve_columns(header: Sequence[str], columns: Mapping[str, str] | None = None) -> dict[str, str]:
    """Which column of the user's table plays which part.

    Parameters
    ----------
    header : sequence of str
        Columns there are.
    columns : mapping, optional
        From our name (``participant_id``, ``scanner`` … or a covariate) to the user's, where they differ.

    Returns
    -------
    dict
        From our name to the user's, for the identifiers there are and everything mapped.

    Raises
    ------
    InputError
        A required or mapped column does not exist, or a mapped name is a misspelt one of ours.
    """
    columns = dict(columns or {})
    for name in columns:
        meant = difflib.get_close_matches(name, CANONICAL, n=1, cutoff=0.8)
        if name not in CANONICAL and meant:
            raise InputError(
                f"'{name}' is not a column that can be mapped.",
                got=f"columns={{{name!r}: {columns[name]!r}}}",
                expected=", ".join(CANONICAL) + ", or a covariate",
                do=f"write '{meant[0]}' instead",
            )
    found = {name: name for name in CANONICAL if name in header} | columns
    for name in (*REQUIRED, *columns):
        wanted = found.get(name, name)
        if wanted not in header:
            option = f" (--{name.removesuffix('_id')} in the shell)" if name in CANONICAL else ""
            folded = {str(column).lower(): column for column in header}
            near = [folded[match] for match in difflib.get_close_matches(wanted.lower(), folded, n=3, cutoff=0.6)]
            near = [column for column in near if column not in CANONICAL]
            raise InputError(
                f"The scans table has no column '{wanted}'" + (f" for '{name}'." if wanted != name else "."),
                got="columns " + shorten(header, 30),
                expected=f"a column '{wanted}'",
                do=f'name the column that holds it: columns={{"{name}": "…"}}{option}'
                + (f"; did you mean {shorten(near)}?" if near else "")
                + ("; separate the columns by commas (.csv) or tabs (.tsv)" if len(header) == 1 else ""),
            )
    return found


def read_scans(
    source: TableSource,
    columns: Mapping[str, str] | None = None,
    *,
    leave_group_out: Collection[str] = (),
    check: Check = "fit",
) -> pd.DataFrame:
    """Read the table of scans under our names.

    Parameters
    ----------
    source : path or DataFrame
        One row per scan.
    columns : mapping, optional
        From our name to the user's (see `resolve_columns`); a mapped column replaces one that has our name.
    leave_group_out : collection of str
        Columns that are features and no part of the table.
    check : {"fit", "apply"}
        For "apply", one scanner is enough, a scan_id may occur twice, and `site` and `diagnosis` may be missing: "".

    Returns
    -------
    DataFrame
        `RangeIndex`, in the user's order. Text columns ``scan_id`` (row numbers if there is none),
        ``participant_id``, ``scanner``, ``site`` (the scanner if there is none), ``diagnosis`` and bool
        ``traveling`` if the user has them, then every other column under the user's own name.

    Raises
    ------
    InputError
        A column or an identifier is missing, there are no rows, a scan_id repeats, or there is one scanner.
    """
    header = table_columns(source, "the scans table")
    found = resolve_columns(header, columns)
    used = set(found.values())
    reserved = {*used, *found, *leave_group_out}
    others = [name for name in header if name not in reserved]
    text = {found[name] for name in CANONICAL if name in found}
    raw = read_table(source, text=text, columns={*used, *others}, what="the scans table")
    if raw.empty:
        raise InputError(
            "The scans table has no rows.",
            got=f"{len(header)} columns, 0 rows",
            expected="one row per scan",
            do="check that the right file was given",
        )
    optional = ("diagnosis", "site") if check == "apply" else ()
    table = {
        name: _identifier(raw[found[name]], name, found[name], name in optional) for name in IDENTIFIERS if name in found
    }
    table.setdefault("scan_id", np.arange(len(raw)).astype(str))
    table.setdefault("site", table["scanner"])
    if "traveling" in found:
        table["traveling"] = _yes_or_no(raw[found["traveling"]])
    ordered: dict[str, Any] = {name: table[name] for name in CANONICAL if name in table}
    ordered |= {name: raw[user] for name, user in found.items() if name not in CANONICAL}
    frame = pd.DataFrame(ordered | {name: raw[name] for name in others})
    if check == "fit":
        _check_for_fit(frame)
    return frame


def _identifier(values: pd.Series, name: str, user: str, optional: bool) -> np.ndarray:
    labels, missing = to_labels(values)
    if optional:
        return np.where(missing, "", labels)
    if missing.any():
        rows = np.flatnonzero(missing)
        raise InputError(
            f"Values are missing in column '{user}' ({name}).",
            got=f"{rows.size} of {labels.size} rows without a value: {shorten(rows + 1)} below the heading",
            expected="a value for every scan",
            do="fill in the values or remove these scans"
            + ("; people without a diagnosis need a group of their own" if name == "diagnosis" else ""),
        )
    if name == "participant_id":
        # A placeholder in many rows would make one well-traveled person of many people.
        placeholder = np.isin(np.char.lower(labels), _PLACEHOLDERS)
        if placeholder.sum() > 1:
            raise InputError(
                f"Values seem to be missing in column '{user}' ({name}).",
                got=f"'{labels[placeholder][0]}' in {placeholder.sum()} rows",
                expected="the identifier of a person; scans with the same one are taken as one person's",
                do="fill in the identifiers; if a person really has this name, write it differently",
            )
    return labels


def _yes_or_no(values: pd.Series) -> np.ndarray:
    labels = np.char.lower(to_labels(values)[0])
    wrong = ~np.isin(labels, _TRUE + _FALSE)
    if wrong.any():
        raise InputError(
            "Column 'traveling' does not say yes or no.",
            got=f"{shorten(np.unique(labels[wrong]))} in {wrong.sum()} of {labels.size} rows",
            expected="true or false (yes/no, 1/0) for every scan",
            do="correct the values, or remove the column: travelers are found without it",
        )
    return np.isin(labels, _TRUE)


def check_unique(scans: pd.DataFrame) -> None:
    """Refuse a table that lists a scan more than once."""
    repeated = scans["scan_id"][scans["scan_id"].duplicated()].unique()
    if len(repeated):
        raise InputError(
            "The scans table lists scans more than once.",
            got=f"{len(repeated)} repeated scan_id: {shorten(repeated)}",
            expected="one row per scan, each with its own scan_id",
            do="remove the repeated rows, or give repeated scans of one visit different names",
        )


def _check_for_fit(scans: pd.DataFrame) -> None:
    check_unique(scans)
    for column in ("scanner", "site", "diagnosis"):
        names = pd.Series(scans[column].unique() if column in scans else [], dtype=object)
        plain = names.str.split().str.join(" ").str.casefold()
        if len(alike := names[plain.duplicated(keep=False)]):
            raise InputError(
                f"Some names in column '{column}' differ in capitals or spaces only.",
                got=shorten(alike),
                expected="one way to write each",
                do="write them alike, or, if they are different, with different names",
            )
    if scans["scanner"].nunique() < 2:
        raise InputError(
            "All scans are from one scanner.",
            got=f"scanner {scans['scanner'].iloc[0]!r} only",
            expected="scans from two or more scanners",
            do="add scans of other scanners, or map the column that tells the scanners apart (--scanner)",
        )
