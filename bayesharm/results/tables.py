"""Tables of a result as files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd

from bayesharm.errors import InputError, RunFolderError, shorten
from bayesharm.results.run_folder import run_state

FORMATS = ("csv", "parquet")


class Tables:
    """A result whose fields are tables, which can be written as files."""

    def write(self, folder: str | Path, format: str = "csv") -> list[Path]:
        """Write each table as ``<name>.csv`` or ``.parquet`` into a folder, which is made if it does not exist.

        Raises
        ------
        InputError
            Another format.
        RunFolderError
            The folder holds tables already, or cannot be written.
        """
        about = getattr(self, "about", {})
        return write_tables(self, folder, format, {"preview": True} if about.get("preview") else {})


def check_tables(folder: str | Path, format: str = "csv") -> None:
    """Refuse a folder or a format of which :func:`write_tables` could do nothing.

    Raises
    ------
    InputError, RunFolderError
    """
    folder = Path(folder)
    if format not in FORMATS:
        raise InputError(
            "Tables cannot be written in this format.",
            got=repr(format),
            expected=f"one of {', '.join(FORMATS)}",
            do="choose one of these",
        )
    if run_state(folder).endswith("run"):
        raise RunFolderError(
            f"{folder} is a run folder, in which nothing else may lie.",
            got=f"--out {folder}",
            expected="a folder of its own for tables",
            do="choose another --out",
        )
    if there := [path.name for path in sorted(folder.glob(f"*.{format}"))]:
        raise RunFolderError(
            f"{folder} already holds tables.",
            got=shorten(there),
            expected=f"a folder without .{format} files",
            do="choose another --out",
        )


def write_tables(
    thing: Any, folder: str | Path, format: str = "csv", columns: Mapping[str, Any] | None = None
) -> list[Path]:
    """Write each table of a dataclass as ``<name>.csv`` into a folder, which is made if it does not exist.

    Parameters
    ----------
    thing : dataclass
    folder : path
    format : {'csv', 'parquet'}
    columns : mapping, optional
        Columns that each table gets besides its own.

    Returns
    -------
    list of Path

    Raises
    ------
    RunFolderError
        The folder holds tables already, is a run folder, or cannot be written.
    """
    check_tables(folder, format)
    folder = Path(folder)
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for field in fields(thing):
            if isinstance(table := getattr(thing, field.name), pd.DataFrame):
                written.append(folder / f"{field.name}.{format}")
                table = table.assign(**(columns or {}))
                if format == "csv":
                    table.to_csv(written[-1], lineterminator="\n")
                else:
                    table.to_parquet(written[-1])
    except OSError as error:
        raise RunFolderError(
            f"The tables cannot be written to {folder}.",
            got=str(error),
            expected="a folder",
            do="choose another --out",
        ) from None
    return written
