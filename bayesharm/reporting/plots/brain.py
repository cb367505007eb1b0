"""Maps of the brain: effects of a family by region, network and edge."""

from __future__ import annotations

import re
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bayesharm.errors import BayesharmError
from bayesharm.reporting.palette import family_colors
from bayesharm.reporting.plots.style import (
    SEQUENTIAL,
    Normalize,
    ScalarMappable,
    axes_for,
    color_limits,
    draw_matrix,
    draw_sizes,
    finish,
    new_figure,
    styled,
)
from bayesharm.reporting.run_view import RunView, as_run_view
from bayesharm.results.posterior import Posterior

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_REGIONS = 20  # rows of the figure of regions
MAX_EDGES = 20  # edges of the connectome that a reader can distinguish
MAX_SCENE_NAME = 40  # characters of the name of a region
BELOW_TITLE = (0.0, 0.0, 0.91, 0.87)  # left, bottom, width and height in the figure


@styled
def plot_regions(run: Posterior | RunView, family: str | None = None, ax: Axes | None = None) -> Figure:
    """Draw the regions with the largest effects of a family in their edges, with 90% intervals and the overall mean.

    Parameters
    ----------
    run : RunView
        With `edge_table`.
    family : str, optional
        By default the removed effect, or its largest component.
    ax : Axes, optional

    Raises
    ------
    InputError
        There is no table of edges.
    """
    view = as_run_view(run)
    family = family or view.mapped_effect
    table = view.regions(family)
    ax = axes_for(ax, min(len(table), MAX_REGIONS))
    draw_sizes(ax, table.head(MAX_REGIONS), "finite_sd", family_colors([family], view.scales)[0])
    mean = view.variance_components.families.loc[family, "finite_sd"]
    ax.axvline(mean, color="0.5", lw=1, ls="--", zorder=0)
    subset = f" ({MAX_REGIONS} of {len(table)})" if len(table) > MAX_REGIONS else ""
    ax.set_title(f"Regions with the largest {family} effects{subset}")
    ax.set_xlabel(
        f"Sd of the effects, mean over a region's edges, 90% interval; dashed: mean over all features\n({view.units})"
    )
    return finish(ax.figure, view)


@styled
def plot_networks(run: Posterior | RunView, family: str | None = None, ax: Axes | None = None) -> Figure:
    """Draw the mean size of the effects of a family within and between networks.

    Parameters
    ----------
    run : RunView
        With `edge_table` and `networks`.
    family : str, optional
        By default the removed effect, or its largest component.
    ax : Axes, optional

    Raises
    ------
    InputError
        There is no table of edges or of networks.
    """
    view = as_run_view(run)
    family = family or view.mapped_effect
    table = view.networks_of(family)
    ax = axes_for(ax, 1.6 * len(table) + 2)
    draw_matrix(ax, table, f"Sd of the effects ({view.units})", "{:#.3g}".format, color_limits(table.to_numpy()))
    ax.set_title(f"{family.capitalize()} effects within and between networks")
    ax.set_xlabel("Means over edges")
    return finish(ax.figure, view)


@styled
def plot_brain(run: Posterior | RunView, family: str | None = None) -> Figure:
    """Draw the mean size of the effects of a family in each region's edges, on a glass brain.

    Parameters
    ----------
    run : RunView
        With `edge_table` and `coordinates`.
    family : str, optional
        By default the removed effect, or its largest component.

    Raises
    ------
    InputError
        There is no table of edges or of coordinates.
    """
    view = as_run_view(run)
    family = family or view.mapped_effect
    coordinates = view.region_coordinates
    values = view.regions(family).loc[coordinates.index, "finite_sd"]
    low, high = color_limits(values)
    figure = new_figure(3.1)
    figure.set_layout_engine("none")
    _nilearn().plot_markers(
        values.to_numpy(), coordinates.to_numpy(float), figure=figure, node_size=30, node_cmap=SEQUENTIAL,
        node_vmin=low, node_vmax=high, colorbar=False, axes=BELOW_TITLE,
    )  # fmt: skip
    title, subtitle = (
        f"{family.capitalize()} effects by region",
        f"Sd of the effects, mean over a region's edges ({view.units})",
    )
    _label(figure, title, subtitle, low, high)
    return finish(figure, view)


@styled
def plot_connectome(run: Posterior | RunView, family: str | None = None) -> Figure:
    """Draw the edges with the largest effects of a family on a glass brain.

    Parameters
    ----------
    run : RunView
        With `edge_table` and `coordinates`.
    family : str, optional
        By default the removed effect, or its largest component.

    Raises
    ------
    InputError
        There is no table of edges or of coordinates.
    """
    view = as_run_view(run)
    family = family or view.mapped_effect
    square, coordinates = _largest_edges(view, family)
    low, high = color_limits(square[square > 0])
    figure = new_figure(3.1)
    figure.set_layout_engine("none")
    _nilearn().plot_connectome(
        square, coordinates.to_numpy(float), figure=figure, node_size=8, node_color="0.2", edge_cmap=SEQUENTIAL,
        edge_vmin=low, edge_vmax=high, colorbar=False, edge_kwargs={"lw": 1}, axes=BELOW_TITLE,
    )  # fmt: skip
    title = f"The {np.count_nonzero(square) // 2} of {len(view.edges):,} edges with the largest {family} effects"
    _label(figure, title, f"Sd of the effects ({view.units})", low, high)
    return finish(figure, view)


def connectome_scene(view: RunView) -> str:
    """Return the edges of :func:`plot_connectome` in 3D, to be turned, with the names of their regions.

    The HTML is a page of its own, which needs no network.
    """
    square, coordinates = _largest_edges(view, view.mapped_effect)
    draw, names = _nilearn().view_connectome, [_plain(name) for name in coordinates.index]
    labels = {"node_labels": names} if "node_labels" in signature(draw).parameters else {}  # since nilearn 0.14
    scene = draw(
        square, coordinates.to_numpy(float), edge_cmap=SEQUENTIAL, symmetric_cmap=False, node_color="#333333",
        colorbar_fontsize=12, **labels,
    )  # fmt: skip
    html = re.sub("<link[^>]*>", "", str(scene.html))  # an icon from the network
    return html.replace("$(window).resize(surfaceRelayout);", "")  # fails before the first picture


def _plain(name: str) -> str:
    """Replace signs that could be read as HTML, and invisible ones."""
    return "".join(sign if sign.isprintable() and sign not in "<>&" else "·" for sign in str(name))[:MAX_SCENE_NAME]


def _largest_edges(view: RunView, family: str) -> tuple[np.ndarray, pd.DataFrame]:
    """Return the largest effects of edges, region × region, 0 for all others, and the coordinates of their regions."""
    coordinates, edges = view.region_coordinates, view.edges
    sizes = view.variance_components.features[f"finite_sd_{family}"].to_numpy()
    row = {name: k for k, name in enumerate(coordinates.index)}
    square = np.zeros((len(coordinates), len(coordinates)))
    for k in np.argsort(-np.nan_to_num(sizes), kind="stable")[:MAX_EDGES]:
        a, b = row[edges.node_a.iloc[k]], row[edges.node_b.iloc[k]]
        square[a, b] = square[b, a] = sizes[k]
    has_edge = square.any(0)
    return square[np.ix_(has_edge, has_edge)], coordinates[has_edge]


def _label(figure: Figure, title: str, subtitle: str, low: float, high: float) -> None:
    """Add a title, a subtitle and a color bar: nilearn's own has only two digits."""
    figure.text(0.02, 0.98, title, fontsize=10, fontweight="bold", va="top")
    figure.text(0.02, 0.915, subtitle, fontsize=9, va="top")
    colors = ScalarMappable(Normalize(low, high), SEQUENTIAL)
    figure.colorbar(colors, cax=figure.add_axes((0.915, 0.12, 0.012, 0.7)))


def _nilearn() -> Any:
    try:
        from nilearn import plotting
    except ModuleNotFoundError:
        raise BayesharmError(
            "Maps of the brain need nilearn, which is not installed.",
            expected="the optional part 'plots' of bayesharm",
            do="pip install 'bayesharm[plots]'",
        ) from None
    return plotting
