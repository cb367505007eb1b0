"""Plots of scanners: their bias and noise, what they do to each feature, and which of them are alike."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import average, leaves_list

from bayesharm.reporting.plots.style import (
    DIVERGING,
    ROW,
    axes_for,
    colors_of,
    draw_finite_population,
    draw_intervals,
    draw_matrix,
    finish,
    new_figure,
    styled,
)
from bayesharm.reporting.run_view import RunView, find
from bayesharm.results.posterior import Posterior

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_FEATURES = 300  # columns of a matrix that can be told apart
MOST_NAMES = 70
MOST_SUPPORTS = 20
BEHIND = {"facecolor": "white", "edgecolor": "none", "pad": 0.4, "alpha": 0.8}
RATIOS = (0.1, 0.2, 0.3, 0.5, 0.65, 0.8, 1, 1.25, 1.5, 2, 3, 5, 10)


@styled
def plot_scanners(run: Posterior | RunView) -> Figure:
    """Bias of each scanner, largest first, and its noise against the average scanner, with 90% intervals.

    Parameters
    ----------
    run : Posterior or Findings
    """
    found = find(run)
    table = found.scanners
    figure = new_figure(1.2 + ROW * len(table))
    left, right = figure.subplots(1, 2, sharey=True)
    draw_finite_population(left, table, "rms", colors_of([found.removed])[0])
    draw_intervals(right, table, "noise_ratio", colors_of(["noise"])[0])
    right.set_xscale("log")
    low, high = right.get_xlim()
    right.set_xlim(min(low, 0.75), max(high, 1.33))
    right.set_xticks([x for x in RATIOS if right.get_xlim()[0] <= x <= right.get_xlim()[1]])
    right.set_xticks([], minor=True)
    right.xaxis.set_major_formatter("{x:g}")
    right.axvline(1, color="0.7", lw=0.8, zorder=0)
    left.set_title("Scanners, largest bias first")
    right.set_title("Noise of each")
    left.set_xlabel(f"Bias: rms over features, 90% interval\n({found.unit})")
    right.set_xlabel("Variance against the average scanner,\n90% interval")
    return finish(figure, found)


@styled
def plot_bias(run: Posterior | RunView, ax: Axes | None = None) -> Figure:
    """Bias of each scanner in each feature, posterior means; of many features those with the largest bias.

    Scanners and features are in the order of their trees, so that those that are alike are next to each other.

    Parameters
    ----------
    run : Posterior or Findings
    ax : Axes, optional
    """
    found = find(run)
    bias = found.bias.dropna(axis=1)
    n_features = bias.shape[1]
    largest = np.argsort(-(bias.to_numpy() ** 2).mean(0), kind="stable")[:MOST_FEATURES]
    shown = bias.iloc[:, np.sort(largest)]
    if shown.shape[1] > 2:
        shown = shown.iloc[:, leaves_list(average(shown.T.to_numpy()))]
    if len(shown) > 2:
        shown = shown.iloc[leaves_list(found.similarity.linkage)]
    names = shown.shape[1] <= MOST_NAMES
    most = np.quantile(np.abs(shown), 0.99)
    ax = axes_for(ax, len(shown) + (6 if names else 3))
    shown.columns = pd.Index(_tell_apart([str(name) for name in shown.columns]))
    draw_matrix(ax, shown, f"Bias ({found.unit})", limits=(-most, most), cmap=DIVERGING)
    if not names:
        ax.set_xticks([])
    few = f"the {shown.shape[1]} of {n_features:,} features with the largest"
    ax.set_title(f"Bias of each scanner in {few if shown.shape[1] < n_features else 'all features'}")
    ax.set_xlabel("Features, alike ones together. Posterior means; white: as the mean of the scanners")
    return finish(ax.figure, found)


def _tell_apart(names: list[str]) -> list[str]:
    """Names without the words that all of them have."""
    words = [re.split(r"[_./ ]+", name) for name in names]
    common = set.intersection(*map(set, words))
    short = [" ".join(word for word in some if word not in common) for some in words]
    return short if len(set(short)) == len(names) else names


@styled
def plot_distance(run: Posterior | RunView, ax: Axes | None = None) -> Figure:
    """Distance between the bias maps of each two scanners, those that are alike next to each other.

    Parameters
    ----------
    run : Posterior or Findings
    ax : Axes, optional

    Raises
    ------
    RunFolderError
        The run has a single scanner.
    """
    found = find(run)
    table = found.similarity.matrix("distance")
    order = leaves_list(found.similarity.linkage)
    table = table.iloc[order, order]
    high = np.nanmax(table)
    digits = max(0, 2 - int(np.floor(np.log10(high))))
    ax = axes_for(ax, 1.2 * len(table))
    draw_matrix(ax, table, f"Distance ({found.unit})", lambda value: f"{value:.{digits}f}", (0, high))
    ax.set_title("Distance between scanners")
    ax.set_xlabel("Root mean square difference of bias over features, posterior mean")
    return finish(ax.figure, found)


@styled
def plot_dendrogram(run: Posterior | RunView, ax: Axes | None = None) -> Figure:
    """The tree of scanners by average linkage, and the share of posterior draws that have each group too.

    Parameters
    ----------
    run : Posterior or Findings
    ax : Axes, optional

    Raises
    ------
    RunFolderError
        The run has a single scanner.
    """
    found = find(run)
    similarity = found.similarity
    tree, names = similarity.linkage, similarity.scanners
    order = leaves_list(tree)
    ax = axes_for(ax, 1.3 * len(names))
    least = 0.0 if len(names) <= MOST_SUPPORTS else 0.5  # so that numbers do not cover one another
    at = {int(leaf): (0.0, float(row)) for row, leaf in enumerate(order)}
    for k, (first, second, distance, _) in enumerate(tree):
        (x1, y1), (x2, y2) = at[int(first)], at[int(second)]
        ax.plot([x1, distance, distance, x2], [y1, y1, y2, y2], color="0.25", lw=1.3)
        at[len(names) + k] = (distance, (y1 + y2) / 2)
        support = similarity.splits["support"].iloc[k]
        if k < len(tree) - 1 and support >= least:  # the last has all
            ax.annotate(f"{support:.0%}", (distance, (y1 + y2) / 2), (-3, 2), textcoords="offset points", ha="right",
                        va="bottom", fontsize=7.5, color="#0072B2", bbox=BEHIND)  # fmt: skip
    ax.set_yticks(range(len(names)), [names[leaf] for leaf in order])
    ax.set_ylim(len(names) - 0.5, -0.7)
    first, last = tree[0, 2], tree[-1, 2]
    cut = 0.8 * last < first < last
    ax.set_xlim(max(0, first - 0.6 * (last - first)) if cut else 0, last + 0.02 * (last - first if cut else last))
    ax.tick_params(axis="y", length=0)
    ax.set_title("Which scanners measure alike")
    note = f"\nTHE AXIS DOES NOT BEGIN AT 0: all distances are alike within {1 - first / last:.0%}" if cut else ""
    ax.set_xlabel(
        f"Distance, posterior mean ({found.unit}); average linkage\n"
        f"blue: share of posterior draws in whose tree the group is{', from 50%' if least else ''}{note}"
    )
    return finish(ax.figure, found)
