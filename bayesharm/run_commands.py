"""Commands that show what a finished run has found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from bayesharm import checks
from bayesharm import options as opt


def harmonize(
    run: opt.Run,
    scans: opt.Scans,
    out: opt.MeanFile,
    features: opt.FeatureFile = None,
    select: opt.Select = None,
    sd: opt.SdFile = None,
    draws: opt.HarmonizedDraws = 0,
    draws_file: opt.DrawsFile = None,
    remove: opt.Remove = None,
    target: opt.Target = None,
    scale: opt.Scale = False,
    unseen: opt.WhatUnseen = "error",
    inverse: opt.Inverse = False,
    seed: opt.Seed = 0,
    scan: opt.Scan = None,
    participant: opt.Participant = None,
    scanner: opt.Scanner = None,
    site: opt.Site = None,
    diagnosis: opt.Diagnosis = None,
    traveling: opt.Traveling = None,
    quiet: opt.Quiet = False,
) -> None:
    """Subtract from every scan the measurement bias of its scanner.

    Examples:

    $ bayesharm harmonize run/ scans.csv features.npy --out harmonized.npy \\
        --sd harmonized_sd.npy

    $ bayesharm harmonize run/ new_scans.csv --features 'thickness_*' \\
        --participant subject --out harmonized.csv

    $ bayesharm harmonize run/ scans.csv features.npy --out harmonized.npy \\
        --draws 20 --draws-file draws.npy

    Scans and people may be new; scanners and features must be those of the fit,
    but for --unseen. Rows, columns, labels, units and precision of the input are kept.
    """
    outputs = {"--out": out, "--sd": sd, "--draws-file": draws_file}
    checks.check_new_files(outputs, {"RUN": run, "SCANS": scans, "FEATURES": features})
    checks.check_together({"--draws": draws, "--draws-file": draws_file})
    from bayesharm.harmonize import harmonize_to_files
    from bayesharm.posterior import load_posterior
    from bayesharm.progress import Progress

    if unseen == "adapt":
        checks.keep_programs()
    posterior = load_posterior(run)
    columns = checks.column_mapping(
        scan_id=scan, participant_id=participant, scanner=scanner, site=site, diagnosis=diagnosis, traveling=traveling
    )
    dataset = checks.read_dataset(scans, features, select, columns, check="apply")
    with Progress(quiet) as progress:
        notes = harmonize_to_files(
            posterior, dataset, out, sd, draws_file, draws=draws, remove=remove, target=target, scale=scale,
            unseen=unseen, inverse=inverse, seed=seed, report=progress,
        )  # fmt: skip
    for note in notes:
        typer.echo(f"Note: {note}", err=True)
    drawn = f"{draws} draw{'s' * (draws != 1)}"
    more = [f"{what}: {path}" for what, path in (("uncertainty", sd), (drawn, draws_file)) if path]
    n_scans = len(dataset.scans)
    typer.echo("; ".join([f"Harmonized {n_scans:,} scan{'s' * (n_scans != 1)}: {out}", *more]))


def summary(run: opt.Run, out: opt.TableFolder = None, format: opt.Format = "csv") -> None:
    """Show what a run has found: size of each source of differences, scanners, convergence, caveats.

    Example:

    $ bayesharm summary run/ --out tables/
    """
    from bayesharm.posterior import load_posterior
    from bayesharm.summary import summarize

    show_found(summarize(load_posterior(run)), out, format)


def sources(
    run: opt.Run,
    nodes: opt.Nodes = None,
    networks: opt.Networks = None,
    out: opt.TableFolder = None,
    format: opt.Format = "csv",
) -> None:
    """Compare the sources of differences: how large each is, and with what probability it is larger than another.

    Example:

    $ bayesharm sources run/ --nodes edges.csv --networks networks.csv --out tables/
    """
    from bayesharm.posterior import load_posterior
    from bayesharm.sources import compare_sources

    show_found(compare_sources(load_posterior(run), nodes, networks), out, format)


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
    from bayesharm.populations import populations as find_populations
    from bayesharm.posterior import load_posterior
    from bayesharm.progress import Progress

    checks.check_table_folder(out, format)
    checks.keep_programs()
    posterior = load_posterior(run)
    with Progress(quiet) as progress:
        found = find_populations(posterior, checks.moved_data(posterior, scans, features), method=method, report=progress)
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
    from bayesharm.compare import compare as compare_runs
    from bayesharm.posterior import load_posterior
    from bayesharm.progress import Progress

    checks.check_table_folder(out, format)
    checks.keep_programs()
    one, two = load_posterior(run), load_posterior(other)
    names = (run.resolve().name, other.resolve().name)
    with Progress(quiet) as progress:
        found = compare_runs(
            one, two, checks.moved_data(one, scans, features), names=names if names[0] != names[1] else None, folds=folds,
            seed=seed, report=progress,
        )  # fmt: skip
    show_found(found, out, format)


def evaluate(
    scans: opt.Scans,
    features: opt.FeatureFile = None,
    select: opt.Select = None,
    methods: opt.Methods = None,
    model: opt.Model = "traveling_and_cohort",
    scan: opt.Scan = None,
    participant: opt.Participant = None,
    scanner: opt.Scanner = None,
    site: opt.Site = None,
    diagnosis: opt.Diagnosis = None,
    traveling: opt.Traveling = None,
    covariates: opt.Covariates = None,
    reference: opt.Reference = None,
    bad_features: opt.BadFeatures = "error",
    units: opt.Units = None,
    folds: opt.PeopleFolds = 2,
    repeats: opt.Repeats = 2,
    visit_folds: opt.VisitFolds = 6,
    preview: opt.QuickPreview = False,
    seed: opt.Seed = 0,
    out: opt.EvaluationFolder = None,
    format: opt.Format = "csv",
    quiet: opt.Quiet = False,
) -> None:
    """How well do methods harmonize people and visits that they have not seen? Needs travelers.

    Examples:

    $ bayesharm evaluate scans.csv features.npy --out evaluation/

    $ bayesharm evaluate table.csv --features 'thickness_*' --model traveling \\
        --participant subject --covariates age,sex --preview

    Other libraries are compared with where 'make comparators' has put them.
    """
    checks.check_table_folder(out, format)
    if out is not None and out.exists():
        checks.check_new_file(out / "evaluation.png", (".png",))
    checks.keep_programs()
    from bayesharm.evaluate import evaluate as evaluate_methods
    from bayesharm.progress import Progress

    columns = checks.column_mapping(
        scan_id=scan, participant_id=participant, scanner=scanner, site=site, diagnosis=diagnosis, traveling=traveling
    )
    dataset = checks.read_dataset(scans, features, select, columns, bad_features=bad_features)
    with Progress(quiet) as progress:
        found = evaluate_methods(
            dataset, opt.split_names(methods) or None, model=model, covariates=opt.split_names(covariates),
            reference=reference, units=units, folds=folds, repeats=repeats, visit_folds=visit_folds, preview=preview,
            seed=seed, report=progress,
        )  # fmt: skip
    show_found(found, out, format)
    if out is not None:
        from bayesharm.plots import plot_evaluation, save_figure

        save_figure(plot_evaluation(found), out / "evaluation.png")
        typer.echo(f"Figure: {out / 'evaluation.png'}")


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
        checks.check_new_folder(out)
    else:
        checks.check_new_file(out, (".png", ".svg", ".pdf"))
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
    with_populations: opt.WithPopulations = False,
) -> None:
    """Write all that a run has found into one HTML file: words, tables and figures.

    Example:

    $ bayesharm report run/ --out report.html
    """
    checks.check_new_file(out, (".html",))
    from bayesharm.plots import Findings
    from bayesharm.posterior import load_posterior
    from bayesharm.report import write_report

    posterior, told = load_posterior(run), None
    if with_populations:
        from bayesharm.populations import find_populations
        from bayesharm.progress import Progress

        checks.keep_programs()
        with Progress(False) as progress:
            told = find_populations(posterior, report=progress)
    typer.echo(f"Report: {write_report(Findings(posterior, nodes, networks, coordinates, told), out)}")


def show_found(found: Any, out: Path | None = None, format: str = "csv") -> None:
    """Print what was found, and write its tables if a folder is given for them."""
    from bayesharm.display import show

    show(found)
    if out is not None:
        typer.echo("Tables: " + ", ".join(str(file) for file in found.write(out, format)))
