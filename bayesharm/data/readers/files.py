"""Files of a derivatives folder: listed without loops, read with clear errors."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from bayesharm.errors import InputError

LARGEST_FILE = 1 << 29  # bytes of a file of one scan or of a table: no tool writes as much text for one scan
LONGEST_LABEL = 120  # characters of a name in an error message
_SKIPPED = ("sourcedata", "figures", "log", "logs")


def list_files(folder: Path) -> list[Path]:
    """Return all files in a folder and below, sorted, without hidden ones.

    Symbolic links to folders are followed; each folder is visited once, so that links in a circle do no harm.

    Raises
    ------
    InputError
        The folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise InputError(
            "A folder cannot be read.",
            got=str(error),
            expected="folders that you may read",
            do="get the permission, or remove the folder",
        )

    files, visited = [], set()
    for name, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        status = os.stat(name)
        identity = (status.st_dev, status.st_ino)
        if identity in visited:
            folders.clear()
            continue
        visited.add(identity)
        folders[:] = sorted(each for each in folders if not each.startswith(".") and each not in _SKIPPED)
        files += [Path(name, each) for each in names if not each.startswith(".")]
    return sorted(files)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn failures to read a file into an `InputError`."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        is_link = path.is_symlink()
        raise InputError(
            "A file does not exist.",
            got=f"{path}, a link to a file that is not there" if is_link else str(path),
            expected="an existing file",
            do="get its content, with 'datalad get' in a DataLad data set" if is_link else "check the path",
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(
            "A file cannot be read.",
            got=f"{cut(path)}: {getattr(error, 'strerror', None) or error}",
            expected="a readable file",
            do="check the file and your permission to read it",
        ) from None


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file of at most `LARGEST_FILE` bytes.

    Raises
    ------
    InputError
        The file cannot be read, is far too large, or is something else, such as a pipe, which never ends.
    """
    with readable(path):
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST_FILE:
            kind = "" if stat.S_ISREG(status.st_mode) else ", not a plain file"
            raise InputError(
                "A file is too large, or is no file.",
                got=f"{path}: {status.st_size / 1e6:,.0f} MB{kind}",
                expected=f"a file of at most {LARGEST_FILE / 1e6:,.0f} MB",
                do="check that this is the right file",
            )
        with path.open("rb") as file:
            yield file


def read_bytes(path: Path) -> bytes:
    """Return the text of a file in UTF-8, without byte-order mark and with ``\\n`` at the end of lines.

    Raises
    ------
    InputError
        The file cannot be read, is far too large, or is not text.
    """
    with open_file(path) as file:
        data = file.read()
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        data = data.decode("utf-16", errors="replace").encode()
    data = data.removeprefix(b"\xef\xbb\xbf")
    if b"\0" in data[:4096]:
        raise InputError(
            "A file is not text.",
            got=f"{path}: binary data",
            expected="a table of numbers in text",
            do="write the file again, or remove it",
        )
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in data else data


def decode(text: bytes) -> str:
    """Return text in UTF-8, else in Latin-1, in which every byte is a character."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text.decode("latin-1")


def cut(label: object) -> str:
    """Return a label, cut to a length that an error message can hold."""
    text = str(label)
    return text if len(text) <= LONGEST_LABEL else f"{text[:LONGEST_LABEL]}…"


def describe_dataset(folder: Path) -> dict[str, str]:
    """Return the tool, its version and the name of the data set from ``dataset_description.json``, here or above."""
    for place in (folder, *folder.resolve().parents[:3]):
        content = _read_json(place / "dataset_description.json")
        if content is None:
            continue
        made_by = content.get("GeneratedBy")
        first = made_by[0] if isinstance(made_by, list) and made_by and isinstance(made_by[0], dict) else {}
        found = {"tool": first.get("Name"), "version": first.get("Version"), "dataset": content.get("Name")}
        return {key: cut(value) for key, value in found.items() if isinstance(value, str)}
    return {}


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(decode(read_bytes(path)))
    except (InputError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
