"""CONN: Fisher z of the first-level analysis, ROI to ROI (`resultsROI_Subject001_Condition001.mat`)."""

from __future__ import annotations

import re
from pathlib import Path

from bayesharm.data.readers.folders import FolderFormat
from bayesharm.data.readers.matching import Record
from bayesharm.data.readers.matlab_files import read_matlab, to_matrix, to_names
from bayesharm.data.readers.regions import Values
from bayesharm.data.readers.squares import Square
from bayesharm.errors import InputError

_NAME = re.compile(r"resultsROI_(Subject\d+)_Condition(\d+)\.mat", re.IGNORECASE)


def _recognize(path: Path) -> Record | None:
    """Return the record of a file. Its subject is a place in the CONN project, not an identifier of a person."""
    found = _NAME.fullmatch(path.name)
    if found is None:
        return None
    subject, condition = found.groups()
    return Record(
        path,
        f"{subject}_Condition{condition}",
        {"sub": subject},
        {"condition": condition, "analysis": path.parent.name},
        "fisher-z",
        aliases=(subject,),
    )


def _load(record: Record) -> Values:
    """Read the sources of Z. Its further columns are targets only, such as effects of nuisance."""
    content = read_matlab(record.path, ("Z", "names", "names2"))
    values = to_matrix(content["Z"], record.path)
    sources, targets = to_names(content["names"], record.path), to_names(content["names2"], record.path)
    n = len(sources)
    if values.shape != (n, len(targets)) or targets[:n] != sources:
        raise InputError(
            "A file of CONN has other sources than targets.",
            got=f"{record.path}: Z of shape {values.shape}, {n:,} sources, {len(targets):,} targets",
            expected="the sources first among the targets",
            do="use a first-level analysis of ROI-to-ROI connectivity (weighted or bivariate correlation)",
        )
    return Values(values[:, :n], sources)


FORMAT = FolderFormat("conn", "CONN", _recognize, _load, {"fisher-z": Square("z")}, lenient=("fisher-z",))
