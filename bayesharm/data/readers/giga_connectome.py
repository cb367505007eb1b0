"""giga_connectome: correlations without names of regions (`relmat.tsv`), from version 0.6 and earlier ones."""

from __future__ import annotations

from pathlib import Path

from bayesharm.data.readers.bids_names import parse_name
from bayesharm.data.readers.folders import FolderFormat
from bayesharm.data.readers.matching import Record, source_label
from bayesharm.data.readers.regions import Values
from bayesharm.data.readers.squares import Square
from bayesharm.data.readers.text_values import read_text_values


def _recognize(path: Path) -> Record | None:
    name = parse_name(path.name)
    if name is None or "sub" not in name.entities or name.suffix != "relmat" or name.extension != ".tsv":
        return None
    atlas = name.entities.get("seg") or name.entities.get("atlas")
    if atlas is None or name.entities.get("meas") != "PearsonCorrelation":
        return None
    variant = {key: value for key, value in name.variant.items() if key not in ("seg", "atlas", "meas")}
    return Record(path, source_label(name.source), name.source, variant, "PearsonCorrelation", atlas)


def _load(record: Record) -> Values:
    """Read a matrix. Its header numbers the columns from 0, in the order of the atlas."""
    return Values(read_text_values(record.path, has_header=True).values, None)


# With --calculate-intranetwork-average-correlation the diagonal holds the mean correlation within each region.
FORMAT = FolderFormat(
    "giga_connectome", "giga_connectome", _recognize, _load, {"PearsonCorrelation": Square("r", check_diagonal=False)}
)
