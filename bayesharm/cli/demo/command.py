"""The command ``demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from bayesharm.cli import options as opt
from bayesharm.cli.output import show_result

DataOption = Annotated[
    Literal["simulated", "onharmony"],
    opt.choice(
        "--data",
        "simulated: a study with known ground truth. onharmony: a real study of 20 people on 6 of 8 scanners each (2.6 MB, "
        "downloaded on first use).",
    ),
]
DemoFolderOption = Annotated[
    Path | None,
    opt.text(
        "--out",
        "FOLDER",
        "Folder for the results. An earlier demo in it is replaced; a folder with other files is refused. "
        "[dim]Default: bayesharm-demo, or bayesharm-demo-onharmony.[/dim]",
    ),
]


def demo(
    data: DataOption = "simulated",
    edges: opt.EdgesOption = 5000,
    out: DemoFolderOption = None,
    seed: opt.SeedOption = 1,
    quiet: opt.QuietOption = False,
) -> None:
    """Run the whole workflow on an example study: fit, harmonize, summarize and report.

    Example:

    $ bayesharm demo --edges 500 --out demo/
    """
    from bayesharm.algorithms.programs import cache_programs
    from bayesharm.cli.demo.onharmony import demo_onharmony
    from bayesharm.cli.demo.simulated import demo_simulated
    from bayesharm.cli.progress_bar import ProgressBar

    cache_programs()
    with ProgressBar(quiet) as progress:
        if data == "simulated":
            result = demo_simulated(out or Path("bayesharm-demo"), edges, seed, progress)
        else:
            result = demo_onharmony(out or Path("bayesharm-demo-onharmony"), seed, progress)
    show_result(result)
