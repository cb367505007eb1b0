"""The command ``harmonize``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from bayesharm.cli import input as inputs
from bayesharm.cli import options as opt
from bayesharm.cli.output import check_new_files, check_together
from bayesharm.errors import InputError

MeanFileOption = Annotated[
    Path,
    opt.text(
        "--out",
        "FILE",
        "Harmonized features: .npy, .zarr, .csv, .tsv or .parquet. An existing file is replaced.",
        opt.OUTPUT_PANEL,
    ),
]
SdFileOption = Annotated[
    Path | None,
    opt.text(
        "--sd",
        "FILE",
        "Posterior standard deviation of the correction, in the shape and the units of the features.",
        opt.OUTPUT_PANEL,
    ),
]
DrawsOption = Annotated[
    int,
    opt.number(
        "--draws",
        "Number of joint posterior draws of the harmonized features; needs --draws-file.",
        0,
        opt.OUTPUT_PANEL,
    ),
]
DrawsFileOption = Annotated[
    Path | None,
    opt.text(
        "--draws-file",
        "FILE",
        "File for the draws: an array of draw × scan × feature, or a table with one row per draw and scan.",
        opt.OUTPUT_PANEL,
    ),
]
RemoveOption = Annotated[
    str | None,
    opt.text(
        "--remove",
        "NAMES",
        "Effects to remove: measurement, or measurement,sampling. Sampling effects are real differences between the people "
        "of the sites. [dim]Default: as in the model (measurement).[/dim]",
    ),
]
TargetOption = Annotated[
    str | None,
    opt.text(
        "--target",
        "SCANNER",
        "Harmonize to this scanner: all scans become as if it had measured them. "
        "[dim]Default: the average of the scanners in the fit.[/dim]",
    ),
]
MatchGainOption = Annotated[
    bool,
    opt.flag(
        "--match-gain",
        "Also divide differences between people by the gain of the scanner. Needs a run fitted with --gain scanner.",
    ),
]
MatchNoiseOption = Annotated[
    bool, opt.flag("--match-noise", "Also rescale deviations, so that people vary equally on all scanners.")
]
NewScannersOption = Annotated[
    Literal["error", "prior", "adapt"],
    opt.choice(
        "--new-scanners",
        "Scanners that are not in the fit. error: refuse them. prior: treat them as average scanners, with the uncertainty "
        "of the prior. adapt: first estimate their effects from the given scans.",
    ),
]
InverseOption = Annotated[bool, opt.flag("--inverse", "Undo a harmonization: add the effects back to harmonized features.")]


def harmonize(
    *,
    run: opt.RunArgument,
    scans: opt.ScansArgument,
    features: opt.FeaturesArgument = None,
    out: MeanFileOption,
    sd: SdFileOption = None,
    draws: DrawsOption = 0,
    draws_file: DrawsFileOption = None,
    select: opt.SelectOption = None,
    remove: RemoveOption = None,
    target: TargetOption = None,
    match_gain: MatchGainOption = False,
    match_noise: MatchNoiseOption = False,
    new_scanners: NewScannersOption = "error",
    inverse: InverseOption = False,
    seed: opt.SeedOption = 0,
    columns: opt.ScanColumns,
    accept: opt.AcceptOption = None,
    derivatives: opt.DerivativeOptions,
    quiet: opt.QuietOption = False,
) -> None:
    """Remove the measurement bias of each scanner from its scans, and report how uncertain the correction is.

    Examples:

    $ bayesharm harmonize run/ scans.csv features.npy --out harmonized.npy \\
        --sd harmonized_sd.npy

    $ bayesharm harmonize run/ new_scans.csv --features 'thickness_*' \\
        --participant subject --out harmonized.csv

    $ bayesharm harmonize run/ scans.csv features.npy --out harmonized.npy \\
        --draws 20 --draws-file draws.npy

    Scans and participants may be new. Features must be those of the fit, and so
    must scanners, unless --new-scanners says otherwise. The output keeps the
    rows, columns, labels, units and precision of the input.
    """
    files = {"--out": out, "--sd": sd, "--draws-file": draws_file}
    check_new_files(files, {"RUN": run, "SCANS": scans, "FEATURES": features})
    check_together({"--draws": draws, "--draws-file": draws_file})
    from bayesharm.cli.progress_bar import ProgressBar
    from bayesharm.harmonization.harmonize import harmonize_to_files
    from bayesharm.harmonization.selection import choose_families
    from bayesharm.results.posterior import load_posterior

    if accept and new_scanners != "adapt":
        raise InputError(
            "--accept has no effect here.", got="--accept without --new-scanners adapt",
            expected="findings on scans that an adaptation learns from",
            do="leave it out, or add --new-scanners adapt; what harmonize alone refuses cannot be accepted",
        )  # fmt: skip
    posterior = load_posterior(run)
    choose_families(posterior.spec, remove)  # refuses wrong families before an adaptation
    with ProgressBar(quiet) as progress:
        dataset = inputs.read_dataset(
            scans, features, select, columns.mapping, check="apply", progress=progress, **derivatives.arguments
        )
    adaptation_notes: list[str] = []
    if new_scanners == "adapt":
        from bayesharm.algorithms.programs import cache_programs
        from bayesharm.harmonization.adaptation import adapt_to_new_scanners, refuse_inverse_adaptation

        cache_programs()
        if inverse:
            refuse_inverse_adaptation(posterior, dataset)
        posterior, adaptation_notes = adapt_to_new_scanners(posterior, dataset, opt.split_names(accept))
    with ProgressBar(quiet) as progress:
        notes = harmonize_to_files(
            posterior, dataset, out, sd, draws_file, draws=draws, seed=seed, progress=progress,
            remove=remove, target=target, match_gain=match_gain, match_noise=match_noise, inverse=inverse,
            new_scanners="error" if new_scanners == "error" else "prior",  # where there was nothing to learn from
        )  # fmt: skip
    for note in dict.fromkeys([*adaptation_notes, *notes]):
        typer.echo(f"Note: {note}", err=True)
    typer.echo(
        "; ".join([f"Harmonized {_count(len(dataset.scans), 'scan')}: {out}", *_other_outputs(sd, draws, draws_file)])
    )

    if posterior.run.get("transform") == "fisher-z":
        typer.echo("The effects were removed in Fisher z. Values are r again (tanh); the sd is that of r, by quadrature.")


def _other_outputs(sd: Path | None, draws: int, draws_file: Path | None) -> list[str]:
    outputs = (("uncertainty", sd), (_count(draws, "draw"), draws_file))
    return [f"{name}: {path}" for name, path in outputs if path is not None]


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'s' * (n != 1)}"
