"""Report of a run as one self-contained HTML file."""

from __future__ import annotations

from pathlib import Path

from bayesharm.errors import RunFolderError
from bayesharm.reporting.feature_data import pack_features
from bayesharm.reporting.page import render_page
from bayesharm.reporting.run_view import RunView, as_run_view
from bayesharm.reporting.sections.contents import SECTIONS
from bayesharm.reporting.sections.overview import describe_overview
from bayesharm.reporting.vega import vega
from bayesharm.results.posterior import Posterior
from bayesharm.results.run_folder import refuse_inside_run


def write_report(run: Posterior | RunView, out: str | Path) -> Path:
    """Write the report of a run as one HTML file, which needs no network: words, figures to explore, and tables.

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
    BayesharmError
        The library that draws (`vl-convert-python`) is not installed.
    """
    out = Path(out)
    vega()
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
    return render_page(
        f"Harmonization report: {counts}",
        f"{notice} The report has no intervals of variance components." if notice else "",
        describe_overview(view),
        sections,
        pack_features(view.posterior, view.before_after, view.feature_units),
        str(view.posterior.run["versions"].get("bayesharm", "?")),
        "the run folder" if view.populations is None else "the run folder and, for the populations, the data",
    )
