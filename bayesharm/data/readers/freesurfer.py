"""FreeSurfer: tables of `aparcstats2table` and `asegstats2table`.

The first cell names the table: ``lh.aparc.thickness`` (hemisphere, parcellation, measure) or ``Measure:volume``. Both
programs write 0.0 for a region that a scan lacks.
"""

from __future__ import annotations

import re

from bayesharm.data.readers.label_tables import LabelTable, TableFormat

MEASURES = ("area", "volume", "thickness", "thicknessstd", "meancurv", "gauscurv", "foldind", "curvind")
_CORTEX = re.compile(rf"(lh|rh)\.(.+)\.({'|'.join(MEASURES)})")
_SUBCORTEX = re.compile(r"Measure[:.](\w+)")
_WHOLE_BRAIN = re.compile(
    r"(?:[lr]h_)?(?:MeanThickness|WhiteSurfArea|PialSurfArea|NumVert|CortexVol|TotalHemiGrayVol)(?:_\w+)?"
    r"|BrainSegVol.*|eTIV|EstimatedTotalIntraCranialVol|ICV|IntraCranialVol"
    r"|(?:lh|rh)?(?:CortexVol|CorticalWhiteMatterVol|CerebralWhiteMatterVol|SurfaceHoles)"
    r"|SubCortGrayVol|TotalGrayVol|SupraTentorialVol.*|MaskVol.*|VentricleChoroidVol|BrainSeg"
)
_MAY_BE_ZERO = re.compile(r"5th.Ventricle|.*hypointensities|.*vessel|.*SurfaceHoles|.*choroid.plexus")


def _recognize(header: list[str]) -> tuple[str, str] | None:
    corner = header[0] if header else ""
    if found := _CORTEX.fullmatch(corner):
        return found[3], found[2]
    if found := _SUBCORTEX.fullmatch(corner):
        return found[1], "aseg"
    return None


def _name_columns(table: LabelTable) -> list[str]:
    """Return ``lh_bankssts_thickness`` also for columns named ``bankssts``, as --parcid-only writes them."""
    found = _CORTEX.fullmatch(table.corner)
    if found is None:
        return list(table.columns)
    hemisphere, _, measure = found.groups()
    return [
        name if name.startswith(f"{hemisphere}_") or _WHOLE_BRAIN.fullmatch(name) and not name.startswith(("Mean", "White"))
        else f"{hemisphere}_{name}_{measure}"
        for name in table.columns
    ]  # fmt: skip


FORMAT = TableFormat(
    "freesurfer",
    "FreeSurfer",
    _recognize,
    _name_columns,
    lambda name: _WHOLE_BRAIN.fullmatch(name) is not None,
    lambda name: _MAY_BE_ZERO.fullmatch(name) is not None or _WHOLE_BRAIN.fullmatch(name) is not None,
)
