"""Commands that show what a finished run has found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from bayesharm import options as opt


def summary(
    run: opt.Run,
    out: opt.TableFolder = None,
) -> None:
    """Show what a run has found: size of each source of differences, scanners, convergence, caveats.

    Example:

    $ bayesharm summary run/ --out tables/
    """
    from bayesharm.posterior import load_posterior
    from bayesharm.summary import summarize

    show_found(summarize(load_posterior(run)), out)


def sources(
    run: opt.Run, nodes: opt.Nodes = None, networks: opt.Networks = None, out: opt.TableFolder = None
) -> None:
    """Compare the sources of differences: how large each is, and with what probability it is larger than another.

    Example:

    $ bayesharm sources run/ --nodes edges.csv --networks networks.csv --out tables/
    """
    from bayesharm.posterior import load_posterior
    from bayesharm.sources import compare_sources

    show_found(compare_sources(load_posterior(run), nodes, networks), out)


def plot(
    run: opt.Run,
    what: opt.What,
    out: opt.FigureFile,
    nodes: opt.Nodes = None,
    networks: opt.Networks = None,
    coordinates: opt.Coordinates = None,
) -> None:
    """Draw what a run has found: sources of differences, scanners, scales, regions.

    Examples:

    $ bayesharm plot run/ --what scanners --out scanners.png

    $ bayesharm plot run/ --what all --nodes edges.csv --out figures/
    """
    if what == "all":
        opt.check_new_folder(out)
    else:
        opt.check_new_file(out, (".png", ".svg", ".pdf"))
    from bayesharm.plots import Findings, draw_plot, possible_plots, save_figure
    from bayesharm.posterior import load_posterior

    found = Findings(load_posterior(run), nodes, networks, coordinates)
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
    nodes: opt.Nodes = None,
    networks: opt.Networks = None,
    coordinates: opt.Coordinates = None,
) -> None:
    """Write all that a run has found into one HTML file: words, tables and figures.

    Example:

    $ bayesharm report run/ --out report.html
    """
    opt.check_new_file(out, (".html",))
    from bayesharm.plots import Findings
    from bayesharm.posterior import load_posterior
    from bayesharm.report import write_report

    typer.echo(f"Report: {write_report(Findings(load_posterior(run), nodes, networks, coordinates), out)}")


def show_found(found: Any, out: Path | None = None) -> None:
    """Print what was found, and write its tables if a folder is given for them."""
    from bayesharm.display import show

    show(found)
    if out is not None:
        typer.echo("Tables: " + ", ".join(str(file) for file in found.write(out)))
