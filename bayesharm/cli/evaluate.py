"""The command `evaluate`."""

from __future__ import annotations

import typer

from bayesharm.cli import input as inputs
from bayesharm.cli import options as opt
from bayesharm.cli import output as outputs
from bayesharm.cli.output import show_found


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
    feature_scaling: opt.FeatureScalingOption = None,
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
    outputs.check_table_folder(out, format)
    if out is not None and out.exists():
        outputs.check_new_file(out / "evaluation.png", (".png",))
    from bayesharm.algorithms.programs import cache_programs

    cache_programs()
    from bayesharm.cli.progress_bar import ProgressBar
    from bayesharm.evaluation.cross_validate import cross_validate

    columns = inputs.column_mapping(
        scan_id=scan, participant_id=participant, scanner=scanner, site=site, diagnosis=diagnosis, traveling=traveling
    )
    dataset = inputs.read_dataset(scans, features, select, columns, bad_features=bad_features)
    with ProgressBar(quiet) as progress:
        found = cross_validate(
            dataset, opt.split_names(methods) or None, model=model, covariates=opt.split_names(covariates),
            reference=reference, feature_scaling=feature_scaling, folds=folds, repeats=repeats,
            visit_folds=visit_folds, preview=preview,
            seed=seed, progress=progress,
        )  # fmt: skip
    show_found(found, out, format)
    if out is not None:
        from bayesharm.reporting.plots import plot_evaluation, save_figure

        save_figure(plot_evaluation(found), out / "evaluation.png")
        typer.echo(f"Figure: {out / 'evaluation.png'}")
