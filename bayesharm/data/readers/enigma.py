"""ENIGMA: tables of the cortical and subcortical protocols.

`CorticalMeasuresENIGMA_ThickAvg.csv`, `CorticalMeasuresENIGMA_SurfAvg.csv` and `LandRvolumes.csv`
(`SubcorticalMeasuresENIGMA_VolAvg.csv`).
"""

from __future__ import annotations

from bayesharm.data.readers.label_tables import LabelTable, TableFormat

WHOLE_BRAIN = ("LThickness", "RThickness", "LSurfArea", "RSurfArea", "ICV")


def _recognize(header: list[str]) -> tuple[str, str] | None:
    if not header or header[0].lower() != "subjid":
        return None
    columns = [name.lower() for name in header[1:]]
    for ending, measure in (("_thickavg", "thickness"), ("_surfavg", "area")):
        if any(name.endswith(ending) for name in columns):
            return measure, "aparc"
    return ("volume", "aseg") if {"lthal", "lhippo"} & set(columns) else None


def _name_columns(table: LabelTable) -> list[str]:
    return list(table.columns)


FORMAT = TableFormat(
    "enigma",
    "ENIGMA",
    _recognize,
    _name_columns,
    lambda name: name in WHOLE_BRAIN,
    lambda name: False,
)
