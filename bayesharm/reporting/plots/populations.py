"""Figure of the evidence for sampling bias in each feature."""

from __future__ import annotations

import numpy as np

from bayesharm.analysis.population_structure import ALL, PopulationTest, two_digits
from bayesharm.reporting.palette import COLORS
from bayesharm.reporting.plots.style import Axes, Figure, axes_for, mark_preview, styled

MAX_LOG_FACTOR = 20.0  # larger log Bayes factors are counted in the outermost bins
N_BINS = 60  # bins of the histogram


@styled
def plot_populations(test: PopulationTest, ax: Axes | None = None) -> Figure:
    """Draw the distribution over features of the log Bayes factor for sampling bias, for each diagnosis.

    Parameters
    ----------
    test : PopulationTest
    ax : Axes, optional
    """
    families = [str(name) for name in test.families.index]
    factors = [test.features[f"log_bayes_factor_{name}"].clip(-MAX_LOG_FACTOR, MAX_LOG_FACTOR) for name in families]
    limit = max(1.0, max(float(values.abs().max()) for values in factors))
    edges = np.linspace(-limit, limit, N_BINS + 1)
    ax = axes_for(ax, 10)
    colors = [COLORS["noise" if name == ALL else "sampling"] for name in families]
    styles = ("-", "--", ":", "-.")
    for k, (name, values, color) in enumerate(zip(families, factors, colors, strict=True)):
        count, _ = np.histogram(values, edges)
        probability = two_digits(test.families.loc[name, "probability"])
        label = f"{name}: several populations with probability {probability}"
        ax.stairs(count / len(values), edges, color=color, linestyle=styles[k % len(styles)], linewidth=1.6, label=label)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_xlabel(
        "Log Bayes factor of a feature: against sampling bias (left), for it (right)"
        + (f"; outermost bins: beyond ±{MAX_LOG_FACTOR:.0f}" if limit == MAX_LOG_FACTOR else "")
    )
    ax.set_ylabel("Share of features")
    ax.set_ylim(0, ax.get_ylim()[1] * (1.1 + 0.08 * len(families)))  # with room for the legend
    ax.legend(loc="upper left", fontsize=8, frameon=True, facecolor="white", edgecolor="none", framealpha=1)
    ax.set_title("Evidence for sampling bias in each feature")
    if test.about["preview"]:
        mark_preview(ax.figure)
    return ax.figure  # type: ignore[return-value]
