"""HALFpipe: matrices without names of regions and without a heading (`matrix.tsv`, in its README `matrix.txt`)."""

from __future__ import annotations

from pathlib import Path

from bayesharm.data.readers.bids_names import parse_name
from bayesharm.data.readers.folders import FolderFormat
from bayesharm.data.readers.matching import Record, source_label
from bayesharm.data.readers.regions import Values
from bayesharm.data.readers.squares import Square
from bayesharm.data.readers.text_values import read_text_values

MEASURES = ("correlation", "covariance")


def _recognize(path: Path) -> Record | None:
    name = parse_name(path.name)
    if name is None or "sub" not in name.entities or name.suffix != "matrix" or name.extension not in (".tsv", ".txt"):
        return None
    measure = name.entities.get("desc", "")
    if measure not in MEASURES or "atlas" not in name.entities:
        return None
    variant = {key: value for key, value in name.variant.items() if key not in ("desc", "atlas")}
    return Record(path, source_label(name.source), name.source, variant, measure, name.entities["atlas"])


def _load(record: Record) -> Values:
    return Values(read_text_values(record.path, has_header=False, separator=None).values, None)


FORMAT = FolderFormat(
    "halfpipe", "HALFpipe", _recognize, _load, {"correlation": Square("r"), "covariance": Square("any")}, "correlation"
)
