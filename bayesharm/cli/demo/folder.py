"""The folder of a demo, which may replace what an earlier demo left there and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

from bayesharm.errors import RunFolderError, shorten

MARKER = ".bayesharm-demo"  # says that a folder is a demo's; lists what the demo put there


def claim_folder(folder: Path, names: tuple[str, ...]) -> Path:
    """Make the folder; of one that an earlier demo made, remove what that demo put there and nothing else."""
    marker = folder / MARKER
    if folder.exists() and not marker.is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunFolderError(
            f"The output folder {folder} already holds other files.",
            got=shorten(_contents(folder)),
            do="choose another --out",
            expected="a new or empty folder, or that of an earlier demo",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in marker.read_text(encoding="utf-8").split("\n")[1:] if marker.is_file() else []:
            path = folder / name
            if name and Path(name).name == name and not path.is_symlink():
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        lines = ["Made by 'bayesharm demo', which replaces these when it runs again:", *names, ""]
        marker.write_text("\n".join(lines), encoding="utf-8")
    except OSError as error:
        raise RunFolderError(f"{folder} cannot be written.", got=str(error), do="choose another --out") from None
    if there := [name for name in names if (folder / name).exists()]:
        raise RunFolderError(
            f"The output folder {folder} holds files that are not the demo's.",
            got=shorten(there),
            do="choose another --out, or remove them",
        )
    return folder


def _contents(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else [f"the file {folder.name}"]
