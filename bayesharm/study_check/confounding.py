"""Confounding of diagnosis, age, sex and time with the scanner, and of protocol factors with one another."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from bayesharm.study_check.columns import Described

LITTLE, CLEARLY, MOSTLY, ALL = 0.1, 0.25, 0.75, 0.99  # shares of variance, limits of the words


def find_confounding(
    scans: pd.DataFrame, columns: tuple[Described, ...], protocol: Sequence[str], reference: str
) -> pd.DataFrame:
    """Measure what goes with the scanner, with the diagnosis, and with other protocol factors.

    Parameters
    ----------
    scans : DataFrame
        Canonical columns as in :class:`bayesharm.data.dataset.Dataset`.
    columns : tuple of Described
    protocol : sequence of str
        Columns with one value for each scanner.
    reference : str
        The reference diagnosis.

    Returns
    -------
    DataFrame
        A row for each pair, most confounded first and protocol factors last: `of` (`age`, `sex`, `diagnosis MDD`, …),
        `with` (`scanner`, `diagnosis` or a protocol factor), `share` and `in_words`. The share is an R²: the variance of the
        first that differences between levels of the second explain, adjusted for chance, over people (each counted once on a
        scanner). Between protocol factors it is the squared first canonical correlation over scanners.
    """
    people = scans.drop_duplicates(["participant_id", "scanner"])
    diagnosis = people.get("diagnosis")
    rows = [(each.name, "scanner", _share(each, people, people.scanner)) for each in columns]
    if diagnosis is not None and diagnosis.nunique() > 1:
        for group in sorted(diagnosis.unique()):
            if group != reference:
                is_group = diagnosis.eq(group).astype(float)
                rows.append((f"diagnosis {group}", "scanner", adjusted_share(is_group, people.scanner)))
        rows += [(each.name, "diagnosis", _share(each, people, diagnosis)) for each in columns]
    table = pd.DataFrame([row for row in rows if np.isfinite(row[2])], columns=["of", "with", "share"])
    table = table.sort_values("share", ascending=False, kind="stable")
    scanners = scans.drop_duplicates("scanner")
    pairs = [(a, b, canonical_share(scanners[a], scanners[b])) for a, b in combinations(protocol, 2)]
    factors = pd.DataFrame([pair for pair in pairs if np.isfinite(pair[2])], columns=table.columns)
    table = pd.concat([table, factors.sort_values("share", ascending=False, kind="stable")], ignore_index=True)
    table["in_words"] = [
        "partly inseparable" if of in protocol and share > ALL else in_words(share)
        for of, share in zip(table.of, table.share, strict=True)
    ]
    return table


def _share(column: Described, people: pd.DataFrame, groups: pd.Series) -> float:
    """Adjusted share of a column; of several categories, the mean weighted by their variances."""
    numbers = [values[people.index] for values in column.numbers.values()]
    shares = np.array([adjusted_share(values, groups) for values in numbers])
    if len(shares) == 1:
        return float(shares[0])
    weight = np.array([values.var() for values in numbers])
    known = np.isfinite(shares) & (weight > 0)
    return float(np.average(shares[known], weights=weight[known])) if known.any() else float("nan")


def in_words(share: float) -> str:
    """Say how far two things go together."""
    return (
        "inseparable" if share > ALL
        else "hardly separable" if share >= MOSTLY
        else "clearly confounded" if share >= CLEARLY
        else "slightly confounded" if share >= LITTLE
        else "balanced"
    )  # fmt: skip


def adjusted_share(values: pd.Series, groups: pd.Series) -> float:
    """Share of the variance of numbers that lies between groups, adjusted for chance (adjusted R²); at least 0.

    NaN if there is nothing to compare: no variance, or not more values than groups.
    """
    known = values.notna().to_numpy()
    y, codes = values.to_numpy(float)[known], pd.factorize(groups.to_numpy(object)[known])[0]
    size = np.bincount(codes) if len(codes) else np.zeros(1, int)
    if len(size) < 2 or len(y) <= len(size):
        return float("nan")
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        y = (y - y.mean()) / y.std()
        within = ((y - (np.bincount(codes, y) / size)[codes]) ** 2).sum()
        share = 1 - (within / (len(y) - len(size))) / (len(y) / (len(y) - 1))
    return max(0.0, float(share)) if np.isfinite(share) else float("nan")


def canonical_share(first: pd.Series, second: pd.Series) -> float:
    """Squared first canonical correlation between the levels of two factors, over scanners; NaN if one is constant."""
    table = pd.crosstab(first.astype(str).to_numpy(), second.astype(str).to_numpy()).to_numpy(float)
    if min(table.shape) < 2:
        return float("nan")
    scaled = table / np.sqrt(np.outer(table.sum(1), table.sum(0)))
    return float(min(1.0, np.linalg.svd(scaled, compute_uv=False)[1] ** 2))  # the first singular value is 1
