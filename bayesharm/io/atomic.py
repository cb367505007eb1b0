"""Files that appear whole or not at all, and comparison of files with their hashes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from bayesharm.errors import RunFolderError


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is complete or absent, whenever the machine stops.

    Raises
    ------
    RunFolderError
        The file cannot be written.
    """
    partial = path.with_name(f".{path.name}.part")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:  # an interruption too
        partial.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise RunFolderError(
            f"{path} could not be written.",
            got=str(error),
            expected="free space, and permission to write",
            do="free some space, then run the same command again: it resumes where it stopped",
        ) from None


def digests(folder: Path) -> dict[str, str]:
    """Compute the sha256 of every file of a tree: zarr reads a lost chunk as missing values and a changed one as it is."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def find_damage(folder: Path, written: Mapping[str, str]) -> list[str]:
    """Name the files of a tree that are missing, changed, or not in the record of hashes."""
    present = digests(folder)
    return [name for name in sorted({*written, *present}) if present.get(name) != written.get(name)]
