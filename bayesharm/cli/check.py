"""The command ``check``."""

from __future__ import annotations

import shlex
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from bayesharm.cli import input as inputs
from bayesharm.cli import model_options as choices
from bayesharm.cli import options as opt
from bayesharm.cli.output import check_new_file

REFUSED = 1  # exit code

CheckedModelOption = Annotated[str, opt.model("Model for which the precision is computed")]
ProtocolColumnsOption = Annotated[
    list[str] | None,
    opt.text("--protocol", "NAMES", "Columns that describe the scanners, for example vendor,coil.", opt.COLUMNS_PANEL),
]
JsonOption = Annotated[Path | None, opt.text("--json", "FILE", "Also write the check to this new file: .json.")]


def check(
    *,
    scans: opt.ScansArgument,
    features: opt.FeaturesArgument = None,
    select: opt.SelectOption = None,
    transform: opt.TransformOption = None,
    model: CheckedModelOption = "auto",
    columns: opt.ScanColumns,
    derivatives: opt.DerivativeOptions,
    covariates: opt.CovariatesOption = None,
    formula: opt.FormulaOption = "",
    protocol: ProtocolColumnsOption = None,
    reference: opt.ReferenceOption = None,
    time: opt.TimeOption = None,
    noise_weight: choices.NoiseWeightOption = None,
    accept: opt.AcceptOption = None,
    json: JsonOption = None,
    quiet: opt.QuietOption = False,
) -> None:
    """Check a study before it is fitted: what it can separate, how precisely, and what is wrong with its data.

    Examples:

    $ bayesharm check scans.csv features.npy

    $ bayesharm check planned_scans.csv --json check.json

    Nothing is sampled. FEATURES may be left out: the scans table alone says what
    a study, such as a planned one, can separate.

    Exit code: 0, or 1 if a fit would refuse the data.
    """
    if json is not None:
        check_new_file(json, (".json",), "--json")
    inputs.load_named_model(model, formula)
    from bayesharm.cli.progress_bar import ProgressBar
    from bayesharm.results.console import show_wide
    from bayesharm.study_check.check import check as check_study

    dataset: Any = scans
    if features is not None or select:
        with ProgressBar(quiet) as progress:
            dataset = inputs.read_dataset(
                scans, features, select, columns.mapping, bad_features="keep", transform=transform, progress=progress,
                **derivatives.arguments,
            )  # fmt: skip
    result = check_study(
        dataset, model, columns=columns.mapping, covariates=opt.split_names(covariates),
        formula=formula, protocol=opt.split_names(protocol), reference=reference, time=time,
        noise_weight=noise_weight, accept=opt.split_names(accept),
        source=_arguments(scans, features, select, columns.mapping, derivatives, transform),
    )  # fmt: skip
    if json is not None:
        result.to_json(json)
    show_wide(result)
    if result.is_refused:
        raise typer.Exit(REFUSED)


def _arguments(
    scans: Path,
    features: Path | None,
    select: list[str] | None,
    columns: dict[str, str],
    derivatives: opt.DerivativeOptions,
    transform: str | None,
) -> str:
    """Return the arguments of the command that stand for the dataset, as the user gave them."""
    table = features or ("" if select else "FEATURES")
    words = [str(scans), *([str(table)] if table else [])]
    words += [word for pattern in select or () for word in ("--features", pattern)]
    words += [word for name, column in columns.items() for word in (f"--{name.removesuffix('_id')}", column)]
    for field in fields(derivatives):
        given = getattr(derivatives, field.name)
        if given != field.default:
            values = given if isinstance(given, list) else [given]
            words += [word for value in values for word in (f"--{field.name.replace('_', '-')}", str(value))]
    words += ["--transform", transform] if transform else []
    return " ".join(map(shlex.quote, words))
