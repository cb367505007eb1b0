"""The commands `fit` and `models`."""

from __future__ import annotations

import sys

import typer

from bayesharm.cli import input as inputs
from bayesharm.cli import options as opt
from bayesharm.cli import output as outputs
from bayesharm.cli.output import show_found


def fit(
    scans: opt.Scans,
    out: opt.RunFolder,
    features: opt.FeatureFile = None,
    select: opt.Select = None,
    model: opt.Model = "traveling_and_cohort",
    scan: opt.Scan = None,
    participant: opt.Participant = None,
    scanner: opt.Scanner = None,
    site: opt.Site = None,
    diagnosis: opt.Diagnosis = None,
    traveling: opt.Traveling = None,
    covariates: opt.Covariates = None,
    protocol: opt.Protocol = None,
    reference: opt.Reference = None,
    bad_features: opt.BadFeatures = "error",
    feature_scaling: opt.FeatureScalingOption = None,
    seed: opt.Seed = 0,
    preview: opt.Preview = False,
    keep_draws: opt.KeepDraws = "none",
    target_ess: opt.TargetEss = 400,
    chains: opt.Chains = 4,
    draws: opt.Draws = None,
    block_size: opt.BlockSize = None,
    dtype: opt.Dtype = "float32",
    device: opt.Device = None,
    overwrite: opt.Overwrite = False,
    repair: opt.Repair = False,
    log: opt.Log = None,
    quiet: opt.Quiet = False,
) -> None:
    """Estimate what scanners, sites, diagnoses and people contribute to every feature.

    Examples:

    $ bayesharm fit scans.csv features.npy --seed 1 --out run/

    $ bayesharm fit table.csv --features 'thickness_*' --participant subject \\
        --model traveling --out run/

    A run that was interrupted goes on where it stopped, with the same result,
    when the same command is given again.

    Makes a run folder, which [bold]bayesharm summary[/bold] shows
    and [bold]bayesharm harmonize[/bold] applies to scans.
    """
    outputs.check_new_folder(out, resume=True, overwrite=overwrite, repair=repair)
    from bayesharm.cli.progress_bar import ProgressBar
    from bayesharm.model.catalog import load_model

    spec = load_model(model)
    columns = inputs.column_mapping(
        scan_id=scan, participant_id=participant, scanner=scanner, site=site, diagnosis=diagnosis, traveling=traveling
    )
    with ProgressBar(quiet, log) as progress:
        progress.say(f"reading {scans}" + (f" and {features}" if features else ""))
        dataset = inputs.read_dataset(scans, features, select, columns, bad_features=bad_features)
        progress.say(
            f"{len(dataset.scans):,} scans from {dataset.scans['scanner'].nunique()} scanners, "
            f"{dataset.features.n_features:,} features"
        )
        from bayesharm.algorithms.devices import cache_programs
        from bayesharm.fitting.fit import fit as fit_model

        cache_programs()
        posterior = fit_model(
            dataset, spec, seed=seed, reference=reference, feature_scaling=feature_scaling, out=out, overwrite=overwrite,
            progress=progress,
            covariates=opt.split_names(covariates), protocol=opt.split_names(protocol),
            preview=preview, keep_draws=keep_draws, target_ess=target_ess, chains=chains, draws=draws,
            block_size=block_size, dtype=dtype, device=device, repair=repair,
        )  # fmt: skip
    from bayesharm.analysis.summary import summarize

    found = summarize(posterior)
    for sentence in (*found.diagnostics, *found.notes):
        typer.echo(sentence)
    typer.echo(f"Results are in {out}; look at them with: bayesharm summary {out}")


def models(
    name: opt.CardName = None,
) -> None:
    """List the models, or show what one of them assumes, estimates and cannot tell.

    Example:

    $ bayesharm models traveling_and_cohort
    """
    from bayesharm.model.catalog import load_model, model_card, model_names

    if name is None:
        for each in model_names():
            typer.echo(f"{each}\n    {load_model(each).title}")
        typer.echo("\nShow the card of one with: bayesharm models NAME")
        return
    load_model(name)
    card = model_card(name)
    from rich.markdown import Markdown

    show_found(Markdown(card) if sys.stdout.isatty() else card)
