"""Arguments and options that several commands share, and the checks made before a command starts its work."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from bayesharm.errors import InputError, RunFolderError, shorten

COLUMNS = "Columns of the scans table"
RESULT = "Results"
WORK = "How it is computed"


def _column(option: str, help: str) -> Any:
    return typer.Option(option, metavar="COLUMN", rich_help_panel=COLUMNS, show_default=False, help=help)


def counted(option: str, help: str, least: int = 0, panel: str | None = None) -> Any:
    """An option that takes a whole number."""
    return typer.Option(option, metavar="N", min=least, rich_help_panel=panel, help=help)


Run = Annotated[Path, typer.Argument(
    metavar="RUN", show_default=False, help="Run folder that 'bayesharm fit' has made.")]
Scans = Annotated[Path, typer.Argument(
    metavar="SCANS", show_default=False, help="Table with one row per scan: .csv, .tsv or .parquet.")]
FeatureFile = Annotated[Path | None, typer.Argument(
    metavar="FEATURES", show_default=False,
    help="Scans × features: .npy, .npz, .csv, .tsv, .parquet or .zarr. Leave it out if the features are "
         "columns of SCANS, and choose these with --features.")]
Select = Annotated[list[str] | None, typer.Option(
    "--features", metavar="GLOB", show_default=False,
    help="Features to use, by name: 'thickness_*'. Quote it; repeat it for several. Needed if the features "
         "are columns of SCANS.")]
Scan = Annotated[str | None, _column(
    "--scan", "What identifies a scan. [dim]Default: scan_id, if there.[/dim]")]
Participant = Annotated[str | None, _column(
    "--participant", "Who was scanned. [dim]Default: participant_id.[/dim]")]
Scanner = Annotated[str | None, _column(
    "--scanner", "The scanner, together with its protocol. [dim]Default: scanner.[/dim]")]
Site = Annotated[str | None, _column(
    "--site", "Where the person was recruited. [dim]Default: site, else the scanner.[/dim]")]
Diagnosis = Annotated[str | None, _column(
    "--diagnosis", "Diagnosis or group. [dim]Default: diagnosis, if there.[/dim]")]
Traveling = Annotated[str | None, _column(
    "--traveling", "Yes or no: a traveling subject, even if seen on one scanner only. People seen on two or "
                   "more scanners are found without it. [dim]Default: traveling, if there.[/dim]")]
Seed = Annotated[int, counted("--seed", "The same seed gives the same result.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress; notes and errors are still shown.")]


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
        typer.echo(f"Note: features left out ({len(dataset.dropped):,}): {shorten(dataset.dropped, 3)}; the "
                   f"first is {next(iter(dataset.dropped.values()))}.", err=True)
    return dataset


def check_new_folder(folder: Path) -> None:
    """Refuse an output folder that holds something or cannot be made."""
    from bayesharm.posterior import check_output

    check_output(folder)
    above = next(path for path in folder.absolute().parents if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise RunFolderError(f"{folder} cannot be written.", got=f"{above}, where one may not make folders",
                             expected="a folder inside one that is yours", do="choose another --out")


def check_new_files(outputs: dict[str, Path | None], inputs: dict[str, Path | None]) -> None:
    """Refuse output files that would overwrite an input or each other, or cannot be written."""
    from bayesharm.io.writing import WRITTEN_FORMATS

    taken = {path.resolve(): name for name, path in inputs.items() if path is not None}
    for option, path in outputs.items():
        if path is None:
            continue
        if (place := path.resolve()) in taken:
            raise InputError(f"{option} would overwrite {taken[place]}.", got=str(path),
                             expected="a file of its own for each output", do=f"choose another {option}")
        taken[place] = option
        if path.suffix.lower() not in WRITTEN_FORMATS or path.is_dir():
            raise InputError(f"{option} has a format that cannot be written.", got=str(path),
                             expected="a name ending in " + ", ".join(WRITTEN_FORMATS),
                             do=f"choose another {option}")
        if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            raise InputError(f"{option} cannot be written.", got=f"no folder {path.parent} to write to",
                             expected="an existing folder", do=f"make the folder, or choose another {option}")
