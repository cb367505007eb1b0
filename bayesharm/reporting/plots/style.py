"""Style of all figures: colors, axes, points with intervals, matrices with numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from bayesharm.errors import BayesharmError, RunFolderError
from bayesharm.reporting.palette import BEFORE, PALE
from bayesharm.reporting.run_view import RunView
from bayesharm.results.run_folder import refuse_inside_run

try:
    from matplotlib import rc_context
    from matplotlib.axes import Axes as Axes
    from matplotlib.cm import ScalarMappable as ScalarMappable
    from matplotlib.colors import Normalize as Normalize
    from matplotlib.colors import to_rgba
    from matplotlib.figure import Figure as Figure
except ModuleNotFoundError:
    raise BayesharmError(
        "Plots need matplotlib, which is not installed.",
        expected="the optional part 'plots' of bayesharm",
        do="pip install 'bayesharm[plots]'",
    ) from None
WIDTH = 7.2  # inches, the text width of a page
ROW = 0.27  # inches, the height of a row
MAX_NAME = 26  # characters of a label that a figure has room for
MAX_NUMBERED_ROWS = 16  # rows of a matrix up to which numbers in its cells are legible
MAX_FLAT_LABELS = 66  # characters of the longest column label times columns up to which labels are not rotated
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.dpi": 110,
    "savefig.dpi": 220,
    "svg.hashsalt": "bayesharm",  # the same figure gives the same bytes
}
SEQUENTIAL, DIVERGING = "cividis_r", "RdBu_r"
# File formats, and the metadata that each omits so that the same figure gives the same bytes.
FORMATS = {".png": "Software", ".svg": "Date", ".pdf": "CreationDate"}
styled = rc_context(STYLE)  # decorates functions that draw


class ShownFigure(Figure):
    """A figure that notebooks show, whether or not pyplot was imported."""

    def _repr_png_(self) -> bytes:
        data = BytesIO()
        save_figure(self, data)
        return data.getvalue()


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """Return an empty figure outside pyplot; height and width in inches."""
    return ShownFigure(figsize=(width, height), layout="constrained")


@styled
def save_figure(figure: Figure, path: Path | BinaryIO, suffix: str = ".png") -> None:
    """Write a figure; the same figure gives the same bytes.

    Parameters
    ----------
    figure : Figure
    path : Path or file
        A new file.
    suffix : {'.png', '.svg', '.pdf'}

    Raises
    ------
    RunFolderError
        The file exists, would be in a run folder, or cannot be written.
    """
    if isinstance(path, Path):
        refuse_inside_run(path.parent, path)
        try:
            with path.open("xb") as file:
                return save_figure(figure, file, suffix)
        except OSError as error:
            raise RunFolderError(
                f"{path} cannot be written.", got=str(error), expected="a new file", do="choose another --out"
            ) from None
    figure.savefig(path, format=suffix[1:], metadata={FORMATS[suffix]: None})


def axes_for(ax: Axes | None, rows: float) -> Axes:
    """Return these axes, or those of a new figure for a number of rows."""
    return new_figure(1.2 + ROW * rows).subplots() if ax is None else ax


def finish(figure: Any, view: RunView) -> Figure:
    """Return the figure, marked if the run is a preview."""
    if view.is_preview:
        mark_preview(figure)
    return figure


def mark_preview(figure: Any, text: str = "PREVIEW: approximate, nothing was sampled") -> None:
    """Label a figure as a preview."""
    figure.suptitle(text, color=BEFORE, fontsize=9, fontweight="bold")


def draw_intervals(ax: Axes, table: pd.DataFrame, name: str, color: str, faded: Sequence[bool] | None = None) -> None:
    """Draw points with their 90% intervals, the first row on top; some rows pale."""
    rows = np.arange(len(table))
    colors = [to_rgba(color, PALE if is_faded else 1) for is_faded in (faded if faded is not None else [False] * len(table))]
    ax.hlines(rows, table[f"{name}_q05"], table[f"{name}_q95"], colors=colors, lw=2)
    ax.scatter(table[name], rows, color=colors, s=22, zorder=3)
    name_rows(ax, [str(label) for label in table.index])


def readable(name: object) -> str:
    """Cut a long name in the middle, and escape the dollar sign, which would start a formula."""
    text = str(name)
    text = text if len(text) <= MAX_NAME else f"{text[: MAX_NAME // 2]}…{text[-(MAX_NAME // 2) + 1 :]}"
    return text.replace("$", r"\$")


def name_rows(ax: Axes, labels: Sequence[str]) -> None:
    """Label the rows, the first on top."""
    ax.set_yticks(np.arange(len(labels)), [readable(label) if "\n" not in label else label for label in labels])
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)


def draw_sizes(ax: Axes, table: pd.DataFrame, name: str, color: str, faded: Sequence[bool] | None = None) -> None:
    """Draw sizes with 90% intervals and numbers, on an axis from 0 so that small differences look small."""
    draw_intervals(ax, table, name, color, faded)
    largest = table[f"{name}_q95"].max()
    for row, (value, high) in enumerate(zip(table[name], table[f"{name}_q95"], strict=True)):
        ax.annotate(f"{value:#.3g}", (high, row), (5, 0), textcoords="offset points", va="center", fontsize=7.5)
    ax.set_xlim(0, 1.18 * largest)


def color_limits(values: pd.Series | np.ndarray) -> tuple[float, float]:
    """Return the range of the values, widened to at least ±10% of the mean so that small differences stay pale."""
    mean = np.nanmean(values)
    return float(min(np.nanmin(values), 0.9 * mean)), float(max(np.nanmax(values), 1.1 * mean))


def draw_matrix(
    ax: Axes,
    table: pd.DataFrame,
    label: str,
    format_cell: Callable[[float], str] | None = None,
    limits: tuple[float, float] | None = None,
    cmap: str = SEQUENTIAL,
) -> None:
    """Draw a table as a heat map with a color bar, and with numbers in its cells where these are legible."""
    values = table.to_numpy(float)
    low, high = limits or (np.nanmin(values), np.nanmax(values))
    image = ax.imshow(np.ma.masked_invalid(values), cmap=cmap, vmin=low, vmax=high, aspect="auto", interpolation="none")
    ax.set_yticks(np.arange(len(table)), [readable(name) for name in table.index])
    ax.set_xticks(np.arange(table.shape[1]), [readable(name) for name in table.columns])
    ax.tick_params(length=0)
    for side in ax.spines.values():
        side.set_visible(False)
    if table.shape[1] * max(len(str(name)) for name in table.columns) > MAX_FLAT_LABELS:
        slanted = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
        upright = {"rotation": 90, "fontsize": 6}
        for text in ax.get_xticklabels():
            text.set(**(slanted if table.shape[1] <= 30 else upright))
    if format_cell and max(table.shape) <= MAX_NUMBERED_ROWS:
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                red, green, blue, _ = image.cmap(image.norm(value))
                is_light = 0.299 * red + 0.587 * green + 0.114 * blue > 0.55
                color = "black" if is_light else "white"
                ax.text(column, row, format_cell(value), ha="center", va="center", fontsize=7.5, color=color)
    ax.figure.colorbar(image, ax=ax, label=label, fraction=0.04, pad=0.02)
