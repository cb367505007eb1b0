"""Harmonized connectivity as a BIDS derivative: one matrix per scan, with its uncertainty beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from bayesharm.data.bids.names import parse_name
from bayesharm.errors import InputError, shorten
from bayesharm.io.tables import read_table, table_columns

BIDS_VERSION = "1.10.0"
# BIDS does not have connectivity matrices yet (BEP017); the validator skips the files named here.
BIDSIGNORE = "*_relmat.tsv\n*_relmat.json\n/scans.*\n/report.html\n/run\n"
HARMONIZED, UNCERTAINTY = "harmonized", "harmonizedsd"  # labels of the entity desc


def check_names(scan_ids: Iterable[str]) -> None:
    """Refuse identifiers of scans that are not the beginning of a file name of BIDS.

    Raises
    ------
    InputError
    """
    names = {scan: parse_name(f"{scan}_relmat.tsv") for scan in scan_ids}
    wrong = [scan for scan, name in names.items() if name is None or next(iter(name.entities), "") != "sub"]
    if wrong:
        raise InputError(
            "Some scan_id cannot be the beginning of a file name of BIDS.",
            got=shorten(wrong),
            expected="sub-<label>[_ses-<label>][_task-<label>]…",
            do="make the table with 'bayesharm scans', and leave its column scan_id as it is",
        )


def matrix_path(scan_id: str, atlas: str, description: str) -> Path:
    """Return the path of a matrix in the derivative: ``sub-01/func/sub-01_task-rest_seg-…_relmat.tsv``."""
    folders = [part for part in scan_id.split("_") if part.startswith(("sub-", "ses-"))]
    label = re.sub(r"[\W_]", "", atlas) or "atlas"
    return Path(*folders, "func", f"{scan_id}_seg-{label}_meas-PearsonCorrelation_desc-{description}_relmat.tsv")


def describe_matrix(scanner: str, description: str, source: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sidecar of a matrix.

    Parameters
    ----------
    scanner : str
        Scanner of the scan.
    description : str
        `HARMONIZED` or `UNCERTAINTY`.
    source : str
        BIDS URI of the input.
    facts : mapping
        What all scans have in common: model, removed effects, whether it is a preview.
    """
    is_sd = description == UNCERTAINTY
    return {
        "Description": "Posterior standard deviation of the harmonized correlations."
        if is_sd
        else "Correlations without the effect of the scanner.",
        "Measure": "Pearson correlation",
        "MeasureDescription": f"{'Uncertainty of r' if is_sd else 'Pearson r'}, from a model of Fisher z",
        "Weighted": True,
        "Directed": False,
        "ValidDiagonal": False,
        "StorageFormat": "Full",
        "NonNegative": is_sd,
        "Scanner": scanner,
        "Sources": [source],
        **facts,
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file as BIDS wants it."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_description(folder: Path, links: Mapping[str, str], version: str, facts: Mapping[str, Any]) -> None:
    """Write ``dataset_description.json``, ``README.md`` and ``.bidsignore``.

    Parameters
    ----------
    folder : path
        Root of the derivative.
    links : mapping
        Name -> relative path of the datasets it was made from.
    version : str
        Version of bayesharm.
    facts : mapping
        As in :func:`describe_matrix`.
    """
    urls = {name: quote(Path(path).as_posix()) for name, path in links.items()}
    write_json(
        folder / "dataset_description.json",
        {
            "Name": "Harmonized functional connectivity",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "bayesharm", "Version": version, "Description": f"Model {facts['Model']}"}],
            "SourceDatasets": [{"URL": url} for url in urls.values()],
            "DatasetLinks": urls,
        },
    )
    (folder / ".bidsignore").write_text(BIDSIGNORE, encoding="utf-8")
    notice = "\n**These are results of a preview, an approximation for a quick look.**\n" if facts["Preview"] else ""
    (folder / "README.md").write_text(_README.format(**facts, notice=notice), encoding="utf-8")


def read_participants(dataset: Path, participants: Sequence[str]) -> pd.DataFrame:
    """Return the rows of these participants in ``participants.tsv`` of the raw dataset, as text.

    Raises
    ------
    InputError
        The table cannot be read, or does not have these participants.
    """
    source, wanted = dataset / "participants.tsv", pd.Index(participants).unique()
    if not source.is_file():
        return pd.DataFrame({"participant_id": wanted})
    table = read_table(source, text=table_columns(source, source.name), what=source.name)
    found = table[table["participant_id"].isin(wanted)] if "participant_id" in table else table[:0]
    if absent := wanted.difference(found.get("participant_id", [])).tolist():
        raise InputError(
            "Some participants of the scans table are missing from participants.tsv.",
            got=f"{len(absent)} of {len(wanted)}: {shorten(absent)}",
            expected="a row for each participant_id, written as in participants.tsv (sub-01)",
            do="correct the scans table, or add the rows",
        )
    return found


def write_participants(folder: Path, participants: pd.DataFrame, dictionary: Mapping[str, Any]) -> None:
    """Write ``participants.tsv``, and its data dictionary with a description of every column."""
    participants.to_csv(folder / "participants.tsv", sep="\t", index=False, lineterminator="\n")
    described = {name: dictionary.get(name, {"Description": f"{name}, from the raw dataset."}) for name in participants}
    write_json(folder / "participants.json", {"Description": "Participants of the harmonized scans.", **described})


_README = """\
# Harmonized functional connectivity

Made by bayesharm with the model {Model}. Removed: {Removed}.
{notice}
| file | content |
|---|---|
| `sub-*/[ses-*/]func/*_desc-harmonized_relmat.tsv` | correlations between regions, without the effect of the scanner |
| `sub-*/[ses-*/]func/*_desc-harmonizedsd_relmat.tsv` | their posterior standard deviations |
| `report.html` | report of the fit: convergence, scanner biases, caveats |
| `scans.tsv` | the scans table, with the scanner of each scan |
| `run/` | the run folder: `bayesharm summary run/` |

BIDS does not describe connectivity matrices yet. Their names follow its extension proposal 17, and `.bidsignore`
lists them.
"""
