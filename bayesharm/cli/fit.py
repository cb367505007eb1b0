"""The command ``fit``."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from bayesharm.cli import input as inputs
from bayesharm.cli import model_options as choices
from bayesharm.cli import options as opt
from bayesharm.cli.output import check_new_folder, check_report

INFERENCE_PANEL = "Inference"

RunFolderOption = Annotated[
    Path,
    opt.text("--out", "FOLDER", "Run folder to create, or to complete if the run was interrupted.", opt.OUTPUT_PANEL),
]
ModelOption = Annotated[str, opt.model("Model to fit")]
ProtocolOption = Annotated[
    list[str] | None,
    opt.text(
        "--protocol",
        "NAMES",
        "Columns that describe the scanners, for --model protocol, for example vendor,coil. "
        "[dim]Default: the protocol factors of the model.[/dim]",
        opt.COLUMNS_PANEL,
    ),
]
OverwriteOption = Annotated[
    bool,
    opt.flag(
        "--overwrite",
        "If the folder already holds a run, delete it immediately and start a new one.",
        opt.OUTPUT_PANEL,
    ),
]
RepairOption = Annotated[
    bool,
    opt.flag(
        "--repair",
        "Recompute only the damaged parts of the finished run in the folder.",
        opt.OUTPUT_PANEL,
    ),
]
ReportOption = Annotated[
    Path | None,
    opt.text("--report", "FILE", "Also write the report of the run, a new file: .html.", opt.OUTPUT_PANEL),
]
LogOption = Annotated[
    Path | None, opt.text("--log", "FILE", "Append progress messages, with the elapsed time, to this file.")
]


@dataclass(frozen=True)
class InferenceOptions:
    """The options that :class:`bayesharm.Settings` describes, by the same names."""

    preview: Annotated[
        bool,
        opt.flag(
            "--preview",
            "Approximation without sampling, quicker with thousands of features. Every output is marked as a preview.",
        ),
    ] = False
    keep_draws: Annotated[
        Literal["none", "thin", "all"],
        opt.choice(
            "--keep-draws",
            "Posterior draws of the scales (standard deviations of the effects) to keep for each feature: none, 100 (thin) "
            "or all. The disk space they need is reported at the start.",
            opt.OUTPUT_PANEL,
        ),
    ] = "none"
    target_ess: Annotated[
        int | None,
        opt.number(
            "--target-ess",
            "Effective sample size that every scale of a feature must reach for the feature to count as converged. "
            "[dim]Default: 400, and 100 with --likelihood student-t.[/dim]",
            8,
            INFERENCE_PANEL,
        ),
    ] = None
    chains: Annotated[int, opt.number("--chains", "Number of chains per feature.", 2, INFERENCE_PANEL)] = 4
    draws: Annotated[
        int | None,
        opt.number(
            "--draws",
            "Draws per chain. [dim]Default: 1.25 × --target-ess (student-t: 1.6 ×) over all chains together.[/dim]",
            8,
            INFERENCE_PANEL,
        ),
    ] = None
    block_size: Annotated[
        int | None,
        opt.number(
            "--block-size",
            "Number of features that a device samples together. Affects speed and memory; results change only by rounding. "
            "[dim]Default: 64 on a CPU, 4,096 on a GPU.[/dim]",
            1,
            INFERENCE_PANEL,
        ),
    ] = None
    dtype: Annotated[
        Literal["float32", "float64"],
        opt.choice("--dtype", "Floating-point precision for sampling the features. float64 is slower.", INFERENCE_PANEL),
    ] = "float32"
    device: Annotated[
        str | None,
        opt.text(
            "--device",
            "PLATFORM",
            "Compute on all devices of this JAX platform: cpu or gpu. [dim]Default: gpu, if available.[/dim]",
            INFERENCE_PANEL,
        ),
    ] = None


def fit(
    *,
    scans: opt.ScansArgument,
    features: opt.FeaturesArgument = None,
    out: RunFolderOption,
    select: opt.SelectOption = None,
    model: ModelOption = "auto",
    missing: opt.MissingOption = "model",
    bad_features: opt.BadFeaturesOption = "error",
    transform: opt.TransformOption = None,
    feature_scaling: choices.FeatureScalingOption = None,
    gain: choices.GainOption = None,
    noise_ratio: choices.NoiseRatioOption = None,
    likelihood: choices.LikelihoodOption = None,
    seed: opt.SeedOption = 0,
    columns: opt.ScanColumns,
    derivatives: opt.DerivativeOptions,
    covariates: opt.CovariatesOption = None,
    formula: opt.FormulaOption = "",
    protocol: ProtocolOption = None,
    reference: opt.ReferenceOption = None,
    time: opt.TimeOption = None,
    noise_weight: choices.NoiseWeightOption = None,
    accept: opt.AcceptOption = None,
    inference: InferenceOptions,
    overwrite: OverwriteOption = False,
    repair: RepairOption = False,
    report: ReportOption = None,
    log: LogOption = None,
    quiet: opt.QuietOption = False,
) -> None:
    """Fit a model: estimate the effects of scanner, site, diagnosis and participant on every feature.

    Examples:

    $ bayesharm fit scans.csv features.npy --seed 1 --out run/

    $ bayesharm fit table.csv --features 'thickness_*' --participant subject \\
        --model traveling --out run/

    The result is a run folder. To look at it: [bold]bayesharm summary[/bold]
    To remove the measurement bias: [bold]bayesharm harmonize[/bold]

    If a run is interrupted, repeat the same command. It continues from where it
    stopped and gives the same result.
    """
    check_new_folder(out, resume=True, overwrite=overwrite, repair=repair)
    if report is not None:
        check_report(report)
    from bayesharm.cli.progress_bar import ProgressBar
    from bayesharm.fitting.settings import Settings

    named = inputs.load_named_model(model, formula)
    has_tails = likelihood == "student-t" if likelihood or named is None else named.has_tails
    Settings.from_options(asdict(inference), has_tails)
    with ProgressBar(quiet, log) as progress:
        progress.say(f"reading {scans}" + (f" and {features}" if features else ""))
        dataset = inputs.read_dataset(
            scans, features, select, columns.mapping, missing=missing, bad_features=bad_features,
            transform=transform, progress=progress, **derivatives.arguments,
        )  # fmt: skip
        progress.say(
            f"{len(dataset.scans):,} scans from {dataset.scans['scanner'].nunique()} scanners, "
            f"{dataset.features.n_features:,} feature{'' if dataset.features.n_features == 1 else 's'}"
        )
        from bayesharm.data.finding import refuse_errors
        from bayesharm.model.configure import configure_model, resolve_model, screen_study
        from bayesharm.model.design import build_design
        from bayesharm.study_check.check import check as check_study

        chosen, on_choice = resolve_model(model, dataset.scans, time)
        for sentence in on_choice or (f"Model {model}, as asked.",):
            progress.say(sentence)
        spec = configure_model(
            chosen, dataset, covariates=opt.split_names(covariates), formula=formula, protocol=opt.split_names(protocol),
            reference=reference, feature_scaling=feature_scaling, gain=gain, time=time,
            noise_ratio=noise_ratio, noise_weight=noise_weight, likelihood=likelihood,
        )  # fmt: skip
        cost = build_design(dataset.scans, spec).cost  # refuses what the model cannot use
        for sentence in cost:
            progress.say(sentence)
        findings = screen_study(dataset, spec, opt.split_names(accept), time)
        refuse_errors(findings)
        check = check_study(dataset, spec, findings=findings)
        for sentence in check.verdict.short:
            progress.say(sentence)
        for finding in check.findings:
            progress.say(f"caveat ({finding.code}): {finding.sentence}")

        from bayesharm.algorithms.programs import cache_programs  # imports JAX
        from bayesharm.fitting.fit import fit as fit_model

        cache_programs()
        posterior = fit_model(
            dataset, spec, seed=seed, notes=on_choice, findings=findings, check=check, out=out, overwrite=overwrite,
            repair=repair, progress=progress, **asdict(inference),
        )  # fmt: skip
    from bayesharm.analysis.summary import summarize

    result = summarize(posterior)
    said = set() if quiet else {*on_choice, *cost, *(finding.sentence for finding in check.findings)}  # before the fit
    for sentence in (*result.diagnostics, *(note for note in result.notes if note not in said)):
        typer.echo(sentence)
    if report is not None:
        from bayesharm.reporting.html import write_report
        from bayesharm.reporting.run_view import RunView

        typer.echo(f"Report: {write_report(RunView(posterior, folder=str(out)), report)}")
    typer.echo(f"The results are in {out}. To see them: bayesharm summary {shlex.quote(str(out))}")
