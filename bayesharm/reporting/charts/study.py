"""Charts of the study: people by scanner, scans of each scanner, and the travelers whom scanners share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from bayesharm.reporting.charts.base import STEP, matrix, name, opacity, quantity, records, spec, tips
from bayesharm.reporting.palette import COLORS, OTHERS
from bayesharm.reporting.people import PeopleMeans
from bayesharm.reporting.section import Chart

MAX_PEOPLE = 60  # rows of the chart of people
KINDS = {"travelers": COLORS["participant"], "people scanned once": OTHERS[0], "other people": COLORS["noise"]}


def scans_chart(design: pd.DataFrame, people: PeopleMeans | None) -> Chart:
    """Draw the scans of each scanner: of travelers, of people scanned once, and of others.

    Parameters
    ----------
    design : DataFrame by scanner
        `n_scans`, `n_single_scan`.
    people : PeopleMeans, optional
    """
    table = pd.DataFrame(index=design.index.rename("scanner"))
    of_travelers = np.zeros(len(design))
    if people is not None and people.has_travelers:
        for scanner, n in zip(people.scanner, people.n_scans, strict=True):
            of_travelers[list(design.index).index(people.scanners[scanner])] += n
    table["travelers"] = of_travelers.astype(int)
    table["people scanned once"] = design["n_single_scan"]
    table["other people"] = (design["n_scans"] - table["travelers"] - table["people scanned once"]).clip(lower=0)
    table = table.loc[:, table.any()]
    rows = table.reset_index().melt("scanner", var_name="kind", value_name="scans")
    y = name("scanner", None, axis={"ticks": False, "domain": False})
    color = {"field": "kind", "type": "nominal", "title": None,
             "scale": {"domain": list(table), "range": [KINDS[kind] for kind in table]}}  # fmt: skip
    layers = [{"mark": {"type": "bar"}, "encoding": {
        "y": y, "x": quantity("scans", "Scans"), "color": color, "opacity": opacity(),
        "tooltip": tips(scanner="scanner", kind="scans of", scans="scans")}}]  # fmt: skip
    largest = design["n_scans"].idxmax()
    return Chart(
        spec(records(rows), layers, height=STEP * len(table)),
        "Scans of each scanner in the model. Travelers, people with scans on several scanners, show the differences between "
        "scanners; other people add what travelers leave open.",
        f"Bars of the scans of {len(design)} scanners; most on {largest}, {design.loc[largest, 'n_scans']:,}.",
        table.reset_index(),
    )


def people_chart(people: PeopleMeans) -> Chart:
    """Draw who was scanned where: travelers × scanners."""
    table = pd.DataFrame(np.nan, index=people.people, columns=people.scanners)
    for person, scanner, n in zip(people.person, people.scanner, people.n_scans, strict=True):
        table.iloc[person, scanner] = n
    order = np.argsort(-table.notna().sum(axis=1).to_numpy(), kind="stable")
    table = table.iloc[order]
    shown = table.head(MAX_PEOPLE)
    more = f" Shown: the {len(shown)} of {len(table):,} travelers with the most scanners." if len(shown) < len(table) else ""
    n_scanners = table.notna().sum(axis=1)
    low, high = int(n_scanners.min()), int(n_scanners.max())
    each = f"{low}" if low == high else f"{low} to {high}"
    return Chart(
        matrix(shown, "Scans", digits="d", row="traveler", column="scanner", limits=(0, float(np.nanmax(table)))),
        f"Travelers by scanner: number of scans. Each traveler was on {each} scanners.{more}",
        f"Grid of {len(table):,} travelers by {len(people.scanners)} scanners; each was on {each} of them.",
        table.rename_axis("traveler").reset_index(),
    )


def graph_chart(people: PeopleMeans) -> Chart:
    """Draw scanners on a circle, joined by the travelers whom they share."""
    n = len(people.scanners)
    was_on = np.zeros((len(people.people), n), bool)
    was_on[people.person, people.scanner] = True
    shared = was_on.T.astype(int) @ was_on
    angle = 2 * np.pi * np.arange(n) / n
    x, y = np.sin(angle), np.cos(angle)
    pairs = [(i, j) for i in range(n) for j in range(i) if shared[i, j]]
    lines = [
        {"x": x[i], "y": y[i], "x2": x[j], "y2": y[j], "travelers": int(shared[i, j]),
         "pair": f"{people.scanners[j]} – {people.scanners[i]}"}
        for i, j in pairs
    ]  # fmt: skip
    nodes = [
        {"scanner": people.scanners[i], "x": float(x[i]), "y": float(y[i]), "travelers": int(shared[i, i]),
         "align": "center" if abs(x[i]) < 0.2 else "left" if x[i] > 0 else "right",
         "dx": 0 if abs(x[i]) < 0.2 else 12 * float(np.sign(x[i])), "dy": -16 if y[i] > 0.9 else 16 if y[i] < -0.9 else 0}
        for i in range(n)
    ]  # fmt: skip
    place = {axis: quantity(axis, None, scale={"domain": limits}, axis=None)
             for axis, limits in (("x", [-2.1, 2.1]), ("y", [-1.25, 1.25]))}  # fmt: skip
    width = {"field": "travelers", "type": "quantitative", "scale": {"range": [1, 7], "zero": True}, "title": "travelers",
             "legend": None}  # fmt: skip
    layers: list[dict[str, Any]] = [
        {"mark": {"type": "rule", "color": "#56B4E9", "opacity": 0.55}, "data": {"values": lines},
         "encoding": place | {"x2": {"field": "x2"}, "y2": {"field": "y2"}, "strokeWidth": width,
                              "tooltip": tips(pair="scanners", travelers="shared travelers")}},
        {"mark": {"type": "point", "filled": True, "size": 160, "color": COLORS["participant"], "opacity": 1},
         "encoding": place | {"opacity": opacity(), "tooltip": tips(scanner="scanner", travelers="travelers")}},
        *[{"mark": {"type": "text", "align": align, "dx": dx, "dy": dy, "fontSize": 12, "limit": 120},
           "transform": [{"filter": f"datum.align == '{align}' && datum.dx == {dx} && datum.dy == {dy}"}],
           "encoding": place | {"text": {"field": "scanner"}, "opacity": opacity()}}
          for align, dx, dy in sorted({(node["align"], node["dx"], node["dy"]) for node in nodes})],
    ]  # fmt: skip
    table = pd.DataFrame(
        [(people.scanners[j], people.scanners[i], shared[i, j]) for i in range(n) for j in range(i)],
        columns=["scanner", "other", "shared travelers"],
    )
    few = table[table["shared travelers"] > 0]["shared travelers"]
    each = f"{few.min()} each" if few.min() == few.max() else f"{few.min()} to {few.max()}"
    return Chart(
        spec(nodes, layers, height=300),
        f"Scanners that share travelers. Lines: number of shared travelers, {each}. Scanners "
        "without a path between them can be compared only through assumptions about their people.",
        f"Network of {n} scanners; {len(pairs)} of {n * (n - 1) // 2} pairs share travelers, {each}.",
        table,
    )
