"""The command ``scans``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from bayesharm.cli import options as opt
from bayesharm.cli.scan_options import (
    BidsArgument,
    ParticipantLabelOption,
    ScannerByOption,
    SessionIdOption,
    TaskIdOption,
    describe_scans,
)  # fmt: skip

ScansFileOption = Annotated[
    Path, opt.text("--out", "FILE", "New table with one row per scan: .tsv. A .json beside it describes its columns.")
]
SuffixOption = Annotated[Literal["bold", "T1w", "dwi"], opt.choice("--suffix", "Kind of image that counts as a scan.")]
OverwriteOption = Annotated[bool, opt.flag("--overwrite", "Replace an existing table.")]


def scans(
    *,
    bids_dir: BidsArgument,
    out: ScansFileOption,
    suffix: SuffixOption = "bold",
    participant_label: ParticipantLabelOption = None,
    session_id: SessionIdOption = None,
    task_id: TaskIdOption = None,
    scanner_by: ScannerByOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Make the scans table of a BIDS dataset, for you to check and edit.

    Examples:

    $ bayesharm scans bids/ --out scans.tsv

    $ bayesharm scans bids/ --task-id rest --out scans.tsv \\
        --scanner-by ManufacturersModelName,InstitutionName

    Scans with the same protocol count as one scanner. The command lists what differs
    between scanners, and what is missing. Images are not opened.
    """
    from bayesharm.data.bids.scans import read_bids_scans
    from bayesharm.data.bids.scans_files import check_scans_file, write_scans

    check_scans_file(out, overwrite)
    found = read_bids_scans(
        bids_dir, suffix=suffix, participants=opt.split_names(participant_label), sessions=opt.split_names(session_id),
        tasks=opt.split_names(task_id), scanner_by=opt.split_names(scanner_by) or None,
    )  # fmt: skip
    dictionary = write_scans(found, out, bids_dir)
    typer.echo("\n".join(describe_scans(found)))
    typer.echo(f"\nCheck the column scanner of {out}, and edit it if needed. {dictionary} describes the columns.")
