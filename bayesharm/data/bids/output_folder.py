"""The output folder of the BIDS-App, and the folder of matrices that it reads."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from bayesharm.errors import InputError, RunFolderError, shorten
from bayesharm.io.limits import LARGEST_JSON, read_small

SCANS, RUN, REPORT, STAGING = "scans.tsv", "run", "report.html", ".unfinished"
DESCRIPTION = "dataset_description.json"
_BEFORE_THE_END = {RUN, STAGING}  # what an interrupted call leaves
_PUBLISHED = {SCANS, "scans.json", REPORT, DESCRIPTION, "README.md", ".bidsignore", "participants.tsv", "participants.json"}
_MATRICES = ("_relmat.tsv", "_conmat.tsv", "_matrix.tsv")


def check_output(out: Path, dataset: Path, overwrite: bool = False) -> None:
    """Refuse an output folder that holds other files, or that is the raw dataset.

    Raises
    ------
    RunFolderError
        The folder is not new, empty, or that of an interrupted call; with `overwrite`, or that of an earlier call.
    """
    names = {path.name for path in out.iterdir()} if out.is_dir() else {""} if out.exists() else set()
    is_ours = _is_made_by_bayesharm(out)
    if out.resolve() != dataset.resolve() and (names <= _BEFORE_THE_END or (overwrite and is_ours)):
        return
    raise RunFolderError(
        f"The output folder {out} already holds {'harmonized data' if is_ours else 'other files'}.",
        got=shorten(sorted(names), 8) if names != {""} else "a file",
        expected="a new or empty folder",
        do="choose another OUT" + (", or replace the data with --overwrite" if is_ours else ""),
    )


def publish(staging: Path, out: Path) -> None:
    """Replace the files of an earlier call by finished ones, and nothing else.

    ``dataset_description.json`` is moved last: with it, the dataset is complete.
    """
    for path in list(out.iterdir()):
        if path.name in _PUBLISHED or path.name.startswith("sub-"):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for path in sorted(staging.iterdir(), key=lambda path: path.name == DESCRIPTION):
        os.replace(path, out / path.name)
    staging.rmdir()


def find_matrices(dataset: Path, out: Path) -> Path:
    """Return the one folder in ``derivatives`` that holds connectivity matrices.

    Raises
    ------
    InputError
        There is none, or there are several.
    """
    parent = dataset / "derivatives"
    folders = sorted(path for path in parent.iterdir() if path.is_dir()) if parent.is_dir() else []
    found = [
        folder
        for folder in folders
        if folder.resolve() != out.resolve() and not _is_made_by_bayesharm(folder) and _has_matrices(folder)
    ]
    if len(found) == 1:
        return found[0]
    raise InputError(
        "There are several folders with connectivity matrices." if found else "There are no connectivity matrices.",
        got=shorten(found or folders or [f"no folder {parent}"], 8),
        expected=f"one folder with files such as sub-01/func/sub-01_task-rest_…{_MATRICES[0]}, as XCP-D writes them",
        do="name the folder with --derivatives",
    )


def _has_matrices(folder: Path) -> bool:
    return any(name.endswith(_MATRICES) for _, _, names in os.walk(folder) for name in names)


def _is_made_by_bayesharm(folder: Path) -> bool:
    try:
        description: Any = json.loads(read_small(folder / DESCRIPTION, LARGEST_JSON))
        return bool(description["GeneratedBy"][0]["Name"] == "bayesharm")
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False
