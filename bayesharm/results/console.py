"""Terminal output that all results share: tables, lists of sentences and number formats, for 80 columns or more."""

from __future__ import annotations

from collections.abc import Iterable
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bayesharm.errors import visible

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

WIDTH = 80  # columns of text output; narrow enough for a small terminal and for an email
SOURCE_DESCRIPTIONS = {
    "measurement": "scanner effect, the same for everybody",
    "sampling": "differences between the people of the sites",
    "site": "scanner and people of a site, not separable",
    "disorder": "diagnosis effect",
    "participant": "differences between people",
    "noise": "variation that no other source explains",
    "scanner": "scanner effect beyond its protocol factors",
}
TEXT_COLUMNS = frozenset({"what it is", "description"})  # columns of words, which are aligned to the left


def as_text(renderable: Any, width: int = WIDTH) -> str:
    """Return a rich object as plain text of so many columns, without colors."""
    from rich.console import Console

    text = StringIO()
    Console(file=text, width=width, color_system=None).print(renderable)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def show(renderable: Any) -> None:
    """Print with colors on a terminal, and as plain text elsewhere."""
    from rich.console import Console

    console = Console(highlight=False)
    if console.is_terminal:
        console.print(renderable)
    else:
        print(renderable)


def show_wide(renderable: Any, width: int = 100) -> None:
    """Print a page that is wider than the other results, in so many columns."""
    from rich.console import Console

    console = Console(highlight=False)
    if console.is_terminal:
        console.print(renderable, width=min(width, console.width))
    else:
        print(as_text(renderable, width))


def make_table(title: str, caption: str, columns: Iterable[str], width: int = WIDTH) -> Table:
    """Return an empty table in the common style: text columns aligned to the left, columns of numbers to the right.

    Text of cells is shown as it is: a scanner may be named ``[/]``.
    """
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    class PlainTable(Table):
        def add_row(self, *cells: Any, **options: Any) -> None:
            texts = (escape(visible(cell)) if isinstance(cell, str) else cell for cell in cells)
            super().add_row(*texts, **options)

    table = PlainTable(
        title=escape(visible(title)),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        caption=escape(visible(caption)) + "\n",
        caption_justify="left",
        caption_style="dim",
        width=width - 2,
    )
    for index, name in enumerate(columns):
        table.add_column(
            escape(visible(name)), justify="left" if index == 0 or name in TEXT_COLUMNS else "right", overflow="fold"
        )
    return table


def bullets(title: str, sentences: Iterable[str]) -> Group:
    """Return a title with a list of sentences below it, or an empty group if there are no sentences."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1))
    for sentence in sentences:
        table.add_row(" -", Text(visible(sentence)))
    return Group(Text(title, "bold"), table, Text("")) if table.row_count else Group()


def format_probability(probability: float) -> str:
    """Format a probability with three decimals; values near 0 and 1 become ``< 0.001`` and ``> 0.999``."""
    return "> 0.999" if probability > 0.999 else "< 0.001" if probability < 0.001 else f"{probability:.3f}"


def format_with_interval(row: pd.Series, name: str, digits: int = 3) -> tuple[str, str]:
    """Format a value and its 90% interval (``name``, ``name_q05``, ``name_q95``) with a fixed number of decimals."""
    low, high = row[f"{name}_q05"], row[f"{name}_q95"]
    return f"{row[name]:.{digits}f}", f"{low:.{digits}f} to {high:.{digits}f}"


def format_significant(row: pd.Series, name: str) -> tuple[str, str]:
    """Format a value and its 90% interval with three significant digits; a missing value becomes two empty cells.

    For values in the units of a feature, whose order of magnitude is not known in advance.
    """
    if np.isnan(row[name]):
        return "", ""
    value, low, high = (f"{row[column]:#.3g}" for column in (name, f"{name}_q05", f"{name}_q95"))
    return value, f"{low} to {high}"
