"""DPABI and DPARSF: correlations of regions (`ROICorrelation_*`, `ROICorrelation_FisherZ_*`, `.mat` or `.txt`).

The names and the order key are those that `y_ExtractROISignal` writes.
"""

from __future__ import annotations

import re
from pathlib import Path

from bayesharm.data.readers.files import cut, decode, read_bytes
from bayesharm.data.readers.folders import FolderFormat
from bayesharm.data.readers.matching import Record
from bayesharm.data.readers.matlab_files import read_matlab, to_matrix
from bayesharm.data.readers.regions import Values
from bayesharm.data.readers.squares import Square
from bayesharm.data.readers.text_values import read_text_values
from bayesharm.errors import InputError

_NAME = re.compile(r"ROICorrelation_(FisherZ_)?(.+)\.(mat|txt)")
_SESSION = re.compile(r"(?:S(\d+)_)?Results")
LABEL, DEFINITION = "Label in Mask", "ROI Definition"


def _recognize(path: Path) -> Record | None:
    """Return the record of a file; of the two files with the same numbers, the .mat file counts."""
    found = _NAME.fullmatch(path.name)
    if found is None or (found[3] == "txt" and path.with_suffix(".mat").exists()):
        return None
    session = next((match[1] or "1" for match in map(_SESSION.fullmatch, path.parts[::-1]) if match is not None), None)
    source = {"sub": found[2].removeprefix("sub-")} | ({} if session is None else {"ses": session})
    measure = "fisher-z" if found[1] else "correlation"
    return Record(path, found[2], source, {"folder": path.parent.name}, measure)


def _load(record: Record) -> Values:
    variable = "ROICorrelation_FisherZ" if record.measure == "fisher-z" else "ROICorrelation"
    if record.path.suffix == ".mat":
        values = to_matrix(read_matlab(record.path, (variable,))[variable], record.path)
    else:
        values = read_text_values(record.path, has_header=False, separator=None).values
    key = record.path.with_name(f"ROI_OrderKey_{record.identifier}.tsv")
    regions = _read_order_key(key) if key.exists() else None
    if regions is not None and len(regions) != values.shape[-1]:
        raise InputError(
            "An order key does not fit its matrix.",
            got=f"{key}: {len(regions):,} regions; {values.shape[-1]:,} in {record.path.name}",
            expected="one line for each region",
            do="extract the regions again with DPABI",
        )
    return Values(values, regions)


def _read_order_key(path: Path) -> list[str]:
    """Return the regions of a scan: their numbers in the mask, after the name of the mask if there are several masks."""
    lines = [line for line in decode(read_bytes(path)).split("\n") if line.strip()]
    rows = [line.split("\t") for line in lines]
    header = [cell.strip() for cell in rows[0]] if rows else []
    if DEFINITION not in header or any(len(row) != len(header) for row in rows):
        raise InputError(
            "An order key is damaged.",
            got=f"{path}: {cut(lines[0]) if lines else 'no lines'}",
            expected=f"the columns Order, {LABEL} and {DEFINITION}, separated by tabs",
            do="extract the regions again with DPABI",
        )
    definitions = [re.split(r"[\\/]", row[header.index(DEFINITION)])[-1].strip() for row in rows[1:]]
    labels = [row[header.index(LABEL)].strip() if LABEL in header else "" for row in rows[1:]]
    several = len(set(definitions)) > 1
    return [
        "_".join(filter(None, (each if several or not label else "", label)))
        for each, label in zip(definitions, labels, strict=True)
    ]


FORMAT = FolderFormat(
    "dpabi",
    "DPABI",
    _recognize,
    _load,
    {"correlation": Square("r"), "fisher-z": Square("z")},
    "fisher-z",
    lenient=("correlation", "fisher-z"),
    is_numbered=True,
)
