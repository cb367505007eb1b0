"""The commands `plot` and `report`."""

from __future__ import annotations

import typer

from bayesharm.cli import options as opt
from bayesharm.cli import output as outputs


def plot(
    run: opt.Run,
    what: opt.What,
    out: opt.FigureFile,
    edge_table: opt.EdgeTableOption = None,
    networks: opt.Networks = None,
    coordinates: opt.Coordinates = None,
) -> None:
    """Draw what a run has found: sources of differences, scanners, scales, regions.

    Examples:

    $ bayesharm plot run/ --what scanners --out scanners.png

    $ bayesharm plot run/ --what all --edge-table edges.csv --out figures/
    """
    if what == "all":
        outputs.check_new_folder(out)
    else:
        outputs.check_new_file(out, (".png", ".svg", ".pdf"))
    from bayesharm.reporting.plots import RunView, draw_plot, possible_plots, save_figure
    from bayesharm.results.posterior import load_posterior

    found = RunView(load_posterior(run), edge_table, networks, coordinates)
    if what != "all":
        save_figure(draw_plot(what, found), out, out.suffix.lower())
        return typer.echo(f"Figure: {out}")
    out.mkdir(parents=True, exist_ok=True)
    for name in possible_plots(found):
        save_figure(draw_plot(name, found), out / f"{name}.png")
        typer.echo(f"Figure: {out / name}.png")


def report(
    run: opt.Run,
    out: opt.ReportFile,
    edge_table: opt.EdgeTableOption = None,
    networks: opt.Networks = None,
    coordinates: opt.Coordinates = None,
    with_populations: opt.WithPopulations = False,
) -> None:
    """Write all that a run has found into one HTML file: words, tables and figures.

    Example:

    $ bayesharm report run/ --out report.html
    """
    outputs.check_new_file(out, (".html",))
    from bayesharm.reporting.html import write_report
    from bayesharm.reporting.plots import RunView
    from bayesharm.results.posterior import load_posterior

    posterior, told = load_posterior(run), None
    if with_populations:
        from bayesharm.algorithms.devices import cache_programs
        from bayesharm.analysis.population_structure import compare_populations
        from bayesharm.cli.progress_bar import ProgressBar

        cache_programs()
        with ProgressBar(False) as progress:
            told = compare_populations(posterior, progress=progress)
    typer.echo(f"Report: {write_report(RunView(posterior, edge_table, networks, coordinates, told), out)}")
