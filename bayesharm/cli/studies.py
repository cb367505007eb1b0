"""The commands `simulate`, `demo` and `bench`."""

from __future__ import annotations

from pathlib import Path

import typer

from bayesharm.cli import options as opt
from bayesharm.cli import output as outputs
from bayesharm.cli.output import show_found


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
    outputs.check_new_folder(out)
    from bayesharm.datasets.simulate import simulate_srpbs

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
    from bayesharm.algorithms.programs import cache_programs
    from bayesharm.cli.demo.demo import demo_onharmony, demo_simulated
    from bayesharm.cli.progress_bar import ProgressBar

    cache_programs()
    folder = out or Path("bayesharm-demo" if data == "simulated" else "bayesharm-demo-onharmony")
    with ProgressBar(quiet) as work:
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
    from bayesharm.algorithms.programs import cache_programs
    from bayesharm.cli.demo.benchmark import run_bench
    from bayesharm.cli.progress_bar import ProgressBar

    cache_programs()
    with ProgressBar(quiet) as progress:
        found = run_bench(edges, progress)
    show_found(found)
