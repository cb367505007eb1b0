"""Arguments and options that several commands share, and the checks made before a command starts its work."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from bayesharm.errors import InputError, RunFolderError, shorten

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
Units = Annotated[
    Literal["each", "shared"] | None,
    typer.Option(
        show_default=False,
        help="In what the scales of features are compared: in each feature's own sd, right for any mixture of "
        "measures, or in one unit for all, better where all are of one kind, such as connectivity edges. "
        "[dim]Default: as the model says; each.[/dim]",
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
    _text("--out", "FILE", "Harmonized features: .npy, .csv, .tsv or .parquet; replaced if it exists.", RESULT),
]
SdFile = Annotated[
    Path | None,
    _text("--sd", "FILE", "Their uncertainty: posterior sd of what was subtracted, same shape and units.", RESULT),
]
Nodes = Annotated[
    Path | None, _text("--nodes", "FILE", "Table of edges: feature, node_a, node_b. Sizes are then told by region too.")
]
Networks = Annotated[
    Path | None, _text("--networks", "FILE", "Table of regions: region, network. Sizes are then told by pairs of them too.")
]
TableFolder = Annotated[Path | None, _text("--out", "FOLDER", "Write the tables there too, as .csv.")]
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
    return [name.strip() for name in ",".join(given or []).split(",") if name.strip()]


def column_mapping(**names: str | None) -> dict[str, str]:
    """From our names to the user's, for the options that were given."""
    return {our: user for our, user in names.items() if user is not None}


def read_dataset(
    scans: Path, features: Path | None, select: list[str] | None, columns: dict[str, str], **options: Any
) -> Any:
    """Load a dataset as the options say, and tell the user which features are left out."""
    if features is None and select and len(select) == 1 and Path(select[0]).exists():
        raise InputError(
            "--features chooses features by name; it does not take a file.",
            got=f"--features {select[0]}, which is a file",
            expected="the file of features as an argument after the scans table, or the names of columns",
            do=f"write: {scans} {select[0]}",
        )
    from bayesharm.dataset import load_dataset

    dataset = load_dataset(scans, features, columns=columns, select=select or None, **options)
    if dataset.dropped:
        typer.echo(
            f"Note: features left out ({len(dataset.dropped):,}): {shorten(dataset.dropped, 3)}; the "
            f"first is {next(iter(dataset.dropped.values()))}.",
            err=True,
        )
    return dataset


def check_new_folder(folder: Path, *, resume: bool = False, overwrite: bool = False, repair: bool = False) -> None:
    """Refuse an output folder that holds something or cannot be made."""
    from bayesharm.posterior import check_output

    check_output(folder, resume=resume, overwrite=overwrite, repair=repair)
    above = next(path for path in folder.absolute().parents if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise RunFolderError(
            f"{folder} cannot be written.",
            got=f"{above}, where one may not make folders",
            expected="a folder inside one that is yours",
            do="choose another --out",
        )


def check_new_files(outputs: dict[str, Path | None], inputs: dict[str, Path | None]) -> None:
    """Refuse output files that would overwrite an input or each other, or cannot be written."""
    from bayesharm.io.writing import WRITTEN_FORMATS

    taken = {path.resolve(): name for name, path in inputs.items() if path is not None}
    for option, path in outputs.items():
        if path is None:
            continue
        if (place := path.resolve()) in taken:
            raise InputError(
                f"{option} would overwrite {taken[place]}.",
                got=str(path),
                expected="a file of its own for each output",
                do=f"choose another {option}",
            )
        taken[place] = option
        if path.suffix.lower() not in WRITTEN_FORMATS or path.is_dir():
            raise InputError(
                f"{option} has a format that cannot be written.",
                got=str(path),
                expected="a name ending in " + ", ".join(WRITTEN_FORMATS),
                do=f"choose another {option}",
            )
        if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            raise InputError(
                f"{option} cannot be written.",
                got=f"no folder {path.parent} to write to",
                expected="an existing folder",
                do=f"make the folder, or choose another {option}",
            )


def keep_programs() -> None:
    """Compiled programs are kept in the cache folder of the user, if it can be written: a second run need not compile."""
    import jax
    import pooch

    folder = pooch.os_cache("bayesharm") / "programs"
    if jax.config.jax_compilation_cache_dir is None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            return
        if os.access(folder, os.W_OK):
            jax.config.update("jax_compilation_cache_dir", str(folder))
