"""Figures of scanners: bias and noise, bias in each feature, distances between scanners and their tree."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import average, leaves_list

from bayesharm.reporting.palette import AFTER, family_colors
from bayesharm.reporting.plots.style import (
    DIVERGING,
    ROW,
    axes_for,
    draw_intervals,
    draw_matrix,
    draw_sizes,
    finish,
    new_figure,
    readable,
    styled,
)
from bayesharm.reporting.run_view import RunView, as_run_view
from bayesharm.reporting.words import MOSTLY_PRIOR, shorten_names
from bayesharm.results.posterior import Posterior

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_FEATURES = 300  # columns of a matrix that a reader can distinguish
MAX_FEATURE_NAMES = 70  # columns that have room for names
MIN_SUPPORT = 0.5  # support from which a group is labeled
PALE_MEANS = "\npale: more prior than data"
CUT_AXIS = 0.8  # ratio of the first to the last merge from which the axis of a tree does not start at 0
LABEL_BOX = {"facecolor": "white", "edgecolor": "none", "pad": 0.4, "alpha": 0.8}
RATIO_TICKS = (0.1, 0.2, 0.3, 0.5, 0.65, 0.8, 1, 1.25, 1.5, 2, 3, 5, 10)


@styled
def plot_scanners(run: Posterior | RunView) -> Figure:
    """Draw the bias of each scanner, largest first, its noise variance ratio and, if estimated, its gain.

    Intervals are 90%.

    Parameters
    ----------
    run : Posterior or RunView
    """
    view = as_run_view(run)
    table = view.scanners
    figure = new_figure(1.2 + ROW * len(table))
    left, *others = figure.subplots(1, 2 + ("gain" in table), sharey=True)
    faded = list(view.summary.scanners.loc[table.index, "from_data"] < MOSTLY_PRIOR)
    draw_sizes(left, table, "rms", family_colors([view.removed_effect])[0], faded)
    left.set_title("Scanners, largest bias first")
    left.set_xlabel(f"Bias and its uncertainty, rms over features\n90% interval ({view.units}){PALE_MEANS * any(faded)}")
    panels = (("noise_ratio", "noise", "Noise", "Noise variance ratio (lambda)"), ("gain", "participant", "Gain", "Gain"))
    for ax, (ratio, family, title, label) in zip(others, panels, strict=False):
        draw_intervals(ax, table, ratio, family_colors([family])[0])
        ax.set_xscale("log")
        low, high = ax.get_xlim()
        ax.set_xlim(min(low, 0.75), max(high, 1.33))
        ax.set_xticks([x for x in RATIO_TICKS if ax.get_xlim()[0] <= x <= ax.get_xlim()[1]])
        ax.set_xticks([], minor=True)
        ax.xaxis.set_major_formatter("{x:g}")
        ax.axvline(1, color="0.7", lw=0.8, zorder=0)
        ax.set_title(title)
        ax.set_xlabel(f"{label}\n90% interval (average scanner: 1)")
    return finish(figure, view)


@styled
def plot_bias(run: Posterior | RunView, ax: Axes | None = None) -> Figure:
    """Draw the posterior mean bias of each scanner in each feature; of many features, those with the largest bias.

    Scanners and features are in the order of their trees: similar ones are next to each other.

    Parameters
    ----------
    run : Posterior or RunView
    ax : Axes, optional
    """
    view = as_run_view(run)
    bias = view.bias.dropna(axis=1)
    n_features = bias.shape[1]
    largest = np.argsort(-(bias.to_numpy() ** 2).mean(0), kind="stable")[:MAX_FEATURES]
    shown = bias.iloc[:, np.sort(largest)]
    if shown.shape[1] > 2:
        shown = shown.iloc[:, leaves_list(average(shown.T.to_numpy()))]
    if len(shown) > 2:
        shown = shown.iloc[leaves_list(view.similarity.linkage)]
    has_names = shown.shape[1] <= MAX_FEATURE_NAMES
    limit = np.quantile(np.abs(shown), 0.99)
    ax = axes_for(ax, len(shown) + (6 if has_names else 3))
    shown.columns = pd.Index(shorten_names([str(name) for name in shown.columns]))
    draw_matrix(ax, shown, f"Bias ({view.units})", limits=(-limit, limit), cmap=DIVERGING)
    if not has_names:
        ax.set_xticks([])
    subset = f"the {shown.shape[1]} of {n_features:,} features with the largest bias"
    ax.set_title(f"Bias of each scanner in {subset if shown.shape[1] < n_features else 'all features'}")
    ax.set_xlabel("Features, similar ones next to each other. Posterior means; white: mean of the scanners")
    return finish(ax.figure, view)


@styled
def plot_distance(run: Posterior | RunView, ax: Axes | None = None) -> Figure:
    """Draw the distances between the bias maps of scanners, similar scanners next to each other.

    Parameters
    ----------
    run : Posterior or RunView
    ax : Axes, optional

    Raises
    ------
    RunFolderError
        The run has a single scanner.
    """
    view = as_run_view(run)
    table = view.similarity.matrix("distance")
    order = leaves_list(view.similarity.linkage)
    table = table.iloc[order, order]
    high = np.nanmax(table)
    digits = max(0, 2 - int(np.floor(np.log10(high))))
    ax = axes_for(ax, 1.2 * len(table))
    draw_matrix(ax, table, f"Distance ({view.units})", lambda value: f"{value:.{digits}f}")
    ax.set_facecolor("0.85")  # of the diagonal
    ax.set_title("Distance between scanners")
    ax.set_xlabel("Root mean square difference of bias over features, posterior mean")
    return finish(ax.figure, view)


@styled
def plot_dendrogram(run: Posterior | RunView, ax: Axes | None = None) -> Figure:
    """Draw the tree of scanners by average linkage, and the share of posterior draws that support each group.

    Parameters
    ----------
    run : Posterior or RunView
    ax : Axes, optional

    Raises
    ------
    RunFolderError
        The run has a single scanner.
    """
    view = as_run_view(run)
    similarity = view.similarity
    tree, names = similarity.linkage, similarity.scanners
    order = leaves_list(tree)
    ax = axes_for(ax, 1.3 * len(names))
    position = {int(leaf): (0.0, float(row)) for row, leaf in enumerate(order)}
    for k, (first, second, distance, _) in enumerate(tree):
        (x1, y1), (x2, y2) = position[int(first)], position[int(second)]
        ax.plot([x1, distance, distance, x2], [y1, y1, y2, y2], color="0.25", lw=1.3)
        position[len(names) + k] = (distance, (y1 + y2) / 2)
        support = similarity.splits["support"].iloc[k]
        if k < len(tree) - 1 and support >= MIN_SUPPORT:  # the last group holds all scanners
            ax.annotate(f"{support:.0%}", (distance, (y1 + y2) / 2), (4, 2), textcoords="offset points", ha="left",
                        va="bottom", fontsize=7.5, color=AFTER, bbox=LABEL_BOX)  # fmt: skip
    ax.set_yticks(range(len(names)), [readable(names[leaf]) for leaf in order])
    ax.set_ylim(len(names) - 0.5, -0.7)
    first, last = tree[0, 2], tree[-1, 2]
    cut = CUT_AXIS * last < first < last
    ax.set_xlim(max(0, first - 0.6 * (last - first)) if cut else 0, last + 0.02 * (last - first if cut else last))
    ax.tick_params(axis="y", length=0)
    ax.set_title("Similarity of scanners")
    note = f"\nTHE AXIS DOES NOT START AT 0: all groups join within {1 - first / last:.0%} of the last" if cut else ""
    ax.set_xlabel(
        f"Distance, posterior mean ({view.units}); average linkage\n"
        f"Blue: share of posterior draws whose tree has the group, from {MIN_SUPPORT:.0%}{note}"
    )
    return finish(ax.figure, view)
