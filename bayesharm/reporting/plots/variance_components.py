"""Plots of the sources of differences: how large each is, what it contributes, and what was believed before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

from bayesharm.errors import RunFolderError
from bayesharm.reporting.plots.style import (
    DIVERGING,
    OTHERS,
    axes_for,
    colors_of,
    draw_finite_population,
    draw_matrix,
    finish,
    name_rows,
    new_figure,
    styled,
)
from bayesharm.reporting.run_view import RunView, find
from bayesharm.results.posterior import Posterior

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GRID = 300  # points of a curve


@styled
def plot_sources(run: Posterior | RunView, ax: Axes | None = None) -> Figure:
    """Size of the effects of each source: its distribution over features, and the mean with its 90% interval.

    Parameters
    ----------
    run : Posterior or Findings
    ax : Axes, optional

    Raises
    ------
    RunFolderError
        The run is a preview.
    """
    found = find(run)
    table = found.sources.families.dropna(subset="finite_sd").sort_values("finite_sd", ascending=False)
    sizes = [found.sources.features[f"finite_sd_{name}"].dropna().to_numpy() for name in table.index]
    most = 1.12 * max(np.quantile(values, 0.995) for values in sizes)
    ax = axes_for(ax, 2.2 * len(table))
    for row, (name, values, color) in enumerate(
        zip(table.index, sizes, colors_of(list(table.index), found.scales), strict=True)
    ):
        _draw_ridge(ax, values, row, most, color)
        mean, low, high = (table.loc[name, f"finite_sd{end}"] for end in ("", "_q05", "_q95"))
        ax.plot([low, high], [row, row], color="black", lw=3, solid_capstyle="butt")
        ax.plot(mean, row, "o", color="white", mec="black", ms=5, gid=name)
        _note(ax, f"{mean:#.3g} ({low:#.3g} to {high:#.3g})", row - 0.25)
    name_rows(ax, [_readable(name) for name in table.index])
    ax.set_ylim(len(table) - 0.55, -0.95)
    ax.set_xlim(0, most)
    ax.set_title("Size of each source of differences")
    n = found.sources.about["n_features"]
    ax.set_xlabel(
        f"Sd of the effects ({found.unit})\n"
        f"hills: posterior means of {n:,} features; points: their mean; numbers: that and its 90% interval"
    )
    return finish(ax.figure, found)


def _draw_ridge(ax: Axes, values: np.ndarray, row: float, most: float, color: str) -> None:
    x = np.linspace(0, most, GRID + 1)[1:]
    if values.std() > 0 and len(values) > 2:
        height = stats.gaussian_kde(np.log(values[:: -(-len(values) // 5000)]))(np.log(x)) / x  # sizes are above 0
        ax.fill_between(x, row, row - 0.8 * height / height.max(), color=color, alpha=0.55, lw=0)
    ax.axhline(row, color=color, lw=0.8, zorder=0)


def _readable(name: str) -> str:
    return str(name).replace("_", "\n", 1)


@styled
def plot_contributions(run: Posterior | RunView, ax: Axes | None = None) -> Figure:
    """What each source contributes to a scan's squares, by level, with 90% intervals; noise is told in words.

    Parameters
    ----------
    run : Posterior or Findings
    ax : Axes, optional

    Raises
    ------
    RunFolderError
        The run is a preview.
    """
    found = find(run)
    families = found.sources.families
    table = 100 * families.drop(index="noise").filter(like="contribution").dropna()
    table = table.sort_values("contribution", ascending=False, kind="stable")
    ax = axes_for(ax, 1.4 * len(table))
    sides = np.abs(table[["contribution_q05", "contribution_q95"]].to_numpy() - table[["contribution"]].to_numpy()).T
    ax.barh(np.arange(len(table)), table["contribution"], 0.65, color=colors_of(list(table.index), found.scales), alpha=0.8,
            xerr=sides, error_kw={"elinewidth": 1.5, "capsize": 3})  # fmt: skip
    for row, (_, size) in enumerate(table.iterrows()):
        ax.annotate(f"{size.contribution:.2f}%", (size.contribution_q95, row), (5, 0), textcoords="offset points",
                    va="center", fontsize=8)  # fmt: skip
    name_rows(ax, [_readable(name) for name in table.index])
    ax.set_xlim(0, 1.12 * table["contribution_q95"].max())
    ax.set_title("Contribution to differences between scans")
    ax.set_xlabel(
        f"Share of a scan's squares, by level (%); mean over features, 90% interval\n"
        f"not shown: noise, {families.loc['noise', 'contribution']:.1%}"
    )
    return finish(ax.figure, found)


@styled
def plot_order(run: Posterior | RunView, ax: Axes | None = None) -> Figure:
    """Probability that one source is larger than another, in the mean over features.

    Parameters
    ----------
    run : Posterior or Findings
    ax : Axes, optional

    Raises
    ------
    RunFolderError
        The run is a preview.
    """
    found = find(run)
    families = found.sources.families["finite_sd"].dropna().sort_values(ascending=False).index
    table = found.sources.larger.loc[families, families].mask(np.eye(len(families), dtype=bool))
    ax = axes_for(ax, 1.6 * len(table))
    draw_matrix(ax, table, "Probability", _probability, (0, 1), DIVERGING)
    ax.set_title("Which is larger")
    ax.set_ylabel("effects of this source")
    ax.set_xlabel("are larger than those of this one, in the mean over features")
    return finish(ax.figure, found)


def _probability(value: float) -> str:
    return "> .999" if value > 0.999 else "< .001" if value < 0.001 else f"{value:.3f}"


@styled
def plot_ranking(run: Posterior | RunView) -> Figure:
    """Protocol factors, largest first: size of each with its 90% interval, and with what probability it has which place.

    Parameters
    ----------
    run : Posterior or Findings

    Raises
    ------
    RunFolderError
        The run has no protocol factors, or is a preview.
    """
    found = find(run)
    ranking: pd.DataFrame | None = getattr(found.sources, "ranking", None)
    if ranking is None:
        raise RunFolderError(
            "This run ranks no protocol factors.",
            got=f"the model {found.posterior.spec.name!r}",
            expected="a model with protocol factors",
            do="leave this plot out, or fit such a model",
        )
    figure = new_figure(1.6 + 0.4 * len(ranking))
    left, right = figure.subplots(1, 2)
    draw_finite_population(left, ranking, "rms", OTHERS[0])
    left.set_title("Protocol factors, largest first")
    left.set_xlabel(f"Sd of the effects: rms over features,\n90% interval ({found.unit})")
    places = ranking.filter(like="rank_").rename(columns=lambda name: name.removeprefix("rank_"))
    draw_matrix(right, places, "Probability", "{:.2f}".format, (0, 1))
    right.set_yticks([])
    right.set_xlabel("Place")
    return finish(figure, found)


@styled
def plot_scales(run: Posterior | RunView, families: Sequence[str] | None = None) -> Figure:
    """What was believed of the scales before the data, and what is known now: their typical size, and their spread.

    Parameters
    ----------
    run : Posterior or Findings
    families : sequence of str, optional
        By default those of sampling bias, or all if there are none.

    Raises
    ------
    RunFolderError
        The run has no such family.
    """
    found = find(run)
    spec, hyper = found.posterior.spec, found.posterior.tree["hyper"].to_dataset()
    there = [str(name) for name in hyper["family"].values]
    by_population = {family.name for family in spec.families if family.grouping == "population"}
    chosen = list(families or [name for name in there if found.scales[name].family in by_population] or there)
    if missing := [name for name in chosen if name not in there]:
        raise RunFolderError(
            f"This run has no scale {missing[0]!r}.", expected=f"of {', '.join(there)}", do="choose among these"
        )
    figure = new_figure(1.5 + 0.75 * len(chosen))
    left, right = figure.subplots(1, 2, sharey=True)
    medians = {family.name: family.prior_median for family in spec.families} | {"noise": spec.noise_scale}
    priors = spec.priors
    for row, (name, color) in enumerate(zip(chosen, colors_of(chosen, found.scales), strict=True)):
        draws = hyper.sel(family=name)
        median = medians[found.scales[name].family]
        log_typical = draws["eta"].values.reshape(-1)
        x = np.log(median) + priors.eta_sd * np.linspace(-2.6, 2.6, GRID)
        _draw_belief(left, np.exp(x), stats.norm.pdf(x, np.log(median), priors.eta_sd), log_typical, np.exp, row, color)
        x = np.linspace(priors.omega_floor, 2.6 * priors.omega_sd, GRID)[1:]
        excess = np.sqrt(x**2 - priors.omega_floor**2)
        prior = stats.halfnorm.pdf(excess, scale=priors.omega_sd)
        _draw_belief(right, x, prior, draws["omega"].values.reshape(-1), lambda omega: omega, row, color)
    name_rows(left, [_readable(name) for name in chosen])
    left.set_ylim(len(chosen) - 0.6, -1.05)
    left.set_xscale("log")
    left.set_xlabel("Typical scale, exp(eta), in sd of a feature")
    right.set_xlabel("Spread of log scales over features, omega")
    left.xaxis.set_major_formatter("{x:g}")
    right.set_xlim(0)
    left.set_title("Scales: before the data and after")
    left.plot([], [], color="0.5", ls="--", label="before (prior)")
    left.fill_between([], [], color="0.5", alpha=0.7, lw=0, label="after (posterior); numbers: median, 90% interval")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return finish(figure, found)


def _draw_belief(ax, x, prior, draws, back, row: int, color: str) -> None:
    """A prior as a line, draws of the posterior as a hill; each as high as the row."""
    ax.plot(x, row - 0.8 * prior / prior.max(), color="0.5", ls="--", lw=1)
    low, middle, high = np.quantile(draws, (0.05, 0.5, 0.95))
    if draws.std() > 0:
        grid = np.linspace(draws.min(), draws.max(), GRID)
        height = stats.gaussian_kde(draws)(grid)
        ax.fill_between(back(grid), row, row - 0.8 * height / height.max(), color=color, alpha=0.7, lw=0)
    ax.axhline(row, color="0.8", lw=0.8, zorder=0)
    _note(ax, f"{back(middle):#.2g} ({back(low):#.2g} to {back(high):#.2g})", row - 0.8)


def _note(ax: Axes, text: str, row: float) -> None:
    ax.annotate(text, (1, row), xycoords=("axes fraction", "data"), ha="right", va="center", fontsize=8)
