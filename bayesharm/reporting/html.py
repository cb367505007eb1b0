"""The report of a run: one HTML file that needs nothing besides itself."""

from __future__ import annotations

import base64
from html import escape
from io import BytesIO
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayesharm.errors import RunFolderError
from bayesharm.reporting.plots import RunView
from bayesharm.reporting.plots.style import save_figure
from bayesharm.reporting.run_view import find
from bayesharm.reporting.sections import MOST_ROWS, SECTIONS, Section
from bayesharm.results.posterior import Posterior

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
body { font: 16px/1.5 sans-serif; color: #222; max-width: 50rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-top: 1px solid #ccc; padding-top: 1rem; }
img { display: block; max-width: 100%; margin: 1rem 0; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: 14px; margin: 1rem 0; }
th, td { padding: 0.2rem 0.7rem; border-bottom: 1px solid #ddd; text-align: right; }
tbody th { text-align: left; font-weight: normal; } thead th { vertical-align: bottom; }
.preview { background: #D55E00; color: white; padding: 0.5rem 1rem; font-weight: bold; }
nav a { margin-right: 1rem; } .small { font-size: 13px; color: #555; }
</style>
</head>
<body>
<h1>$title</h1>
$remark
<nav>$contents</nav>
$sections
<p class="small">Intervals are 90%. Effects are counted from the mean of the levels that share a scale, those of diagnoses
from the reference. Made by bayesharm $version from $made_from.</p>
</body>
</html>
""")

HEADINGS = {
    "tau": "scale of the population", "finite_sd": "sd of the effects", "rms": "bias (rms over features)",
    "noise_ratio": "noise (variance ratio)", "bias_ratio": "prior size (variance ratio)",
    "from_data": "known from the data", "n_scanners": "scanners",
    "scale": "typical scale", "spread": "spread over features", "percent": "contribution (%)",
}  # fmt: skip


def write_report(run: Posterior | RunView, out: str | Path) -> Path:
    """Write what a run has found into one HTML file: words, tables and figures.

    Parameters
    ----------
    run : Posterior or Findings
        The latter with tables of edges, networks and coordinates, for sections on regions.
    out : path
        Must not exist.

    Returns
    -------
    Path

    Raises
    ------
    RunFolderError
        The file exists, or cannot be written.
    """
    out = Path(out)
    page = render_report(find(run))
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(page)
    except OSError as error:
        raise RunFolderError(
            f"{out} cannot be written.", got=str(error), expected="a new file", do="choose another --out"
        ) from None
    return out


def render_report(found: RunView) -> str:
    """The report as HTML."""
    told = [section for tell in SECTIONS if (section := tell(found)) is not None]
    remark = found.posterior.preview_notice
    return PAGE.substitute(
        title=escape(f"What a run of the model {found.posterior.spec.name} has found"),
        remark=f'<p class="preview">{escape(remark)} Sizes of sources are not part of it.</p>' if remark else "",
        contents=" ".join(f'<a href="#s{k}">{escape(section.title)}</a>' for k, section in enumerate(told)),
        sections="\n".join(_render(section, k) for k, section in enumerate(told)),
        made_from="the run folder alone" if found.populations is None else "the run folder, and populations from the data",
        version=escape(str(found.posterior.run["versions"].get("bayesharm", "?"))),
    )


def _render(section: Section, k: int) -> str:
    parts = [f'<h2 id="s{k}">{escape(section.title)}</h2>', f"<p>{escape(' '.join(section.sentences))}</p>"]
    if section.remarks:
        parts.append("<ul>" + "".join(f"<li>{escape(remark)}</li>" for remark in section.remarks) + "</ul>")
    parts += [_embed(figure, section.title) for figure in section.figures]
    if section.table is not None:
        parts.append(_table(section.table))
    return "\n".join(parts)


def _embed(figure: Figure, title: str) -> str:
    data = BytesIO()
    save_figure(figure, data)
    code = base64.b64encode(data.getvalue()).decode()
    return f'<img alt="{escape(title)}" width="{int(100 * figure.get_figwidth())}" src="data:image/png;base64,{code}">'


def _table(table: pd.DataFrame) -> str:
    """Numbers with three digits, each with its interval beside it; of many rows the first."""
    shown, cells = table.head(MOST_ROWS), {}
    for name in map(str, table.columns):
        if name.endswith(("_q05", "_q95")):
            continue
        cells[name] = [_number(value) for value in shown[name]]
        low, high = f"{name}_q05", f"{name}_q95"
        if low in table:
            pairs = zip(shown[low], shown[high], strict=True)
            cells[f"{HEADINGS.get(name, name)}, 90% interval"] = [f"{_number(one)} to {_number(two)}" for one, two in pairs]
    frame = pd.DataFrame(cells, index=shown.index.rename(None))
    frame.columns = pd.Index([HEADINGS.get(name, name.replace("_", " ")) for name in frame.columns])
    more = f'<p class="small">{MOST_ROWS} of {len(table):,} rows.</p>' if len(table) > MOST_ROWS else ""
    return f'<div class="scroll">{frame.to_html(escape=True, border=0)}</div>{more}'


def _number(value: object) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:#.3g}".removesuffix(".") if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)
