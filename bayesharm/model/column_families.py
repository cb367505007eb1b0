"""Families whose levels are those of any columns of the scans table, crossed or nested."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd

from bayesharm.errors import InputError, ModelError, shorten
from bayesharm.io.tables import to_labels
from bayesharm.model.spec import CROSSED, Family, ModelSpec


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
        A column has missing values; a family has one level only, or one for every scan; it is nested the wrong way; or it
        divides the scans into the same groups as another family.
    """
    families = [family for family in spec.families if family.columns and not family.is_factor]
    needed = dict.fromkeys(name for family in families for name in family.columns)
    if missing := [name for name in needed if name not in used]:
        raise ModelError(
            f"The model {spec.name!r} needs the column {shorten(missing)}.",
            got=f"columns {shorten(used.columns, 30)}",
            expected="a column for each family by columns",
            do="add the column to the scans table, or leave the family out of model.toml",
        )
    read = {name: to_labels(used[name]) for name in needed}
    if gaps := [f"{name}: none for {shorten(used.scan_id[gap])}" for name, (_, gap) in read.items() if gap.any()]:
        raise InputError(
            "Columns by which the model has families have missing values.",
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
    return levels


def _join(labels: list[pd.Series]) -> pd.Series:
    """Join the labels of several columns; those with a slash or quote are quoted, so that different ones stay apart.

    The name of a level does not depend on the other levels: new scans leave it as it is.
    """
    if len(labels) == 1:
        return labels[0]
    rows = ("/".join(repr(part) if set(part) & set("/'\"") else part for part in row) for row in zip(*labels, strict=True))
    return pd.Series(list(rows), labels[0].index, dtype=object)


def _check_levels(family: Family, levels: pd.Series, labels: dict[str, pd.Series]) -> None:
    n_levels, what = levels.nunique(), f"The family {family.name!r}, by {CROSSED.join(family.columns)},"
    if n_levels == 1:
        raise InputError(
            f"{what} has one level.",
            got=f"{levels.iloc[0]!r} for all {len(levels)} scans",
            expected="at least two levels",
            do="leave the family out of model.toml",
        )
    if n_levels == len(levels):
        raise InputError(
            f"{what} has another level for every scan: its effects cannot be told from noise.",
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
    """Compare how families divide the scans."""
    divisions = {name: pd.factorize(values)[0] for name, values in levels.items()}
    for family in spec.families:
        if family.by in ("scanner", "participant"):
            divisions[family.name] = pd.factorize(used["scanner" if family.by == "scanner" else "participant_id"])[0]
    for (one, first), (other, second) in combinations(divisions.items(), 2):
        if (one in levels or other in levels) and np.array_equal(first, second):
            raise InputError(
                f"The families {one!r} and {other!r} divide the scans alike: their effects cannot be separated.",
                got=f"{first.max() + 1} groups in both",
                expected="families that differ from one another",
                do="leave one of them out of model.toml",
            )
