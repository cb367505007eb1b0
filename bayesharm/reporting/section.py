"""Parts of a report: sections with sentences, charts and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd


@dataclass(frozen=True, eq=False)
class Chart:
    """A figure that readers can explore.

    Attributes
    ----------
    spec : dict
        In Vega-Lite, with its data.
    caption : str
        Sentences below the figure; the report adds its number.
    alt : str
        The same in words, for readers who cannot see it: what is drawn, and its main result.
    table : DataFrame, optional
        The numbers behind it.
    live : str
        Name under which the script of the page fills it with the chosen feature; empty for a figure that stays.
    """

    spec: Mapping[str, Any]
    caption: str
    alt: str
    table: pd.DataFrame | None = None
    live: str = ""


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure that is drawn already.

    Attributes
    ----------
    webp : bytes
    caption, alt : str
        As for :class:`Chart`.
    scene : str
        A page of its own with the figure in 3D, which opens on demand; empty for a figure without.
    """

    webp: bytes
    caption: str
    alt: str
    scene: str = ""


@dataclass(frozen=True, eq=False)
class Table:
    """A table whose columns readers can sort.

    Attributes
    ----------
    frame : DataFrame
        Columns `…_q05` and `…_q95` are the limits of 90% intervals, and `…_sd` is the uncertainty, of the column before.
    caption : str
    faded : sequence of bool, optional
        Rows that rest more on the prior than on the data.
    """

    frame: pd.DataFrame
    caption: str = ""
    faded: Sequence[bool] | None = None


@dataclass(frozen=True, eq=False)
class Section:
    """A part of a report.

    Attributes
    ----------
    title : str
    sentences : list of str
        The results of this run, as a paragraph.
    tables : tuple of Table
    figures : tuple of Chart or Picture
    caveats : tuple of str
        A list below the paragraph.
    is_folded : bool
        Whether the section is for experts, and opens on demand.
    live : str
        Name of a control of the page that the section holds.
    code : tuple of str
        Text to copy, such as commands.
    """

    title: str
    sentences: list[str]
    tables: tuple[Table, ...] = ()
    figures: tuple[Chart | Picture, ...] = ()
    caveats: tuple[str, ...] = ()
    is_folded: bool = False
    live: str = ""
    code: tuple[str, ...] = ()


@dataclass(frozen=True)
class Light:
    """A verdict on one question.

    Attributes
    ----------
    question : str
    level : {'good', 'careful', 'bad'}
    answer : str
    """

    question: str
    level: str
    answer: str


@dataclass(frozen=True, eq=False)
class Overview:
    """The first screen of a report.

    Attributes
    ----------
    level : {'good', 'careful', 'bad'}
    verdict : str
        Whether to use the harmonized data, in a sentence.
    sentences : list of str
        The model and the scans of the fit, the limits of the study, and the changes by harmonization.
    lights : tuple of Light
    numbers : tuple of pairs of str
        A number, and its meaning.
    steps : tuple of str
        What to do next; text between backquotes is code.
    figures : tuple of Chart
    """

    level: str
    verdict: str
    sentences: list[str]
    lights: tuple[Light, ...]
    numbers: tuple[tuple[str, str], ...]
    steps: tuple[str, ...]
    figures: tuple[Chart, ...] = ()
