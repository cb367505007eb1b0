"""Families whose levels are those of any columns of the scans table, crossed or nested."""

from __future__ import annotations

import difflib
import re
from itertools import combinations

import numpy as np
import pandas as pd

from bayesharm.data.scans import name_columns
from bayesharm.errors import InputError, ModelError, shorten
from bayesharm.io.tables import to_labels
from bayesharm.model.spec import CROSSED, LEVELS, Family, ModelSpec


def read_columns(used: pd.DataFrame, spec: ModelSpec, check: bool = True) -> dict[str, pd.Series]:
    """Read the level of each scan, for each family by columns.

    Parameters
    ----------
    used : DataFrame
        Scans in the model.
    spec : ModelSpec
    check : bool
        Whether to check the levels; those of scan patterns are not those of scans.

    Returns
    -------
    dict of Series
        By name of the family; one label for each scan.

    Raises
    ------
    ModelError
        The table lacks a column.
    InputError
        A column has missing values; a family has one level only, or one for every scan; it is nested the wrong way; it
        divides the scans into the same groups as another family; or it describes scanners.
    """
    families = [family for family in spec.families if family.columns and not family.is_factor]
    needed = dict.fromkeys(name for family in families for name in family.columns)
    if missing := [name for name in needed if name not in used]:
        raise ModelError(
            f"The model {spec.name!r} needs the column {shorten(missing)}.",
            got=name_columns(used),
            expected="a column for each family by columns",
            do=_advise(missing, used),
        )
    read = {name: to_labels(used[name]) for name in needed}
    if gaps := [f"{name}: none for {shorten(used.scan_id[gap])}" for name, (_, gap) in read.items() if gap.any()]:
        raise InputError(
            "Columns of families have missing values.",
            got="; ".join(gaps),
            expected="a value for every scan",
            do="complete the columns, or leave these scans out",
        )
    labels = {name: pd.Series(values.astype(object), used.index) for name, (values, _) in read.items()}
    levels = {family.name: _join([labels[name] for name in family.columns]) for family in families}
    if check:
        for family in families:
            _check_levels(family, levels[family.name], labels)
        _check_distinct(spec, levels, used)
        for family in families:
            _check_within_scanners(family, levels[family.name], spec, used)
    return levels


def _advise(missing: list[str], used: pd.DataFrame) -> str:
    """Say what to do about columns that the table lacks."""
    if any(re.search(r"\*| x ", name) for name in missing):
        return "write the sign × between columns"
    near = difflib.get_close_matches(missing[0], [str(name) for name in used], n=1)
    meant = f"write {near[0]!r} in model.toml if that is meant; otherwise " if near else ""
    return f"{meant}add the column to the scans table, or leave the family out of model.toml"


def _join(labels: list[pd.Series]) -> pd.Series:
    """Join the labels of several columns; those with a slash or quote are quoted, so that different ones stay apart.

    The name of a level does not depend on the other levels: new scans leave it as it is.
    """
    if len(labels) == 1:
        return labels[0]
    rows = ("/".join(repr(part) if set(part) & set("/'\"") else part for part in row) for row in zip(*labels, strict=True))
    return pd.Series(list(rows), labels[0].index, dtype=object)


def _check_levels(family: Family, levels: pd.Series, labels: dict[str, pd.Series]) -> None:
    n_levels, what = levels.nunique(), f"The family {family.name!r}, by {_by(family)},"
    if n_levels == 1:
        raise InputError(
            f"{what} has one level.",
            got=f"{levels.iloc[0]!r} for all {len(levels)} scans",
            expected="at least two levels",
            do="leave the family out of model.toml",
        )
    if n_levels == len(levels):
        raise InputError(
            f"{what} has a different level in every scan: its effects cannot be told from noise.",
            got=f"{n_levels} levels for {len(levels)} scans, such as {shorten(levels, 3)}",
            expected="levels that several scans have in common",
            do="correct the column, or leave the family out of model.toml",
        )
    if family.nested_in:
        outer = _join([labels[name] for name in family.columns[: -len(family.by.split(CROSSED.strip()))]])
        if outer.nunique() == n_levels:
            raise InputError(
                f"{what} is nested the wrong way: no level of {family.nested_in} has more than one level of {family.by}.",
                got=f"{n_levels} levels, as many as of {family.nested_in}",
                expected=f"several levels of {family.by} within a level of {family.nested_in}",
                do=f"nest {family.nested_in} in {family.by}, or leave nested_in out of model.toml",
            )


def _check_distinct(spec: ModelSpec, levels: dict[str, pd.Series], used: pd.DataFrame) -> None:
    """Refuse families that divide the scans alike.

    The special groupings are not compared with one another: with one diagnosis, those of populations may be the scanners.
    """
    columns = {"scanner": ["scanner"], "participant": ["participant_id"], "diagnosis": ["diagnosis"]}
    columns |= {"population": [name for name in ("site", "diagnosis") if name in used]}
    divisions = {name: pd.factorize(values)[0] for name, values in levels.items()}
    for family in spec.families:
        if family.by in LEVELS and set(columns[family.by]) <= set(used):
            divisions[family.name] = used.groupby(columns[family.by], sort=False).ngroup().to_numpy()
    pairs = combinations([family for family in spec.families if family.name in divisions], 2)
    for one, other in pairs:
        if one.by in LEVELS and other.by in LEVELS and one.by != other.by:
            continue
        first, second = divisions[one.name], divisions[other.name]
        if np.array_equal(first, second):
            raise InputError(
                f"The families {one.name!r} and {other.name!r} divide the scans alike: their effects cannot be separated.",
                got=f"{first.max() + 1} groups in both, by {_by(one)} and by {_by(other)}",
                expected="families that differ from one another",
                do="leave one of them out of model.toml",
            )


def _check_within_scanners(family: Family, levels: pd.Series, spec: ModelSpec, used: pd.DataFrame) -> None:
    """Refuse a column that describes scanners: its part of the scanner effect would stay in harmonized data."""
    if (levels.groupby(used.scanner).nunique() == 1).all():
        raise InputError(
            f"The family {family.name!r}, by {_by(family)}, does not vary within any scanner: its effects are part of the "
            f"scanner effect, and harmonizing would leave them in the data.",
            got=f"{levels.nunique()} levels; each scanner has only one",
            expected="a column that varies within scanners, or a protocol factor",
            do=f"make it a protocol factor with component_of = {spec.removed_effect!r}, as in the model protocol, or leave "
            "the family out of model.toml",
        )


def _by(family: Family) -> str:
    return CROSSED.join(family.columns) or family.by
