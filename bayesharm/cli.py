"""The ``bayesharm`` command. Libraries that take long to load are imported in the commands that use them."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from bayesharm import checks
from bayesharm import options as opt
from bayesharm.errors import BayesharmError
from bayesharm.run_commands import compare, evaluate, harmonize, plot, populations, report, show_found, sources, summary

app = typer.Typer(
    name="bayesharm", no_args_is_help=True, add_completion=False, rich_markup_mode="rich",
    pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip


def _command(function: Callable[..., None]) -> None:
    """Register a command: our own errors end with exit code 2 and no traceback, Ctrl-C with 130."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except BayesharmError as error:
            typer.echo(f"Error: {error}", err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            again = " The same command goes on where it stopped." if function.__name__ == "fit" else ""
            typer.echo(f"Stopped.{again}", err=True)
            raise typer.Exit(130) from None

    app.command(no_args_is_help=function.__name__ not in ("models", "demo", "bench"))(run)


def _show_version(wanted: bool) -> None:
    if wanted:
        import bayesharm

        typer.echo(f"bayesharm {bayesharm.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Separate what scanners do to brain images from how the people of each site differ.

    Learns it from traveling subjects, people scanned on several scanners.
    To see it work: [bold]bayesharm demo[/bold]
    For your own study: [bold]bayesharm fit --help[/bold]
    """


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
    units: opt.Units = None,
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
    checks.check_new_folder(out, resume=True, overwrite=overwrite, repair=repair)
    from bayesharm.progress import Progress
    from bayesharm.spec import load_model

    spec = load_model(model)
    columns = checks.column_mapping(
        scan_id=scan, participant_id=participant, scanner=scanner, site=site, diagnosis=diagnosis, traveling=traveling
    )
    with Progress(quiet, log) as progress:
        progress.say(f"reading {scans}" + (f" and {features}" if features else ""))
        dataset = checks.read_dataset(scans, features, select, columns, bad_features=bad_features)
        progress.say(
            f"{len(dataset.scans):,} scans from {dataset.scans['scanner'].nunique()} scanners, "
            f"{dataset.features.n_features:,} features"
        )
        from bayesharm.fit import fit as fit_model

        checks.keep_programs()
        posterior = fit_model(
            dataset, spec, seed=seed, reference=reference, units=units, out=out, overwrite=overwrite, report=progress,
            covariates=opt.split_names(covariates), protocol=opt.split_names(protocol),
            preview=preview, keep_draws=keep_draws, target_ess=target_ess, chains=chains, draws=draws,
            block_size=block_size, dtype=dtype, device=device, repair=repair,
        )  # fmt: skip
    from bayesharm.summary import summarize

    found = summarize(posterior)
    for sentence in (*found.verdicts, *found.notes):
        typer.echo(sentence)
    typer.echo(f"Results are in {out}; look at them with: bayesharm summary {out}")


def models(
    name: opt.CardName = None,
) -> None:
    """List the models, or show what one of them assumes, estimates and cannot tell.

    Example:

    $ bayesharm models traveling_and_cohort
    """
    from bayesharm.spec import load_model, model_card, model_names

    if name is None:
        for each in model_names():
            typer.echo(f"{each}\n    {load_model(each).title}")
        typer.echo("\nShow the card of one with: bayesharm models NAME")
        return
    load_model(name)
    card = model_card(name)
    from rich.markdown import Markdown

    show_found(Markdown(card) if sys.stdout.isatty() else card)


def simulate(
    out: opt.StudyFolder,
    edges: opt.Edges = 2000,
    seed: opt.Seed = 0,
    no_sampling_bias: opt.NoSamplingBias = False,
    noise_ratio_sd: opt.NoiseRatioSd = 0.0,
    bias_ratio_sd: opt.BiasRatioSd = 0.0,
    hub_and_spoke: opt.HubAndSpoke = False,
    without_travelers: opt.WithoutTravelers = None,
    scale_log_sd: opt.ScaleLogSd = 0.3,
    tail_df: opt.TailDf = None,
) -> None:
    """Make a study whose truth is known, shaped like that of Yamashita et al. 2019: 1,216 scans, 12 scanners.

    Example:

    $ bayesharm simulate --edges 500 --seed 1 --out study/
    """
    checks.check_new_folder(out)
    from bayesharm.simulate import simulate_srpbs

    study = simulate_srpbs(
        edges,
        seed,
        scale_log_sd=scale_log_sd,
        sampling_bias=not no_sampling_bias,
        tail_df=tail_df,
        noise_ratio_log_sd=noise_ratio_sd,
        bias_ratio_log_sd=bias_ratio_sd,
        travelers="hub-and-spoke" if hub_and_spoke else "published",
        without_travelers=without_travelers or (),
    )
    study.write(out)
    typer.echo(
        f"{len(study.scans):,} scans × {edges:,} features are in {out}; fit them with:\n"
        f"bayesharm fit {out / 'scans.csv'} {out / 'features.npy'} --seed 1 --out run/"
    )


def demo(
    data: opt.DemoData = "simulated",
    edges: opt.Edges = 5000,
    out: opt.DemoFolder = None,
    seed: opt.Seed = 1,
    quiet: opt.Quiet = False,
) -> None:
    """Run everything once on an example study, print what was found, and leave the results in a folder.

    Example:

    $ bayesharm demo --edges 500 --out demo/
    """
    from bayesharm.demo import demo_onharmony, demo_simulated
    from bayesharm.progress import Progress

    checks.keep_programs()
    folder = out or Path("bayesharm-demo" if data == "simulated" else "bayesharm-demo-onharmony")
    with Progress(quiet) as work:
        told = demo_simulated(folder, edges, seed, work) if data == "simulated" else demo_onharmony(folder, seed, work)
    show_found(told)


def bench(
    edges: opt.Edges = 1000,
    quiet: opt.Quiet = False,
) -> None:
    """Measure how long the work takes on this machine, and say what that means for a whole connectome.

    Example:

    $ bayesharm bench --edges 1000
    """
    from bayesharm.bench import run_bench
    from bayesharm.progress import Progress

    checks.keep_programs()
    with Progress(quiet) as progress:
        found = run_bench(edges, progress)
    show_found(found)


# as help lists them
for each in (fit, harmonize, evaluate, summary, sources, populations, compare, plot, report, models, simulate, demo, bench):
    _command(each)


def main() -> None:
    """Run the command; the console script ``bayesharm`` calls this."""
    try:
        app()
    except SystemExit as end:
        if end.code == 130:  # stopped: what still computes in other threads is not waited for
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(130)
        raise


if __name__ == "__main__":
    main()
