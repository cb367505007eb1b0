"""Charts of scanners: size and certainty of their biases, noise, biases in each feature, and their similarity."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import average, leaves_list

from bayesharm.analysis.scanner_similarity import ScannerSimilarity
from bayesharm.reporting.charts.base import (
    STEP,
    array,
    interval_rows,
    matrix,
    name,
    opacity,
    plus_minus,
    quantity,
    records,
    short,
    spec,
    tips,
)
from bayesharm.reporting.palette import AFTER, BEFORE, COLORS
from bayesharm.reporting.section import Chart
from bayesharm.reporting.words import MOSTLY_PRIOR, shorten_names

MAX_FEATURES = 60  # columns of the map of biases
MIN_SUPPORT = 0.5  # support from which a group of scanners is labeled
RATIO_COLORS = {"noise_ratio": COLORS["noise"], "bias_ratio": COLORS["measurement"], "gain": COLORS["participant"]}
FADED_WORDS = "Pale: more prior than data."


def bias_chart(scanners: pd.DataFrame) -> Chart:
    """Draw the size of each scanner's bias and the uncertainty of it, largest first."""
    table = scanners[["bias", "uncertainty", "from_data"]].reset_index(names="scanner")
    table["prior"] = table["from_data"] < MOSTLY_PRIOR
    rows = table.assign(told=[plus_minus(b, u) for b, u in zip(table.bias, table.uncertainty, strict=True)])
    rows["percent"] = [("" if np.isnan(share) else f"{share:.0%}") for share in table.from_data]
    y = name("scanner", None, axis={"ticks": False, "domain": False})
    tip = tips(scanner="scanner", told="bias ± sd", percent="from the data")
    title = "Bias (bar) and uncertainty (tick), sd"
    layers = [
        {"mark": {"type": "bar", "color": BEFORE, "height": {"band": 0.6}},
         "encoding": {"y": y, "x": quantity("bias", title), "opacity": opacity(True), "tooltip": tip}},
        {"mark": {"type": "tick", "thickness": 3, "color": AFTER, "size": 18},
         "encoding": {"y": y, "x": quantity("uncertainty", title), "opacity": opacity(), "tooltip": tip}},
    ]  # fmt: skip
    first, last = table.iloc[0], table.iloc[-1]
    return Chart(
        spec(records(rows), layers, height=STEP * len(rows)),
        "Bias of each scanner and how well it is known: root mean squares over features of the posterior mean (bar) "
        "and of the posterior sd (tick), in sd of a feature, relative to the mean of all scanners. Where the tick is "
        f"beyond the bar, the bias is hardly detected. {FADED_WORDS}",
        f"Bars of the bias of {len(table)} scanners: largest {first.scanner}, {plus_minus(first.bias, first.uncertainty)} "
        f"sd; smallest {last.scanner}, {plus_minus(last.bias, last.uncertainty)} sd.",
        table.drop(columns="prior"),
    )


def ratio_chart(scanners: pd.DataFrame, column: str, words: str, log: bool = True) -> Chart:
    """Draw a ratio of each scanner, such as its noise variance, with its interval; the average scanner has 1."""
    table = scanners[[column, f"{column}_q05", f"{column}_q95"]].rename_axis("scanner")
    largest = table[column].idxmax()
    return Chart(
        interval_rows(
            table,
            column,
            f"{words} (average scanner: 1)",
            RATIO_COLORS[column],
            log=log,
            reference=1.0,
            least=(0.75, 1.33),
        ),
        f"{words} of each scanner, relative to the average scanner, with 90% intervals.",
        f"{words} of {len(table)} scanners with intervals: largest for {largest}, {short(table.loc[largest, column])}.",
        table.reset_index(),
    )


def check_chart(table: pd.DataFrame) -> Chart:
    """Draw the observed over the expected variance of travelers on each scanner."""
    shown = table.dropna()
    largest = table["ratio"].idxmax()
    return Chart(
        interval_rows(shown, "ratio", "Observed over expected variance", AFTER, reference=1.0, least=(0.5, 1.5)),
        "Differences between the harmonized scans of travelers, relative to those that noise predicts (dashed: 1), with 90% "
        "intervals over travelers. Above 1: people differ on this scanner by more than one bias and noise, for "
        "example because the scanner changed. Deviations are from a person's mean over scanners, so that one scanner that "
        "deviates raises those of the same people, too.",
        f"Points with intervals of {len(shown)} scanners; largest ratio: {largest}, {short(table.loc[largest, 'ratio'])}.",
        table.reset_index(),
    )


def bias_map(bias: pd.DataFrame, groups: pd.Series | None, order: np.ndarray | None) -> Chart:
    """Draw the bias of each scanner in the features with the largest biases, or its mean size in groups of features.

    Parameters
    ----------
    bias : DataFrame, scanner × feature
        Posterior means, in sd of the feature.
    groups : Series by feature, optional
        A group of each feature, such as a pair of networks.
    order : int array, optional
        Order of the scanners.
    """
    shown = bias.dropna(axis=1)
    if order is not None and len(order) == len(shown):
        shown = shown.iloc[order]
    n = shown.shape[1]
    largest = np.argsort(-(shown.to_numpy() ** 2).mean(0), kind="stable")[:MAX_FEATURES]
    shown = shown.iloc[:, largest]
    if groups is not None:
        shown = shown.iloc[:, np.argsort(groups[shown.columns].to_numpy(str), kind="stable")]
    elif shown.shape[1] > 2:
        shown = shown.iloc[:, leaves_list(average(shown.T.to_numpy()))]
    limit = float(np.quantile(np.abs(shown.to_numpy()), 0.99)) or 1.0
    names = shorten_names([str(name) for name in shown.columns])
    chart = matrix(
        shown.set_axis(names, axis=1),
        "Bias, sd of the feature",
        limits=(-limit, limit),
        scheme="blueorange",
        reverse=False,
        is_scanner=True,
    )
    for layer in chart["layer"]:
        layer["encoding"]["x"]["axis"] |= {"labelAngle": -90, "labelFontSize": 9, "labelOverlap": True}
    cell = shown.abs().stack().idxmax()
    subset = f"the {shown.shape[1]} of {n:,} features with the largest biases" if shown.shape[1] < n else "all features"
    how = "by group" if groups is not None else "similar ones next to each other"
    return Chart(
        chart,
        f"Bias of each scanner in {subset}, {how}; posterior means, in sd of the feature. White: the mean of all scanners.",
        f"Heat map of biases, {len(shown)} scanners by {shown.shape[1]} features. The largest is that of {cell[0]} in "
        f"{cell[1]}: {short(shown.loc[cell])}.",
        shown.T.rename_axis("feature").reset_index(),
    )


def distance_chart(similarity: ScannerSimilarity, units: str) -> Chart:
    """Draw the distances between the bias maps of scanners, in the order of the tree."""
    order = leaves_list(similarity.linkage)
    table = similarity.matrix("distance").iloc[order, order]
    pairs = table.stack()
    near, far = pairs.idxmin(), pairs.idxmax()
    return Chart(
        matrix(table, f"Distance ({units})", digits=".3f" if pairs.max() < 1 else ".2f", is_scanner=True),
        "Distance between the bias maps of two scanners: root mean square difference over features, posterior mean, "
        f"in {units}. Similar scanners are next to each other.",
        f"Heat map of distances between {len(table)} scanners: smallest between {near[0]} and {near[1]}, "
        f"{short(pairs[near])}; largest between {far[0]} and {far[1]}, {short(pairs[far])}.",
        table.rename_axis("scanner").reset_index(),
    )


def tree_chart(similarity: ScannerSimilarity, units: str) -> Chart:
    """Draw the tree of scanners, with the share of posterior draws that have each group."""
    tree, names = similarity.linkage, similarity.scanners
    order = leaves_list(tree)
    place = {int(leaf): (0.0, float(row)) for row, leaf in enumerate(order)}
    lines, labels = [], []
    for k, (first, second, distance, _) in enumerate(tree):
        (x1, y1), (x2, y2) = place[int(first)], place[int(second)]
        lines += [(x1, distance, y1, y1), (x2, distance, y2, y2), (distance, distance, y1, y2)]
        place[len(names) + k] = (float(distance), (y1 + y2) / 2)
        support = float(similarity.splits["support"].iloc[k])
        if k < len(tree) - 1 and support >= MIN_SUPPORT:
            labels.append({"x": float(distance), "y": (y1 + y2) / 2, "text": f"{support:.0%}"})
    rows = records(pd.DataFrame(lines, columns=["x", "x2", "y", "y2"]))
    scale = {"domain": [len(names) - 0.5, -0.7]}
    axis: dict[str, Any] = {
        "values": list(range(len(names))), "labelExpr": f"{array([names[leaf] for leaf in order])}[datum.value]",
        "grid": False, "ticks": False, "domain": False, "labelOverlap": False, "tickCount": len(names),
    }  # fmt: skip
    y = quantity("y", "", scale=scale, axis=axis)
    x = quantity("x", "Distance at which groups join", scale={"zero": True})
    layers = [
        {"mark": {"type": "rule", "strokeWidth": 1.5},
         "encoding": {"x": x, "x2": {"field": "x2"}, "y": y, "y2": {"field": "y2", "title": None}}},
    ]  # fmt: skip
    if labels:
        text = {
            "type": "text",
            "align": "left",
            "dx": 4,
            "baseline": "bottom",
            "dy": -1,
            "color": AFTER,
            "fontWeight": "bold",
        }
        where = {"x": quantity("x"), "y": quantity("y"), "text": {"field": "text"}}
        layers.append({"mark": text, "data": {"values": labels}, "encoding": where})
    first, last = tree[0, 2], tree[-1, 2]
    note = f" All groups join within {1 - first / last:.0%} of the last." if first > 0.8 * last else ""
    return Chart(
        spec(rows, layers, height=max(110, STEP * len(names))),
        "Tree of the scanners by average linkage of these distances. Numbers: share of posterior draws that have the "
        f"group, if above {MIN_SUPPORT:.0%}.{note}",
        f"Tree of {len(names)} scanners; {len(labels)} groups occur in more than {MIN_SUPPORT:.0%} of the posterior draws.",
        similarity.splits.rename(columns={"scanners": "group"}).set_index("group"),
    )
