"""The output folder of a demo, in which a new demo replaces the files of an earlier one and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

from bayesharm.errors import RunFolderError, shorten

MARKER = ".bayesharm-demo"  # marks a folder as the output of a demo; lists the files of that demo after a line of text


def claim_folder(folder: Path, names: tuple[str, ...]) -> Path:
    """Create the folder of a demo, or remove the files of an earlier demo from it.

    Parameters
    ----------
    folder : path
    names : tuple of str
        Files and folders that the demo is going to write there.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    RunFolderError
        The folder holds files that no demo wrote, or cannot be written.
    """
    marker = folder / MARKER
    if folder.exists() and not marker.is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunFolderError(
            f"The output folder {folder} already holds other files.",
            got=shorten(_list_contents(folder)),
            expected="a new or empty folder, or that of an earlier demo",
            do="choose another --out",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_earlier_demo(folder)
        lines = ["Made by 'bayesharm demo', which replaces these files when it runs again:", *names, ""]
        marker.write_text("\n".join(lines), encoding="utf-8")
    except OSError as error:
        raise RunFolderError(
            f"{folder} cannot be written.", got=str(error), expected="a folder to write to", do="choose another --out"
        ) from None
    if existing := [name for name in names if (folder / name).exists()]:
        raise RunFolderError(
            f"The output folder {folder} holds files that are not the demo's.",
            got=shorten(existing),
            expected="a folder without files of these names",
            do="choose another --out, or remove these files",
        )
    return folder


def _remove_earlier_demo(folder: Path) -> None:
    marker = folder / MARKER
    if not marker.is_file():
        return
    for name in marker.read_text(encoding="utf-8").split("\n")[1:]:
        path = folder / name
        is_plain_name = (
            name not in ("", ".", "..") and Path(name).name == name
        )  # an edited marker must not lead outside the folder
        if is_plain_name and not path.is_symlink():
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _list_contents(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else [f"the file {folder.name}"]
