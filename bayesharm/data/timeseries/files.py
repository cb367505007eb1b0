"""Files of connectivity: values with the identifiers of scans and edges, and a table of each beside them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd

from bayesharm.errors import BayesharmError, InputError
from bayesharm.io.atomic import make_anew
from bayesharm.io.writers import WRITTEN_FORMATS, Output, create_matrices

WRITTEN = (".npz", *WRITTEN_FORMATS)
BLOCK_BYTES = 1 << 27  # bytes that are written together
TABLES = {"volumes": "scan_id,n_volumes,n_dropped", "edges": "feature,node_a,node_b"}  # name -> beginning of the header


def check_path(path: Path) -> None:
    """Raise an `InputError` if connectivity cannot be written to this path, or would replace tables of other kinds."""
    if path.suffix.lower() not in WRITTEN or not path.parent.is_dir() or (path.is_dir() and path.suffix.lower() != ".zarr"):
        raise InputError(
            "The connectivity cannot be written there.",
            got=str(path),
            expected="an existing folder and a name ending in " + ", ".join(WRITTEN),
            do="create the folder, or choose another name",
        )
    for name, header in TABLES.items():
        table = path_of_table(path, name)
        if table.exists() and not (table.is_file() and table.read_bytes()[: len(header)] == header.encode()):
            raise InputError(
                "A table beside the output would replace a file that bayesharm did not write.",
                got=str(table),
                expected=f"no such file: the table of {name} gets its name",
                do="choose another name for the output, or rename the file",
            )


def path_of_table(path: Path, name: str) -> Path:
    """Return the path of a table beside the output: ``<output>_volumes.csv`` or ``<output>_edges.csv``."""
    return path.with_name(f"{path.stem}_{name}.csv")


def write_files(
    path: Path,
    values: np.ndarray,
    names: np.ndarray,
    scan_id: np.ndarray,
    regions: np.ndarray,
    volumes: pd.DataFrame,
    edges: pd.DataFrame,
) -> tuple[Path, ...]:
    """Write the values, and the tables of volumes and edges beside them: all of them, or none.

    Parameters
    ----------
    path : path
    values : (scan, edge) array
    names, scan_id, regions : str arrays
    volumes, edges : DataFrame

    Raises
    ------
    InputError, BayesharmError
    """
    check_path(path)
    tables = {path_of_table(path, name): table for name, table in zip(TABLES, (volumes, edges), strict=True)}
    temporary = {target: target.with_name(f".{target.name}.unfinished") for target in (*tables, path)}
    try:
        for target, table in tables.items():
            make_anew(temporary[target]).close()
            table.to_csv(temporary[target], index=False)
        if path.suffix.lower() == ".npz":
            with make_anew(temporary[path]) as file:
                np.savez(file, features=values, names=names, scan_id=scan_id, regions=regions)
            os.replace(temporary[path], path)
        else:
            with create_matrices(Output(path, scan_id, names, values.dtype)) as (matrix,):
                width = max(1, BLOCK_BYTES // (values.itemsize * len(values)))
                for start in range(0, len(names), width):
                    matrix[:, start : start + width] = values[:, start : start + width]
        for target in tables:
            os.replace(temporary[target], target)
    except OSError as error:
        raise BayesharmError(
            "The connectivity could not be written.",
            got=f"{path}: {error.strerror or error}",
            do="free some disk space, or choose another folder; no incomplete files were left behind",
        ) from None
    finally:
        for unfinished in temporary.values():
            if not unfinished.is_dir():
                unfinished.unlink(missing_ok=True)
    return (path, *tables)
