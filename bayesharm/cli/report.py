"""The command ``report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bayesharm.cli import options as opt
from bayesharm.cli.output import check_report

ReportFileOption = Annotated[Path, opt.text("--out", "FILE", "New file: .html.")]
WithPopulationsOption = Annotated[
    bool,
    opt.flag(
        "--with-populations",
        "Include the test of 'bayesharm populations'. It reads the data of the fit again and takes longer.",
    ),
]


def report(
    run: opt.RunArgument,
    out: ReportFileOption,
    edge_table: opt.EdgeTableOption = None,
    networks: opt.NetworksOption = None,
    coordinates: opt.CoordinatesOption = None,
    with_populations: WithPopulationsOption = False,
    quiet: opt.QuietOption = False,
) -> None:
    """Write a report of a run as one HTML file, which opens without a network: words, figures to explore, and tables.

    Example:

    $ bayesharm report run/ --out report.html
    """
    check_report(out, "--out")
    from bayesharm.results.posterior import load_posterior
    from bayesharm.results.record import read_record

    read_record(run)  # refuses a folder that is no run, before the slow libraries are imported
    from bayesharm.reporting.html import write_report
    from bayesharm.reporting.run_view import RunView

    posterior = load_posterior(run)
    population_test = _test_populations(posterior, quiet) if with_populations else None
    view = RunView(posterior, edge_table, networks, coordinates, population_test, str(run))
    typer.echo(f"Report: {write_report(view, out)}")


def _test_populations(posterior: Any, quiet: bool) -> Any:
    from bayesharm.algorithms.programs import cache_programs
    from bayesharm.analysis.population_structure import compare_populations
    from bayesharm.cli.progress_bar import ProgressBar

    cache_programs()
    with ProgressBar(quiet) as progress:
        return compare_populations(posterior, progress=progress)
