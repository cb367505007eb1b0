"""The scans table of a raw BIDS dataset: one row per scan, with its person, its protocol and its scanner."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from bayesharm.data.bids.names import PARTS_OF_A_SCAN
from bayesharm.data.bids.notes import notes_on_dataset, notes_on_table
from bayesharm.data.bids.problems import refuse
from bayesharm.data.bids.scanners import IDENTITY, PROTOCOL_FIELDS, Scanners, group_scanners, unify_spelling
from bayesharm.data.bids.sidecars import Sidecars
from bayesharm.data.bids.tables import BidsTables, Values, read_tables
from bayesharm.data.bids.tree import BidsFile, BidsTree, read_tree
from bayesharm.errors import InputError, listed, shorten

Suffix = Literal["bold", "T1w", "dwi"]
SITE_COLUMNS = ("site", "site_id", "institution", "institution_name", "center", "centre")
FIRST_COLUMNS = ("scan_id", "participant_id", "session", "run", "task", "scanner", "site", "age", "sex", "diagnosis")
_OURS = ("scan_id", "participant_id", "session", "run", "task", "scanner", *PROTOCOL_FIELDS)


@dataclass(frozen=True)
class BidsScans:
    """The scans of a BIDS dataset.

    Attributes
    ----------
    table : DataFrame
        One row per scan, as text; None where a value is missing. Columns without any value are left out.
    scanners : Scanners
        How the scanners were found.
    notes : list of str
        What a person should check, in sentences.
    ignored : dict
        Reason -> paths of the files and folders left out.
    images : dict
        ``scan_id`` -> the files of the scan.
    """

    table: pd.DataFrame
    scanners: Scanners
    notes: list[str]
    ignored: Mapping[str, list[str]]
    images: Mapping[str, list[BidsFile]]


def read_bids_scans(
    root: str | Path,
    *,
    suffix: Suffix = "bold",
    participants: Collection[str] = (),
    sessions: Collection[str] = (),
    tasks: Collection[str] = (),
    scanner_by: Sequence[str] | None = None,
) -> BidsScans:
    """Make a scans table from a raw BIDS dataset. Images are not opened.

    Parameters
    ----------
    root : path
        Root folder of the dataset.
    suffix : {"bold", "T1w", "dwi"}
        Kind of image that counts as a scan. The echoes of one acquisition are one scan.
    participants, sessions, tasks : collections of str
        Labels to choose, with or without ``sub-``, ``ses-`` and ``task-``; default: all.
    scanner_by : sequence of str, optional
        Fields of the sidecars, or columns of the tables, that tell scanners apart; default: the protocol fields
        without `SoftwareVersions`.

    Raises
    ------
    InputError
        There are no such scans, or the names, sidecars or tables of the dataset are wrong; all errors together.
    """
    chosen = {
        "sub": {label.removeprefix("sub-") for label in participants},
        "ses": {label.removeprefix("ses-") for label in sessions},
        "task": {label.removeprefix("task-") for label in tasks},
    }
    tree = read_tree(Path(root), suffix, chosen["sub"])
    images = _choose(tree, chosen)
    _refuse_nothing(tree, images, suffix, chosen)
    scans = _group_images(images)
    tables, sidecars = read_tables(tree), Sidecars(tree)
    metadata = {scan: [sidecars.metadata(file) for file in files] for scan, files in scans.items()}
    refuse([*_check_files(images), *tables.problems, *sidecars.problems])
    people = _first_labels(scans, "sub", "sub-")
    refuse(_check_participants(people, tables))

    notes = notes_on_dataset(tree, tables, scans, is_complete=not any(chosen.values()))
    joined, join_notes = _join_tables(scans, tables)
    labels = {name: _first_labels(scans, key) for name, key in (("session", "ses"), ("run", "run"), ("task", "task"))}
    columns: dict[str, list[str | None]] = {"scan_id": list(scans), "participant_id": people, **labels, **joined}
    fields: dict[str, list[str | None]] = {}
    for name in dict.fromkeys([*PROTOCOL_FIELDS, *(name for name in scanner_by or () if name not in columns)]):
        fields[name], spelling_notes = unify_spelling(name, [_merge_echoes(several, name) for several in metadata.values()])
        notes += spelling_notes
    columns |= fields
    refuse(_check_identity(columns, scanner_by))
    scanners = group_scanners(columns, scanner_by)
    table = pd.DataFrame(columns | {"scanner": scanners.labels}, dtype=object)
    table = table.loc[:, table.notna().any()]
    table = table[[*(name for name in FIRST_COLUMNS if name in table), *table.columns.difference(FIRST_COLUMNS, sort=False)]]
    notes += [*join_notes, *scanners.notes, *notes_on_table(table)]
    return BidsScans(table, scanners, notes, dict(tree.ignored), scans)


def _choose(tree: BidsTree, chosen: Mapping[str, set[str]]) -> list[BidsFile]:
    """Return the images of the chosen sessions and tasks."""
    images = []
    for image in tree.images:
        unwanted = [key for key in ("ses", "task") if chosen[key] and image.name.entities.get(key) not in chosen[key]]
        if unwanted:
            reason = {"ses": "not among the chosen sessions", "task": "not among the chosen tasks"}[unwanted[0]]
            tree.ignored[reason].append(str(image.path))
        else:
            images.append(image)
    return images


def _refuse_nothing(tree: BidsTree, images: Sequence[BidsFile], suffix: str, chosen: Mapping[str, set[str]]) -> None:
    """Raise an `InputError` if there are no scans, or if a chosen participant, session or task has none."""
    if not tree.participants:
        raise InputError(
            "This is not a raw BIDS dataset: it has no folders sub-….",
            got=f"{tree.root}, with {shorten(sorted(path.name for path in tree.root.iterdir()), 8) or 'no files'}",
            expected="the root folder of a BIDS dataset, with dataset_description.json and a folder for each participant",
            do="give the root folder",
        )
    present = {key: {image.name.entities.get(key) for image in images} for key in chosen}
    absent = [f"{key}-{label}" for key, labels in chosen.items() for label in sorted(labels - present[key])]
    if not images or absent:
        others = [f"{reason}: {len(paths)}, such as {paths[0]!r}" for reason, paths in tree.ignored.items()]
        raise InputError(
            f"There are no {suffix} scans{f' of {shorten(absent)}' if absent else ''}.",
            got=f"folders of participants: {len(tree.participants)} ({shorten(tree.participants, 3)}); left out: "
            + ("; ".join(others) or "nothing"),
            expected=f"files such as sub-01/[ses-1/]{_example(suffix)}",
            do="choose another --suffix, or correct --participant-label, --session-id or --task-id",
        )


def _example(suffix: str) -> str:
    return {"bold": "func/sub-01_task-rest_bold.nii.gz", "T1w": "anat/sub-01_T1w.nii.gz", "dwi": "dwi/sub-01_dwi.nii.gz"}[
        suffix
    ]


def _check_files(images: Sequence[BidsFile]) -> list[InputError]:
    """Find files in the folder of another participant or session, and scans that are there twice."""
    problems = []
    if wrong := [image.path for image in images if not _is_in_its_folder(image)]:
        problems.append(
            InputError(
                "The names of some files contradict their folders.",
                got=f"{len(wrong)}: {shorten(wrong, 3)}",
                expected="the same participant and session in both: sub-01/ses-1/func/sub-01_ses-1_task-rest_bold.nii.gz",
                do="rename or move the files",
            )
        )
    files: dict[tuple[object, ...], list[str]] = defaultdict(list)
    for image in images:  # 1 and 01 are the same run; .nii and .nii.gz are the same scan
        labels = image.name.entities.items()
        numbered = [(key, label.lstrip("0") if key in ("run", *PARTS_OF_A_SCAN) else label) for key, label in labels]
        files[tuple(sorted(numbered))].append(str(image.path))
    if repeated := [" and ".join(paths) for paths in files.values() if len(paths) > 1]:
        problems.append(
            InputError(
                "Some scans are there twice.",
                got=f"{len(repeated)}: {shorten(repeated, 3)}",
                expected="one file for each scan; run-1 and run-01 are the same run",
                do="remove or rename one of the files",
            )
        )
    return problems


def _is_in_its_folder(image: BidsFile) -> bool:
    parts, labels = image.path.parts, image.name.entities
    session = {"ses": parts[1]} if parts[1].startswith("ses-") else {}
    return {"sub": parts[0], **session} == {key: f"{key}-{labels[key]}" for key in ("sub", "ses") if key in labels}


def _group_images(images: Sequence[BidsFile]) -> dict[str, list[BidsFile]]:
    """Return the files of each scan."""
    scans: dict[str, list[BidsFile]] = defaultdict(list)
    for image in images:
        scans[image.name.scan_id].append(image)
    return dict(scans)


def _first_labels(scans: Mapping[str, Sequence[BidsFile]], key: str, prefix: str = "") -> list[Any]:
    labels = [files[0].name.entities.get(key) for files in scans.values()]
    return [None if label is None else prefix + label for label in labels]


def _check_participants(people: Sequence[str], tables: BidsTables) -> list[InputError]:
    absent = [] if tables.participants is None else sorted(set(people) - tables.participants.keys())
    if not absent:
        return []
    return [
        InputError(
            "Some participants with scans are missing from participants.tsv.",
            got=f"{len(absent)} of {len(set(people))}: {shorten(absent)}",
            expected="one row for each participant; sub-01 is not sub-1",
            do="add the rows, with n/a for unknown values",
        )
    ]


def _join_tables(
    scans: Mapping[str, Sequence[BidsFile]], tables: BidsTables
) -> tuple[dict[str, list[str | None]], list[str]]:
    """Join the tables to the scans. The row of the scan decides, then that of the session, then that of the participant."""
    rows: list[Values] = []
    changed: dict[str, set[str]] = defaultdict(set)
    for scan, files in scans.items():
        entities = files[0].name.entities
        participant, session = f"sub-{entities['sub']}", f"ses-{entities.get('ses', '')}"
        merged = dict((tables.participants or {}).get(participant, {}))
        for row in (
            tables.sessions.get((participant, session), {}),
            *(tables.scans.get(file.path, {}) for file in files[::-1]),
        ):
            for name, value in row.items():
                if merged.get(name, value) != value:
                    changed[name].add(scan)
                merged[name] = value
        rows.append(merged)
    names = dict.fromkeys([*tables.participant_columns, *(name for row in rows for name in row)])
    notes = [
        f"{name} of {len(where)} scans differs between the tables: {shorten(where, 3)}. The table of scans decides, "
        "then that of sessions, then that of participants."
        for name, where in changed.items()
        if name != "acq_time"
    ]
    columns: dict[str, list[str | None]] = {}
    for name in names:
        column = f"table_{name}" if name in _OURS else name
        columns[column] = [row.get(name) for row in rows]
        if column != name:
            notes.append(
                f"Column {name} of the dataset's tables is named {column}: {name} is found from files and sidecars."
            )
    if "site" not in columns:
        found = [name for name in columns if name.casefold() in SITE_COLUMNS]
        if found:
            columns["site"] = columns[found[0]]
            notes.append(f"Column {found[0]} is taken as the site that recruited each person.")
    return columns, notes


def _merge_echoes(metadata: Sequence[Mapping[str, Any]], name: str) -> Any:
    """Return the value of a field for a scan: a list if the files of the scan differ."""
    values = [sidecar[name] for sidecar in metadata if name in sidecar]
    distinct = [value for k, value in enumerate(values) if value not in values[:k]]
    return distinct[0] if len(distinct) == 1 else distinct


def _check_identity(columns: Mapping[str, Sequence[str | None]], scanner_by: Sequence[str] | None) -> list[InputError]:
    """Find scans that have none of the fields that tell scanners apart."""
    names, scan_ids = scanner_by or IDENTITY, columns["scan_id"]
    if unknown := [name for name in names if scanner_by and not any(columns[name])]:
        filled = [name for name, values in columns.items() if any(values)]
        return [
            InputError(
                f"--scanner-by names {listed(unknown)}, and no scan has a value there.",
                got=shorten(unknown),
                expected=f"fields of the sidecars, or columns: {', '.join(filled[1:])}",
                do="correct the names",
            )
        ]
    without = [str(scan) for k, scan in enumerate(scan_ids) if not any(columns[name][k] for name in names)]
    if not without:
        return []
    instead = [name for name in ("table_scanner", "site", "session") if len({*columns.get(name, ())} - {None}) > 1]
    return [
        InputError(
            "The sidecars of some scans do not say which scanner made them.",
            got=f"none of {listed(names, 12)} in {len(without)} of {len(scan_ids)} scans: {shorten(without)}",
            expected="at least one of these fields in the sidecar of the scan, or in one that it inherits from",
            do="add the fields (dcm2niix writes them)"
            + (f", or tell scanners apart by a column: --scanner-by {' or '.join(instead)}" if instead else ""),
        )
    ]
