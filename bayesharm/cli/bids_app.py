"""The command ``bids-app``: ``bayesharm BIDS_DIR OUT group``, as BIDS-Apps are called."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import typer

from bayesharm.cli import input as inputs
from bayesharm.cli import options as opt
from bayesharm.cli.scan_options import (
    BidsArgument,
    ParticipantLabelOption,
    ScannerByOption,
    SessionIdOption,
    TaskIdOption,
    describe_scans,
)  # fmt: skip
from bayesharm.errors import InputError

LEVELS = ("participant", "group")
LISTS = ("--participant-label", "--session-id", "--task-id")  # options that take several words in BIDS-Apps

OutputArgument = Annotated[Path, opt.argument("OUT", "New folder for the harmonized data: a BIDS derivative.")]
LevelArgument = Annotated[Literal["participant", "group"], opt.argument("LEVEL", "group: all participants together.")]
DerivativesOption = Annotated[
    Path | None,
    opt.text(
        "--derivatives",
        "FOLDER",
        "Connectivity matrices of XCP-D or another tool. [dim]Default: those in BIDS_DIR/derivatives.[/dim]",
    ),
]
AtlasOption = Annotated[str | None, opt.text("--atlas", "NAME", "Atlas; needed if the derivatives have several.")]
EntityOption = Annotated[
    list[str] | None,
    opt.text(
        "--entity",
        "KEY=VALUE",
        "Another part of the file names of the matrices, such as space=fsLR. Repeat it for several.",
    ),
]
LabelsOption = Annotated[
    Path | None, opt.text("--labels", "FILE", "Names of the regions of the atlas, if the derivatives do not have them.")
]
ScansOption = Annotated[
    Path | None,
    opt.text("--scans", "FILE", "Your own scans table, such as that of 'bayesharm scans' after corrections."),
]
ModelOption = Annotated[str, opt.model("Model to fit")]
PreviewOption = Annotated[
    bool,
    opt.flag(
        "--preview",
        "Approximation without sampling, quicker with thousands of features. Every output is marked as a preview.",
    ),
]
OverwriteOption = Annotated[bool, opt.flag("--overwrite", "Replace the results of an earlier call in OUT.")]


def to_command(arguments: Sequence[str], commands: Collection[str]) -> list[str]:
    """Turn ``BIDS_DIR OUT group …`` into ``bids-app BIDS_DIR OUT group …``; return other arguments unchanged.

    The three words come first or last. Options may be spelled with ``_`` and take several words, as in other BIDS-Apps:
    ``--participant_label 01 02``.
    """
    words = list(arguments[1:] if arguments[:1] == ["bids-app"] else arguments)
    if words[2:3] and words[2] in LEVELS and not words[0].startswith("-"):
        places, options = words[:3], words[3:]
    elif len(words) > 2 and words[-1] in LEVELS:
        places, options = words[-3:], words[:-3]
    else:
        return list(arguments)
    if words[0] in commands:
        return list(arguments)
    spelled: list[str] = []
    for word in options:
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            spelled.append(name.replace("_", "-") + equals + value)
        elif len(spelled) > 1 and spelled[-2] in LISTS:
            spelled += [spelled[-2], word]  # one more value of a list
        else:
            spelled.append(word)
    return ["bids-app", *places, *spelled]


def bids_app(
    *,
    bids_dir: BidsArgument,
    out: OutputArgument,
    level: LevelArgument,
    derivatives: DerivativesOption = None,
    atlas: AtlasOption = None,
    entity: EntityOption = None,
    labels: LabelsOption = None,
    participant_label: ParticipantLabelOption = None,
    session_id: SessionIdOption = None,
    task_id: TaskIdOption = None,
    scanner_by: ScannerByOption = None,
    scans: ScansOption = None,
    columns: opt.ScanColumns,
    covariates: opt.CovariatesOption = None,
    formula: opt.FormulaOption = "",
    reference: opt.ReferenceOption = None,
    accept: opt.AcceptOption = None,
    model: ModelOption = "auto",
    seed: opt.SeedOption = 0,
    preview: PreviewOption = False,
    overwrite: OverwriteOption = False,
    quiet: opt.QuietOption = False,
) -> None:
    """Harmonize the connectivity matrices of a BIDS dataset, as a BIDS-App.

    The name of the command may be left out. Examples:

    $ bayesharm bids-app bids/ out/ group --atlas Schaefer

    $ bayesharm bids/ out/ group --participant-label 01 02 --task-id rest \\
        --derivatives xcp_d/ --atlas Schaefer --model traveling

    The output is a BIDS derivative: a harmonized matrix and its uncertainty for
    each scan, the scans table, the run folder, and report.html.
    """
    if level == "participant":
        raise InputError(
            "There is no participant level.",
            got="participant",
            expected="group: the effect of a scanner is estimated from all participants together",
            do=f"write: bayesharm {bids_dir} {out} group",
        )
    chosen = {
        "participants": opt.split_names(participant_label), "sessions": opt.split_names(session_id),
        "tasks": opt.split_names(task_id), "scanner_by": opt.split_names(scanner_by) or None,
    }  # fmt: skip
    if scans is not None and any(chosen.values()):
        raise InputError(
            "--scans and a choice of scans exclude each other.",
            got=f"--scans {scans}, and --participant-label, --session-id, --task-id or --scanner-by",
            expected="the table, which says which scans to use, or the choice",
            do="remove scans from the table, or omit --scans",
        )
    from bayesharm.cli.progress_bar import ProgressBar
    from bayesharm.data.bids.derivative import check_names, read_participants
    from bayesharm.data.bids.edges import Edges
    from bayesharm.data.bids.output_folder import RUN, SCANS, check_output, find_matrices
    from bayesharm.data.bids.tree import check_root
    from bayesharm.data.readers.options import parse_entities

    check_root(bids_dir)
    check_output(out, bids_dir, overwrite)
    inputs.load_named_model(model, formula)
    from bayesharm.reporting.vega import vega

    vega()  # refuses before the fit if the library of the report is absent

    which = {"atlas": atlas, "labels": labels, "entities": parse_entities(entity)}
    folder = find_matrices(bids_dir, out) if derivatives is None else derivatives
    with ExitStack() as stack:
        temporary = stack.enter_context(TemporaryDirectory())
        table = scans if scans is not None else _make_scans(bids_dir, Path(temporary, SCANS), chosen)
        progress = stack.enter_context(ProgressBar(quiet))
        dataset = _read_matrices(table, folder, columns.mapping, progress, **which)
        if table.suffix == ".tsv":  # a copy stays with the results
            dataset = replace(dataset, origin={**dataset.origin, "scans": str((out / SCANS).resolve())})
        edges = Edges.from_names(dataset.features.matrix.names.tolist())
        participants = read_participants(bids_dir, dataset.scans["participant_id"].tolist())
        check_names(dataset.scans["scan_id"])
        posterior = _fit(
            dataset, model, progress, out=out / RUN, covariates=opt.split_names(covariates), formula=formula,
            reference=reference, accept=opt.split_names(accept), seed=seed, preview=preview, overwrite=overwrite,
        )  # fmt: skip
        from bayesharm.cli.bids_output import Inputs, write_derivative

        notes = write_derivative(posterior, dataset, edges, Inputs(bids_dir, folder, table, participants), out, progress)
    for note in notes:
        typer.echo(f"Note: {note}", err=True)
    typer.echo(f"Harmonized {len(dataset.scans):,} scans: {out}")


def _make_scans(bids_dir: Path, file: Path, chosen: dict[str, Any]) -> Path:
    """Write the scans table of the dataset to a file, and print its summary."""
    from bayesharm.data.bids.scans import read_bids_scans
    from bayesharm.data.bids.scans_files import write_scans

    found = read_bids_scans(bids_dir, **chosen)
    write_scans(found, file, bids_dir)
    typer.echo("\n".join(describe_scans(found)))
    return file


def _read_matrices(table: Path, folder: Path, columns: dict[str, str], progress: Any, **options: Any) -> Any:
    """Read correlation matrices, to be fitted in Fisher z; scans without matrices and other matrices are left out."""
    dataset = inputs.read_dataset(
        table,
        folder,
        None,
        columns,
        bad_features="drop",
        transform="fisher-z",
        missing_files="drop",
        progress=progress,
        **options,
    )
    measure = str(dataset.reading.get("measure", ""))
    if "correlation" not in measure.lower():
        raise InputError(
            "The derivatives are not correlation matrices.",
            got=f"{folder}: {measure or 'no measure'}",
            expected="correlations between regions",
            do="for other measures use 'bayesharm fit' and 'bayesharm harmonize'",
        )
    return dataset


def _fit(dataset: Any, model: str, progress: Any, **options: Any) -> Any:
    from bayesharm.algorithms.programs import cache_programs
    from bayesharm.fitting.fit import fit
    from bayesharm.model.configure import resolve_model

    chosen, on_choice = resolve_model(model, dataset.scans)
    for sentence in on_choice:
        progress.say(sentence)
    cache_programs()
    return fit(dataset, chosen, notes=on_choice, progress=progress, **options)
