"""Public example studies, read from a local folder or downloaded once, with verified content."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from bayesharm.errors import BayesharmError, InputError

FOLDER_VARIABLE = "BAYESHARM_DATA"


@dataclass(frozen=True)
class RemoteFile:
    """A public file with its expected content.

    Attributes
    ----------
    name : str
        File name on this machine.
    url : str
        Address to download it from.
    sha256 : str
        Hash of the content.
    """

    name: str
    url: str
    sha256: str


ONHARMONY = RemoteFile(
    "onharmony.csv",
    "https://raw.githubusercontent.com/N-Nieto/HarmonisationDiagnostics/"
    "82b72f4982189858892bd9971376c5aeb3558845/tests/onharmony.csv",
    "0a947c76aa8109f54f43be20cb85ad2a25d148a51b975b4415889ffa05f6f63c",
)

FCON1000 = RemoteFile(
    "fcon1000.csv",
    "https://raw.githubusercontent.com/predictive-clinical-neuroscience/PCNtoolkit-demo/"
    "81967c1e158feeaa3651aed6decee80f3018a563/data/fcon1000.csv",
    "6cff2415da82466f5b3cac197947fd30ab2891a2427adedc590fb403844c73fc",
)


def fetch_onharmony(cache_dir: str | Path | None = None) -> Path:
    """Return the path of the ON-Harmony table: 20 travelers on 6 of 8 scanners each, 2,503 imaging-derived phenotypes.

    The table is from N-Nieto/HarmonisationDiagnostics (MIT) and was made from OpenNeuro ds004712 (CC0), 120 scans.
    If the environment variable ``BAYESHARM_DATA`` names a folder that contains the file, that file is used. Otherwise
    the file is downloaded once (2.6 MB) to the cache folder.

    Parameters
    ----------
    cache_dir : path, optional
        Default: the cache folder of the operating system, under ``bayesharm``.

    Returns
    -------
    Path
        The verified file.

    Raises
    ------
    InputError
        The file in ``BAYESHARM_DATA`` has unexpected content.
    BayesharmError
        The download fails or has unexpected content; it is then not kept in the cache folder.
    """
    return fetch(ONHARMONY, cache_dir)


def fetch_fcon1000(cache_dir: str | Path | None = None) -> Path:
    """Return the path of the FCON1000 table: 1,078 healthy people, scanned once each at 23 sites.

    The columns are age, sex, site, thickness of the cortex (mm), volumes and quality measures. The table is from
    predictive-clinical-neuroscience/PCNtoolkit-demo; the data are those of the 1000 Functional Connectomes Project (open,
    non-commercial). If the environment variable ``BAYESHARM_DATA`` names a folder that contains the file, that file is
    used. Otherwise the file is downloaded once (2.1 MB) to the cache folder.

    Parameters
    ----------
    cache_dir : path, optional
        As for :func:`fetch_onharmony`.

    Returns
    -------
    Path
        The verified file.

    Raises
    ------
    InputError
        The file in ``BAYESHARM_DATA`` has unexpected content.
    BayesharmError
        The download fails or has unexpected content; it is then not kept in the cache folder.
    """
    return fetch(FCON1000, cache_dir)


def fetch(file: RemoteFile, cache_dir: str | Path | None = None) -> Path:
    """Return the path of a public file, local or downloaded (see :func:`fetch_onharmony`)."""
    local = os.environ.get(FOLDER_VARIABLE)
    if local and (path := Path(local) / file.name).is_file():
        digest = _sha256(path)
        if digest != file.sha256:
            raise InputError(
                f"{path} is not the expected file.",
                got=f"sha256 {digest}",
                expected=f"sha256 {file.sha256}",
                do=f"replace it with {file.url}, or unset {FOLDER_VARIABLE} to download the file",
            )
        return path

    import pooch  # imported here, because users with their own data do not need it

    folder = Path(cache_dir) if cache_dir is not None else Path(pooch.os_cache("bayesharm"))
    try:
        # Uses a cached file with the right hash; otherwise downloads to a temporary file, checks its hash and renames it.
        return Path(pooch.retrieve(file.url, f"sha256:{file.sha256}", fname=file.name, path=folder))
    except (OSError, ValueError) as error:  # network errors are OSErrors; a wrong hash is a ValueError
        raise BayesharmError(
            f"{file.name} could not be downloaded.",
            got=f"{type(error).__name__}: {error}",
            expected=f"{file.url} with sha256 {file.sha256}",
            do=f"try again later, or download the file manually and set {FOLDER_VARIABLE} to its folder",
        ) from error


def _sha256(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
