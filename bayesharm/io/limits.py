"""Limits on files, which may come from strangers: plain files only, and memory in proportion to their size."""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path

from bayesharm.errors import InputError

FREE = 1 << 30  # bytes that the content of any file may take
MOST_EXPANSION = 200  # times the size of a file that its content may take beyond that; numbers compress to a tenth at best
LARGEST_JSON = 1 << 26  # bytes of a file of metadata; in memory it may take twenty times as much
MOST_FEATURES = 1 << 24  # of a study


def refuse_expansion(path: Path, stored: int, expanded: int) -> None:
    """Refuse a file whose content is far larger than the file, as that of a zip bomb.

    Parameters
    ----------
    path : Path
    stored, expanded : int
        Bytes of the file, and of its content in memory.

    Raises
    ------
    InputError
    """
    if expanded > FREE and expanded > MOST_EXPANSION * stored:
        raise InputError(
            "The content of a file is far larger than the file.",
            got=f"{path}: {expanded / 1e9:,.1f} GB in a file of {stored / 1e6:,.3f} MB",
            expected=f"at most {MOST_EXPANSION} times the size of the file",
            do="do not use the file, unless you made it: then write it without compression",
        )


def refuse_zip_bomb(path: Path, most: int | None = None) -> None:
    """Refuse a zip archive (.npz, .xlsx) whose members are far larger than the archive, or larger than `most` bytes.

    Raises
    ------
    InputError
    zipfile.BadZipFile
        The file is no such archive.
    """
    with zipfile.ZipFile(path) as archive:  # no member yields more bytes than its heading declares
        size = sum(member.file_size for member in archive.infolist())
    refuse_expansion(path, path.stat().st_size, size)
    if most is not None and size > most:
        raise InputError(
            "A file is too large.",
            got=f"{path}: {size / 1e6:,.0f} MB, decompressed",
            expected=f"at most {most / 1e6:,.0f} MB",
            do="save the table as .csv or .parquet",
        )


def read_small(path: Path, most: int) -> bytes:
    """Return the content of a plain file of at most `most` bytes.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        It is larger, or something else, such as a pipe, which never ends.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a plain file")
    if status.st_size > most:
        raise ValueError(f"{status.st_size:,} bytes, of at most {most:,}")
    with path.open("rb") as file:
        return file.read(most)


def walk_files(folder: Path, *, allow_links: bool) -> Iterator[Path]:
    """Walk the files below a folder, without going into linked folders.

    Parameters
    ----------
    folder : path
    allow_links : bool
        Allow links to plain files, as in a DataLad data set.

    Raises
    ------
    ValueError
        Something is a linked folder, no plain file, or a link that is not allowed.
    OSError
        A folder or a file cannot be read.
    """
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_symlink() and not (allow_links and entry.is_file()):
                raise ValueError(f"{entry.path} is a link to {os.readlink(entry.path)}")
            if entry.is_dir():
                yield from walk_files(Path(entry.path), allow_links=allow_links)
            elif entry.is_file():
                yield Path(entry.path)
            else:
                raise ValueError(f"{entry.path} is a pipe or a device")
