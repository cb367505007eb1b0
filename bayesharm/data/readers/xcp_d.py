"""XCP-D: correlations (`relmat.tsv`, formerly `conmat.tsv`), ALFF, ReHo, and surface measures (`morph.tsv`).

The names are those of its page of outputs, version 26.1, of versions up to 0.6, and of versions that write ``seg-`` in place
of ``atlas-``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bayesharm.data.readers.bids_names import BidsName, parse_name
from bayesharm.data.readers.folders import FolderFormat
from bayesharm.data.readers.matching import Record, source_label
from bayesharm.data.readers.regions import Values
from bayesharm.data.readers.squares import Square
from bayesharm.data.readers.text_values import read_text_values
from bayesharm.errors import InputError, shorten

CORRELATION = "pearsoncorrelation"
SURFACE = ("thickness", "sulc", "curv")


def _recognize(path: Path) -> Record | None:
    name = parse_name(path.name)
    if name is None or "sub" not in name.entities or name.extension != ".tsv":
        return None
    atlas = name.entities.get("atlas", name.entities.get("seg"))
    if atlas is None or "meas" in name.entities:  # giga_connectome writes seg and meas
        return None
    measure = _measure(name)
    if not measure:
        return None
    used = {"atlas", "seg", "stat", "measure"} | ({"desc"} if measure in SURFACE else set())
    variant = {key: value for key, value in name.variant.items() if key not in used}
    return Record(path, source_label(name.source), name.source, variant, measure, atlas)


def _measure(name: BidsName) -> str:
    statistic = name.entities.get("stat", name.entities.get("measure", ""))
    if name.suffix in ("relmat", "conmat"):
        return statistic if statistic == CORRELATION else ""
    if name.suffix in ("alff", "reho"):
        return name.suffix
    if name.suffix == "bold" and statistic in ("alff", "reho"):
        return statistic
    described = name.entities.get("desc", "")
    return described if name.suffix == "morph" and described in SURFACE else ""


def _load(record: Record) -> Values:
    text = read_text_values(record.path, has_header=True)
    columns = text.columns or []
    if record.measure in (*SURFACE, "alff", "reho"):
        if len(text.values) != 1:
            raise InputError(
                "A file does not hold one row.",
                got=f"{record.path}: {len(text.values):,} rows",
                expected="one row, with a column for each region",
                do="write the file again with XCP-D, or remove it",
            )
        return Values(text.values[0], columns)
    values = text.values
    if text.rows is not None and text.rows != columns:
        values = values[_order_of_rows(text.rows, columns, record.path)]
    return Values(values, columns)


def _order_of_rows(rows: list[str], columns: list[str], path: Path) -> list[int]:
    position = {name: k for k, name in enumerate(rows)}
    if len(rows) != len(columns) or position.keys() != set(columns):
        differing = [*(name for name in columns if name not in position), *(name for name in rows if name not in columns)]
        raise InputError(
            "A matrix has other regions in its rows than in its columns.",
            got=f"{path}: {len(rows):,} rows, {len(columns):,} columns; in one of them only: "
            f"{shorten((name[:60] for name in differing), 3) or 'none'}",
            expected="the same regions in both",
            do="write the file again with XCP-D, or remove it",
        )
    return [position[name] for name in columns]


def _motion(files: Sequence[Path], records: Sequence[Record]) -> dict[str, np.ndarray]:
    """Return the mean framewise displacement (mm, all volumes) and the number of volumes kept, where the files are there."""
    if records[0].measure in SURFACE:
        return {}
    tables: dict[tuple[str, str], Path] = {}
    for path in files:
        name = parse_name(path.name)
        if name is not None and name.extension == ".tsv" and name.suffix in ("motion", "outliers"):
            tables.setdefault((name.suffix, source_label(name.source)), path)
    displacement = [_column(tables.get(("motion", record.identifier))) for record in records]
    outliers = [_column(tables.get(("outliers", record.identifier))) for record in records]
    columns = {
        "mean_framewise_displacement": np.array([_mean(each) for each in displacement]),
        "volumes_kept": np.array([np.nan if each is None else float((each == 0).sum()) for each in outliers]),
    }
    return {name: values for name, values in columns.items() if not np.isnan(values).all()}


def _mean(values: np.ndarray | None) -> float:
    return float(np.nanmean(values)) if values is not None and np.isfinite(values).any() else np.nan


def _column(path: Path | None) -> np.ndarray | None:
    """Return the column ``framewise_displacement`` of a table; None without it."""
    if path is None:
        return None
    try:
        text = read_text_values(path, has_header=True)
    except InputError:  # an offer only: features do not depend on it
        return None
    columns = text.columns or []
    return text.values[:, columns.index("framewise_displacement")] if "framewise_displacement" in columns else None


FORMAT = FolderFormat(
    "xcp_d",
    "XCP-D",
    _recognize,
    _load,
    {CORRELATION: Square("r")},
    CORRELATION,
    lenient=SURFACE,
    columns=_motion,
)
