"""Files that appear whole or not at all, and checks of files against their hashes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from bayesharm.errors import RunFolderError


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all, whenever the machine stops.

    Raises
    ------
    RunFolderError
    """
    beside = path.with_name(f".{path.name}.part")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException as error:  # an interruption too
        beside.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise RunFolderError(
            f"{path} could not be written.",
            got=str(error),
            expected="room, and permission to write",
            do="make room, then run the same command again: it goes on where it stopped",
        ) from None


def digests(folder: Path) -> dict[str, str]:
    """sha256 of all files of a tree: zarr reads a lost chunk as missing values, and a changed one as it is."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def find_damage(folder: Path, written: Mapping[str, str]) -> list[str]:
    """Files of a tree that are missing, are not what was written, or were not written by us."""
    there = digests(folder)
    return [name for name in sorted({*written, *there}) if there.get(name) != written.get(name)]
