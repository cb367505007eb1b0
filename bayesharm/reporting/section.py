"""A section of a report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Section:
    """A part of a report.

    Attributes
    ----------
    title : str
    sentences : list of str
        The results of this run, as a paragraph.
    table : DataFrame, optional
        Columns `…_q05` and `…_q95` are the limits of 90% intervals.
    figures : tuple of Figure
    caveats : tuple of str
        A list below the paragraph.
    """

    title: str
    sentences: list[str]
    table: pd.DataFrame | None = None
    figures: tuple[Figure, ...] = ()
    caveats: tuple[str, ...] = ()
