"""Figures of which features have sampling bias."""

from __future__ import annotations

import numpy as np

from bayesharm.analysis.population_structure import ALL, PopulationTest
from bayesharm.reporting.plots.style import COLORS, Axes, Figure, axes_for, styled

FURTHEST = 20.0  # log Bayes factors beyond are counted at the ends


@styled
def plot_populations(told: PopulationTest, ax: Axes | None = None) -> Figure:
    """How many features speak for sampling bias of each diagnosis, and how many against it.

    Parameters
    ----------
    told : Populations
    ax : Axes, optional
    """
    families = [str(name) for name in told.families.index]
    factors = [told.features[f"log_bayes_factor_{name}"].clip(-FURTHEST, FURTHEST) for name in families]
    limit = max(1.0, max(float(values.abs().max()) for values in factors))
    edges = np.linspace(-limit, limit, 61)
    ax = axes_for(ax, 10)
    colors = [COLORS["noise" if name == ALL else "sampling"] for name in families]
    styles = ("-", "--", ":", "-.")
    for k, (name, values, color) in enumerate(zip(families, factors, colors, strict=True)):
        share, _ = np.histogram(values, edges)
        probability = told.families.loc[name, "probability"]
        label = f"{name}: several populations with probability {probability:.2f}"
        ax.stairs(share / len(values), edges, color=color, linestyle=styles[k % len(styles)], linewidth=1.6, label=label)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_xlabel(
        "log Bayes factor of each feature: left, it has no sampling bias; right, it has"
        + (f" (beyond ±{FURTHEST:.0f}: at the ends)" if limit == FURTHEST else "")
    )
    ax.set_ylabel("share of features")
    ax.set_ylim(bottom=0)
    ax.legend(loc="upper right", fontsize=8)
    ax.set_title("Which features have sampling bias")
    figure = ax.figure
    if told.about["preview"]:
        figure.suptitle("PREVIEW: nothing was sampled", color="#D55E00", fontsize=9, fontweight="bold")
    return figure  # type: ignore[return-value]
