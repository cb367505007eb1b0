"""The command ``populations``."""

from __future__ import annotations

from typing import Annotated, Literal

from bayesharm.cli import options as opt
from bayesharm.cli.input import read_moved_dataset
from bayesharm.cli.output import check_table_folder, show_result

MethodOption = Annotated[
    Literal["posterior", "yamashita2019"],
    opt.choice(
        "--method",
        "posterior: test with the fitted model. yamashita2019: the regression of the 2019 study, which reports several "
        "populations whether or not they exist.",
    ),
]


def populations(
    run: opt.RunArgument,
    scans: opt.FitScansArgument = None,
    features: opt.FitFeaturesArgument = None,
    method: MethodOption = "posterior",
    out: opt.TableFolderOption = None,
    format: opt.TableFormatOption = "csv",
    quiet: opt.QuietOption = False,
) -> None:
    """Test, for each diagnosis and feature, whether the sites sample one population or several.

    Examples:

    $ bayesharm populations run/ --out tables/

    $ bayesharm populations run/ --method yamashita2019

    The command reads the data of the fit again, from the same files.
    """
    check_table_folder(out, format)
    from bayesharm.algorithms.programs import cache_programs
    from bayesharm.analysis.population_structure import test_populations
    from bayesharm.cli.progress_bar import ProgressBar
    from bayesharm.results.posterior import load_posterior

    cache_programs()
    posterior = load_posterior(run)
    with ProgressBar(quiet) as progress:
        dataset = read_moved_dataset(posterior, scans, features)
        result = test_populations(posterior, dataset, method=method, progress=progress)
    show_result(result, out, format)
