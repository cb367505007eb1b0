"""Charts of harmonization: people as lines across scanners, and the spread between scanners of all features."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from bayesharm.reporting.before_after import BeforeAfter
from bayesharm.reporting.charts.base import CHOSEN, opacity, quantity, records, short, spec, tips
from bayesharm.reporting.palette import AFTER, BEFORE
from bayesharm.reporting.section import Chart

MAX_LINES_OF_FEATURES = 40  # features up to which each has a line of its own
N_BINS = 40
STAGES = {"before": BEFORE, "after": AFTER}


def people_chart(result: BeforeAfter, features: list[str], feature: int, unit: tuple[float, float], units: str) -> Chart:
    """Draw people as lines across scanners, before and after harmonization, in one feature that the reader can change.

    Parameters
    ----------
    result : BeforeAfter
        With `people`.
    features : list of str
    feature : int
        The feature to begin with.
    unit : pair of float
        Its sd and mean: values are drawn in the units of the feature.
    units : str
        Name of the units.
    """
    people = result.people
    assert people is not None
    sd, center = unit
    before = people.values[:, feature]
    shift = result.bias[people.scanner, feature]
    rank = np.argsort(np.argsort(result.bias[:, feature], kind="stable"))
    table = pd.DataFrame({
        "person": np.array(people.people, object)[people.person],
        "scanner": np.array(people.scanners, object)[people.scanner],
        "scans": people.n_scans.astype(int), "before": sd * before + center, "after": sd * (before - shift) + center,
        "order": rank[people.scanner],
    })  # fmt: skip
    table = table[np.isfinite(before)].sort_values(["person", "order"], kind="stable")
    who = "travelers" if people.has_travelers else "people"
    lines = "Each line is a traveler" if people.has_travelers else "The line is the mean of all scans on a scanner"
    flat = (
        "If scanners did not matter, lines would be flat, but for noise."
        if people.has_travelers
        else "Differences that remain are also those between the people of the scanners."
    )
    points = " Points are means of a person's scans on a scanner." if people.has_travelers else ""
    parts = [_people_panel(stage) for stage in STAGES]
    chart: dict[str, Any] = {
        "params": [{"name": CHOSEN, "value": ""}],
        "data": {"name": "people", "values": records(table)},
        "hconcat": parts,
        "resolve": {"scale": {"y": "shared"}},
    }
    name = features[feature]
    return Chart(
        chart,
        f"{lines}, before and after harmonization, in one feature (first shown: {name}, where scanners differ most). "
        f"Scanners are in the order of their bias.{points} Values are in {units}. {flat}",
        f"Two line charts of {who} across {len(people.scanners)} scanners in the feature {name}, before and after "
        f"harmonization. The estimated biases range from {short(sd * result.bias[:, feature].min())} to "
        f"{short(sd * result.bias[:, feature].max())}; the lines after harmonization lack these shifts.",
        table.drop(columns="order").reset_index(drop=True),
        live="people",
    )


def _people_panel(stage: str) -> dict[str, Any]:
    x = {"field": "scanner", "type": "nominal", "title": None, "sort": {"field": "order", "op": "min"},
         "axis": {"labelAngle": -90, "labelLimit": 90, "grid": False}}  # fmt: skip
    y = quantity(stage, "", scale={"zero": False}, axis={"grid": True})
    tip = tips(person="person", scanner="scanner", scans="scans") + [quantity(stage, stage, format=".4g")]
    color = STAGES[stage]
    return {
        "title": stage,
        "height": 260,
        "layer": [
            {"mark": {"type": "line", "color": color, "strokeWidth": 1.2, "opacity": 0.55},
             "encoding": {"x": x, "y": y, "detail": {"field": "person", "type": "nominal"},
                          "order": quantity("order")}},
            {"mark": {"type": "point", "filled": True, "color": color, "size": 40},
             "encoding": {"x": x, "y": y, "tooltip": tip, "opacity": opacity(full=0.9)}},
        ],
    }  # fmt: skip


def spread_chart(result: BeforeAfter, features: list[str], n_scanners: int) -> Chart:
    """Draw the spread between scanners of all features, before and after harmonization."""
    before, after = result.before, result.after
    middle = {stage: float(np.nanmedian(values)) for stage, values in (("before", before), ("after", after))}
    share = f"{result.share_removed:.0%} of the variance between scanners is removed"
    words = (
        f"Expected size of the scanner biases of a feature: root mean square over {n_scanners} scanners, in sd of the "
        "feature, before harmonization and after it, when the error of the estimate remains. Median feature: "
        f"{short(middle['before'])} before, {short(middle['after'])} after; over all features, {share}."
    )
    alt = f"Spread between scanners of {len(features):,} features: median {short(middle['before'])} sd before and " \
          f"{short(middle['after'])} sd after harmonization. {share}."  # fmt: skip
    if len(features) <= MAX_LINES_OF_FEATURES:
        return _spread_by_feature(before, after, features, words, alt)
    limit = float(np.nanquantile(before, 0.999)) * 1.02
    edges = np.linspace(0, limit, N_BINS + 1)
    table = pd.DataFrame({"from": edges[:-1], "to": edges[1:]})
    for stage, values in (("before", before), ("after", after)):
        table[stage] = np.histogram(np.minimum(values[np.isfinite(values)], limit), edges)[0]
    rows = table.melt(["from", "to"], ["after", "before"], "stage", "features")
    rows = rows[rows["features"] > 0]
    color = {"field": "stage", "type": "nominal", "title": None,
             "scale": {"domain": list(STAGES), "range": list(STAGES.values())}}  # fmt: skip
    layers = [
        {"mark": {"type": "bar", "opacity": 0.75, "binSpacing": 0},
         "encoding": {"x": quantity("from", "Spread between scanners, sd of the feature", bin={"binned": True}),
                      "x2": {"field": "to"}, "y": quantity("features", "Features", stack=None), "color": color,
                      "tooltip": [quantity("from", "from", format=".3f"), quantity("to", "to", format=".3f"),
                                  *tips(stage="harmonization", features="features")]}},
        {"mark": {"type": "rule", "strokeWidth": 2, "strokeDash": [5, 3]},
         "data": {"values": [{"stage": stage, "value": value} for stage, value in middle.items()]},
         "encoding": {"x": quantity("value"), "color": color}},
    ]  # fmt: skip
    return Chart(spec(records(rows), layers, height=200), f"{words} Dashed: medians.", alt, table)


def _spread_by_feature(before: np.ndarray, after: np.ndarray, features: list[str], words: str, alt: str) -> Chart:
    table = pd.DataFrame({"feature": features, "before": before, "after": after}).sort_values(
        "before", ascending=False, kind="stable"
    )
    rows = table.melt(["feature"], ["before", "after"], "stage", "spread")
    y = {"field": "feature", "type": "nominal", "title": None, "sort": None, "axis": {"ticks": False, "domain": False}}
    color = {"field": "stage", "type": "nominal", "title": None,
             "scale": {"domain": list(STAGES), "range": list(STAGES.values())}}  # fmt: skip
    title = "Spread between scanners, sd of the feature"
    layers = [
        {"mark": {"type": "line", "color": "#999999", "strokeWidth": 1},
         "encoding": {"y": y, "x": quantity("spread", title), "detail": {"field": "feature", "type": "nominal"}}},
        {"mark": {"type": "point", "filled": True, "size": 70, "opacity": 1},
         "encoding": {"y": y, "x": quantity("spread", title), "color": color,
                      "tooltip": [*tips(feature="feature", stage="harmonization"),
                                  quantity("spread", "spread", format=".3f")]}},
    ]  # fmt: skip
    return Chart(spec(records(rows), layers, height=20 * len(table)), words, alt, table.reset_index(drop=True))
