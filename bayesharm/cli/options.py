"""Arguments and options of the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from bayesharm.errors import InputError

COLUMNS = "Columns of the scans table"
RESULT = "Results"
WORK = "How it is computed"


def _argument(metavar: str, help: str) -> Any:
    return typer.Argument(metavar=metavar, show_default=False, help=help)


def _text(option: str, metavar: str, help: str, panel: str | None = None) -> Any:
    return typer.Option(option, metavar=metavar, rich_help_panel=panel, show_default=False, help=help)


def _column(option: str, help: str) -> Any:
    return _text(option, "COLUMN", help, COLUMNS)


def _number(option: str, help: str, least: float | None = 0, panel: str | None = None, metavar: str = "N") -> Any:
    return typer.Option(option, metavar=metavar, min=least, rich_help_panel=panel, help=help)


# what is read
Run = Annotated[Path, _argument("RUN", "Run folder that 'bayesharm fit' has made.")]
Scans = Annotated[Path, _argument("SCANS", "Table with one row per scan: .csv, .tsv or .parquet.")]
FeatureFile = Annotated[
    Path | None,
    _argument(
        "FEATURES",
        "Scans × features: .npy, .npz, .csv, .tsv, .parquet or .zarr. Leave it out if the features are columns of "
        "SCANS, and choose these with --features.",
    ),
]
Select = Annotated[
    list[str] | None,
    _text(
        "--features",
        "GLOB",
        "Features to use, by name: 'thickness_*'. Quote it; repeat it for several. Needed if the features are "
        "columns of SCANS.",
    ),
]
Scan = Annotated[str | None, _column("--scan", "What identifies a scan. [dim]Default: scan_id, if there.[/dim]")]
Participant = Annotated[str | None, _column("--participant", "Who was scanned. [dim]Default: participant_id.[/dim]")]
Scanner = Annotated[
    str | None, _column("--scanner", "The scanner, together with its protocol. [dim]Default: scanner.[/dim]")
]
Site = Annotated[
    str | None, _column("--site", "Where the person was recruited. [dim]Default: site, else the scanner.[/dim]")
]
Diagnosis = Annotated[str | None, _column("--diagnosis", "Diagnosis or group. [dim]Default: diagnosis, if there.[/dim]")]
Traveling = Annotated[
    str | None,
    _column(
        "--traveling",
        "Yes or no: a traveling subject, even if seen on one scanner only. People seen on two or more scanners are "
        "found without it. [dim]Default: traveling, if there.[/dim]",
    ),
]

# what is estimated, and how
Model = Annotated[str, typer.Option(metavar="NAME", help="What is estimated; 'bayesharm models' lists them.")]
Covariates = Annotated[
    list[str] | None,
    _text("--covariates", "NAMES", "Columns whose linear effect is estimated too: age,sex", COLUMNS),
]
Protocol = Annotated[
    list[str] | None,
    _text("--protocol", "NAMES", "Columns that describe the scanners, for --model protocol: vendor,coil", COLUMNS),
]
Reference = Annotated[
    str | None,
    _text("--reference", "DIAGNOSIS", "The diagnosis that others are compared with. [dim]Default: HC.[/dim]", COLUMNS),
]
BadFeatures = Annotated[
    Literal["error", "drop"],
    typer.Option(help="If features are constant or have missing or infinite values: refuse, or leave them out."),
]
FeatureScalingOption = Annotated[
    Literal["per_feature", "common"] | None,
    typer.Option(
        show_default=False,
        help="In what the scales of features are compared: in each feature's own sd, right for any mixture of "
        "measures, or in one unit for all, better where all are of one kind, such as connectivity edges. "
        "[dim]Default: as the model says; per_feature.[/dim]",
    ),
]
Seed = Annotated[int, _number("--seed", "The same seed gives the same result.")]
Preview = Annotated[
    bool,
    typer.Option(
        "--preview",
        help="A quick look: approximate everything and sample nothing. All that is made from it says so.",
    ),
]
KeepDraws = Annotated[
    Literal["none", "thin", "all"],
    typer.Option(
        rich_help_panel=RESULT,
        help="Keep draws of each feature's scales in the run folder: none, 100 of them, or all; how much room they take is "
        "told when the work begins.",
    ),
]
TargetEss = Annotated[
    int, _number("--target-ess", "Effective draws that each scale of a feature must have to count as converged.", 8, WORK)
]
Chains = Annotated[int, _number("--chains", "Chains for each feature.", 2, WORK)]
Draws = Annotated[
    int | None,
    _number("--draws", "Kept draws of each chain. [dim]Default: a quarter more in all than --target-ess.[/dim]", 8, WORK),
]
BlockSize = Annotated[
    int | None,
    _number(
        "--block-size",
        "Features that a device samples together; results do not depend on it, but for rounding. "
        "[dim]Default: 64; GPU 4,096.[/dim]",
        1,
        WORK,
    ),
]
Device = Annotated[
    str | None,
    _text(
        "--device",
        "KIND",
        "Where to work: all devices of a kind that JAX sees, such as cpu or gpu. [dim]Default: a gpu, if there.[/dim]",
        WORK,
    ),
]
Dtype = Annotated[
    Literal["float32", "float64"],
    typer.Option(rich_help_panel=WORK, help="Precision in which features are sampled; float64 takes longer."),
]
Log = Annotated[Path | None, _text("--log", "FILE", "Add lines of progress to this file, with times.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress; notes and errors are still shown.")]

# what is written
RunFolder = Annotated[Path, _text("--out", "FOLDER", "The run folder to make or to finish.", RESULT)]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", rich_help_panel=RESULT, help="Start afresh where the folder holds a run, which is removed at once."
    ),
]
Repair = Annotated[
    bool,
    typer.Option(
        "--repair",
        rich_help_panel=RESULT,
        help="Compute again what is damaged in the finished run of the folder; everything else stays as it is.",
    ),
]
MeanFile = Annotated[
    Path,
    _text("--out", "FILE", "Harmonized features: .npy, .zarr, .csv, .tsv or .parquet; replaced if it exists.", RESULT),
]
SdFile = Annotated[
    Path | None,
    _text("--sd", "FILE", "Their uncertainty: posterior sd of what was subtracted, same shape and units.", RESULT),
]
HarmonizedDraws = Annotated[
    int, _number("--draws", "Joint posterior draws of the harmonized features, for --draws-file.", 0, RESULT)
]
DrawsFile = Annotated[
    Path | None,
    _text("--draws-file", "FILE", "The draws: draw × scan × feature, or a table with a row for each scan of each.", RESULT),
]
Remove = Annotated[
    str | None,
    _text(
        "--remove",
        "NAMES",
        "What is removed: measurement, or measurement,sampling to remove also how the people of a site differ, which is "
        "real. [dim]Default: as the model says; measurement.[/dim]",
    ),
]
Target = Annotated[
    str | None,
    _text("--target", "SCANNER", "The scanner that scans are brought to. [dim]Default: the average of all.[/dim]"),
]
MatchNoise = Annotated[bool, typer.Option("--match-noise", help="Equalize the noise of scanners too.")]
NewScannersOption = Annotated[
    Literal["error", "prior", "adapt"],
    typer.Option(
        "--new-scanners",
        help="Scanners that the fit has not seen: refuse them, leave their scans as they are with the uncertainty of the "
        "prior, or learn what they do from their scans first.",
    ),
]
Inverse = Annotated[bool, typer.Option("--inverse", help="Add what would be subtracted: back from harmonized features.")]
EdgeTableOption = Annotated[
    Path | None, _text("--edge-table", "FILE", "Table of edges: feature, node_a, node_b. Sizes are then told by region too.")
]
Networks = Annotated[
    Path | None, _text("--networks", "FILE", "Table of regions: region, network. Sizes are then told by pairs of them too.")
]
Coordinates = Annotated[
    Path | None, _text("--coordinates", "FILE", "Table of regions: region, x, y, z (mm, MNI). Maps of the brain need it.")
]
What = Annotated[
    str,
    _text(
        "--what",
        "NAME",
        "sources, contributions, order, ranking, scales, scanners, bias, distance, dendrogram, regions, networks, brain, "
        "connectome, or all that the run and the tables allow.",
    ),
]
FigureFile = Annotated[Path, _text("--out", "FILE", "New file: .png, .svg or .pdf; with --what all a new folder of .png.")]
ReportFile = Annotated[Path, _text("--out", "FILE", "New file: .html.")]
TableFolder = Annotated[Path | None, _text("--out", "FOLDER", "Write the tables there too.")]
Format = Annotated[Literal["csv", "parquet"], typer.Option(help="Of the tables.")]
OtherRun = Annotated[Path, _argument("OTHER", "Run folder of another model, fitted to the same data.")]
MovedScans = Annotated[Path | None, _argument("SCANS", "Scans table of the fit, if it is no longer where it was.")]
MovedFeatures = Annotated[Path | None, _argument("FEATURES", "Features of the fit, if they are no longer where they were.")]
Folds = Annotated[int, _number("--folds", "Groups in which participants, visits and scanners are left out.", 2)]
Methods = Annotated[
    list[str] | None,
    _text("--methods", "NAMES", "none, glm, adjusted_glm, yamashita2019, neurocombat, neuroharmonize, combatlearn, reml, "
          "bayesharm. [dim]Default: all that can be run here.[/dim]"),
]  # fmt: skip
PeopleFolds = Annotated[int, _number("--folds", "Parts of the people, each harmonized by models of the others.", 2)]
Repeats = Annotated[int, _number("--repeats", "How often people are divided anew.", 1)]
VisitFolds = Annotated[int, _number("--visit-folds", "Parts of the visits, each predicted from the others.", 2)]
QuickPreview = Annotated[bool, typer.Option("--preview", help="Approximate bayesharm and sample nothing: quicker.")]
EvaluationFolder = Annotated[Path | None, _text("--out", "FOLDER", "Write the tables and a figure there too.")]
Method = Annotated[
    Literal["posterior", "yamashita2019"],
    typer.Option(help="The latter is the regression of the 2019 study: it says several whether there are or not."),
]
WithPopulations = Annotated[
    bool,
    typer.Option("--with-populations", help="Also whether sites sample populations of their own, which reads the data."),
]
StudyFolder = Annotated[
    Path,
    _text("--out", "FOLDER", "Folder for scans.csv, features.npy, feature_names.txt and truth.npz; new or empty."),
]
DemoFolder = Annotated[
    Path | None,
    _text(
        "--out",
        "FOLDER",
        "Where results go. An earlier demo there is replaced, anything else is refused. [dim]Default: "
        "bayesharm-demo, or bayesharm-demo-onharmony.[/dim]",
    ),
]

# simulated studies
Edges = Annotated[int, _number("--edges", "Features of the simulated study.", 1)]
NoSamplingBias = Annotated[bool, typer.Option("--no-sampling-bias", help="All sites recruit from one population.")]
NoiseRatioSd = Annotated[
    float,
    _number("--noise-ratio-sd", "How much scanners differ in noise: sd of its log variance.", metavar="X"),
]
BiasRatioSd = Annotated[
    float,
    _number("--bias-ratio-sd", "How much scanners differ in the size of their biases: sd of its log variance.", metavar="X"),
]
HubAndSpoke = Annotated[
    bool,
    typer.Option("--hub-and-spoke", help="30 travelers on three scanners each, once, instead of 9 men on all."),
]
WithoutTravelers = Annotated[
    list[str] | None,
    _text("--without-travelers", "SCANNER", "A scanner where nobody travels; repeat it for several."),
]
ScaleLogSd = Annotated[
    float,
    _number("--scale-log-sd", "How much the scales differ between features: sd of their log.", metavar="X"),
]
TailDf = Annotated[float | None, _text("--tail-df", "X", "Student-t noise with so many degrees of freedom (above 2).")]
DemoData = Annotated[
    Literal["simulated", "onharmony"],
    typer.Option(
        help="A simulated study whose truth is known, or a real one: 20 people on 6 of 8 scanners each (downloaded "
        "at first use, 2.6 MB)."
    ),
]
CardName = Annotated[str | None, _argument("NAME", "Show the card of this model.")]


def split_names(given: list[str] | None) -> list[str]:
    """Names that were given one by one, separated by commas, or both."""
    names = [name.strip() for name in ",".join(given or []).split(",") if name.strip()]
    if given and not names:
        raise InputError(
            "An option names nothing.", got=repr(given), expected="names, separated by commas", do="leave it out"
        )
    return names
