"""The command ``simulate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from bayesharm.cli import options as opt
from bayesharm.cli.output import check_new_folder
from bayesharm.errors import InputError, listed

SRPBS_PANEL = "Design srpbs"
LONGITUDINAL_PANEL = "Design longitudinal"
OPTIONS = {
    "srpbs": (
        "no_sampling_bias",
        "bias_ratio_sd",
        "gain_sd",
        "feature_noise_sd",
        "hub_and_spoke",
        "without_travelers",
        "tail_df",
    ),
    "longitudinal": ("people", "crossing", "simultaneous", "travelers"),
}
"""Design -> options of this design only."""


StudyFolderOption = Annotated[
    Path,
    opt.text("--out", "FOLDER", "New or empty folder for scans.csv, features.npy, feature_names.txt and truth.npz."),
]
DesignOption = Annotated[
    Literal["srpbs", "longitudinal"],
    opt.choice(
        "--design",
        "srpbs: travelers and people scanned once, as in Yamashita et al. (2019). longitudinal: visits over years at four "
        "sites, three of which upgrade their scanner.",
    ),
]
NoSamplingBiasOption = Annotated[
    bool, opt.flag("--no-sampling-bias", "Let all sites recruit from one population.", SRPBS_PANEL)
]
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
        panel=SRPBS_PANEL,
        metavar="X",
    ),
]
GainSdOption = Annotated[
    float,
    opt.number(
        "--gain-sd",
        "Differences in gain between scanners: standard deviation of the log factor on differences between people.",
        panel=SRPBS_PANEL,
        metavar="X",
    ),
]
FeatureNoiseSdOption = Annotated[
    float,
    opt.number(
        "--feature-noise-sd",
        "Differences between features in the noise of a scanner: standard deviation of the log factor of its noise sd.",
        panel=SRPBS_PANEL,
        metavar="X",
    ),
]
HubAndSpokeOption = Annotated[
    bool,
    opt.flag(
        "--hub-and-spoke", "Use 30 travelers with one scan on each of 3 scanners, instead of 9 on all scanners.", SRPBS_PANEL
    ),
]
WithoutTravelersOption = Annotated[
    list[str] | None,
    opt.text(
        "--without-travelers", "SCANNER", "A scanner that no traveler visits. Repeat it for several scanners.", SRPBS_PANEL
    ),
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
        SRPBS_PANEL,
    ),
]
PeopleOption = Annotated[int, opt.number("--people", "Number of people, with 2 to 5 visits each.", 4, LONGITUDINAL_PANEL)]
CrossingOption = Annotated[
    float,
    opt.number(
        "--crossing",
        "Share of the people who are scanned both before and after the upgrade of their site.",
        panel=LONGITUDINAL_PANEL,
        metavar="X",
    ),
]
SimultaneousOption = Annotated[
    bool,
    opt.flag(
        "--simultaneous",
        "Upgrade all sites between everybody's first and second visit, so that scanners are confounded with time.",
        LONGITUDINAL_PANEL,
    ),
]
TravelersOption = Annotated[
    int,
    opt.number(
        "--travelers",
        "Number of people who tour all sites, before the upgrades and again four years later.",
        panel=LONGITUDINAL_PANEL,
    ),
]


def simulate(
    context: typer.Context,
    out: StudyFolderOption,
    design: DesignOption = "srpbs",
    edges: opt.EdgesOption = 2000,
    seed: opt.SeedOption = 0,
    scale_log_sd: ScaleLogSdOption = 0.3,
    noise_ratio_sd: NoiseRatioSdOption = 0.0,
    no_sampling_bias: NoSamplingBiasOption = False,
    bias_ratio_sd: BiasRatioSdOption = 0.0,
    gain_sd: GainSdOption = 0.0,
    feature_noise_sd: FeatureNoiseSdOption = 0.0,
    hub_and_spoke: HubAndSpokeOption = False,
    without_travelers: WithoutTravelersOption = None,
    tail_df: TailDfOption = None,
    people: PeopleOption = 160,
    crossing: CrossingOption = 0.6,
    simultaneous: SimultaneousOption = False,
    travelers: TravelersOption = 0,
) -> None:
    """Simulate a study with known ground truth: like that of Yamashita et al. (2019), or longitudinal.

    Example:

    $ bayesharm simulate --edges 500 --seed 1 --out study/

    $ bayesharm simulate --design longitudinal --edges 100 --seed 1 --out study/
    """
    _refuse_options_of_other_designs(context, design)
    check_new_folder(out)
    from bayesharm.datasets.longitudinal import simulate_longitudinal
    from bayesharm.datasets.simulate import simulate_srpbs

    if design == "srpbs":
        study = simulate_srpbs(
            edges,
            seed,
            scale_log_sd=scale_log_sd,
            sampling_bias=not no_sampling_bias,
            tail_df=tail_df,
            noise_ratio_log_sd=noise_ratio_sd,
            bias_ratio_log_sd=bias_ratio_sd,
            gain_log_sd=gain_sd,
            feature_noise_log_sd=feature_noise_sd,
            travelers="hub-and-spoke" if hub_and_spoke else "published",
            without_travelers=without_travelers or (),
        )
    else:
        study = simulate_longitudinal(
            edges,
            seed,
            n_people=people,
            crossing=crossing,
            simultaneous=simultaneous,
            n_travelers=travelers,
            scale_log_sd=scale_log_sd,
            noise_ratio_log_sd=noise_ratio_sd,
        )
    study.write(out)
    scans, features = out / "scans.csv", out / "features.npy"
    advice = {
        "srpbs": f"To fit a model to them:\nbayesharm fit {scans} {features} --seed 1 --out run/",
        "longitudinal": f"To see which model suits them:\nbayesharm check {scans} {features}",
    }
    typer.echo(f"Simulated {len(study.scans):,} scans × {edges:,} features in {out}. {advice[design]}")


def _refuse_options_of_other_designs(context: typer.Context, design: str) -> None:
    """Raise an `InputError` if an option is given that this design does not have."""
    options = {name: f"--{name.replace('_', '-')}" for names in OPTIONS.values() for name in names}
    sources = {name: context.get_parameter_source(name) for name in options if name not in OPTIONS[design]}
    if others := [options[name] for name, source in sources.items() if source and source.name == "COMMANDLINE"]:
        raise InputError(
            f"The design {design} has no such option.",
            got=listed(others),
            expected=f"options of all designs, or {', '.join(options[name] for name in OPTIONS[design])}",
            do=f"omit {'it' if len(others) == 1 else 'them'}, or choose the other design",
        )
