"""Figures of a run, made from its run folder alone.

Every function takes a :class:`bayesharm.Posterior`, or :class:`RunView` where tables of regions are needed, and returns a
matplotlib ``Figure``; intervals are 90%.

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
    "PLOTS", "Findings", "draw_plot", "plot_bias", "plot_brain", "plot_connectome", "plot_contributions", "plot_dendrogram",
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
    """One of `PLOTS` by name.

    Raises
    ------
    InputError
        There is no such plot; the message lists those there are.
    """
    if name not in PLOTS:
        raise InputError(
            f"There is no plot {name!r}.", expected=f"one of {', '.join(PLOTS)}, or all", do="choose one of these"
        )
    return PLOTS[name](run, **options)


def possible_plots(found: RunView) -> list[str]:
    """Names of the plots for which the run and the tables have what is needed."""
    needs = {
        "sources": not found.posterior.preview_notice,
        "contributions": not found.posterior.preview_notice,
        "order": not found.posterior.preview_notice,
        "ranking": not found.posterior.preview_notice and getattr(found.sources, "ranking", None) is not None,
        "bias": len(found.posterior.scanners) > 1,
        "distance": len(found.posterior.scanners) > 1,
        "dendrogram": len(found.posterior.scanners) > 1,
        "regions": found.edge_table is not None and not found.posterior.preview_notice,
        "networks": found.networks is not None and not found.posterior.preview_notice,
        "brain": found.edge_table is not None and found.coordinates is not None and not found.posterior.preview_notice,
        "connectome": found.edge_table is not None and found.coordinates is not None and not found.posterior.preview_notice,
    }
    return [name for name in PLOTS if needs.get(name, True)]
