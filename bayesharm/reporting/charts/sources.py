"""Charts of the sources of variation: their shares, their sizes, the ranking of protocol factors, and their scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from bayesharm.model.labels import Scale
from bayesharm.model.spec import Priors
from bayesharm.reporting.charts.base import (
    array,
    color_scale,
    interval_rows,
    matrix,
    quantity,
    records,
    short,
    spec,
    tips,
    told,
)
from bayesharm.reporting.palette import AFTER, OTHERS
from bayesharm.reporting.section import Chart

N_POINTS = 80  # points of a density


def shares_chart(shares: pd.Series, words: Mapping[str, str]) -> Chart:
    """Draw the shares of the sources in the variance of a scan as one bar of 100%."""
    rows = pd.DataFrame({"source": [words[str(label)] for label in shares.index], "share": shares.to_numpy()})
    rows["end"] = rows["share"].cumsum()
    rows["start"] = rows["end"] - rows["share"]
    rows["middle"] = (rows["start"] + rows["end"]) / 2
    rows["told"] = [f"{share:.1%}" for share in rows["share"]]
    rows["label"] = [f"{share:.0%}" if share > 0.05 else "" for share in rows["share"]]
    colors = color_scale(map(str, shares.index)) | {"domain": list(rows["source"])}
    x = quantity("start", "Share of the variance of a scan", axis={"format": ".0%"}, scale={"domain": [0, 1]})
    color = {"field": "source", "type": "nominal", "title": None, "scale": colors, "sort": None}
    layers = [
        {"mark": {"type": "bar", "height": 46},
         "encoding": {"x": x, "x2": {"field": "end"}, "color": color, "tooltip": tips(source="source", told="share")}},
        {"mark": {"type": "text", "fontWeight": "bold", "color": "black"},
         "encoding": {"x": quantity("middle"), "text": {"field": "label"}}},
    ]  # fmt: skip
    return Chart(
        spec(records(rows), layers, height=70),
        "Share of each source in the variance of a scan. The variances are posterior means, averaged over features: the bar "
        "does not show how uncertain the shares are. Noise is that of all scans, those of noisy scanners included. The "
        "shares add up to 100%; covariances between sources are left out.",
        "One bar of 100%: " + ", ".join(f"{row.source} {row.share:.0%}" for row in rows.itertuples()) + ".",
        rows[["source", "share"]],
    )


def sizes_chart(table: pd.DataFrame, words: Mapping[str, str], scales: Mapping[str, Scale], units: str) -> Chart:
    """Draw the size of the effects of each source, mean over features, with its 90% interval."""
    columns = ["finite_sd", "finite_sd_q05", "finite_sd_q95"]
    shown = table[columns].rename(index=lambda label: words[str(label)]).rename_axis("source")
    colors = color_scale(map(str, table.index), scales) | {"domain": list(shown.index)}
    return Chart(
        interval_rows(shown, "finite_sd", "Sd of the effects", colors),
        "Standard deviation of the effects of each source over its levels in this study, mean over features, in "
        f"{units}, with 90% intervals.",
        "Points with intervals: " + "; ".join(f"{label} {told(*row)}" for label, *row in shown.itertuples()) + ".",
        shown.reset_index(),
    )


def ranking_chart(ranking: pd.DataFrame, units: str) -> tuple[Chart, Chart]:
    """Draw the components of measurement bias, and the probability of each rank."""
    shown = ranking[["rms", "rms_q05", "rms_q95"]].rename_axis("component")
    first = shown.index[0]
    ranks = ranking.filter(like="rank_").rename(columns=lambda label: label.removeprefix("rank_"))
    return (
        Chart(
            interval_rows(shown, "rms", "Sd of the effects", OTHERS[0]),
            "Components of measurement bias, largest first: standard deviation of the effects, root mean square over "
            f"features, in {units}, with 90% intervals.",
            f"Points with intervals of {len(shown)} components; largest: {first}, {told(*shown.iloc[0])}.",
            shown.reset_index(),
        ),
        Chart(
            matrix(ranks, "Probability", limits=(0, 1), row="component", column="rank"),
            "Probability that a component has each rank.",
            f"Heat map of the probability of ranks; {first} is first with probability {ranks.iloc[0, 0]:.2f}.",
            ranks.rename_axis("component").reset_index(),
        ),
    )


def prior_chart(hyper: Any, medians: Mapping[str, float], priors: Priors, names: Sequence[str], words: Mapping[str, str],
                scales: Mapping[str, Scale]) -> Chart:  # fmt: skip
    """Draw the prior and the posterior of the typical scale of each source.

    Parameters
    ----------
    hyper : Dataset
        The node `/hyper`.
    medians : mapping
        Prior median of each family.
    priors : Priors
    names : sequence of str
        Scales to draw.
    words : mapping
        Words for each.
    scales : mapping
        Family of each.
    """
    rows, table = [], []
    for row, label in enumerate(names):
        center = np.log(medians[scales[label].family])
        draws = hyper["eta"].sel(family=label).values.reshape(-1)
        x = center + priors.eta_sd * np.linspace(-2.6, 2.6, N_POINTS)
        density = stats.norm.pdf(x, center, priors.eta_sd)
        rows += _curve(words[label], "prior", x, density, row)
        low, median, high = np.quantile(draws, (0.05, 0.5, 0.95))
        if draws.std() > 0:
            first, last = np.quantile(draws, (0.0005, 0.9995))
            x = np.linspace(first, last, N_POINTS)
            rows += _curve(words[label], "posterior", x, stats.gaussian_kde(draws)(x), row)
        z = 1.645 * priors.eta_sd
        table.append((words[label], *np.exp([center, center - z, center + z, median, low, high])))
    columns = ["source", "prior", "prior_q05", "prior_q95", "posterior", "posterior_q05", "posterior_q95"]
    frame = pd.DataFrame(table, columns=columns)
    x = quantity("x", "Typical sd, in sd of a feature", scale={"type": "log", "nice": False})
    height = 46
    labels = [words[label] for label in names]
    y = quantity("y", "", scale={"domain": [len(names) - 0.9, -1.05]}, axis={
        "values": list(range(len(names))), "labelExpr": f"{array(labels)}[datum.value]", "grid": False, "ticks": False,
        "domain": False})  # fmt: skip
    colors = color_scale(names, scales) | {"domain": labels}
    layers = [
        {"mark": {"type": "area", "opacity": 0.75}, "transform": [{"filter": "datum.kind == 'posterior'"}],
         "encoding": {"x": x, "y": y, "y2": {"field": "row", "title": None},
                      "color": {"field": "source", "type": "nominal", "scale": colors, "legend": None}}},
        {"mark": {"type": "line", "strokeDash": [5, 3], "color": "#888888", "strokeWidth": 1.5},
         "transform": [{"filter": "datum.kind == 'prior'"}],
         "encoding": {"x": x, "y": y, "detail": {"field": "source"}, "order": quantity("x")}},
    ]  # fmt: skip
    return Chart(
        spec(records(pd.DataFrame(rows)), layers, height=height * len(names) + 20),
        "Typical standard deviation of each source over features, before the data (dashed) and after (filled). Where "
        "the two agree, the data say little.",
        "; ".join(f"{r.source}: {short(r.posterior)} after the data, {short(r.prior)} before" for r in frame.itertuples())
        + ".",
        frame,
    )


def _curve(source: str, kind: str, x: np.ndarray, density: np.ndarray, row: int) -> list[dict[str, Any]]:
    height = row - 0.8 * density / density.max()
    return [
        {"source": source, "kind": kind, "x": float(np.exp(a)), "y": float(b), "row": row}
        for a, b in zip(x, height, strict=True)
    ]


def histogram(
    values: np.ndarray, title: str, caption: str, alt: str, limit: float | None = None, log: bool = False
) -> Chart:
    """Draw the distribution of a number over features; `limit` is a line."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    if limit is not None:
        low, high = min(low, limit), max(high, limit)
    if log and low > 0:
        edges = np.exp(np.linspace(np.log(low), np.log(high) + 1e-9, 31))
    else:
        edges = np.linspace(low, high + 1e-9 * max(1.0, abs(high)), 31)
    counts, _ = np.histogram(finite, edges)
    table = pd.DataFrame({"from": edges[:-1], "to": edges[1:], "features": counts})
    scale = {"type": "log", "nice": False} if log and low > 0 else {"zero": False}
    layers: list[dict[str, Any]] = [
        {"mark": {"type": "bar", "color": AFTER, "opacity": 0.8},
         "encoding": {"x": quantity("from", title, scale=scale), "x2": {"field": "to"},
                      "y": quantity("features", "Features"), "y2": {"datum": 0},
                      "tooltip": [quantity("from", "from", format=".4g"), quantity("to", "to", format=".4g"),
                                  *tips(features="features")]}},
    ]  # fmt: skip
    if limit is not None:
        layers.append({"mark": {"type": "rule", "strokeDash": [5, 3]}, "encoding": {"x": {"datum": limit}}})
    return Chart(spec(records(table[table.features > 0]), layers, height=150), caption, alt, table)


def named_rows(table: pd.DataFrame, words: Mapping[str, str]) -> pd.DataFrame:
    """Return a table by family, with words for the families."""
    return table.rename(index=lambda label: words.get(str(label), str(label))).rename_axis("source")
