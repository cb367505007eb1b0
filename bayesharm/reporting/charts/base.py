"""Parts that all charts share: colors, rows with intervals, cells of a matrix, and what the page chooses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bayesharm.model.labels import Scale
from bayesharm.reporting.palette import PALE, family_colors
from bayesharm.reporting.vega import vega

ASIDE = 0.12  # opacity of scanners that are not chosen
CHOSEN = "chosen"  # parameter of every chart: the scanner that the reader has chosen, or an empty text
STATIC_WIDTH = 660  # pixels of a figure without a script
STEP = 22  # pixels of a row
COUNTED = re.compile(r'((?:id="|url\(#))((?:gradient_|clip)\d+)')  # names of parts of a drawing
MAX_CELLS_WITH_NUMBERS = 256
LABEL_LIMIT = 190  # pixels of a label of an axis; the tooltip has the whole name

TEXT, GRID = {"light": "#222222", "dark": "#e8e8e8"}, {"light": "#dddddd", "dark": "#444444"}
THEMES = {
    name: {
        "background": "transparent",
        "font": "system-ui, sans-serif",
        "view": {"stroke": "transparent"},
        "axis": {
            "labelColor": TEXT[name], "titleColor": TEXT[name], "gridColor": GRID[name], "domainColor": GRID[name],
            "tickColor": GRID[name], "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal",
            "labelLimit": LABEL_LIMIT,
        },
        "axisXQuantitative": {"tickCount": 6, "labelOverlap": True}, "axisYQuantitative": {"tickCount": 5},
        "legend": {"labelColor": TEXT[name], "titleColor": TEXT[name], "labelFontSize": 12, "titleFontSize": 12,
                   "orient": "bottom", "labelLimit": 220, "columns": 3},
        "title": {"color": TEXT[name], "fontSize": 13, "anchor": "start"},
        "text": {"color": TEXT[name], "fontSize": 11},
        "rule": {"color": TEXT[name]},
        "style": {"outline": {"stroke": TEXT[name]}},
    }
    for name in TEXT
}  # fmt: skip


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows for a chart: numbers of six digits, None where missing, everything else as text or truth."""
    return [dict(zip(map(str, table.columns), map(plain, row), strict=True)) for row in table.itertuples(index=False)]


def plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    return str(value)


def color_scale(families: Iterable[str], scales: Mapping[str, Scale] | None = None) -> dict[str, Any]:
    """Return the colors of families: the same in all figures; the scales of one family share it, in shades."""
    names = list(families)
    terms = [scales[name].family if scales and name in scales else name for name in names]
    shades, seen = [], dict.fromkeys(terms, 0)
    for term, color in zip(terms, family_colors(terms), strict=True):
        shades.append(_lighter(color, seen[term]))
        seen[term] += 1
    return {"domain": names, "range": shades}


def _lighter(color: str, steps: int) -> str:
    share = 1 - 0.75**steps
    return "#" + "".join(f"{round(v + share * (255 - v)):02x}" for v in bytes.fromhex(color[1:]))


def spec(values: Sequence[Mapping[str, Any]], layers: Sequence[Mapping[str, Any]], **rest: Any) -> dict[str, Any]:
    """Return a chart of layers over the same rows; the page gives it the width of its place."""
    return {
        "params": [{"name": CHOSEN, "value": ""}],
        "autosize": {"type": "fit-x", "contains": "padding"},
        "data": {"name": "rows", "values": list(values)},
        "layer": list(layers),
        **rest,
    }


def opacity(faded: bool = False, full: float = 1.0) -> dict[str, Any]:
    """Return the opacity of a mark: pale for scanners that are not chosen, and for rows that are mostly prior."""
    conditions = [{"test": f"{CHOSEN} != '' && datum.scanner != {CHOSEN}", "value": ASIDE}]
    conditions += [{"test": "datum.prior", "value": PALE}] if faded else []
    return {"condition": conditions, "value": full}


def quantity(field: str, title: str | None = None, **rest: Any) -> dict[str, Any]:
    """Return the encoding of a number."""
    return {"field": field, "type": "quantitative", **({} if title is None else {"title": title}), **rest}


def name(field: str, title: str | None = None, **rest: Any) -> dict[str, Any]:
    """Return the encoding of a name, in the order of the rows."""
    return {"field": field, "type": "nominal", "title": title, "sort": None, **rest}


def tips(**titles: str) -> list[dict[str, Any]]:
    """Return the tooltip: field -> its title; numbers have three digits."""
    return [{"field": field, "title": title} for field, title in titles.items()]


def array(texts: Sequence[str]) -> str:
    """Return texts as an array in an expression of Vega."""
    return json.dumps(list(texts), ensure_ascii=True)


def told(value: float, low: float | None = None, high: float | None = None) -> str:
    """Return a number of three digits, with its 90% interval."""
    if value is None or not np.isfinite(value):
        return ""
    text = short(value)
    return text if low is None or high is None else f"{text} ({short(low)} to {short(high)})"


def plus_minus(value: float, sd: float) -> str:
    """Return a number with its standard deviation, both with the digits that two digits of the latter have."""
    if not (np.isfinite(value) and np.isfinite(sd)):
        return ""
    digits = max(0, 1 - int(np.floor(np.log10(sd)))) if sd > 0 else 3
    return f"{value:.{digits}f} ± {sd:.{digits}f}"


def short(value: float) -> str:
    """Return a number of three digits."""
    if not np.isfinite(value):
        return ""
    return f"{value:#.3g}".removesuffix(".") if abs(value) < 1000 else f"{value:,.0f}"


def interval_rows(
    table: pd.DataFrame, column: str, title: str, color: str | Mapping[str, Any], *, zero: bool = True, log: bool = False,
    reference: float | None = None, least: tuple[float, float] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Return a chart of points with their 90% intervals, a row each.

    Parameters
    ----------
    table : DataFrame
        With `column` and its limits. The name of its index says what rows are: the reader can choose a `scanner`.
    column : str
    title : str
        Of the axis.
    color : str or mapping
        One color, or a scale of colors by row.
    zero, log : bool
        Whether the axis starts at 0, and whether it is logarithmic.
    reference : float, optional
        Value of a line for comparison.
    least : pair of float, optional
        Values that the axis has in any case.
    """
    field = str(table.index.name)
    columns = {column: "value", f"{column}_q05": "low", f"{column}_q95": "high"}
    shown = table[list(columns)].rename(columns=columns)
    shown["told"] = [told(*row) for row in shown.itertuples(index=False)]
    shown = shown.reset_index()
    scale: dict[str, Any] = {"type": "log", "nice": False, "padding": 12} if log else {"zero": zero}
    if least is not None:
        low, high = min(least[0], float(shown["low"].min())), max(least[1], float(shown["high"].max()))
        scale["domain"] = [plain(low), plain(high)]
    colors = (
        {"value": color} if isinstance(color, str) else {"field": field, "type": "nominal", "scale": color, "legend": None}
    )
    shared: dict[str, Any] = {"y": name(field, None, axis={"ticks": False, "domain": False}), "color": colors}
    shared |= {"opacity": opacity()} if field == "scanner" else {}
    x = quantity("value", title, scale=scale)
    tip = tips(**{field: field, "told": title})
    layers: list[dict[str, Any]] = [
        {"mark": {"type": "rule", "strokeWidth": 3},
         "encoding": shared | {"x": quantity("low", title, scale=scale), "x2": {"field": "high"}, "tooltip": tip}},
        {"mark": {"type": "point", "filled": True, "size": 70, "opacity": 1},
         "encoding": shared | {"x": x, "tooltip": tip}},
    ]  # fmt: skip
    if reference is not None:
        line = {"type": "rule", "strokeDash": [4, 3], "opacity": 0.6}
        layers.insert(0, {"mark": line, "encoding": {"x": {"datum": reference}}})
    return spec(records(shown), layers, height=STEP * len(shown))


def matrix(
    table: pd.DataFrame, title: str, *, limits: tuple[float, float] | None = None, scheme: str = "cividis",
    reverse: bool = True,
    digits: str = ".2f", row: str = "", column: str = "", is_scanner: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Return a heat map of a table, with numbers in its cells where these are legible.

    Parameters
    ----------
    table : DataFrame
    title : str
        Of the colors.
    limits : pair of float, optional
        Of the colors.
    scheme, reverse, digits
        Colors, their direction, and the format of the numbers.
    row, column : str
        Titles of the axes.
    is_scanner : bool
        Whether rows are scanners, which the reader can choose.
    """
    values = table.to_numpy(float)
    low, high = limits or (float(np.nanmin(values)), float(np.nanmax(values)))
    rows = [
        {"scanner" if is_scanner else "row": str(a), "column": str(b), "value": plain(values[i, j])}
        for i, a in enumerate(table.index)
        for j, b in enumerate(table.columns)
    ]
    field = "scanner" if is_scanner else "row"
    place = {
        "y": name(field, row or None, axis={"ticks": False, "domain": False}),
        "x": name("column", column or None, axis={"ticks": False, "domain": False, "labelAngle": -45, "labelLimit": 130}),
    }
    middle = (low + high) / 2
    color = quantity("value", title, scale={"scheme": scheme, "domain": [low, high], "reverse": reverse, "clamp": True},
                     legend=None if digits == "d" else
                     {"orient": "bottom", "gradientLength": 180, "format": digits, "titleLimit": 400})  # fmt: skip
    known = "isValid(datum.value)"
    tip = tips(**{field: row or "row", "column": column or "column"}) + [quantity("value", title, format=digits)]
    layers: list[dict[str, Any]] = [
        {"mark": {"type": "rect", "color": "#99999933"}, "encoding": place},
        {"mark": "rect", "transform": [{"filter": known}],
         "encoding": place | {"color": color, "tooltip": tip} | ({"opacity": opacity()} if is_scanner else {})},
    ]  # fmt: skip
    if values.size <= MAX_CELLS_WITH_NUMBERS:
        over = f"datum.value {'>' if reverse else '<'} {middle}"
        if limits and low == -high:
            over = f"abs(datum.value) > {0.6 * high}"
        layers.append(
            {"mark": {"type": "text", "fontSize": 10}, "transform": [{"filter": known}],
             "encoding": place | {"text": quantity("value", format=digits),
                                  "color": {"condition": {"test": over, "value": "white"}, "value": "black"}}}
        )  # fmt: skip
    return spec(rows, layers, height=STEP * len(table))


def static_svg(chart: Mapping[str, Any]) -> str:
    """Draw a chart without a browser, for readers without a script.

    Raises
    ------
    BayesharmError
        The library that draws is not installed.
    """
    svg = str(vega().vegalite_to_svg(json.dumps(for_width(chart, STATIC_WIDTH)), config=THEMES["light"]))
    numbers: dict[str, str] = {}  # the library counts over all drawings: the same chart shall give the same text
    return COUNTED.sub(lambda found: f"{found[1]}{numbers.setdefault(found[2], f'p{len(numbers)}')}", svg)


def for_width(chart: Mapping[str, Any], width: int) -> dict[str, Any]:
    """Return a chart of so many pixels; the page does the same."""
    if "hconcat" in chart:
        each = (width - 140) // len(chart["hconcat"])
        return {**chart, "hconcat": [{**part, "width": each} for part in chart["hconcat"]]}
    return {**chart, "width": width}
