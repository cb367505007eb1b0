"""The output of the BIDS-App, written from a posterior."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bayesharm.data.bids import derivative
from bayesharm.data.bids.edges import Edges
from bayesharm.data.bids.output_folder import REPORT, RUN, SCANS, STAGING, publish
from bayesharm.data.bids.scans_files import read_dictionary
from bayesharm.data.dataset import Dataset
from bayesharm.errors import RunFolderError
from bayesharm.progress import Progress
from bayesharm.results.posterior import Posterior

MEANS, SDS = "mean.npy", "sd.npy"  # while the matrices are written


@dataclass(frozen=True, eq=False)
class Inputs:
    """Sources of the harmonized data.

    Attributes
    ----------
    raw, matrices : path
        The raw BIDS dataset, and the folder of the matrices before harmonization.
    scans : path
        The scans table.
    participants : DataFrame
        Rows of ``participants.tsv``.
    """

    raw: Path
    matrices: Path
    scans: Path
    participants: pd.DataFrame


def write_derivative(
    posterior: Posterior, dataset: Dataset, edges: Edges, inputs: Inputs, out: Path, progress: Progress
) -> list[str]:
    """Harmonize the scans and write them as a BIDS derivative, with the report; all files appear at the end.

    Parameters
    ----------
    posterior, dataset
        A fit of correlations, and its data.
    edges : Edges
        All edges, also those that the fit left out.
    inputs : Inputs
    out : path
        Folder of the derivative. Files of an earlier call are replaced.
    progress : callable

    Returns
    -------
    list of str
        Notes for the user.

    Raises
    ------
    RunFolderError
        The files cannot be written.
    """
    from bayesharm.harmonization.harmonize import harmonize_to_files
    from bayesharm.reporting.html import write_report
    from bayesharm.reporting.run_view import RunView

    staging = out / STAGING
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir()
        notes = harmonize_to_files(posterior, dataset, staging / MEANS, staging / SDS, progress=progress)
        arrays = {name: np.load(staging / name, mmap_mode="r") for name in (MEANS, SDS)}
        spec, is_preview = posterior.spec, bool(posterior.preview_notice)
        facts = {"Model": spec.name, "Removed": spec.removed_effect, "Preview": is_preview}
        _write_matrices(staging, dataset, edges, arrays, facts, progress)
        del arrays
        for path in staging.glob("*.npy*"):
            path.unlink()
        links = {name: os.path.relpath(path, out) for name, path in (("raw", inputs.raw), ("matrices", inputs.matrices))}
        derivative.write_description(staging, links, str(posterior.run["versions"]["bayesharm"]), facts)
        derivative.write_participants(staging, inputs.participants, read_dictionary(inputs.raw))
        _keep_scans(inputs.scans, dataset, staging / SCANS)
        write_report(RunView(posterior, folder=str(out / RUN)), staging / REPORT)
        publish(staging, out)
    except OSError as error:
        raise RunFolderError(
            f"The harmonized data could not be written to {out}.",
            got=str(error),
            expected="free disk space, and permission to write",
            do="free some disk space, then run the same command again with --overwrite",
        ) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return list(notes)


def _write_matrices(
    staging: Path, dataset: Dataset, edges: Edges, arrays: dict[str, np.ndarray], facts: dict[str, Any], progress: Progress
) -> None:
    """Write two matrices for each scan, with their sidecars."""
    places = edges.places_of(dataset.features.names.tolist())
    atlas, files = str(dataset.reading.get("atlas", "")), dataset.reading.get("files", ())
    for k, scan in enumerate(dataset.scans.to_dict("records")):
        source = f"bids:matrices:{Path(files[k]).as_posix()}"
        for name, kind, diagonal in ((MEANS, derivative.HARMONIZED, 1.0), (SDS, derivative.UNCERTAINTY, 0.0)):
            values = np.full(len(edges.row), np.nan)
            values[places] = arrays[name][k]
            path = staging / derivative.matrix_path(scan["scan_id"], atlas, kind)
            path.parent.mkdir(parents=True, exist_ok=True)
            edges.write_matrix(path, values, diagonal)
            derivative.write_json(
                path.with_suffix(".json"), derivative.describe_matrix(scan["scanner"], kind, source, facts)
            )
        progress("writing matrices", k + 1, len(dataset.scans), "")


def _keep_scans(table: Path, dataset: Dataset, file: Path) -> None:
    """Write the scans table as .tsv: the file itself if it is one, with its data dictionary if there is one."""
    if table.suffix != file.suffix:
        dataset.scans.to_csv(file, sep="\t", index=False, na_rep="n/a")
        return
    shutil.copy(table, file)
    if (dictionary := table.with_suffix(".json")).exists():
        shutil.copy(dictionary, file.with_suffix(".json"))
