"""Tables and sentences of a summary, for a terminal or a text file of 80 columns or more."""

from __future__ import annotations

from collections.abc import Iterable
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

MEANING = {
    "measurement": "what a scanner does to everybody",
    "sampling": "how the people of a site differ",
    "site": "scanner and people of a site together",
    "disorder": "what a diagnosis does",
    "participant": "how people differ",
    "noise": "what changes from scan to scan",
    "scanner": "what protocol factors leave of measurement",
}


def as_text(thing: Any) -> str:
    """What would be on a terminal of 80 columns, without colors."""
    from rich.console import Console

    text = StringIO()
    Console(file=text, width=80, color_system=None).print(thing)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def show(thing: Any) -> None:
    """Print on the terminal with colors, as plain text elsewhere."""
    from rich.console import Console

    console = Console(highlight=False)
    if console.is_terminal:
        console.print(thing)
    else:
        print(thing)


def bullets(title: str, sentences: Iterable[str]) -> Group:
    """Sentences below a title; nothing if there are none."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1))
    for sentence in sentences:
        table.add_row(" -", Text(sentence))
    return Group(Text(title, "bold"), table, Text("")) if table.row_count else Group()


def _significant(row: pd.Series, name: str) -> tuple[str, str]:
    """A size in any unit and its interval, three digits of each."""
    if np.isnan(row[name]):
        return "", ""
    value, low, high = (f"{row[column]:#.3g}" for column in (name, f"{name}_q05", f"{name}_q95"))
    return value, f"{low} to {high}"


def _probability(value: float) -> str:
    return "> 0.999" if value > 0.999 else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _with_interval(row: pd.Series, name: str, digits: int = 3) -> tuple[str, str]:
    low, high = row[f"{name}_q05"], row[f"{name}_q95"]
    return f"{row[name]:.{digits}f}", f"{low:.{digits}f} to {high:.{digits}f}"


def make_table(title: str, caption: str, columns: Iterable[str]) -> Table:
    """An empty table as all of ours are; columns of text to the left, of numbers to the right."""
    from rich import box
    from rich.table import Table

    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        caption=caption + "\n",
        caption_justify="left",
        caption_style="dim",
        width=78,
    )
    for k, name in enumerate(columns):
        table.add_column(name, justify="left" if k == 0 or name == "what it is" else "right", overflow="fold")
    return table
