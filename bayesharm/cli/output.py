"""Output of the commands: checks of output paths before any work starts, and printing of results."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import typer

from bayesharm.errors import InputError, RunFolderError

PERMISSION = "a folder that you can write to"


def check_table_folder(folder: Path | None, format: str) -> None:
    """Refuse a folder that already holds tables."""
    if folder is not None:
        from bayesharm.results.tables import check_tables

        check_tables(folder, format)


def check_new_folder(folder: Path, *, resume: bool = False, overwrite: bool = False, repair: bool = False) -> None:
    """Refuse an output folder that holds other files or that cannot be created.

    Parameters
    ----------
    folder : path
    resume, overwrite, repair : bool
        As in :func:`bayesharm.results.run_folder.check_output`.
    """
    from bayesharm.results.run_folder import check_output

    check_output(folder, resume=resume, overwrite=overwrite, repair=repair)
    parent = next(path for path in folder.absolute().parents if path.exists())
    if not _is_writable(parent):
        raise RunFolderError(
            f"{folder} cannot be created.",
            got=f"no permission to create a folder in {parent}",
            expected=PERMISSION,
            do="choose another --out",
        )


def check_new_files(outputs: dict[str, Path | None], inputs: dict[str, Path | None], formats: tuple[str, ...] = ()) -> None:
    """Refuse output files that would overwrite an input or each other, or that cannot be written.

    Parameters
    ----------
    outputs, inputs : dict
        Name of the option or argument -> its path.
    formats : tuple of str, optional
        Endings of the outputs; by default those of :mod:`bayesharm.io.writers`.
    """
    from bayesharm.results.run_folder import refuse_inside_run

    owners = {path.resolve(): name for name, path in inputs.items() if path is not None}
    for option, path in outputs.items():
        if path is None:
            continue
        refuse_inside_run(path.parent, path)
        if owner := owners.get(path.resolve()):
            raise InputError(
                f"{option} would overwrite {owner}.",
                got=str(path),
                expected="a separate file for each output",
                do=f"choose another {option}",
            )
        owners[path.resolve()] = option
        _check_matrix_file(option, path, formats)


def _check_matrix_file(option: str, path: Path, formats: tuple[str, ...]) -> None:
    from bayesharm.io.writers import WRITTEN_FORMATS

    formats = formats or WRITTEN_FORMATS
    if path.suffix.lower() not in formats or (path.is_dir() and path.suffix.lower() != ".zarr"):
        raise InputError(
            f"{option} has a format that cannot be written.",
            got=str(path),
            expected="a name ending in " + ", ".join(formats),
            do=f"choose another {option}",
        )
    if not _is_writable(path.parent):
        exists = path.parent.is_dir()
        raise InputError(
            f"{option} cannot be written.",
            got=f"no permission to write in {path.parent}" if exists else f"the folder {path.parent} does not exist",
            expected=PERMISSION if exists else "an existing folder",
            do=f"{'get the permission' if exists else 'create the folder'}, or choose another {option}",
        )


def check_new_file(path: Path, suffixes: tuple[str, ...], option: str = "--out") -> None:
    """Refuse an output file that exists, is in a run folder, has another format or cannot be written."""
    from bayesharm.results.run_folder import refuse_inside_run

    if path.suffix.lower() not in suffixes:
        raise InputError(
            f"{option} has a format that cannot be written.",
            got=str(path),
            expected="a name ending in " + ", ".join(suffixes),
            do=f"choose another {option}",
        )
    refuse_inside_run(path.parent, path)
    if path.exists() or not _is_writable(path.parent):
        raise RunFolderError(
            f"{path} {'exists already' if path.exists() else 'cannot be written'}.",
            got=str(path) if path.exists() else f"no folder {path.parent} to write to",
            expected="a new file in an existing folder",
            do=f"choose another {option}",
        )


def check_report(path: Path, option: str = "--report") -> None:
    """Refuse a report that cannot be written, or drawn because a library is absent."""
    check_new_file(path, (".html",), option)
    from bayesharm.reporting.vega import vega

    vega()


def check_together(options: dict[str, Any]) -> None:
    """Refuse options that need each other if only some of them are given.

    Parameters
    ----------
    options : dict
        Name of the option -> its value; a false value means not given.
    """
    given = [option for option, value in options.items() if value]
    if given and len(given) < len(options):
        missing = [option for option in options if option not in given]
        raise InputError(
            f"{' and '.join(options)} belong together.",
            got=f"only {' and '.join(given)}",
            expected="both, or neither",
            do=f"add {' and '.join(missing)}",
        )


def show_result(result: Any, out: Path | None = None, format: str = "csv") -> None:
    """Print a result, and write its tables if a folder is given."""
    from bayesharm.results.console import show

    show(result)
    if out is not None:
        typer.echo("Tables: " + ", ".join(str(path) for path in result.write(out, format)))


def _is_writable(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK)
