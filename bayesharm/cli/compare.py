"""The command ``compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from bayesharm.cli import options as opt
from bayesharm.cli.input import read_moved_dataset
from bayesharm.cli.output import check_table_folder, show_result

OtherRunArgument = Annotated[Path, opt.argument("OTHER", "Run folder of the other model, fitted to the same data.")]
FoldsOption = Annotated[
    int, opt.number("--folds", "Number of folds into which participants, visits and scanners are divided.", 2)
]


def compare(
    run: opt.RunArgument,
    other: OtherRunArgument,
    scans: opt.FitScansArgument = None,
    features: opt.FitFeaturesArgument = None,
    folds: FoldsOption = 5,
    seed: opt.SeedOption = 0,
    out: opt.TableFolderOption = None,
    format: opt.TableFormatOption = "csv",
    quiet: opt.QuietOption = False,
) -> None:
    """Compare two models by how well they predict held-out participants, visits and scanners.

    Example:

    $ bayesharm compare run_a/ run_b/ --out tables/

    The command reads the data of the fits again, from the same files.
    """
    check_table_folder(out, format)
    from bayesharm.algorithms.programs import cache_programs
    from bayesharm.analysis.model_comparison import compare_models
    from bayesharm.cli.progress_bar import ProgressBar
    from bayesharm.results.posterior import load_posterior

    cache_programs()
    first, second = load_posterior(run), load_posterior(other)
    folder_names = (run.resolve().name, other.resolve().name)
    names = folder_names if folder_names[0] != folder_names[1] else None
    with ProgressBar(quiet) as progress:
        dataset = read_moved_dataset(first, scans, features)
        result = compare_models(first, second, dataset, names=names, folds=folds, seed=seed, progress=progress)
    show_result(result, out, format)
