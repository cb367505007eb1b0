"""Brain regions and networks of connectivity features, from the user's tables."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bayesharm.errors import InputError, shorten
from bayesharm.io.tables import TableSource, read_table, table_columns


def _read(source: TableSource, what: str, *columns: str) -> pd.DataFrame:
    """Read these columns of a table as text, indexed by the first column."""
    header = table_columns(source, what)
    if missing := [name for name in columns if name not in header]:
        raise InputError(
            f"{what.capitalize()} lacks {shorten(missing)}.",
            got=f"columns {shorten(header, 10)}",
            expected=", ".join(columns),
            do="add the columns",
        )
    return read_table(source, text=columns, columns=columns, what=what).set_index(columns[0])


def read_edge_regions(edge_table: TableSource, features: list[str]) -> pd.DataFrame:
    """Read the two regions that each edge connects.

    Parameters
    ----------
    edge_table : path or DataFrame
        Table with the columns `feature`, `node_a` and `node_b`.
    features : list of str
        Names of the edges.

    Returns
    -------
    DataFrame
        Columns `node_a` and `node_b`, the regions, in the order of `features`.

    Raises
    ------
    InputError
        The table lacks a column, or does not have exactly one row for each feature.
    """
    table = _read(edge_table, "the edge table", "feature", "node_a", "node_b")
    absent = pd.Index(features).difference(table.index)
    if len(absent) or table.index.has_duplicates:
        raise InputError(
            "The edge table does not match the features of the run.",
            got=f"no row for {shorten(absent)}" if len(absent) else f"several rows for {shorten(_repeated(table.index))}",
            expected="one row for each feature of the run",
            do="complete the table; its column 'feature' must contain the feature names of the run",
        )
    return table.loc[features]


def _repeated(index: pd.Index) -> np.ndarray:
    return index[index.duplicated()].unique().to_numpy()


def group_by_region(edge_regions: pd.DataFrame) -> tuple[list[tuple[str, ...]], np.ndarray]:
    """Assign each edge to its two regions.

    Parameters
    ----------
    edge_regions : DataFrame
        From :func:`read_edge_regions`.

    Returns
    -------
    groups : list of tuple
        ``(region,)``, in alphabetical order.
    membership : (group, edge) array
        1 for edges of the region, otherwise 0.
    """
    names = sorted({*edge_regions.node_a, *edge_regions.node_b})
    membership = np.stack(
        [((edge_regions.node_a == name) | (edge_regions.node_b == name)).to_numpy(float) for name in names]
    )
    return [(name,) for name in names], membership


def group_by_networks(edge_regions: pd.DataFrame, networks: TableSource) -> tuple[list[tuple[str, ...]], np.ndarray]:
    """Assign each edge to the pair of networks of its two regions.

    Parameters
    ----------
    edge_regions : DataFrame
        From :func:`read_edge_regions`.
    networks : path or DataFrame
        Table with the columns `region` and `network`.

    Returns
    -------
    groups : list of tuple
        ``(network, network)``, each pair once, in alphabetical order.
    membership : (group, edge) array
        1 for edges of the pair, otherwise 0.

    Raises
    ------
    InputError
        The table lacks a column or a region.
    """
    network_of = _read(networks, "the network table", "region", "network")["network"].to_dict()
    if missing := sorted({*edge_regions.node_a, *edge_regions.node_b} - network_of.keys()):
        raise InputError(
            "Some regions have no network.",
            got=shorten(missing),
            expected="a network for each region in the edge table",
            do="complete the network table",
        )
    pairs = [
        tuple(sorted((network_of[a], network_of[b]))) for a, b in zip(edge_regions.node_a, edge_regions.node_b, strict=True)
    ]
    names = sorted(set(pairs))
    position = {name: k for k, name in enumerate(names)}
    membership = np.zeros((len(names), len(edge_regions)))
    membership[[position[pair] for pair in pairs], np.arange(len(edge_regions))] = 1
    return list(names), membership
