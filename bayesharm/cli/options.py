"""Builders of arguments and options, and those that several commands share; the others stand beside their command."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from bayesharm.errors import InputError

COLUMNS_PANEL = "Columns of the scans table"
DERIVATIVES_PANEL = "Folders and tables of other tools"
OUTPUT_PANEL = "Output"


def argument(metavar: str, help: str) -> Any:
    """Return a positional argument."""
    return typer.Argument(metavar=metavar, show_default=False, help=help)


def text(option: str, metavar: str, help: str, panel: str | None = None) -> Any:
    """Return an option with a value, whose default the help text states."""
    return typer.Option(option, metavar=metavar, rich_help_panel=panel, show_default=False, help=help)


def number(option: str, help: str, minimum: float = 0, panel: str | None = None, metavar: str = "N") -> Any:
    """Return an option with a number that is not below a minimum."""
    return typer.Option(option, metavar=metavar, min=minimum, rich_help_panel=panel, help=help)


def flag(option: str, help: str, panel: str | None = None, short: str | None = None) -> Any:
    """Return an option without a value."""
    names = [option] if short is None else [option, short]
    return typer.Option(*names, metavar="", rich_help_panel=panel, help=help)


def choice(option: str, help: str, panel: str | None = None) -> Any:
    """Return an option whose values are those of the annotated `Literal`."""
    return typer.Option(option, rich_help_panel=panel, help=help)


def model(purpose: str) -> Any:
    """Return the option that names a model; the default is ``auto``."""
    choice = "'bayesharm models' lists the models. auto: the model that suits the study; the command says which, and why."
    return typer.Option("--model", metavar="NAME", help=f"{purpose}; {choice}")


def split_names(values: list[str] | None) -> list[str]:
    """Return the names in the values of an option: separated by commas, in repeated options, or both."""
    names = [name.strip() for name in ",".join(values or []).split(",") if name.strip()]
    if values and not names:
        raise InputError(
            "An option is given without any names.",
            got=repr(values),
            expected="names, separated by commas",
            do="add names, or omit the option",
        )
    return names


def _column(option: str, help: str) -> Any:
    return text(option, "COLUMN", help, COLUMNS_PANEL)


RunArgument = Annotated[Path, argument("RUN", "Run folder, made by 'bayesharm fit'.")]
ScansArgument = Annotated[Path, argument("SCANS", "Table with one row per scan: .csv, .tsv, .txt, .parquet, .xlsx or .sav.")]
FeaturesArgument = Annotated[
    Path | None,
    argument(
        "FEATURES",
        "Features, one row per scan: .npy, .npz, .zarr, or a table as SCANS; or a folder or table of XCP-D, FreeSurfer "
        "and other tools. Omit it if the features are columns of SCANS, and select them with --features.",
    ),
]
FitScansArgument = Annotated[
    Path | None, argument("SCANS", "Scans table of the fit. Needed only if the file has moved since the fit.")
]
FitFeaturesArgument = Annotated[
    Path | None, argument("FEATURES", "Features of the fit. Needed only if the file has moved since the fit.")
]
SelectOption = Annotated[
    list[str] | None,
    text(
        "--features",
        "GLOB",
        "Use only the features with matching names, for example 'thickness_*' (keep the quotes). Repeat it for several "
        "patterns. Required if the features are columns of SCANS.",
    ),
]
BadFeaturesOption = Annotated[
    Literal["error", "drop"],
    choice(
        "--bad-features",
        "If features are constant or have infinite values: stop with an error, or drop these features.",
    ),
]
MissingOption = Annotated[
    Literal["model", "drop-features", "drop-scans", "error"],
    choice(
        "--missing",
        "If values are missing (empty, NaN or n/a): model the observed scans of each feature, drop features or scans that "
        "lack values, or stop with an error.",
    ),
]
CompleteOption = Annotated[
    Literal["drop-features", "drop-scans", "error"],
    choice("--missing", "If values are missing: drop features or scans that lack values, or stop with an error."),
]
TransformOption = Annotated[
    Literal["fisher-z"] | None,
    typer.Option(
        "--transform",
        show_default=False,
        help="Analyze the features in other units. fisher-z: the features are correlations (r); effects are estimated in "
        "Fisher z, and harmonized data are r again. [dim]Default: analyze the values as they are.[/dim]",
    ),
]
CovariatesOption = Annotated[
    list[str] | None,
    text("--covariates", "NAMES", "Columns with linear covariate effects, for example age,sex.", COLUMNS_PANEL),
]
FormulaOption = Annotated[
    str,
    typer.Option(
        "--formula",
        metavar="FORMULA",
        rich_help_panel=COLUMNS_PANEL,
        show_default=False,
        help="More covariates by a formula of columns, for example 'bs(age, df=4) + sex + age:sex' (keep the quotes).",
    ),
]
AcceptOption = Annotated[
    list[str] | None,
    text(
        "--accept",
        "CODES",
        "Findings on the data that you have checked and accept, by the codes in their messages, such as identical-scans. "
        "Such findings no longer stop the command; a fit records them.",
    ),
]
ReferenceOption = Annotated[
    str | None,
    text(
        "--reference",
        "DIAGNOSIS",
        "Reference group, such as healthy controls, for the effects of diagnosis. [dim]Default: as in the model (HC).[/dim]",
        COLUMNS_PANEL,
    ),
]
TimeOption = Annotated[
    str | None,
    text(
        "--time",
        "COLUMN",
        "Column on which the trajectories of participants depend, instead of the model's column: years since the first "
        "visit, or age. [dim]Default: as in the model (time).[/dim]",
        COLUMNS_PANEL,
    ),
]
SeedOption = Annotated[int, number("--seed", "Random seed. The same seed gives the same result.")]
QuietOption = Annotated[bool, flag("--quiet", "Do not show progress. Notes and errors are still shown.", short="-q")]
EdgeTableOption = Annotated[
    Path | None,
    text(
        "--edge-table",
        "FILE",
        "Table of connectivity edges with columns feature, node_a and node_b. Adds results by brain region.",
    ),
]
NetworksOption = Annotated[
    Path | None,
    text(
        "--networks",
        "FILE",
        "Table of regions with columns region and network. Adds results by pair of networks; needs --edge-table.",
    ),
]
CoordinatesOption = Annotated[
    Path | None,
    text(
        "--coordinates",
        "FILE",
        "Table of regions with columns region, x, y and z (MNI, mm). Adds brain maps; needs --edge-table.",
    ),
]
TableFolderOption = Annotated[Path | None, text("--out", "FOLDER", "Also write the tables to this folder.")]
TableFormatOption = Annotated[Literal["csv", "parquet"], choice("--format", "File format of the tables.")]
EdgesOption = Annotated[int, number("--edges", "Number of features (connectivity edges) to simulate.", 1)]


@dataclass(frozen=True)
class DerivativeOptions:
    """Options for the folder or table of another tool; the fields are those of `ReaderOptions`."""

    atlas: Annotated[
        str | None,
        text("--atlas", "NAME", "Atlas or parcellation. Required if the folder has several.", DERIVATIVES_PANEL),
    ] = None
    measure: Annotated[
        str | None,
        text(
            "--measure",
            "NAME",
            "Measure, such as alff or thickness. [dim]Default: the connectivity, or the only measure.[/dim]",
            DERIVATIVES_PANEL,
        ),
    ] = None
    entity: Annotated[
        list[str] | None,
        text(
            "--entity",
            "KEY=VALUE",
            "Another part of the file names, such as space=fsLR, or desc=none for names without it. Repeat it for several.",
            DERIVATIVES_PANEL,
        ),
    ] = None
    labels: Annotated[
        Path | None,
        text(
            "--labels",
            "FILE",
            "Names of the regions of the atlas, for tools that do not write them: a table with the columns index and name, "
            "or one name per line.",
            DERIVATIVES_PANEL,
        ),
    ] = None
    label_column: Annotated[
        str | None,
        text(
            "--label-column",
            "COLUMN",
            "Column of the features table that identifies its scans. [dim]Default: found by its values.[/dim]",
            DERIVATIVES_PANEL,
        ),
    ] = None
    input_format: Annotated[
        str | None,
        text(
            "--input-format",
            "NAME",
            "xcp_d, giga_connectome, halfpipe, conn, dpabi, freesurfer or enigma. [dim]Default: found from the files.[/dim]",
            DERIVATIVES_PANEL,
        ),
    ] = None
    missing_files: Annotated[
        Literal["error", "drop"],
        choice(
            "--missing-files",
            "If scans have no values, or files belong to no scan of the table: stop with an error, or leave them out.",
            DERIVATIVES_PANEL,
        ),
    ] = "error"

    @property
    def arguments(self) -> dict[str, Any]:
        """The options as :func:`bayesharm.load_dataset` takes them."""
        from bayesharm.data.readers.options import parse_entities

        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["entities"], values["format"] = parse_entities(values.pop("entity")), values.pop("input_format")
        return values


@dataclass(frozen=True)
class ScanColumns:
    """The columns of the user's scans table: canonical name -> name in the table, None for the default."""

    scan_id: Annotated[
        str | None, _column("--scan", "Identifier of the scan. [dim]Default: scan_id, else the row number.[/dim]")
    ] = None
    participant_id: Annotated[
        str | None, _column("--participant", "Identifier of the participant. [dim]Default: participant_id.[/dim]")
    ] = None
    scanner: Annotated[
        str | None,
        _column(
            "--scanner",
            "The scanner together with its protocol: all scans with the same value share one measurement bias. "
            "[dim]Default: scanner.[/dim]",
        ),
    ] = None
    site: Annotated[
        str | None,
        _column("--site", "Site that recruited the participant. [dim]Default: site, else the scanner.[/dim]"),
    ] = None
    diagnosis: Annotated[
        str | None, _column("--diagnosis", "Diagnosis or group. [dim]Default: diagnosis, if present.[/dim]")
    ] = None
    traveling: Annotated[
        str | None,
        _column(
            "--traveling",
            "Yes or no: whether the participant is a traveling subject. Needed only for traveling subjects with scans on "
            "a single scanner. [dim]Default: traveling, if present.[/dim]",
        ),
    ] = None

    @property
    def mapping(self) -> dict[str, str]:
        """The columns that the user named, as :func:`bayesharm.load_dataset` takes them."""
        names = {field.name: getattr(self, field.name) for field in fields(self)}
        return {canonical: name for canonical, name in names.items() if name is not None}
