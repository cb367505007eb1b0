"""Folders of runs: what is in one, and whether a run may be written there."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bayesharm.errors import RunFolderError, shorten
from bayesharm.results.checkpoints import RECORD, TREE, UNFINISHED


def check_output(folder: str | Path, *, resume: bool = False, overwrite: bool = False, repair: bool = False) -> None:
    """Refuse an output folder that already holds something.

    Parameters
    ----------
    folder : path
    resume : bool
        An unfinished run may be there.
    overwrite : bool
        Any run may be there, but nothing else.
    repair : bool
        A finished run must be there.

    Raises
    ------
    RunFolderError
    """
    folder = Path(folder)
    state = run_state(folder)
    if repair and state != "a finished run":
        raise RunFolderError(
            f"There is nothing to repair in {folder}.",
            got=f"{contents_of(folder)}: {state}",
            expected="a finished run",
            do="leave --repair out: a run that is not finished goes on where it stopped"
            if state == "an unfinished run"
            else "check the name of the folder",
        )
    fine = state == "empty" or (resume and state == "an unfinished run") or (overwrite and state.endswith("run"))
    if not (fine or repair):
        raise RunFolderError(
            f"The output folder {folder} already holds {state}.",
            got=contents_of(folder),
            expected="a folder that is new or empty",
            do="choose another --out, or start afresh with --overwrite, or mend it with --repair if it is damaged"
            if state == "a finished run"
            else "choose another --out, or start afresh with --overwrite"
            if state.endswith("run")
            else "choose another --out",
        )
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        tempfile.TemporaryFile(dir=there).close()  # has no name: nothing stays, whenever the process is killed
    except OSError as error:
        raise RunFolderError(
            f"{folder} cannot be written.", got=str(error), expected="a folder to write to", do="choose another --out"
        ) from None


def contents_of(folder: Path) -> str:
    """What is in a folder, in words."""
    if not folder.is_dir():
        return "a file" if folder.exists() else "nothing of that name"
    return shorten(sorted(path.name for path in folder.iterdir())) or "an empty folder"


def run_state(folder: Path) -> str:
    """`empty` (or not there), `a finished run`, `an unfinished run`, `a half-written run` or `other files`."""
    if not folder.exists():
        return "empty"
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else {""}
    if there and there <= {RECORD, f".{RECORD}.part", TREE, UNFINISHED}:
        if RECORD in there:
            return "a finished run"
        return "an unfinished run" if UNFINISHED in there else "a half-written run"
    return "other files" if there else "empty"
