"""The command ``evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bayesharm.cli import input as inputs
from bayesharm.cli import model_options as choices
from bayesharm.cli import options as opt
from bayesharm.cli.output import check_new_file, check_table_folder, show_result

FIGURE = "evaluation.png"

MethodsOption = Annotated[
    list[str] | None,
    opt.text(
        "--methods",
        "NAMES",
        "Methods to compare: none, glm, adjusted_glm, yamashita2019, longcombat, neurocombat, neuroharmonize, combatlearn, "
        "reml, bayesharm. [dim]Default: all that are available here.[/dim]",
    ),
]
EvaluatedModelOption = Annotated[str, opt.model("Model that bayesharm fits")]
FoldsOption = Annotated[
    int,
    opt.number(
        "--folds",
        "Number of folds of participants. Each fold is harmonized by models that were fitted to the other folds.",
        2,
    ),
]
RepeatsOption = Annotated[int, opt.number("--repeats", "How often the participants are divided into folds, at random.", 1)]
VisitFoldsOption = Annotated[
    int,
    opt.number("--visit-folds", "Number of folds of visits. Each fold is predicted from the other visits.", 2),
]
PreviewOption = Annotated[bool, opt.flag("--preview", "Use the quick approximation of bayesharm, without sampling.")]
EvaluationFolderOption = Annotated[
    Path | None, opt.text("--out", "FOLDER", "Also write the tables and a figure to this folder.")
]


def evaluate(
    *,
    scans: opt.ScansArgument,
    features: opt.FeaturesArgument = None,
    select: opt.SelectOption = None,
    methods: MethodsOption = None,
    model: EvaluatedModelOption = "auto",
    columns: opt.ScanColumns,
    derivatives: opt.DerivativeOptions,
    covariates: opt.CovariatesOption = None,
    formula: opt.FormulaOption = "",
    reference: opt.ReferenceOption = None,
    time: opt.TimeOption = None,
    missing: opt.CompleteOption = "error",
    bad_features: opt.BadFeaturesOption = "error",
    transform: opt.TransformOption = None,
    feature_scaling: choices.FeatureScalingOption = None,
    gain: choices.GainOption = None,
    folds: FoldsOption = 2,
    repeats: RepeatsOption = 2,
    visit_folds: VisitFoldsOption = 6,
    preview: PreviewOption = False,
    seed: opt.SeedOption = 0,
    accept: opt.AcceptOption = None,
    out: EvaluationFolderOption = None,
    format: opt.TableFormatOption = "csv",
    quiet: opt.QuietOption = False,
) -> None:
    """Compare harmonization methods by cross-validation, on held-out participants and visits of travelers.

    Examples:

    $ bayesharm evaluate scans.csv features.npy --out evaluation/

    $ bayesharm evaluate table.csv --features 'thickness_*' --model traveling \\
        --participant subject --covariates age,sex --preview

    Needs participants with scans on two or more scanners. Methods of other
    libraries are included if 'make comparators' has installed them.
    """
    check_table_folder(out, format)
    if out is not None and out.exists():
        check_new_file(out / FIGURE, (".png",))
    inputs.load_named_model(model, formula)
    from bayesharm.algorithms.programs import cache_programs

    cache_programs()
    from bayesharm.cli.progress_bar import ProgressBar
    from bayesharm.evaluation.cross_validate import cross_validate

    with ProgressBar(quiet) as progress:
        dataset = inputs.read_dataset(
            scans, features, select, columns.mapping, missing=missing, bad_features=bad_features,
            transform=transform, progress=progress, **derivatives.arguments,
        )  # fmt: skip
        evaluation = cross_validate(
            dataset, opt.split_names(methods) or None, model=model, covariates=opt.split_names(covariates),
            formula=formula, reference=reference, time=time, feature_scaling=feature_scaling, gain=gain,
            folds=folds, repeats=repeats, visit_folds=visit_folds, preview=preview, seed=seed,
            accept=opt.split_names(accept), progress=progress,
        )  # fmt: skip
    show_result(evaluation, out, format)
    if out is not None:
        from bayesharm.reporting.plots import plot_evaluation, save_figure

        save_figure(plot_evaluation(evaluation), out / FIGURE)
        typer.echo(f"Figure: {out / FIGURE}")
