"""Maps over regions and networks: where in the brain a source of differences is large."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayesharm.errors import BayesharmError
from bayesharm.reporting.plots.style import (
    SEQUENTIAL,
    Normalize,
    ScalarMappable,
    axes_for,
    colors_of,
    draw_finite_population,
    draw_matrix,
    finish,
    new_figure,
    no_narrower,
    styled,
)
from bayesharm.reporting.run_view import RunView, find
from bayesharm.results.posterior import Posterior

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_REGIONS = 20
MOST_EDGES = 100
BELOW_TITLE = (0.0, 0.0, 0.91, 0.9)


@styled
def plot_regions(run: Posterior | RunView, family: str | None = None, ax: Axes | None = None) -> Figure:
    """Regions in whose edges the effects of a family are largest, with 90% intervals, and the mean of all.

    Parameters
    ----------
    run : Findings
        With `edge_table`.
    family : str, optional
        By default that which harmonizing removes, or the largest of its parts.
    ax : Axes, optional

    Raises
    ------
    InputError
        Nothing says which regions a feature joins.
    """
    found = find(run)
    family = family or found.mapped
    table = found.regions(family)
    ax = axes_for(ax, min(len(table), MOST_REGIONS))
    draw_finite_population(ax, table.head(MOST_REGIONS), "finite_sd", colors_of([family], found.scales)[0])
    mean = found.sources.families.loc[family, "finite_sd"]
    ax.axvline(mean, color="0.5", lw=1, ls="--", zorder=0)
    few = f" ({MOST_REGIONS} of {len(table)})" if len(table) > MOST_REGIONS else ""
    ax.set_title(f"Regions with the largest {family} effects{few}")
    ax.set_xlabel(f"Sd of the effects, mean over a region's edges, 90% interval; dashed: mean of all\n({found.unit})")
    return finish(ax.figure, found)


@styled
def plot_networks(run: Posterior | RunView, family: str | None = None, ax: Axes | None = None) -> Figure:
    """Mean size of the effects of a family within networks and between them.

    Parameters
    ----------
    run : Findings
        With `edge_table` and `networks`.
    family : str, optional
        By default that which harmonizing removes, or the largest of its parts.
    ax : Axes, optional

    Raises
    ------
    InputError
        Nothing says which regions a feature joins, or their networks.
    """
    found = find(run)
    family = family or found.mapped
    table = found.networks_of(family)
    ax = axes_for(ax, 1.6 * len(table) + 2)
    draw_matrix(ax, table, f"Sd of the effects ({found.unit})", "{:#.3g}".format, no_narrower(table.to_numpy()))
    ax.set_title(f"{family.capitalize()} effects within networks and between them")
    ax.set_xlabel("Means over edges")
    return finish(ax.figure, found)


@styled
def plot_brain(run: Posterior | RunView, family: str | None = None) -> Figure:
    """Mean size of the effects of a family in each region's edges, on a glass brain.

    Parameters
    ----------
    run : Findings
        With `edge_table` and `coordinates`.
    family : str, optional
        By default that which harmonizing removes, or the largest of its parts.

    Raises
    ------
    InputError
        Nothing says which regions a feature joins, or where they are.
    """
    found = find(run)
    family = family or found.mapped
    places = found.places
    values = found.regions(family).loc[places.index, "finite_sd"]
    low, high = no_narrower(values)
    figure = new_figure(3.1)
    figure.set_layout_engine("none")
    _nilearn().plot_markers(
        values.to_numpy(), places.to_numpy(float), figure=figure, node_size=14, node_cmap=SEQUENTIAL,
        node_vmin=low, node_vmax=high, colorbar=False, axes=BELOW_TITLE,
    )  # fmt: skip
    _explain(figure, f"{family.capitalize()} effects by region: mean sd over a region's edges ({found.unit})", low, high)
    return finish(figure, found)


@styled
def plot_connectome(run: Posterior | RunView, family: str | None = None) -> Figure:
    """The edges with the largest effects of a family, on a glass brain.

    Parameters
    ----------
    run : Findings
        With `edge_table` and `coordinates`.
    family : str, optional
        By default that which harmonizing removes, or the largest of its parts.

    Raises
    ------
    InputError
        Nothing says which regions a feature joins, or where they are.
    """
    found = find(run)
    family = family or found.mapped
    places, ends = found.places, found.ends
    sizes = found.sources.features[f"finite_sd_{family}"].to_numpy()
    place = {name: k for k, name in enumerate(places.index)}
    largest = np.argsort(-np.nan_to_num(sizes), kind="stable")[:MOST_EDGES]
    square = np.zeros((len(places), len(places)))
    for k in largest:
        a, b = place[ends.node_a.iloc[k]], place[ends.node_b.iloc[k]]
        square[a, b] = square[b, a] = sizes[k]
    low, high = no_narrower(sizes[largest])
    figure = new_figure(3.1)
    figure.set_layout_engine("none")
    used = square.any(0)
    _nilearn().plot_connectome(
        square[np.ix_(used, used)], places.to_numpy(float)[used], figure=figure, node_size=8, node_color="0.2",
        edge_cmap=SEQUENTIAL, edge_vmin=low, edge_vmax=high, colorbar=False,
        edge_kwargs={"lw": 1}, axes=BELOW_TITLE,
    )  # fmt: skip
    title = f"The {len(largest)} edges with the largest {family} effects of {len(sizes):,}: sd ({found.unit})"
    _explain(figure, title, low, high)
    return finish(figure, found)


def _explain(figure: Figure, title: str, low: float, high: float) -> None:
    """Title and scale of colors; nilearn's own scale has two digits."""
    figure.text(0.02, 0.97, title, fontsize=10, fontweight="bold", va="top")
    colors = ScalarMappable(Normalize(low, high), SEQUENTIAL)
    figure.colorbar(colors, cax=figure.add_axes((0.915, 0.12, 0.012, 0.7)))


def _nilearn():
    try:
        from nilearn import plotting
    except ModuleNotFoundError:
        raise BayesharmError(
            "Maps of the brain need nilearn, which is not installed.",
            expected="the optional part 'plots' of bayesharm",
            do="pip install 'bayesharm[plots]'",
        ) from None
    return plotting
