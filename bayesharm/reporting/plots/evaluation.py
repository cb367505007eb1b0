"""Figure of an evaluation: measures of all methods on held-out scans."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bayesharm.evaluation.result import BAYESHARM, Evaluation
from bayesharm.reporting.palette import COLORS
from bayesharm.reporting.plots.style import ROW, Axes, Figure, mark_preview, name_rows, new_figure, styled

TITLES = {
    "share_removed": "Scanner differences removed",
    "icc": "Intraclass correlation (ICC)",
    "identification": "People identified across scanners",
    "scanner_accuracy": "Scanner identified by a classifier",
    "prediction_rmse": "Error, scans of new people (sd)",
    "visit_rmse": "Error, held-out visits (sd)",
}
DIRECTIONS = {"share_removed": "1 is ideal", "icc": "more is better", "identification": "more is better"}
MIN_SHARE_REMOVED = -1.5  # smaller values, of methods that add variation, are drawn as arrows


@styled
def plot_evaluation(evaluation: Evaluation) -> Figure:
    """Draw each measure of each method with its standard error over people; dashed: value by chance.

    Parameters
    ----------
    evaluation : Evaluation
    """
    table = evaluation.measures
    measures = [name for name in TITLES if name in table.index.get_level_values("measure")]
    methods = list(dict.fromkeys(str(method) for name in measures for method in table.loc[name].index))
    n_rows = (len(measures) + 1) // 2
    figure = new_figure((0.9 + ROW * len(methods)) * n_rows)
    axes = np.atleast_1d(figure.subplots(n_rows, 2, sharey=True)).reshape(-1)
    name_rows(axes[0], methods)
    for ax, name in zip(axes, measures, strict=False):
        _draw_measure(ax, table.loc[name].reindex(methods), name)
    for ax in axes[len(measures) :]:
        ax.set_axis_off()
    figure.supxlabel("Bars: standard errors over people. Dashed: value by chance.", fontsize=8)
    if evaluation.about["preview"]:
        mark_preview(figure, "PREVIEW: fits of bayesharm are approximate")
    return figure


def _draw_measure(ax: Axes, table: pd.DataFrame, name: str) -> None:
    rows = np.arange(len(table))
    is_bayesharm = np.array([str(method).startswith(BAYESHARM) for method in table.index])
    for subset, color in ((is_bayesharm, COLORS["measurement"]), (~is_bayesharm, COLORS["noise"])):
        values, errors = table.value[subset], table.se[subset]
        ax.errorbar(values, rows[subset], xerr=errors, fmt="o", color=color, markersize=5, elinewidth=2)
    if table.chance.notna().any():
        ax.axvline(table.chance.mean(), color="black", linestyle="--", linewidth=0.8)
    if name == "share_removed":
        low, high = ax.get_xlim()
        ax.set_xlim(max(low, MIN_SHARE_REMOVED), max(high, 0.0))
        for row in np.flatnonzero(table.value < MIN_SHARE_REMOVED):
            ax.annotate(f"\u2190 {table.value.iloc[row]:.1f}", (MIN_SHARE_REMOVED, row), (3, 0),
                        textcoords="offset points", va="center", fontsize=7.5)  # fmt: skip
    ax.set_title(TITLES[name], fontsize=9)
    ax.set_xlabel(DIRECTIONS.get(name, "less is better"), fontsize=8)
