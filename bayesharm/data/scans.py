"""The scans table: the participant, scanner, site and diagnosis of each scan."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from bayesharm.errors import InputError, shorten
from bayesharm.io.numbers import is_text, read_numbers
from bayesharm.io.tables import TableSource, read_table, table_columns, to_labels


def find_travelers(scans: pd.DataFrame) -> np.ndarray:
    """Return a (scan,) bool mask of the scans of travelers.

    A traveler is a participant with scans on two or more scanners, or with ``traveling`` true in at least one scan.
    """
    people = scans.groupby("participant_id")
    traveling = people.scanner.transform("nunique") > 1
    if "traveling" in scans:
        traveling |= people.traveling.transform("any")
    return traveling.to_numpy(bool)


def find_site_travelers(scans: pd.DataFrame) -> np.ndarray:
    """Return a (scan,) bool mask of the scans of travelers between sites, who belong to the population of none.

    A traveler between scanners of one site, as before and after an upgrade, belongs to the people whom the site recruits,
    unless ``traveling`` is true in a scan. The scanners of a site are those of its people with one scanner; a scanner
    without such people may be of any site. Without sites, each scanner is one.
    """
    travels = find_travelers(scans)
    if "site" not in scans:
        return travels
    others = scans[~travels]
    pairs, known = pd.MultiIndex.from_frame(others[["scanner", "site"]]), others.scanner.unique()
    is_at_site = pd.MultiIndex.from_frame(scans[["scanner", "site"]]).isin(pairs) | ~scans.scanner.isin(known).to_numpy()
    people = scans.assign(is_at_site=is_at_site).groupby("participant_id")
    belongs = people.is_at_site.transform("all") & (people.site.transform("nunique") == 1)
    if "traveling" in scans:
        belongs &= ~people.traveling.transform("any")
    return travels & ~belongs.to_numpy(bool)


Check = Literal["fit", "apply"]
REQUIRED = ("participant_id", "scanner")
IDENTIFIERS = ("scan_id", "participant_id", "scanner", "site", "diagnosis")
CANONICAL = (*IDENTIFIERS, "traveling")
_TRUE, _FALSE = ("true", "yes", "t", "y", "1"), ("false", "no", "f", "n", "0")
_PLACEHOLDERS = ("na", "none", "null")


def name_columns(scans: pd.DataFrame) -> str:
    """Name the columns of a scans table, for messages; without `site` where it repeats the scanner, its default."""
    repeats = "site" in scans and "scanner" in scans and (scans.site.astype(str) == scans.scanner.astype(str)).all()
    return f"columns {shorten((name for name in scans.columns if not (repeats and name == 'site')), 30)}"


def resolve_columns(header: Sequence[str], columns: Mapping[str, str] | None = None) -> dict[str, str]:
    """Map the names of bayesharm to the columns of the user's table.

    Parameters
    ----------
    header : sequence of str
        Columns of the table.
    columns : mapping, optional
        From the name in bayesharm (``participant_id``, ``scanner`` … or a covariate) to the user's column, where they
        differ.

    Returns
    -------
    dict
        From the name in bayesharm to the user's column, for all mapped names and all identifiers in the table.

    Raises
    ------
    InputError
        A required or mapped column does not exist, or a name is misspelled.
    """
    columns = dict(columns or {})
    for name in columns:
        meant = difflib.get_close_matches(name, CANONICAL, n=1, cutoff=0.8)
        if name not in CANONICAL and meant:
            raise InputError(
                f"'{name}' is not a name that can be mapped.",
                got=f"columns={{{name!r}: {columns[name]!r}}}",
                expected=", ".join(CANONICAL) + ", or a covariate",
                do=f"write '{meant[0]}' instead",
            )
    mapping = {name: name for name in CANONICAL if name in header} | columns
    for name in (*REQUIRED, *columns):
        wanted = mapping.get(name, name)
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
    return mapping


def read_scans(
    source: TableSource,
    columns: Mapping[str, str] | None = None,
    *,
    exclude: Collection[str] = (),
    check: Check = "fit",
) -> pd.DataFrame:
    """Read the scans table and rename its identifiers to the names of bayesharm.

    Parameters
    ----------
    source : path or DataFrame
        One row per scan.
    columns : mapping, optional
        From the name in bayesharm to the user's column (see `resolve_columns`). A mapped column replaces a column that
        already has the name.
    exclude : collection of str
        Columns to ignore, such as features.
    check : {"fit", "apply"}
        With "apply", one scanner is enough, a scan_id may repeat, and missing `site` and `diagnosis` become "".

    Returns
    -------
    DataFrame
        With a `RangeIndex`, in the user's order. First the text columns ``scan_id`` (default: row numbers),
        ``participant_id``, ``scanner``, ``site`` (default: the scanner) and, if present, ``diagnosis`` and the bool
        column ``traveling``; then all other columns under the user's names.

    Raises
    ------
    InputError
        A column or an identifier is missing, there are no rows, a scan_id repeats, or all scans are from one scanner.
    """
    return read_scans_and_rules(source, columns, exclude=exclude, check=check)[0]


def read_scans_and_rules(
    source: TableSource,
    columns: Mapping[str, str] | None = None,
    *,
    exclude: Collection[str] = (),
    check: Check = "fit",
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Read the scans table as `read_scans` does; also return by which rule text of a column was read as numbers."""
    header = table_columns(source, "the scans table")
    mapping = resolve_columns(header, columns)
    used = set(mapping.values())
    reserved = {*used, *mapping, *exclude}
    others = [name for name in header if name not in reserved]
    text = {mapping[name] for name in CANONICAL if name in mapping}
    raw = read_table(source, text=text, columns={*used, *others}, what="the scans table")
    if raw.empty:
        raise InputError(
            "The scans table has no rows.",
            got=f"{len(header)} columns, 0 rows",
            expected="one row per scan",
            do="check that this is the right file",
        )
    optional = ("diagnosis", "site") if check == "apply" else ()
    table = {
        name: _identifier(raw[mapping[name]], name, mapping[name], name in optional)
        for name in IDENTIFIERS
        if name in mapping
    }
    table.setdefault("scan_id", np.arange(len(raw)).astype(str))
    table.setdefault("site", table["scanner"])
    if "traveling" in mapping:
        table["traveling"] = _yes_or_no(raw[mapping["traveling"]])
    ordered: dict[str, Any] = {name: table[name] for name in CANONICAL if name in table}
    users = {name: user for name, user in mapping.items() if name not in CANONICAL} | {name: name for name in others}
    values, rules = read_numbers(pd.DataFrame({name: _stripped(raw[user]) for name, user in users.items()}))
    frame = pd.concat([pd.DataFrame(ordered), values], axis=1)
    if check == "fit":
        _check_for_fit(frame)
    return frame, rules


def _stripped(values: pd.Series) -> pd.Series:
    """Remove blanks around text; cells of blanks are empty."""
    if not is_text(values) or isinstance(values.dtype, pd.CategoricalDtype):
        return values
    return values.map(lambda value: (value.strip() or None) if isinstance(value, str) else value, na_action="ignore")


def _identifier(values: pd.Series, name: str, user: str, optional: bool) -> np.ndarray:
    """Convert an identifier column to text, "" where it is missing and optional; `user` is the user's name for it."""
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
            + ("; give participants without a diagnosis a label such as HC" if name == "diagnosis" else ""),
        )
    if name == "participant_id":
        # A placeholder in many rows would turn many people into one traveler.
        placeholder = np.isin(np.char.lower(labels), _PLACEHOLDERS)
        if placeholder.sum() > 1:
            raise InputError(
                f"Values seem to be missing in column '{user}' ({name}).",
                got=f"'{labels[placeholder][0]}' in {placeholder.sum()} rows",
                expected="the identifier of a participant; scans with the same identifier count as one participant's",
                do="fill in the identifiers; if this really is an identifier, write it differently",
            )
    return labels


def _yes_or_no(values: pd.Series) -> np.ndarray:
    """Convert the column ``traveling`` to bool."""
    labels = np.char.lower(to_labels(values)[0])
    wrong = ~np.isin(labels, _TRUE + _FALSE)
    if wrong.any():
        raise InputError(
            "Column 'traveling' must contain yes or no.",
            got=f"{shorten(np.unique(labels[wrong]))} in {wrong.sum()} of {labels.size} rows",
            expected="true or false (yes/no, 1/0) for every scan",
            do="correct the values, or remove the column: bayesharm detects travelers by their scanners",
        )
    return np.isin(labels, _TRUE)


def check_unique(scans: pd.DataFrame) -> None:
    """Raise an `InputError` if the table contains a scan more than once."""
    repeated = scans["scan_id"][scans["scan_id"].duplicated()].unique()
    if len(repeated):
        raise InputError(
            "Some scans are in the scans table more than once.",
            got=f"{len(repeated)} repeated scan_id: {shorten(repeated)}",
            expected="one row per scan, with a unique scan_id",
            do="remove the repeated rows, or give repeated scans of one visit different identifiers",
        )


def _check_for_fit(scans: pd.DataFrame) -> None:
    """Raise an `InputError` for repeated scans, ambiguous names or a single scanner."""
    check_unique(scans)
    for column in ("scanner", "site", "diagnosis"):
        names = pd.Series(scans[column].unique() if column in scans else [], dtype=object)
        plain = names.str.split().str.join(" ").str.casefold()
        if len(ambiguous := names[plain.duplicated(keep=False)]):
            raise InputError(
                f"Some names in column '{column}' differ only in capitals or spaces.",
                got=shorten(ambiguous),
                expected="one spelling for each name",
                do="use one spelling, or clearly different names if they are different",
            )
    refuse_one_scanner(scans)


def refuse_one_scanner(scans: pd.DataFrame) -> None:
    """Raise an `InputError` if there are no two scanners to compare."""
    if scans["scanner"].nunique() < 2:
        raise InputError(
            "All scans are from one scanner.",
            got=f"scanner {scans['scanner'].iloc[0]!r} only",
            expected="scans from two or more scanners",
            do="add scans of other scanners, or map the column that identifies the scanner (--scanner)",
        )
