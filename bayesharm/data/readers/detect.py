"""Detection of the format of a folder or table, and its reading."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bayesharm.data.readers import conn, dpabi, enigma, freesurfer, giga_connectome, halfpipe, xcp_d
from bayesharm.data.readers.files import list_files, readable
from bayesharm.data.readers.folders import FolderFormat, read_folder
from bayesharm.data.readers.joined_tables import read_tables
from bayesharm.data.readers.label_tables import SUFFIXES, LabelTable, TableFormat, read_header, read_label_table
from bayesharm.data.readers.options import ReaderOptions, is_path_list
from bayesharm.data.readers.reading import Reading
from bayesharm.errors import InputError, shorten
from bayesharm.io.tables import is_path
from bayesharm.progress import Progress

FOLDER_FORMATS: tuple[FolderFormat, ...] = (
    xcp_d.FORMAT, giga_connectome.FORMAT, halfpipe.FORMAT, conn.FORMAT, dpabi.FORMAT,
)  # fmt: skip
TABLE_FORMATS: tuple[TableFormat, ...] = (freesurfer.FORMAT, enigma.FORMAT)
NAMES = (*(format.name for format in FOLDER_FORMATS), *(format.name for format in TABLE_FORMATS))


def is_derivative(source: Any, options: ReaderOptions) -> bool:
    """Whether a source of features is a folder or a table of a tool, or a list of such tables.

    Raises
    ------
    InputError
        An option for such sources is given with another one.
    """
    if is_path_list(source):
        return True
    if is_path(source) and not _is_array(Path(source)):
        path = Path(source)
        if os.path.isdir(path) or options.format is not None or not path.suffix:
            return True
        if path.suffix.lower() in SUFFIXES and os.path.isfile(path):
            header = read_header(path)
            has_label = options.label_column is None or options.label_column in header[:1]
            if has_label and any(format.recognize(header) for format in TABLE_FORMATS):
                return True
    if wrong := sorted(options.given.keys() - {"label_column", "missing_files"}):
        raise InputError(
            "Some options do not apply to these features.",
            got=f"{shorten(wrong)} with {source if is_path(source) else type(source).__name__}",
            expected=f"a folder or a table of one of {', '.join(NAMES)}",
            do="omit these options, or give the folder of the derivatives",
        )
    return False


def _is_array(path: Path) -> bool:
    """Whether a path is an array: a folder may be a zarr group."""
    return path.suffix.lower() in (".npy", ".npz", ".zarr", ".parquet") or any(
        os.path.exists(path / name) for name in ("zarr.json", ".zgroup", ".zarray")
    )


def read_derivatives(
    source: Any,
    scans: pd.DataFrame,
    has_scan_ids: bool,
    options: ReaderOptions,
    select: str | Sequence[str] | None,
    progress: Progress,
) -> Reading:
    """Read the features of all scans from the derivatives of a tool.

    Parameters
    ----------
    source : path or list of paths
        A folder, a table, or several tables to join.
    scans : DataFrame
        From :func:`bayesharm.data.scans.read_scans`.
    has_scan_ids : bool
        Whether the user's table has identifiers of scans, and not only row numbers.
    options : ReaderOptions
    select : str or sequence of str, optional
        As in :func:`bayesharm.load_dataset`; applied by the caller.
    progress : callable
        See :class:`bayesharm.progress.Progress`.

    Raises
    ------
    InputError
        The format is unknown or not unique, or the files cannot be read as this format.
    """
    if options.format is not None and options.format not in NAMES:
        raise InputError(
            "The format is unknown.",
            got=options.format,
            expected=f"one of {', '.join(NAMES)}",
            do="choose one of these, or omit the option to detect the format",
        )
    paths = [Path(each) for each in source] if is_path_list(source) else [Path(source)]
    for path in paths:
        with readable(path):
            os.stat(path)
    is_folder = len(paths) == 1 and paths[0].is_dir()
    files = list_files(paths[0]) if is_folder else paths
    folders = [format for format in FOLDER_FORMATS if is_folder and any(format.recognize(file) for file in files)]
    near = [file for file in files if not is_folder or (file.parent == paths[0] and file.suffix.lower() in SUFFIXES)]
    tables = {format: _read_all(format, near) for format in TABLE_FORMATS}
    found: list[FolderFormat | TableFormat] = [*folders, *(format for format, each in tables.items() if each)]
    chosen = [format for format in found if options.format in (None, format.name)]
    if len(chosen) != 1:
        raise _refuse_formats(paths, [format.name for format in found], options.format, files)
    format = chosen[0]
    if isinstance(format, FolderFormat):
        return read_folder(format, paths[0], files, scans, has_scan_ids, options, progress)
    if not is_folder and len(tables[format]) < len(paths):
        others = [path.name for path in paths if path not in {table.path for table in tables[format]}]
        raise _refuse_formats([Path(name) for name in others], [], format.name, files)
    names = [select] if isinstance(select, str) else list(select or ())
    return read_tables(format, tables[format], scans, has_scan_ids, options, names, join_all=not is_folder)


def _read_all(format: TableFormat, paths: Sequence[Path]) -> list[LabelTable]:
    tables = (read_label_table(format, path) for path in paths)
    return [table for table in tables if table is not None]


def _refuse_formats(paths: Sequence[Path], found: list[str], wanted: str | None, files: Sequence[Path]) -> InputError:
    source = shorten(map(str, paths), 3)
    if len(found) > 1 and wanted is None:
        return InputError(
            "The folder has files of several tools.",
            got=f"{source}: {', '.join(found)}",
            expected="one format",
            do="choose one: " + " or ".join(f"--input-format {name}" for name in found),
        )
    has_series = any("timeseries" in file.name or file.suffix == ".1D" for file in files)
    return InputError(
        "The features are not in a known format." if wanted is None else f"The features are not in the format {wanted}.",
        got=f"{source}: {len(files):,} file{'s' * (len(files) != 1)}, "
        + (f"in the format {', '.join(found)}" if found else "none with a name or heading of a known tool"),
        expected=f"derivatives of one of {', '.join(NAMES)}",
        do="make connectivity from region time series first: bayesharm connectivity --help"
        if has_series and not found
        else "check the folder; the page docs/how-to/other_tools.md lists the names of the files",
    )
