"""The page of a report: sections, charts and tables as HTML. Every name from the data is escaped here."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Callable, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from bayesharm.reporting.charts.base import THEMES, plus_minus, static_svg
from bayesharm.reporting.section import Chart, Overview, Picture, Section, Table
from bayesharm.reporting.vega import vega

MAX_ROWS = 1000  # rows of a table in the page; the commands write complete tables
IN_ADDRESSES = " !$'()*+,/:;=?@[]^`{|}"  # signs of a picture that its address may hold; the others are written as %..
MARKS = {"good": "✓", "careful": "!", "bad": "✕"}
MAX_TOGETHER = 4  # sentences of a paragraph; more become a list
HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\u200e\u200f\u202a-\u202e\u2066-\u2069]")  # control and direction marks
TITLES = {
    "tau": "population", "finite_sd": "study", "noise_ratio": "noise variance ratio", "bias_ratio": "bias variance ratio",
    "from_data": "from the data", "n_scanners": "scanners", "log_bayes_factor_some": "log Bayes factor, some",
    "log_bayes_factor_all": "log Bayes factor, all", "scale": "typical scale", "spread": "spread over features",
    "percent": "contribution (%)", "ess_bulk": "effective draws", "rhat": "R-hat",
}  # fmt: skip


def asset(name: str) -> str:
    """Read a file of the page."""
    return (files("bayesharm.reporting") / "assets" / name).read_text(encoding="utf-8")


def render_page(
    title: str, notice: str, overview: Overview, sections: Sequence[Section], features: dict[str, Any], version: str,
    made_from: str,
) -> str:  # fmt: skip
    """Render the whole page, self-contained.

    Raises
    ------
    BayesharmError
        The library that draws charts is not installed.
    """
    library, renderer = vega(), _Renderer()
    first = renderer.overview(overview)
    rest = [renderer.section(section, k) for k, section in enumerate(sections, start=1)]
    links = [("overview", "Overview"), *((f"s{k}", section.title) for k, section in enumerate(sections, start=1))]
    return Template(asset("page.html")).substitute(
        title=safe(title),
        css=asset("report.css"),
        js=asset("report.js"),
        contents="\n".join(f'<li><a href="#{anchor}">{safe(words)}</a></li>' for anchor, words in links),
        notice=f'<p class="preview">{safe(notice)}</p>' if notice else "",
        overview=first,
        sections="\n".join(rest),
        themes=to_json(THEMES),
        features=to_json(features),
        bundle=library.javascript_bundle(),
        vega=library.get_vegalite_versions()[-1],
        version=safe(version),
        made_from=safe(made_from),
    )


def safe(text: object) -> str:
    """Escape text, and show marks that hide or reorder it."""
    return escape(HIDDEN.sub(lambda mark: f"[U+{ord(mark.group()):04X}]", str(text)))


def to_json(value: Any) -> str:
    """Return JSON that cannot end the element that holds it."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


class _Renderer:
    """Renders parts of the page, and numbers its figures and tables."""

    def __init__(self) -> None:
        self.n_figures = 0

    def overview(self, overview: Overview) -> str:
        lights = "".join(
            f'<li class="{light.level}"><b>{safe(light.question)}</b><span class="mark" aria-hidden="true">'
            f"{MARKS[light.level]}</span> {safe(light.answer)}</li>"
            for light in overview.lights
        )
        numbers = "".join(f"<li><b>{safe(number)}</b>{safe(words)}</li>" for number, words in overview.numbers)
        steps = "".join(f"<li>{_with_code(step)}</li>" for step in overview.steps)
        people, *others = overview.figures
        figures = self.figure(people) + f'<div class="pair">{"".join(map(self.figure, others))}</div>'
        return (
            f'<section id="overview"><p class="verdict {overview.level}">{safe(overview.verdict)}</p>'
            f'<ul class="lights">{lights}</ul><ul class="numbers">{numbers}</ul>'
            f"{''.join(f'<p>{safe(sentence)}</p>' for sentence in overview.sentences)}"
            f"{figures}<h2>What to do next</h2><ol>{steps}</ol></section>"
        )

    def section(self, section: Section, k: int) -> str:
        parts = []
        if len(section.sentences) > MAX_TOGETHER:
            parts.append(_list(section.sentences))
        elif section.sentences:
            parts.append(f"<p>{safe(' '.join(section.sentences))}</p>")
        if section.caveats:
            parts.append(_list(section.caveats))
        parts += [f'<div class="code"><pre>{safe(text)}</pre></div>' for text in section.code]
        if section.live:
            parts.append(f'<div id="live-{section.live}"></div>')
        parts += map(self.figure, section.figures)
        parts += map(table_html, section.tables)
        heading, body = f"<h2>{safe(section.title)}</h2>", "\n".join(parts)
        if section.is_folded:
            return f'<section id="s{k}"><details class="folded"><summary>{heading}</summary>{body}</details></section>'
        return f'<section id="s{k}">{heading}{body}</section>'

    def figure(self, figure: Chart | Picture) -> str:
        self.n_figures += 1
        caption = f"<figcaption><b>Figure {self.n_figures}.</b> {safe(figure.caption)}</figcaption>"
        if isinstance(figure, Picture):
            image = f'<img alt="{safe(figure.alt)}" src="data:image/webp;base64,{_to_text(figure.webp)}">'
            return f'<figure><div class="plot">{image}</div>{caption}{_scene(figure.scene)}</figure>'
        now = '<p class="now">Feature: <b class="feature"></b> <span class="missing"></span></p>' if figure.live else ""
        behind = ""
        if figure.table is not None:
            behind = (
                f'<details class="behind"><summary>Table of this figure</summary>{table_html(Table(figure.table))}</details>'
            )
        return (
            f'<figure class="chart" data-live="{figure.live}">{now}'
            f'<div class="plot" role="img" aria-label="{safe(figure.alt)}">'
            f"{_image(static_svg(figure.spec), figure.alt)}</div>{caption}{behind}"
            f'<script type="application/json" class="spec">{to_json(figure.spec)}</script></figure>'
        )


def _list(sentences: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{safe(sentence)}</li>" for sentence in sentences) + "</ul>"


def _image(svg: str, alt: str) -> str:
    """Embed a picture, which runs no script and shares no names with the page."""
    return f'<img alt="{safe(alt)}" src="data:image/svg+xml,{quote(svg, safe=IN_ADDRESSES)}">'


def _scene(page: str) -> str:
    """Embed a page in 3D, compressed; the script of the report opens it in a frame without rights."""
    if not page:
        return ""
    packed = _to_text(gzip.compress(page.encode(), 9, mtime=0))
    return (
        f'<details class="scene"><summary>In 3D, to be turned</summary><script type="text/plain">{packed}</script></details>'
    )


def _to_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _with_code(text: str) -> str:
    """Escape text, with code between backquotes."""
    parts = safe(text).split("`")
    return "".join(f"<code>{part}</code>" if k % 2 else part for k, part in enumerate(parts))


def table_html(table: Table) -> str:
    """Render a table: a number shares a cell with its interval or its uncertainty.

    The cell keeps all digits for sorting and CSV.
    """
    frame = table.frame.reset_index() if table.frame.index.name is not None else table.frame
    shown = frame.head(MAX_ROWS)
    columns = [_column(shown, str(name)) for name in shown.columns if not _is_part(shown, str(name))]
    faded = list(table.faded) if table.faded is not None else [False] * len(shown)
    head = "".join(
        f'<th scope="col"{"" if is_number else " class=text"} aria-sort="none" data-n="{safe("|".join(names))}">'
        f"{safe(title)}</th>"
        for title, names, is_number, _ in columns
    )
    rows = []
    for k in range(len(shown)):
        cells = [cell(k) for *_, cell in columns]
        first = cells[0].replace("<td", '<th scope="row"', 1)
        first = first[: -len("</td>")] + "</th>" if columns and not columns[0][2] else cells[0]
        rows.append(f"<tr{' class=prior' if faded[k] else ''}>{first}{''.join(cells[1:])}</tr>")
    caption = f'<p class="caption">{safe(table.caption)}</p>' if table.caption else ""
    more = f'<p class="small">{MAX_ROWS:,} of {len(frame):,} rows.</p>' if len(frame) > MAX_ROWS else ""
    return (
        f'{caption}<div class="scroll" tabindex="0"><table class="sortable"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{more}"
    )


def _is_part(frame: pd.DataFrame, name: str) -> bool:
    """Return whether a column is the limit or the uncertainty of another."""
    return any(name.endswith(end) and name[: -len(end)] in frame for end in ("_q05", "_q95", "_sd"))


def _column(frame: pd.DataFrame, name: str) -> tuple[str, list[str], bool, Callable[[int], str]]:
    """Return the title of a column, the names of its parts, whether it holds numbers, and a function that renders a cell."""
    parts = [name, *(f"{name}{end}" for end in ("_q05", "_q95", "_sd") if f"{name}{end}" in frame)]
    values = [frame[part].to_numpy() for part in parts]
    is_number = values[0].dtype.kind in "iuf"
    title = TITLES.get(name, name.replace("_", " "))
    title += {1: "", 2: " ± sd", 3: ", 90% interval"}.get(len(parts), "")

    def cell(k: int) -> str:
        row = [column[k] for column in values]
        if not is_number:
            text = "" if isinstance(row[0], float) and np.isnan(row[0]) else safe(row[0])
            return f'<td class="text" data-v="{text}">{text}</td>'
        kept = "|".join(_exact(value) for value in row)
        text = _short(row[0])
        if len(row) == 3 and text:
            text += f' <span class="i">({_short(row[1])} to {_short(row[2])})</span>'
        if len(row) == 2 and text:
            text = plus_minus(row[0], row[1])
        return f'<td data-v="{kept}">{text}</td>'

    return title, parts, is_number, cell


def _exact(value: Any) -> str:
    return f"{value:.7g}" if np.isfinite(value) else ""


def _short(value: Any) -> str:
    if isinstance(value, int | np.integer):
        return f"{int(value):,}"
    value = float(value)
    if not np.isfinite(value):
        return ""
    if value == round(value) and abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:#.3g}".removesuffix(".") if abs(value) < 1000 else f"{value:,.0f}"
