"""Commands that show what a finished run has found."""

from __future__ import annotations

from bayesharm.cli import input as inputs
from bayesharm.cli import options as opt
from bayesharm.cli import output as outputs
from bayesharm.cli.output import show_found


def summary(run: opt.Run, out: opt.TableFolder = None, format: opt.Format = "csv") -> None:
    """Show what a run has found: size of each source of differences, scanners, convergence, caveats.

    Example:

    $ bayesharm summary run/ --out tables/
    """
    from bayesharm.analysis.summary import summarize
    from bayesharm.results.posterior import load_posterior

    show_found(summarize(load_posterior(run)), out, format)


def sources(
    run: opt.Run,
    edge_table: opt.EdgeTableOption = None,
    networks: opt.Networks = None,
    out: opt.TableFolder = None,
    format: opt.Format = "csv",
) -> None:
    """Compare the sources of differences: how large each is, and with what probability it is larger than another.

    Example:

    $ bayesharm sources run/ --edge-table edges.csv --networks networks.csv --out tables/
    """
    from bayesharm.analysis.variance_components import variance_components
    from bayesharm.results.posterior import load_posterior

    show_found(variance_components(load_posterior(run), edge_table, networks), out, format)


def populations(
    run: opt.Run,
    scans: opt.MovedScans = None,
    features: opt.MovedFeatures = None,
    method: opt.Method = "posterior",
    out: opt.TableFolder = None,
    format: opt.Format = "csv",
    quiet: opt.Quiet = False,
) -> None:
    """Does each site sample a population of its own? One population against several, for each diagnosis and feature.

    Examples:

    $ bayesharm populations run/ --out tables/

    $ bayesharm populations run/ --method yamashita2019

    Reads the data of the fit from where they were then.
    """
    from bayesharm.analysis.population_structure import test_populations
    from bayesharm.cli.progress_bar import ProgressBar
    from bayesharm.results.posterior import load_posterior

    outputs.check_table_folder(out, format)
    from bayesharm.algorithms.programs import cache_programs

    cache_programs()
    posterior = load_posterior(run)
    with ProgressBar(quiet) as progress:
        found = test_populations(posterior, inputs.moved_data(posterior, scans, features), method=method, progress=progress)
    show_found(found, out, format)


def compare(
    run: opt.Run,
    other: opt.OtherRun,
    scans: opt.MovedScans = None,
    features: opt.MovedFeatures = None,
    folds: opt.Folds = 5,
    seed: opt.Seed = 0,
    out: opt.TableFolder = None,
    format: opt.Format = "csv",
    quiet: opt.Quiet = False,
) -> None:
    """Which of two models predicts participants, visits and scanners better that it has not seen?

    Example:

    $ bayesharm compare run_a/ run_b/ --out tables/

    Reads the data of the fits from where they were then.
    """
    from bayesharm.analysis.model_comparison import compare_models
    from bayesharm.cli.progress_bar import ProgressBar
    from bayesharm.results.posterior import load_posterior

    outputs.check_table_folder(out, format)
    from bayesharm.algorithms.programs import cache_programs

    cache_programs()
    one, two = load_posterior(run), load_posterior(other)
    names = (run.resolve().name, other.resolve().name)
    with ProgressBar(quiet) as progress:
        found = compare_models(
            one, two, inputs.moved_data(one, scans, features), names=names if names[0] != names[1] else None, folds=folds,
            seed=seed, progress=progress,
        )  # fmt: skip
    show_found(found, out, format)
