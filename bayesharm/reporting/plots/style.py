"""What all plots share: style, colors, axes, points with intervals, matrices with their numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from bayesharm.errors import BayesharmError, RunFolderError
from bayesharm.model.labels import Scale
from bayesharm.reporting.run_view import RunView

try:
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable as ScalarMappable
    from matplotlib.colors import Normalize as Normalize
    from matplotlib.figure import Figure
except ModuleNotFoundError:
    raise BayesharmError(
        "Plots need matplotlib, which is not installed.",
        expected="the optional part 'plots' of bayesharm",
        do="pip install 'bayesharm[plots]'",
    ) from None
WIDTH = 7.2  # inches: that of a page
ROW = 0.27
LONGEST_NAME = 26  # characters that a figure has room for
MOST_NUMBERS = 16  # rows of a matrix in whose cells numbers can be read
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.dpi": 110,
    "savefig.dpi": 130,
    "svg.hashsalt": "bayesharm",  # the same figure, the same bytes
}
# Okabe and Ito's colors, which color-blind people tell apart
COLORS = {
    "measurement": "#D55E00",
    "site": "#D55E00",
    "participant": "#0072B2",
    "sampling": "#009E73",
    "disorder": "#CC79A7",
    "noise": "#7F7F7F",
}
OTHERS = ("#E69F00", "#56B4E9", "#A6761D", "#332288", "#117733")
SEQUENTIAL, DIVERGING = "cividis_r", "RdBu_r"
FORMATS = {".png": "Software", ".svg": "Date", ".pdf": "CreationDate"}  # and what a file must not say, to be the same again
styled = rc_context(STYLE)  # a decorator


def colors_of(families: Sequence[str], scales: Mapping[str, Scale] | None = None) -> list[str]:
    """Of each family one, the same in all plots; scales of one family, which `scales` names, share it."""
    names = [scales[name].family if scales and name in scales else name for name in families]
    others = [name for name in names if name not in COLORS]
    known = COLORS | {name: OTHERS[k % len(OTHERS)] for k, name in enumerate(others)}
    return [known[name] for name in names]


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """A figure that no state of pyplot knows, height and width in inches."""
    return Figure(figsize=(width, height), layout="constrained")


@styled
def save_figure(figure: Figure, path: Path | BinaryIO, suffix: str = ".png") -> None:
    """Write a figure; the same run gives the same bytes.

    Parameters
    ----------
    figure : Figure
    path : Path or file
        A new file.
    suffix : {'.png', '.svg', '.pdf'}

    Raises
    ------
    RunFolderError
        The file exists, or cannot be written.
    """
    if isinstance(path, Path):
        try:
            with path.open("xb") as file:
                return save_figure(figure, file, suffix)
        except OSError as error:
            raise RunFolderError(
                f"{path} cannot be written.", got=str(error), expected="a new file", do="choose another --out"
            ) from None
    figure.savefig(path, format=suffix[1:], metadata={FORMATS[suffix]: None})


def axes_for(ax: Axes | None, rows: float) -> Axes:
    """These axes, or new ones for so many rows."""
    return new_figure(1.2 + ROW * rows).subplots() if ax is None else ax


def finish(figure: Any, found: RunView) -> Figure:
    """The figure, with what must be said of it."""
    if found.posterior.preview_notice:
        figure.suptitle("PREVIEW: nothing was sampled", color="#D55E00", fontsize=9, fontweight="bold")
    return figure


def draw_intervals(ax: Axes, table: pd.DataFrame, name: str, color: str) -> None:
    """Points with their 90% intervals, the first row on top."""
    place = np.arange(len(table))
    sides = np.abs(table[[f"{name}_q05", f"{name}_q95"]].to_numpy() - table[[name]].to_numpy()).T
    ax.errorbar(table[name], place, xerr=sides, fmt="none", ecolor=color, elinewidth=2)
    ax.scatter(table[name], place, color=color, s=22, zorder=3)
    name_rows(ax, [str(label) for label in table.index])


def readable(name: object) -> str:
    """A name as it is, but that a long one is cut in the middle and that nothing in it is taken for a formula."""
    text = str(name)
    text = text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME // 2]}…{text[-(LONGEST_NAME // 2) + 1 :]}"
    return text.replace("$", r"\$")


def name_rows(ax: Axes, labels: Sequence[str]) -> None:
    """Labels of rows, the first on top."""
    ax.set_yticks(np.arange(len(labels)), [readable(label) if "\n" not in label else label for label in labels])
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)


def draw_finite_population(ax: Axes, table: pd.DataFrame, name: str, color: str) -> None:
    """Sizes with their 90% intervals and in numbers; from 0, so that what hardly differs does not look as if it did."""
    draw_intervals(ax, table, name, color)
    most = table[f"{name}_q95"].max()
    for row, (value, high) in enumerate(zip(table[name], table[f"{name}_q95"], strict=True)):
        ax.annotate(f"{value:#.3g}", (high, row), (5, 0), textcoords="offset points", va="center", fontsize=7.5)
    ax.set_xlim(0, 1.18 * most)


def no_narrower(values: pd.Series | np.ndarray) -> tuple[float, float]:
    """Limits of a color scale: those of the values, but so wide that differences of a few percent stay pale."""
    middle = np.nanmean(values)
    return float(min(np.nanmin(values), 0.9 * middle)), float(max(np.nanmax(values), 1.1 * middle))


def draw_matrix(
    ax: Axes,
    table: pd.DataFrame,
    label: str,
    say: Callable[[float], str] | None = None,
    limits: tuple[float, float] | None = None,
    cmap: str = SEQUENTIAL,
) -> None:
    """A table as colors, with a scale of these, and with its numbers where they can be read."""
    values = table.to_numpy(float)
    low, high = limits or (np.nanmin(values), np.nanmax(values))
    image = ax.imshow(np.ma.masked_invalid(values), cmap=cmap, vmin=low, vmax=high, aspect="auto", interpolation="none")
    ax.set_yticks(np.arange(len(table)), [readable(name) for name in table.index])
    ax.set_xticks(np.arange(table.shape[1]), [readable(name) for name in table.columns])
    ax.tick_params(length=0)
    for side in ax.spines.values():
        side.set_visible(False)
    if sum(len(str(name)) for name in table.columns) > 60:
        few = table.shape[1] <= 30
        turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if few else {"rotation": 90, "fontsize": 6}
        for text in ax.get_xticklabels():
            text.set(**turned)
    if say and max(table.shape) <= MOST_NUMBERS:
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                red, green, blue, _ = image.cmap(image.norm(value))
                light = 0.299 * red + 0.587 * green + 0.114 * blue > 0.55
                ax.text(column, row, say(value), ha="center", va="center", fontsize=7.5, color="black" if light else "white")
    ax.figure.colorbar(image, ax=ax, label=label, fraction=0.04, pad=0.02)
