"""Atomic writing of files, and checks of files against their hashes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from bayesharm.errors import RunFolderError


def make_anew(path: Path) -> IO[bytes]:
    """Open a new file for writing, in place of one that an interrupted process left; a link is not followed.

    Raises
    ------
    OSError
    """
    path.unlink(missing_ok=True)
    return path.open("xb")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically: after a crash it is complete or absent, never partial.

    Raises
    ------
    RunFolderError
        The file cannot be written, for example because the disk is full.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        with make_anew(temporary) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:  # also for a keyboard interrupt
        temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise RunFolderError(
            f"{path} could not be written.",
            got=str(error),
            expected="free disk space, and permission to write",
            do="free some disk space, then run the same command again: it continues where it stopped",
        ) from None


def digests(folder: Path) -> dict[str, str]:
    """Return the sha256 of each file below a folder.

    Zarr itself reports no damage: it reads a lost chunk as missing values, and a changed chunk as if it were right.
    """
    return {
        path.relative_to(folder).as_posix(): _sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_damage(folder: Path, written: Mapping[str, str]) -> list[str]:
    """List the files below a folder that are missing, changed or foreign, compared with the hashes `written`."""
    present = digests(folder)
    return [name for name in sorted({*written, *present}) if present.get(name) != written.get(name)]
