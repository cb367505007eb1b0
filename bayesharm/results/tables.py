"""Results as table files: one .csv or .parquet file for each table of a result."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd

from bayesharm.errors import InputError, RunFolderError, shorten
from bayesharm.notebook import make_card
from bayesharm.results.record import PREVIEW
from bayesharm.results.run_folder import refuse_inside_run

FORMATS = ("csv", "parquet")


class Tables:
    """A result whose fields include tables that can be written to files; notebooks show them on a card."""

    def __repr__(self) -> str:
        name = getattr(self, "about", {}).get("model", "")
        return f"<{type(self).__name__}{f' of {name!r}' if name else ''} with tables {', '.join(_tables_of(self))}>"

    def _repr_html_(self) -> str:
        about = dict(getattr(self, "about", {}))
        name, preview, conclusions = about.pop("model", ""), about.pop("preview", False), getattr(self, "conclusions", ())
        title = re.sub("(?<=[a-z])(?=[A-Z])", " ", type(self).__name__).capitalize()
        return make_card(
            f"{title} of {name}" if name else title,
            {key.removeprefix("n_").replace("_", " "): value for key, value in about.items()},
            _tables_of(self),
            sentences=conclusions() if callable(conclusions) else conclusions,
            folded={key.capitalize(): getattr(self, key, ()) for key in ("diagnostics", "notes")},
            notice=PREVIEW if preview else "",
        )

    def write(self, folder: str | Path, format: str = "csv") -> list[Path]:
        """Write each table as ``<name>.csv`` or ``<name>.parquet``, and create the folder if needed.

        Tables of a preview get the column ``preview``.

        Parameters
        ----------
        folder : path
        format : {'csv', 'parquet'}

        Returns
        -------
        list of Path

        Raises
        ------
        InputError
            The format is unknown.
        RunFolderError
            The folder already holds tables, is a run folder, or cannot be written.
        """
        about = getattr(self, "about", {})
        return write_tables(self, folder, format, {"preview": True} if about.get("preview") else {})


def check_tables(folder: str | Path, format: str = "csv") -> None:
    """Check that :func:`write_tables` can use this folder and format.

    Raises
    ------
    InputError
        The format is unknown.
    RunFolderError
        The folder already holds tables, or is a run folder.
    """
    folder = Path(folder)
    if format not in FORMATS:
        raise InputError(
            "Tables cannot be written in this format.",
            got=repr(format),
            expected=f"one of {', '.join(FORMATS)}",
            do="choose one of these",
        )
    refuse_inside_run(folder, folder)
    if existing := [path.name for path in sorted(folder.glob(f"*.{format}"))]:
        raise RunFolderError(
            f"{folder} already holds tables.",
            got=shorten(existing),
            expected=f"a folder without .{format} files",
            do="choose another --out",
        )


def write_tables(
    result: Any, folder: str | Path, format: str = "csv", columns: Mapping[str, Any] | None = None
) -> list[Path]:
    """Write each table of a dataclass as ``<field>.csv`` or ``.parquet``, and create the folder if needed.

    Parameters
    ----------
    result : dataclass
        Fields that are not DataFrames are ignored.
    folder : path
    format : {'csv', 'parquet'}
    columns : mapping, optional
        Constant columns to add to each table: name -> value.

    Returns
    -------
    list of Path

    Raises
    ------
    InputError
        The format is unknown.
    RunFolderError
        The folder already holds tables, is a run folder, or cannot be written.
    """
    check_tables(folder, format)
    folder = Path(folder)
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in _tables_of(result).items():
            path = folder / f"{name}.{format}"
            _write_table(table.assign(**(columns or {})), path)
            paths.append(path)
    except OSError as error:
        raise RunFolderError(
            f"The tables cannot be written to {folder}.",
            got=str(error),
            expected="a folder that you can write to",
            do="choose another --out",
        ) from None
    return paths


def _tables_of(result: Any) -> dict[str, pd.DataFrame]:
    values = {field.name: getattr(result, field.name) for field in fields(result)}
    return {name: value for name, value in values.items() if isinstance(value, pd.DataFrame)}


def _write_table(table: pd.DataFrame, path: Path) -> None:
    if path.suffix == ".csv":
        table.to_csv(path, lineterminator="\n")
    else:
        table.to_parquet(path)
