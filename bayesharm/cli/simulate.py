"""The command ``simulate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bayesharm.cli import options as opt
from bayesharm.cli.output import check_new_folder

StudyFolderOption = Annotated[
    Path,
    opt.text("--out", "FOLDER", "New or empty folder for scans.csv, features.npy, feature_names.txt and truth.npz."),
]
NoSamplingBiasOption = Annotated[bool, opt.flag("--no-sampling-bias", "Let all sites recruit from one population.")]
NoiseRatioSdOption = Annotated[
    float,
    opt.number(
        "--noise-ratio-sd",
        "Differences in noise between scanners: standard deviation of the log noise variance ratio.",
        metavar="X",
    ),
]
BiasRatioSdOption = Annotated[
    float,
    opt.number(
        "--bias-ratio-sd",
        "Differences in the size of measurement bias between scanners: standard deviation of the log bias variance ratio.",
        metavar="X",
    ),
]
HubAndSpokeOption = Annotated[
    bool,
    opt.flag("--hub-and-spoke", "Use 30 travelers with one scan on each of 3 scanners, instead of 9 on all scanners."),
]
WithoutTravelersOption = Annotated[
    list[str] | None,
    opt.text("--without-travelers", "SCANNER", "A scanner that no traveler visits. Repeat it for several scanners."),
]
ScaleLogSdOption = Annotated[
    float,
    opt.number(
        "--scale-log-sd",
        "Differences in scale between features: standard deviation of the log scale.",
        metavar="X",
    ),
]
TailDfOption = Annotated[
    float | None,
    opt.text(
        "--tail-df",
        "X",
        "Draw the noise from a Student t distribution with this many degrees of freedom (above 2). "
        "[dim]Default: Gaussian noise.[/dim]",
    ),
]


def simulate(
    out: StudyFolderOption,
    edges: opt.EdgesOption = 2000,
    seed: opt.SeedOption = 0,
    no_sampling_bias: NoSamplingBiasOption = False,
    noise_ratio_sd: NoiseRatioSdOption = 0.0,
    bias_ratio_sd: BiasRatioSdOption = 0.0,
    hub_and_spoke: HubAndSpokeOption = False,
    without_travelers: WithoutTravelersOption = None,
    scale_log_sd: ScaleLogSdOption = 0.3,
    tail_df: TailDfOption = None,
) -> None:
    """Simulate a study with known ground truth: 1,216 scans from 12 scanners, as in Yamashita et al. (2019).

    Example:

    $ bayesharm simulate --edges 500 --seed 1 --out study/
    """
    check_new_folder(out)
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
        f"Simulated {len(study.scans):,} scans × {edges:,} features in {out}. To fit a model to them:\n"
        f"bayesharm fit {out / 'scans.csv'} {out / 'features.npy'} --seed 1 --out run/"
    )
