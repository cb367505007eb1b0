"""Report of a run as one self-contained HTML file."""

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
from bayesharm.reporting.run_view import as_run_view
from bayesharm.reporting.section import Section
from bayesharm.reporting.sections import SECTIONS
from bayesharm.results.posterior import Posterior
from bayesharm.results.run_folder import refuse_inside_run

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
$preview_notice
<nav>$contents</nav>
$sections
<p class="small">Intervals are 90%. Effects are centered over the levels that share a scale; those of diagnoses are relative
to the reference. Made by bayesharm $version from $made_from.</p>
</body>
</html>
""")

MAX_ROWS = 25  # rows of a table; the commands write complete tables
COLUMN_TITLES = {
    "tau": "scale of the population", "finite_sd": "sd of the effects", "rms": "bias (rms over features)",
    "noise_ratio": "noise variance ratio (lambda)", "bias_ratio": "bias variance ratio (kappa)",
    "gain": "gain (g)",
    "from_data": "share from the data", "n_scanners": "scanners",
    "log_bayes_factor_some": "log Bayes factor, some", "log_bayes_factor_all": "log Bayes factor, all",
    "scale": "typical scale", "spread": "spread over features", "percent": "contribution (%)",
}  # fmt: skip


def write_report(run: Posterior | RunView, out: str | Path) -> Path:
    """Write the report of a run, sentences, tables and figures, as one HTML file.

    Parameters
    ----------
    run : Posterior or RunView
        A view may have tables of edges, networks and coordinates, for a section on brain regions.
    out : path
        Must not exist.

    Returns
    -------
    Path

    Raises
    ------
    RunFolderError
        The file exists, would be in a run folder, or cannot be written.
    """
    out = Path(out)
    refuse_inside_run(out.parent, out)
    page = render_report(as_run_view(run))
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(page)
    except OSError as error:
        raise RunFolderError(
            f"{out} cannot be written.", got=str(error), expected="a new file", do="choose another --out"
        ) from None
    return out


def render_report(view: RunView) -> str:
    """Render the report as HTML."""
    about, notice = view.summary.about, view.posterior.preview_notice
    counts = f"{about['n_scans']:,} scans, {about['n_scanners']:,} scanners, {about['n_features']:,} features"
    sections = [section for describe in SECTIONS if (section := describe(view)) is not None]
    return PAGE.substitute(
        title=escape(f"Harmonization report: {counts}"),
        preview_notice=f'<p class="preview">{escape(notice)} The report has no variance components.</p>' if notice else "",
        contents=" ".join(f'<a href="#s{k}">{escape(section.title)}</a>' for k, section in enumerate(sections)),
        sections="\n".join(_render(section, k) for k, section in enumerate(sections)),
        made_from="the run folder" if view.populations is None else "the run folder and, for the populations, the data",
        version=escape(str(view.posterior.run["versions"].get("bayesharm", "?"))),
    )


def _render(section: Section, k: int) -> str:
    parts = [f'<h2 id="s{k}">{escape(section.title)}</h2>', f"<p>{escape(' '.join(section.sentences))}</p>"]
    if section.caveats:
        parts.append("<ul>" + "".join(f"<li>{escape(caveat)}</li>" for caveat in section.caveats) + "</ul>")
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
    """Render the first rows, numbers with three significant digits, each with its interval beside it."""
    shown, cells = table.head(MAX_ROWS), {}
    for name in map(str, table.columns):
        if name.endswith(("_q05", "_q95")):
            continue
        cells[name] = [_format(value) for value in shown[name]]
        low, high = f"{name}_q05", f"{name}_q95"
        if low in table:
            limits = zip(shown[low], shown[high], strict=True)
            cells[f"{COLUMN_TITLES.get(name, name)}, 90% interval"] = [f"{_format(a)} to {_format(b)}" for a, b in limits]
    frame = pd.DataFrame(cells, index=shown.index.rename(None))
    frame.columns = pd.Index([COLUMN_TITLES.get(name, name.replace("_", " ")) for name in frame.columns])
    more = f'<p class="small">{MAX_ROWS} of {len(table):,} rows.</p>' if len(table) > MAX_ROWS else ""
    return f'<div class="scroll">{frame.to_html(escape=True, border=0)}</div>{more}'


def _format(value: object) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:#.3g}".removesuffix(".") if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)
