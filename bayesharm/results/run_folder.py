"""Run folders: their state, and whether a run may be written into one."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bayesharm.errors import RunFolderError, shorten
from bayesharm.results.checkpoints import MANIFEST, RECORD, TREE, UNFINISHED, refuse_links


def check_output(folder: str | Path, *, resume: bool = False, overwrite: bool = False, repair: bool = False) -> None:
    """Refuse an output folder that is not free.

    Parameters
    ----------
    folder : path
    resume : bool
        Allow an unfinished run.
    overwrite : bool
        Allow any run, but no other files.
    repair : bool
        Require a finished run; other files beside it do not matter.

    Raises
    ------
    RunFolderError
    """
    folder = Path(folder)
    refuse_inside_run(folder.absolute().parent, folder)
    state = run_state(folder)
    if repair and not (folder / RECORD).is_file():
        raise RunFolderError(
            f"There is no run to repair in {folder}.",
            got=f"{contents_of(folder)}: {state}",
            expected="a finished run",
            do="leave --repair out: an unfinished run resumes by itself"
            if state == "an unfinished run"
            else "check the name of the folder",
        )
    is_free = state == "empty" or (resume and state == "an unfinished run") or (overwrite and state.endswith("run"))
    if not (is_free or repair):
        raise RunFolderError(
            f"The output folder {folder} already holds {state}.",
            got=contents_of(folder),
            expected="a new or empty folder",
            do="choose another --out, or start afresh with --overwrite, or mend it with --repair if it is damaged"
            if state == "a finished run"
            else "choose another --out, or start afresh with --overwrite"
            if state.endswith("run")
            else "choose another --out",
        )
    refuse_links(folder)
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        tempfile.TemporaryFile(dir=existing).close()  # has no name: it vanishes even if the process is killed
    except OSError as error:
        raise RunFolderError(
            f"{folder} cannot be written.", got=str(error), expected="a writable folder", do="choose another --out"
        ) from None


def refuse_inside_run(folder: str | Path, output: str | Path) -> None:
    """Refuse an output in a folder that is a run folder, or is inside one.

    Parameters
    ----------
    folder : path
    output : path
        What the error names.

    Raises
    ------
    RunFolderError
    """
    start = Path(folder).resolve()
    for run in (start, *start.parents):
        if (run / TREE).exists() or (run / UNFINISHED / MANIFEST).exists():
            raise RunFolderError(
                f"{run} is a run folder, which cannot hold other files.",
                got=str(output),
                expected="an output outside it",
                do="choose another --out",
            )


def contents_of(folder: Path) -> str:
    """Describe the contents of a folder in words."""
    if not folder.is_dir():
        return "a file" if folder.exists() else "nothing of that name"
    return shorten(sorted(path.name for path in folder.iterdir())) or "an empty folder"


def run_state(folder: Path) -> str:
    """Return `empty` (or absent), `a finished run`, `an unfinished run`, `a half-written run` or `other files`."""
    if not folder.exists():
        return "empty"
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {""}
    if names and names <= {RECORD, f".{RECORD}.part", TREE, UNFINISHED}:
        if RECORD in names:
            return "a finished run"
        return "an unfinished run" if UNFINISHED in names else "a half-written run"
    return "other files" if names else "empty"
