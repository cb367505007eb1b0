"""Figures of a run, drawn from its run folder.

Functions take a :class:`bayesharm.Posterior`, or a :class:`RunView` where tables of brain regions are needed, and return a
matplotlib ``Figure``. Intervals are 90%.

>>> plot_sources(posterior).savefig("sources.png")
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bayesharm.errors import InputError
from bayesharm.reporting.plots.brain import plot_brain, plot_connectome, plot_networks, plot_regions
from bayesharm.reporting.plots.evaluation import plot_evaluation
from bayesharm.reporting.plots.populations import plot_populations
from bayesharm.reporting.plots.scanners import plot_bias, plot_dendrogram, plot_distance, plot_scanners
from bayesharm.reporting.plots.style import Figure, save_figure
from bayesharm.reporting.plots.variance_components import (
    plot_contributions,
    plot_order,
    plot_ranking,
    plot_scales,
    plot_sources,
)
from bayesharm.reporting.run_view import RunView
from bayesharm.results.posterior import Posterior

__all__ = [
    "PLOTS", "RunView", "draw_plot", "plot_bias", "plot_brain", "plot_connectome", "plot_contributions", "plot_dendrogram",
    "plot_distance", "plot_evaluation", "plot_networks", "plot_order", "plot_populations", "plot_ranking", "plot_regions",
    "plot_scales", "plot_scanners", "plot_sources", "possible_plots", "save_figure",
]  # fmt: skip

PLOTS: dict[str, Callable[..., Figure]] = {
    "sources": plot_sources,
    "contributions": plot_contributions,
    "order": plot_order,
    "ranking": plot_ranking,
    "scales": plot_scales,
    "scanners": plot_scanners,
    "bias": plot_bias,
    "distance": plot_distance,
    "dendrogram": plot_dendrogram,
    "regions": plot_regions,
    "networks": plot_networks,
    "brain": plot_brain,
    "connectome": plot_connectome,
}


def draw_plot(name: str, run: Posterior | RunView, **options: Any) -> Figure:
    """Draw one of `PLOTS` by name.

    Raises
    ------
    InputError
        There is no such plot; the message lists the names.
    """
    if name not in PLOTS:
        raise InputError(
            f"There is no plot {name!r}.", expected=f"one of {', '.join(PLOTS)}, or all", do="choose one of these"
        )
    return PLOTS[name](run, **options)


def possible_plots(view: RunView) -> list[str]:
    """Return the names of the plots for which the run and the tables suffice."""
    has_components, has_scanners = not view.is_preview, len(view.posterior.scanners) > 1
    has_edges = has_components and view.edge_table is not None
    is_possible = {
        "sources": has_components,
        "order": has_components,
        "ranking": has_components and view.variance_components.ranking is not None,
        "bias": has_scanners,
        "distance": has_scanners,
        "dendrogram": has_scanners,
        "regions": has_edges,
        "networks": has_edges and view.networks is not None,
        "brain": has_edges and view.coordinates is not None,
        "connectome": has_edges and view.coordinates is not None,
    }
    return [name for name in PLOTS if is_possible.get(name, True)]
