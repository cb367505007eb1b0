"""A posterior as bytes, for estimators that are pickled."""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path

from bayesharm.results.posterior import Posterior, load_posterior


def pack(posterior: Posterior) -> bytes:
    """Zip the run folder: the same bytes for the same posterior."""
    packed = io.BytesIO()
    with tempfile.TemporaryDirectory() as parent, zipfile.ZipFile(packed, "w") as archive:
        folder = posterior.save(Path(parent) / "run")
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            archive.writestr(zipfile.ZipInfo(path.relative_to(folder).as_posix()), path.read_bytes())
    return packed.getvalue()


def unpack(packed: bytes) -> Posterior:
    """Unzip the run folder and load it."""
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(io.BytesIO(packed)) as archive:
        archive.extractall(folder)
        return load_posterior(folder)
