"""The command ``plot``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bayesharm.cli import options as opt
from bayesharm.cli.output import check_new_file, check_new_folder

FIGURE_FORMATS = (".png", ".svg", ".pdf")
ALL = "all"

FigureNameOption = Annotated[
    str,
    opt.text(
        "--what",
        "NAME",
        "The figure: sources, contributions, order, ranking, scales, scanners, bias, distance, dendrogram, regions, "
        "networks, brain or connectome; or all, for every figure that the run and the given tables allow.",
    ),
]
FigureFileOption = Annotated[
    Path, opt.text("--out", "FILE", "New file: .png, .svg or .pdf. With --what all: new folder for .png files.")
]


def plot(
    run: opt.RunArgument,
    what: FigureNameOption,
    out: FigureFileOption,
    edge_table: opt.EdgeTableOption = None,
    networks: opt.NetworksOption = None,
    coordinates: opt.CoordinatesOption = None,
    quiet: Annotated[bool, opt.flag("--quiet", "Do not name the files that are written.", short="-q")] = False,
) -> None:
    """Draw a figure of a run, or all figures: variance components, scanners, scales, brain regions.

    Examples:

    $ bayesharm plot run/ --what scanners --out scanners.png

    $ bayesharm plot run/ --what all --edge-table edges.csv --out figures/
    """
    if what == ALL:
        check_new_folder(out)
    else:
        check_new_file(out, FIGURE_FORMATS)
    from bayesharm.reporting.plots import RunView, draw_plot, possible_plots, save_figure
    from bayesharm.results.posterior import load_posterior

    view = RunView(load_posterior(run), edge_table, networks, coordinates)
    if what == ALL:
        out.mkdir(parents=True, exist_ok=True)
        files = {name: out / f"{name}.png" for name in possible_plots(view)}
    else:
        files = {what: out}
    for name, file in files.items():
        save_figure(draw_plot(name, view), file, file.suffix.lower())
        if not quiet:
            typer.echo(f"Figure: {file}")
