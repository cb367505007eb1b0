"""Tables of a result as files."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd

from bayesharm.errors import RunFolderError, shorten
from bayesharm.posterior import run_state


def write_tables(thing: Any, folder: str | Path, **columns: Any) -> list[Path]:
    """Write each table of a dataclass as ``<name>.csv`` into a folder, which is made if it does not exist.

    Parameters
    ----------
    thing : dataclass
    folder : path
    **columns
        Columns that each table gets besides its own.

    Returns
    -------
    list of Path

    Raises
    ------
    RunFolderError
        The folder holds tables already, is a run folder, or cannot be written.
    """
    folder = Path(folder)
    if run_state(folder).endswith("run"):
        raise RunFolderError(
            f"{folder} is a run folder, in which nothing else may lie.",
            got=f"--out {folder}",
            expected="a folder of its own for tables",
            do="choose another --out",
        )
    if there := [path.name for path in sorted(folder.glob("*.csv"))]:
        raise RunFolderError(
            f"{folder} already holds tables.",
            got=shorten(there),
            expected="a folder without .csv files",
            do="choose another --out",
        )
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for field in fields(thing):
            if isinstance(table := getattr(thing, field.name), pd.DataFrame):
                written.append(folder / f"{field.name}.csv")
                table.assign(**columns).to_csv(written[-1], lineterminator="\n")
    except OSError as error:
        raise RunFolderError(
            f"The tables cannot be written to {folder}.",
            got=str(error),
            expected="a folder",
            do="choose another --out",
        ) from None
    return written
