"""Figures of an evaluation: what methods do for scans that they have not seen."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bayesharm.evaluation.cross_validate import BAYESHARM
from bayesharm.evaluation.result import Evaluation
from bayesharm.reporting.plots.style import COLORS, ROW, Axes, Figure, name_rows, new_figure, styled

TITLES = {
    "share_removed": "Removed of what scanners add",
    "icc": "Intraclass correlation (ICC)",
    "identification": "People found on another scanner",
    "scanner_accuracy": "Scanner found by a classifier",
    "prediction_rmse": "Error of a new person's scan, in sd",
    "visit_rmse": "Error of a visit left out, in sd",
}
LEAST_SHOWN = -1.5
ARROW = {"share_removed": "1 is all of it", "icc": "more is better", "identification": "more is better"}


@styled
def plot_evaluation(found: Evaluation) -> Figure:
    """Each measure of each method with its standard error over people; dashed: by chance.

    Parameters
    ----------
    found : Evaluation
    """
    table = found.measures
    there = [name for name in TITLES if name in table.index.get_level_values("measure")]
    methods = list(dict.fromkeys(str(method) for name in there for method in table.loc[name].index))
    n_rows = (len(there) + 1) // 2
    figure = new_figure((0.9 + ROW * len(methods)) * n_rows)
    axes = np.atleast_1d(figure.subplots(n_rows, 2, sharey=True)).reshape(-1)
    name_rows(axes[0], methods)
    for ax, name in zip(axes, there, strict=False):
        _draw(ax, table.loc[name].reindex(methods), name)
    for ax in axes[len(there) :]:
        ax.set_axis_off()
    figure.supxlabel("Bars: standard errors over people. Dashed: by chance.", fontsize=8)
    if found.about["preview"]:
        figure.suptitle("PREVIEW: bayesharm was not sampled", color="#D55E00", fontsize=9, fontweight="bold")
    return figure


def _draw(ax: Axes, rows: pd.DataFrame, name: str) -> None:
    place = np.arange(len(rows))
    ours = np.array([str(method).startswith(BAYESHARM) for method in rows.index])
    for own, color in ((ours, COLORS["measurement"]), (~ours, COLORS["noise"])):
        ax.errorbar(rows.value[own], place[own], xerr=rows.se[own], fmt="o", color=color, markersize=5, elinewidth=2)
    if rows.chance.notna().any():
        ax.axvline(rows.chance.mean(), color="black", linestyle="--", linewidth=0.8)
    if name == "share_removed":  # with much error a method adds as much as it removes, or many times as much
        low, high = ax.get_xlim()
        ax.set_xlim(max(low, LEAST_SHOWN), max(high, 0.0))
        for row in np.flatnonzero(rows.value < LEAST_SHOWN):
            ax.annotate(f"\u2190 {rows.value.iloc[row]:.1f}", (LEAST_SHOWN, row), (3, 0), textcoords="offset points",
                        va="center", fontsize=7.5)  # fmt: skip
    ax.set_title(TITLES[name], fontsize=9)
    ax.set_xlabel(ARROW.get(name, "less is better"), fontsize=8)
