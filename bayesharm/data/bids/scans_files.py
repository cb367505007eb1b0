"""The scans table of a BIDS dataset as a file, with a data dictionary in the form of BIDS beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bayesharm.data.bids.scanners import PROTOCOL_FIELDS
from bayesharm.data.bids.scans import BidsScans
from bayesharm.errors import InputError
from bayesharm.io.atomic import write_whole
from bayesharm.io.limits import LARGEST_JSON, read_small

_DESCRIPTIONS = {
    "scan_id": "Name of the scan: the BIDS file name without suffix and echo.",
    "participant_id": "Identifier of the person, the same on all scanners.",
    "session": "Label of the session.",
    "run": "Number of the run.",
    "task": "Label of the task.",
    "scanner": "Scanner together with its protocol: all scans with the same value share one measurement bias.",
    "site": "Site that recruited the person.",
    "acq_time": "Time of the scan.",
}


def check_scans_file(path: Path, overwrite: bool = False) -> None:
    """Refuse a path that is not a new .tsv file in an existing folder.

    Raises
    ------
    InputError
        The file, or its data dictionary, exists and `overwrite` is false; or it cannot be created.
    """
    existing = [file for file in (path, path.with_suffix(".json")) if file.exists()]
    if path.suffix.lower() != ".tsv" or not path.parent.is_dir() or path.is_dir():
        raise InputError(
            "--out cannot be written.",
            got=str(path),
            expected="a name ending in .tsv, in an existing folder",
            do="choose another --out",
        )
    if existing and not overwrite:
        raise InputError(
            f"{existing[0]} exists already, perhaps with corrections made by hand.",
            got=str(existing[0]),
            expected="a new file",
            do="choose another --out, or replace the file with --overwrite",
        )


def write_scans(scans: BidsScans, path: Path, dataset: Path) -> Path:
    """Write the scans table and its data dictionary.

    Parameters
    ----------
    scans : BidsScans
    path : path
        File .tsv; missing values are written as ``n/a``.
    dataset : path
        Root of the BIDS dataset, whose ``participants.json`` describes its columns.

    Returns
    -------
    path
        The data dictionary: the same name with ``.json``.
    """
    dictionary = path.with_suffix(".json")
    table = scans.table.fillna("n/a").to_csv(sep="\t", index=False, lineterminator="\n")
    write_whole(path, table.encode("utf-8"))
    content = json.dumps(describe_columns(scans, dataset), indent=2, ensure_ascii=False)
    write_whole(dictionary, f"{content}\n".encode())
    return dictionary


def describe_columns(scans: BidsScans, dataset: Path) -> dict[str, Any]:
    """Return the data dictionary of the scans table: column -> description, units and levels."""
    given = read_dictionary(dataset)
    described: dict[str, Any] = {}
    for name in scans.table:
        if name in PROTOCOL_FIELDS:
            described[name] = {"Description": f"{name} in the sidecar of the scan."}
            if units := PROTOCOL_FIELDS[name]:
                described[name]["Units"] = units
        elif name in _DESCRIPTIONS:
            described[name] = {"Description": _DESCRIPTIONS[name]}
        else:
            described[name] = given.get(name, {"Description": "From the tables of the dataset."})
    described["scanner"]["Description"] += f" Told apart by {', '.join(scans.scanners.key)}."
    described["scanner"]["Levels"] = {
        scanner: "; ".join(f"{field} {value}" for field, value in row.items()) or "the only scanner"
        for scanner, row in scans.scanners.differing.to_dict("index").items()
    }
    return described


def read_dictionary(dataset: Path) -> dict[str, Any]:
    """Return ``participants.json`` of a dataset; empty if it is absent or invalid, since the scans do not need it."""
    try:
        content = json.loads(read_small(dataset / "participants.json", LARGEST_JSON).decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
