"""Figures of the sources of variation: their sizes, contributions and order, and their scales before and after the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from bayesharm.analysis.variance_shares import variance_shares
from bayesharm.errors import RunFolderError
from bayesharm.model.labels import NOISE_RATIO
from bayesharm.reporting.palette import OTHERS, family_colors
from bayesharm.reporting.plots.style import (
    DIVERGING,
    axes_for,
    draw_matrix,
    draw_sizes,
    finish,
    name_rows,
    new_figure,
    styled,
)
from bayesharm.reporting.run_view import RunView, as_run_view
from bayesharm.results.posterior import Posterior

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

N_POINTS = 300  # points of a density curve


@styled
def plot_sources(run: Posterior | RunView, ax: Axes | None = None) -> Figure:
    """Draw the sizes of the effects of each source: the mean with its 90% interval, and the range over features.

    Parameters
    ----------
    run : Posterior or RunView
    ax : Axes, optional

    Raises
    ------
    RunFolderError
        The run is a preview.
    """
    view = as_run_view(run)
    table = view.variance_components.families.dropna(subset="finite_sd").sort_values("finite_sd", ascending=False)
    values_by_family = [view.variance_components.features[f"finite_sd_{name}"].dropna().to_numpy() for name in table.index]
    ax = axes_for(ax, 1.7 * len(table))
    colors = family_colors(list(table.index), view.scales)
    limit = 0.0
    for row, (name, values, color) in enumerate(zip(table.index, values_by_family, colors, strict=True)):
        mean, low, high = (table.loc[name, f"finite_sd{end}"] for end in ("", "_q05", "_q95"))
        ax.barh(row, mean, 0.4, color=color, alpha=0.55)
        ax.plot([low, high], [row, row], color="black", lw=2, solid_capstyle="butt")
        ax.plot(mean, row, "|", color="black", ms=9, gid=name)
        few, many = np.quantile(values, (0.05, 0.95))
        ax.plot([few, many], [row + 0.33, row + 0.33], color="0.6", lw=1, marker="|", ms=4)
        limit = max(limit, high, many)
        _note(ax, f"{mean:#.3g} ({low:#.3g} to {high:#.3g})", row)
    name_rows(ax, [_in_two_lines(name) for name in table.index])
    ax.set_xlim(0, 1.35 * limit)
    ax.set_title("Size of each source of variation")
    n_features = view.variance_components.about["n_features"]
    ax.set_xlabel(
        f"Standard deviation of the effects ({view.units})\n"
        f"Bars and numbers: mean over {n_features:,} features, 90% interval.\n"
        f"Thin lines: single features, from 5 to 95% of them{_on_tails(view)}"
    )
    return finish(ax.figure, view)


def _on_tails(view: RunView) -> str:
    return "\nNoise: of good values, without the tails" * view.posterior.spec.has_tails


def _in_two_lines(name: str) -> str:
    return str(name).replace("_", "\n", 1)


@styled
def plot_contributions(run: Posterior | RunView, ax: Axes | None = None) -> Figure:
    """Draw the share of each source in the variance of a scan, as one bar of 100%.

    Parameters
    ----------
    run : Posterior or RunView
    ax : Axes, optional
    """
    view = as_run_view(run)
    shares = 100 * variance_shares(view.posterior)
    ax = axes_for(ax, 3)
    start = 0.0
    for (name, share), color in zip(shares.items(), family_colors(list(shares.index)), strict=True):
        ax.barh(0, share, 0.8, start, color=color, label=f"{name} {share:.1f}%", edgecolor="white")
        start += share
    ax.set(xlim=(0, 100), yticks=[], title="Contribution to variation between scans")
    ax.set_xlabel(f"Share of the variance of a scan (%): posterior means, averaged over features{_on_tails(view)}")
    ax.figure.legend(*ax.get_legend_handles_labels(), loc="outside lower left", ncols=3)
    return finish(ax.figure, view)


@styled
def plot_order(run: Posterior | RunView, ax: Axes | None = None) -> Figure:
    """Draw the probability that one source is larger than another, in the mean over features.

    Parameters
    ----------
    run : Posterior or RunView
    ax : Axes, optional

    Raises
    ------
    RunFolderError
        The run is a preview.
    """
    view = as_run_view(run)
    families = view.variance_components.families["finite_sd"].dropna().sort_values(ascending=False).index
    table = view.variance_components.larger.loc[families, families].mask(np.eye(len(families), dtype=bool))
    ax = axes_for(ax, 1.6 * len(table))
    draw_matrix(ax, table, "Probability", _short_probability, (0, 1), DIVERGING)
    ax.set_title("Which source is larger")
    ax.set_ylabel("Effects of this source …")
    ax.set_xlabel("… are larger than those of this one, in the mean over features")
    return finish(ax.figure, view)


def _short_probability(value: float) -> str:
    return "> .999" if value > 0.999 else "< .001" if value < 0.001 else f"{value:.3f}"


@styled
def plot_ranking(run: Posterior | RunView) -> Figure:
    """Draw the components of measurement bias, largest first: sizes with 90% intervals, and the probability of each rank.

    Parameters
    ----------
    run : Posterior or RunView

    Raises
    ------
    RunFolderError
        The run has no protocol factors, or is a preview.
    """
    view = as_run_view(run)
    ranking = view.variance_components.ranking
    if ranking is None:
        raise RunFolderError(
            "This run has no protocol factors to rank.",
            got=f"the model {view.posterior.spec.name!r}",
            expected="a model with protocol factors",
            do="choose another plot, or fit such a model",
        )
    figure = new_figure(1.6 + 0.4 * len(ranking))
    left, right = figure.subplots(1, 2)
    draw_sizes(left, ranking, "rms", OTHERS[0])
    left.set_title("Components of bias, largest first")
    left.set_xlabel(f"Sd of the effects, rms over features,\n90% interval ({view.units})")
    ranks = ranking.filter(like="rank_").rename(columns=lambda name: name.removeprefix("rank_"))
    draw_matrix(right, ranks, "Probability", "{:.2f}".format, (0, 1))
    right.set_yticks([])
    right.set_xlabel("Rank")
    return finish(figure, view)


@styled
def plot_scales(run: Posterior | RunView, families: Sequence[str] | None = None) -> Figure:
    """Draw prior and posterior of the hyperparameters: the typical scale exp(eta), and the spread omega over features.

    Parameters
    ----------
    run : Posterior or RunView
    families : sequence of str, optional
        By default those of sampling bias; all if the model has none.

    Raises
    ------
    RunFolderError
        The run has no such family.
    """
    view = as_run_view(run)
    spec, hyper = view.posterior.spec, view.posterior.hyper
    names = [
        str(name) for name, term in zip(hyper["family"].values, hyper["term"].values, strict=True) if term != NOISE_RATIO
    ]
    by_population = {family.name for family in spec.families if family.by == "population"}
    chosen = list(families or [name for name in names if view.scales[name].family in by_population] or names)
    if missing := [name for name in chosen if name not in names]:
        raise RunFolderError(
            f"This run has no scale {missing[0]!r}.", expected=f"one or more of {', '.join(names)}", do="choose among these"
        )
    figure = new_figure(1.5 + 0.75 * len(chosen))
    left, right = figure.subplots(1, 2, sharey=True)
    medians = {family.name: family.prior_median for family in spec.families} | {"noise": spec.noise_scale}
    priors = spec.priors
    for row, (name, color) in enumerate(zip(chosen, family_colors(chosen, view.scales), strict=True)):
        draws = hyper.sel(family=name)
        median = medians[view.scales[name].family]
        log_typical = draws["eta"].values.reshape(-1)
        x = np.log(median) + priors.eta_sd * np.linspace(-2.6, 2.6, N_POINTS)
        prior = stats.norm.pdf(x, np.log(median), priors.eta_sd)
        _draw_distributions(left, np.exp(x), prior, log_typical, np.exp, row, color)
        x = np.linspace(priors.omega_floor, 2.6 * priors.omega_sd, N_POINTS)[1:]
        excess = np.sqrt(x**2 - priors.omega_floor**2)
        prior = stats.halfnorm.pdf(excess, scale=priors.omega_sd)
        _draw_distributions(right, x, prior, draws["omega"].values.reshape(-1), lambda omega: omega, row, color)
    name_rows(left, [_in_two_lines(name) for name in chosen])
    left.set_ylim(len(chosen) - 0.6, -1.05)
    left.set_xscale("log")
    left.set_xlabel("Typical scale, exp(eta), in sd of a feature")
    right.set_xlabel("Spread: sd of log-scales over features, omega")
    left.xaxis.set_major_formatter("{x:g}")
    right.set_xlim(0)
    left.set_title("Scales before and after the data")
    left.plot([], [], color="0.5", ls="--", label="prior")
    left.fill_between([], [], color="0.5", alpha=0.7, lw=0, label="posterior; numbers: median and 90% interval")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return finish(figure, view)


def _draw_distributions(
    ax: Axes,
    x: np.ndarray,
    prior: np.ndarray,
    draws: np.ndarray,
    transform: Callable[[np.ndarray], np.ndarray],
    row: int,
    color: str,
) -> None:
    """Draw a prior density as a line and the density of transformed draws as a shape, both as high as the row."""
    ax.plot(x, row - 0.8 * prior / prior.max(), color="0.5", ls="--", lw=1)
    low, median, high = np.quantile(draws, (0.05, 0.5, 0.95))
    if draws.std() > 0:
        grid = np.linspace(draws.min(), draws.max(), N_POINTS)
        height = stats.gaussian_kde(draws)(grid)
        ax.fill_between(transform(grid), row, row - 0.8 * height / height.max(), color=color, alpha=0.7, lw=0)
    ax.axhline(row, color="0.8", lw=0.8, zorder=0)
    _note(ax, f"{transform(median):#.2g} ({transform(low):#.2g} to {transform(high):#.2g})", row - 0.8)


def _note(ax: Axes, text: str, row: float) -> None:
    ax.annotate(text, (1, row), xycoords=("axes fraction", "data"), ha="right", va="center", fontsize=8)
