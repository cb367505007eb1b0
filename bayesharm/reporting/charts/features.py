"""Charts of features: biases of the chosen feature, brain regions, networks, and evidence for sampling bias."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bayesharm.analysis.population_structure import ALL, PopulationTest
from bayesharm.reporting.charts.base import (
    STEP,
    interval_rows,
    matrix,
    name,
    opacity,
    quantity,
    records,
    short,
    spec,
    tips,
    told,
)
from bayesharm.reporting.palette import BEFORE
from bayesharm.reporting.section import Chart
from bayesharm.reporting.words import MOSTLY_PRIOR

MAX_REGIONS = 20  # rows of the chart of regions
MAX_LOG_FACTOR = 20.0  # larger log Bayes factors are counted in the outermost bins
Z90 = 1.6448536269514722


def feature_chart(mean: np.ndarray, sd: np.ndarray, from_data: np.ndarray, scanners: list[str], feature: str) -> Chart:
    """Draw the bias of each scanner in one feature, with 90% intervals; the reader chooses the feature."""
    table = pd.DataFrame({
        "scanner": scanners, "bias": mean, "bias_q05": mean - Z90 * sd, "bias_q95": mean + Z90 * sd,
        "prior": from_data < MOSTLY_PRIOR,
    })  # fmt: skip
    rows = table.rename(columns={"bias": "value", "bias_q05": "low", "bias_q95": "high"})
    rows["told"] = [told(*row) for row in rows[["value", "low", "high"]].itertuples(index=False)]
    y = name("scanner", None, axis={"ticks": False, "domain": False})
    shared = {"y": y, "opacity": opacity(True), "color": {"value": BEFORE}, "tooltip": tips(scanner="scanner", told="bias")}
    title = "Bias, sd of the feature"
    layers = [
        {"mark": {"type": "rule", "strokeDash": [4, 3], "opacity": 0.6}, "encoding": {"x": {"datum": 0}}},
        {"mark": {"type": "rule", "strokeWidth": 3},
         "encoding": shared | {"x": quantity("low", title), "x2": {"field": "high"}}},
        {"mark": {"type": "point", "filled": True, "size": 70, "opacity": 1},
         "encoding": shared | {"x": quantity("value", title)}},
    ]  # fmt: skip
    largest = int(np.nanargmax(np.abs(mean)))
    return Chart(
        spec(records(rows), layers, height=STEP * len(rows)),
        f"Bias of each scanner in the chosen feature (first shown: {feature}), with 90% intervals, in sd of the "
        "feature. Pale: more prior than data.",
        f"Points with intervals of the bias of {len(scanners)} scanners in {feature}; largest: {scanners[largest]}, "
        f"{short(mean[largest])} sd.",
        table.drop(columns="prior"),
        live="bias",
    )


def regions_chart(table: pd.DataFrame, mean: float, what: str, units: str) -> Chart:
    """Draw the regions in whose edges effects are largest, and the mean over all features."""
    shown = table[["finite_sd", "finite_sd_q05", "finite_sd_q95"]].head(MAX_REGIONS).rename_axis("region")
    subset = f" ({MAX_REGIONS} of {len(table)})" if len(table) > MAX_REGIONS else ""
    return Chart(
        interval_rows(shown, "finite_sd", "Sd of the effects", BEFORE, zero=False, reference=mean),
        f"Regions with the largest {what}{subset}: standard deviation of the effects, mean over a region's edges, in "
        f"{units}, with 90% intervals. Dashed: mean over all features. The axis does not start at 0.",
        f"Points with intervals of regions; largest: {shown.index[0]}, {told(*shown.iloc[0])}; mean {short(mean)}.",
        table[["finite_sd", "finite_sd_q05", "finite_sd_q95"]].rename_axis("region").reset_index(),
    )


def networks_chart(table: pd.DataFrame, what: str, units: str) -> Chart:
    """Draw the size of effects within and between networks."""
    values = table.to_numpy(float)
    mean = float(np.nanmean(values))
    limits = min(float(np.nanmin(values)), 0.9 * mean), max(float(np.nanmax(values)), 1.1 * mean)
    pair = table.stack().idxmax()
    return Chart(
        matrix(table, "Sd of the effects", limits=limits, digits=".3~g", row="network", column="network "),
        f"Size of {what} within and between networks: standard deviation of the effects, mean over edges, in {units}.",
        f"Heat map of {len(table)} networks; largest between {pair[0]} and {pair[1]}, {short(table.loc[pair])}.",
        table.rename_axis("network").reset_index(),
    )


def populations_chart(test: PopulationTest) -> Chart:
    """Draw the distribution over features of the evidence for sampling bias, for each diagnosis."""
    families = [str(label) for label in test.families.index]
    factors = {f: test.features[f"log_bayes_factor_{f}"].clip(-MAX_LOG_FACTOR, MAX_LOG_FACTOR) for f in families}
    limit = max(1.0, max(float(values.abs().max()) for values in factors.values()))
    edges = np.linspace(-limit, limit, 41)
    rows = []
    for family, values in factors.items():
        counts, _ = np.histogram(values, edges)
        rows += [{"family": family, "x": (a + b) / 2, "share": c / len(values)}
                 for a, b, c in zip(edges[:-1], edges[1:], counts, strict=True)]  # fmt: skip
    table = pd.DataFrame(rows)
    layers = [
        {"mark": {"type": "rule", "strokeDash": [4, 3]}, "encoding": {"x": {"datum": 0}}},
        {"mark": {"type": "line", "interpolate": "step", "strokeWidth": 2},
         "encoding": {"x": quantity("x", "Log Bayes factor (right: for sampling bias)"),
                      "y": quantity("share", "Share of features", axis={"format": ".0%"}),
                      "color": {"field": "family", "type": "nominal", "title": None, "sort": None},
                      "strokeDash": {"field": "family", "type": "nominal", "sort": None, "title": None},
                      "tooltip": [*tips(family="family"), quantity("x", "log Bayes factor", format=".2f"),
                                  quantity("share", "share of features", format=".1%")]}},
    ]  # fmt: skip
    together = test.families.loc[ALL, "probability"] if ALL in test.families.index else test.families["probability"].iloc[-1]
    return Chart(
        spec(records(table), layers, height=200),
        "Evidence for sampling bias in each feature: distribution of the log Bayes factor over features. "
        + (f"Outermost bins: beyond ±{MAX_LOG_FACTOR:.0f}." if limit == MAX_LOG_FACTOR else ""),
        f"Distribution of log Bayes factors over {len(test.features):,} features; several populations with probability "
        f"{together:.2f} for all diagnoses together.",
        test.families.reset_index(),
    )
