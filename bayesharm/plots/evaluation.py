"""Figures of an evaluation: what methods do for scans that they have not seen."""

from __future__ import annotations

import numpy as np

from bayesharm.evaluate import OURS, Evaluation
from bayesharm.plots.canvas import COLOURS, ROW, Axes, Figure, name_rows, new_figure, styled

TITLES = {
    "share_removed": "Removed of what scanners add",
    "icc": "Intraclass correlation (ICC)",
    "identification": "People identified on another scanner",
    "scanner_accuracy": "Scanner found by a classifier",
    "prediction_rmse": "Error of a new person's scan, in sd",
    "visit_rmse": "Error of a visit left out, in sd",
}
ARROW = {"share_removed": "more is better", "icc": "more is better", "identification": "more is better"}


@styled
def plot_evaluation(found: Evaluation) -> Figure:
    """Each measure of each method with its standard error over people; dashed: by chance.

    Parameters
    ----------
    found : Evaluation
    """
    table = found.measures
    there = [name for name in TITLES if name in table.index.get_level_values("measure")]
    n_methods = max(len(table.loc[name]) for name in there)
    figure = new_figure((0.9 + ROW * n_methods) * ((len(there) + 1) // 2))
    axes = np.atleast_1d(figure.subplots((len(there) + 1) // 2, 2)).reshape(-1)
    for ax, name in zip(axes, there, strict=False):
        _draw(ax, found, name)
    for ax in axes[len(there) :]:
        ax.set_axis_off()
    if found.about["preview"]:
        figure.suptitle("PREVIEW: bayesharm was not sampled", color="#D55E00", fontsize=9, fontweight="bold")
    return figure


def _draw(ax: Axes, found: Evaluation, name: str) -> None:
    rows = found.measures.loc[name]
    place = np.arange(len(rows))
    ours = np.array([str(method).startswith(OURS) for method in rows.index])
    for own, colour in ((ours, COLOURS["measurement"]), (~ours, COLOURS["noise"])):
        ax.errorbar(rows.value[own], place[own], xerr=rows.se[own], fmt="o", color=colour, markersize=5, elinewidth=2)
    if rows.chance.notna().any():
        ax.axvline(rows.chance.mean(), color="black", linestyle="--", linewidth=0.8)
    name_rows(ax, [str(method) for method in rows.index])
    ax.set_title(TITLES[name], fontsize=9)
    ax.set_xlabel(ARROW.get(name, "less is better"), fontsize=8)
