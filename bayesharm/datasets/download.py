"""Public studies to try bayesharm on: taken from a folder or downloaded once, and checked either way."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from bayesharm.errors import BayesharmError, InputError

FOLDER_VARIABLE = "BAYESHARM_DATA"


@dataclass(frozen=True)
class RemoteFile:
    """A public file that is known by its content."""

    name: str
    url: str
    sha256: str


ONHARMONY = RemoteFile(
    "onharmony.csv",
    "https://raw.githubusercontent.com/N-Nieto/HarmonisationDiagnostics/"
    "82b72f4982189858892bd9971376c5aeb3558845/tests/onharmony.csv",
    "0a947c76aa8109f54f43be20cb85ad2a25d148a51b975b4415889ffa05f6f63c",
)


def fetch_onharmony(cache_dir: str | Path | None = None) -> Path:
    """Path of the ON-Harmony table: 20 travelers on 6 of 8 scanners each, 2,503 imaging-derived measures.

    The table of N-Nieto/HarmonisationDiagnostics (MIT), made from OpenNeuro ds004712 (CC0), 120 scans.
    A file in the folder that the environment variable ``BAYESHARM_DATA`` names is used where it lies; else
    the one in the cache folder, which is downloaded at first use (2.6 MB).

    Parameters
    ----------
    cache_dir : path, optional
        Default: the cache folder of the operating system, under ``bayesharm``.

    Returns
    -------
    Path
        Of a file with the expected sha256.

    Raises
    ------
    InputError
        If the file found in ``BAYESHARM_DATA`` is not the expected one.
    BayesharmError
        If the download fails or gives another file; the cache folder is then left without it.
    """
    return fetch(ONHARMONY, cache_dir)


def fetch(file: RemoteFile, cache_dir: str | Path | None = None) -> Path:
    """Find or download a file, as `fetch_onharmony` does."""
    local = os.environ.get(FOLDER_VARIABLE)
    if local and (path := Path(local) / file.name).is_file():
        found = _sha256(path)
        if found != file.sha256:
            raise InputError(
                f"{path} is not the expected file",
                got=f"sha256 {found}",
                expected=f"sha256 {file.sha256}",
                do=f"replace it by {file.url}, or unset {FOLDER_VARIABLE} to have it downloaded",
            )
        return path

    import pooch  # here, because nobody who brings data needs it

    folder = Path(cache_dir) if cache_dir is not None else Path(pooch.os_cache("bayesharm"))
    try:
        # takes the cached file if its hash is right; else downloads to a temporary name, checks, and renames
        return Path(pooch.retrieve(file.url, f"sha256:{file.sha256}", fname=file.name, path=folder))
    except (OSError, ValueError) as error:  # requests' errors are OSErrors; another hash is a ValueError
        raise BayesharmError(
            f"{file.name} could not be downloaded",
            got=f"{type(error).__name__}: {error}",
            expected=f"{file.url} with sha256 {file.sha256}",
            do=f"try again later, or download it by hand and set {FOLDER_VARIABLE} to the folder it is in",
        ) from error


def _sha256(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
