"""Regions of the brain that edges join, and networks of regions: which features belong to which, from the user's tables."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bayesharm.errors import InputError, shorten
from bayesharm.io.tables import TableSource, read_table, table_columns


def _read(source: TableSource, what: str, *columns: str) -> pd.DataFrame:
    """These columns of a table as text, by the first of them."""
    there = table_columns(source, what)
    if missing := [name for name in columns if name not in there]:
        raise InputError(
            f"{what.capitalize()} lacks {shorten(missing)}.",
            got=f"columns {shorten(there, 10)}",
            expected=", ".join(columns),
            do="add the columns",
        )
    return read_table(source, text=columns, columns=columns, what=what).set_index(columns[0])


def find_ends(edge_table: TableSource, features: list[str]) -> pd.DataFrame:
    """The two regions of each feature, `node_a` and `node_b`, in the order of the features.

    Parameters
    ----------
    edge_table : path or DataFrame
    features : list of str

    Raises
    ------
    InputError
        The table lacks a column or features.
    """
    table = _read(edge_table, "the table of edges", "feature", "node_a", "node_b")
    absent = pd.Index(features).difference(table.index)
    if len(absent) or table.index.has_duplicates:
        raise InputError(
            "The table of edges and the run do not have the same features.",
            got=f"no row for {shorten(absent)}" if len(absent) else f"several rows for {shorten(_repeated(table.index))}",
            expected="one row for each feature of the run",
            do="complete the table; its column 'feature' has the names of the run",
        )
    return table.loc[features]


def _repeated(index: pd.Index) -> np.ndarray:
    return index[index.duplicated()].unique().to_numpy()


def group_by_region(ends: pd.DataFrame) -> tuple[list[tuple[str, ...]], np.ndarray]:
    names = sorted({*ends.node_a, *ends.node_b})
    member = np.stack([((ends.node_a == name) | (ends.node_b == name)).to_numpy(float) for name in names])
    return [(name,) for name in names], member


def group_by_networks(ends: pd.DataFrame, networks: TableSource) -> tuple[list[tuple[str, ...]], np.ndarray]:
    known = _read(networks, "the table of networks", "region", "network")["network"].to_dict()
    if missing := sorted({*ends.node_a, *ends.node_b} - known.keys()):
        raise InputError(
            "Some regions have no network.",
            got=shorten(missing),
            expected="a network for each region of the edges",
            do="complete the table of networks",
        )
    pairs = [tuple(sorted((known[a], known[b]))) for a, b in zip(ends.node_a, ends.node_b, strict=True)]
    names = sorted(set(pairs))
    place = {name: k for k, name in enumerate(names)}
    member = np.zeros((len(names), len(ends)))
    member[[place[pair] for pair in pairs], np.arange(len(ends))] = 1
    return list(names), member
