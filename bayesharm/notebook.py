"""HTML cards that show results in notebooks: a title, a few facts, the main table, and the rest folded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

import numpy as np
import pandas as pd

MAX_ROWS = 15  # of a table; the first ones are shown
MAX_COLUMNS = 5  # of a table over features
LONG = 40  # characters of a cell, above which its text is broken
MAX_ITEMS = 8  # of a fact that is a list
# Colors are those of the notebook, in light and dark themes.
STYLE = (
    "<style>.bayesharm-card{max-width:60em;overflow-wrap:anywhere}"
    ".bayesharm-card h4{margin:.2em 0 .4em;font-size:1.05em}"
    ".bayesharm-card dl{display:grid;grid-template-columns:max-content 1fr;gap:.1em 1em;margin:.3em 0 .6em}"
    ".bayesharm-card dt{opacity:.7;font-weight:normal}.bayesharm-card dd{margin:0}"
    ".bayesharm-card .scroll{overflow-x:auto}"
    ".bayesharm-card table{border-collapse:collapse;margin:.2em 0 .5em;font-size:.95em}"
    ".bayesharm-card caption{text-align:left;caption-side:top;opacity:.7}"
    ".bayesharm-card td,.bayesharm-card th{padding:.15em .8em .15em 0;text-align:right;background:none;white-space:nowrap}"
    ".bayesharm-card .long{white-space:normal;min-width:16em;max-width:24em}"
    ".bayesharm-card thead th{border-bottom:1px solid;font-weight:600;vertical-align:bottom}"
    ".bayesharm-card .label{text-align:left;font-weight:normal}"
    ".bayesharm-card ul{margin:.2em 0 .5em;padding-left:1.3em}.bayesharm-card summary{cursor:pointer}"
    ".bayesharm-card .notice{font-weight:600}</style>"
)


def make_card(
    title: str,
    facts: Mapping[str, Any] | None = None,
    tables: Mapping[str, pd.DataFrame] | None = None,
    *,
    sentences: Iterable[str] = (),
    folded: Mapping[str, Iterable[str]] | None = None,
    notice: str = "",
) -> str:
    """Return a card as HTML; all text is escaped.

    Parameters
    ----------
    title : str
    facts : mapping
        Name -> value; empty values are left out.
    tables : mapping
        Caption -> table; the first one is open, the others are folded. Columns ``x``, ``x_q05`` and ``x_q95`` share a cell,
        as do a value and its standard error.
    sentences : iterable of str
        Conclusions, below the facts.
    folded : mapping
        Title -> sentences, such as caveats; empty lists are left out.
    notice : str
        A warning that stands first, such as that of a preview.
    """
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd>{_bdi(_describe(value))}</dd>"
        for name, value in (facts or {}).items()
        if not _is_empty(value)
    )
    parts = [STYLE, f"<h4>{escape(title)}</h4>", f'<p class="notice">{escape(notice)}</p>' if notice else ""]
    parts += [f"<dl>{rows}</dl>" if rows else "", _bullets(sentences)]
    for number, (caption, table) in enumerate((tables or {}).items()):
        parts.append(_table(table, caption) if number == 0 else _fold(_count(caption, table), _table(table)))
    for name, items in (folded or {}).items():
        if items := list(items):
            parts.append(_fold(f"{name} ({len(items)})", _bullets(items)))
    return f'<div class="bayesharm-card">{"".join(parts)}</div>'


def one_line(name: str, counts: Mapping[str, int]) -> str:
    """Return ``<Name: 3 scans, 4 features>``."""
    return f"<{name}: {', '.join(f'{count:,} {noun}' for noun, count in counts.items())}>"


def first_values(
    what: str, mean: np.ndarray, sd: np.ndarray, rows: np.ndarray | None = None, names: np.ndarray | None = None
) -> dict[str, pd.DataFrame]:
    """Return the first scans and features of two arrays, (scan, feature), as a table of ``mean ± sd`` with a caption."""
    shown = (slice(MAX_ROWS), slice(MAX_COLUMNS))
    cells = [
        [f"{format_value(m)} ± {format_value(s)}" if np.isfinite(m) else "" for m, s in zip(*pair, strict=True)]
        for pair in zip(mean[shown], sd[shown], strict=True)
    ]
    index = np.arange(len(mean)) if rows is None else rows
    columns = np.arange(mean.shape[1]) if names is None else names
    table = pd.DataFrame(cells, pd.Index(index[shown[0]], name="scan"), columns[shown[1]])
    return {f"{what}; the first {len(table)} scans and {table.shape[1]} features": table}


def join_intervals(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of text in which a value shares its cell with its 90% interval or standard error."""
    columns: dict[Any, list[str]] = {}
    previous: Any = None
    for name in table.columns:
        base = str(name).removesuffix("_q05").removesuffix("_q95").removesuffix("_se")
        if str(name) == "se":
            base = previous
        if base != name and base in table.columns:
            if str(name).endswith("se") and base in columns:
                pairs = zip(columns[base], table[name], strict=True)
                columns[base] = [cell if pd.isna(se) else f"{cell} ± {format_value(se)}" for cell, se in pairs]
            continue
        cells = [format_value(value) for value in table[name]]
        limits = [f"{name}_q05", f"{name}_q95"]
        if set(limits) <= set(table.columns):
            cells = [
                cell if pd.isna(low) else f"{cell} ({format_value(low)} to {format_value(high)})"
                for cell, low, high in zip(cells, *(table[limit] for limit in limits), strict=True)
            ]
        columns[name], previous = cells, name
    return pd.DataFrame(columns, index=table.index)


def format_value(value: Any) -> str:
    """Format a cell: three significant digits, thousands separated, yes or no, nothing where a value is missing."""
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if isinstance(value, float | np.floating):
        number = float(value)
        return "" if np.isnan(number) else f"{number:,.0f}" if 1000 <= abs(number) < 1e7 else f"{number:.3g}"
    return "" if value is None else str(value)


def _is_empty(value: Any) -> bool:
    return value is None or value is False or (hasattr(value, "__len__") and len(value) == 0)


def _describe(value: Any) -> str:
    if isinstance(value, Mapping):
        return _describe([f"{name}: {format_value(each)}" for name, each in value.items()])
    if isinstance(value, (list, tuple, np.ndarray, pd.Index)):
        shown = ", ".join(format_value(each) for each in value[:MAX_ITEMS])
        return shown if len(value) <= MAX_ITEMS else f"{shown}, … ({len(value):,})"
    return format_value(value)


def _count(caption: str, table: pd.DataFrame) -> str:
    return f"{caption} ({len(table):,} row{'s' * (len(table) != 1)})"


def _table(table: pd.DataFrame, caption: str = "") -> str:
    shown = join_intervals(table.iloc[:MAX_ROWS])
    names = [str(name or "") for name in table.index.names]
    head = "".join(_cell("th", name, "label") for name in names) + "".join(_cell("th", name) for name in shown.columns)
    body = []
    for key, cells in zip(shown.index, shown.itertuples(index=False, name=None), strict=True):
        labels = key if isinstance(key, tuple) else (key,)
        row = "".join(_cell("th", format_value(label), "label") for label in labels)
        body.append(f"<tr>{row}{''.join(_cell('td', cell) for cell in cells)}</tr>")
    more = len(table) - len(shown)
    text = f"<table>{f'<caption>{escape(caption)}</caption>' if caption else ''}"
    text += f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    return f'<div class="scroll">{text}{f"<p>… and {more:,} more row{'s' * (more != 1)}</p>" if more else ""}</div>'


def _cell(tag: str, content: Any, kind: str = "") -> str:
    text = str(content)
    kinds = f"{kind} long" if len(text) > LONG else kind
    return f"<{tag}{f' class="{kinds}"' if kinds else ''}>{_bdi(text)}</{tag}>"


def _bdi(text: str) -> str:
    """Escape text that may run from right to left: it does not turn its surroundings."""
    return f"<bdi>{escape(text)}</bdi>" if text else ""


def _bullets(sentences: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f"<ul>{items}</ul>" if items else ""


def _fold(summary: str, content: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"
