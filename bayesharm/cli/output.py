"""What commands do before their work starts: reading as the options say, and refusing outputs that could not be written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import typer

from bayesharm.errors import InputError, RunFolderError


def check_table_folder(folder: Path | None, format: str) -> None:
    """Refuse a folder for tables that holds such already, before any work."""
    if folder is not None:
        from bayesharm.results.tables import check_tables

        check_tables(folder, format)


def check_new_folder(folder: Path, *, resume: bool = False, overwrite: bool = False, repair: bool = False) -> None:
    """Refuse an output folder that holds something or cannot be made."""
    from bayesharm.results.run_folder import check_output

    check_output(folder, resume=resume, overwrite=overwrite, repair=repair)
    above = next(path for path in folder.absolute().parents if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise RunFolderError(
            f"{folder} cannot be written.",
            got=f"{above}, where one may not make folders",
            expected="a folder inside one that is yours",
            do="choose another --out",
        )


def check_new_files(outputs: dict[str, Path | None], inputs: dict[str, Path | None]) -> None:
    """Refuse output files that would overwrite an input or each other, or cannot be written."""
    from bayesharm.io.writers import WRITTEN_FORMATS

    taken = {path.resolve(): name for name, path in inputs.items() if path is not None}
    for option, path in outputs.items():
        if path is None:
            continue
        if (place := path.resolve()) in taken:
            raise InputError(
                f"{option} would overwrite {taken[place]}.",
                got=str(path),
                expected="a file of its own for each output",
                do=f"choose another {option}",
            )
        taken[place] = option
        if path.suffix.lower() not in WRITTEN_FORMATS or (path.is_dir() and path.suffix.lower() != ".zarr"):
            raise InputError(
                f"{option} has a format that cannot be written.",
                got=str(path),
                expected="a name ending in " + ", ".join(WRITTEN_FORMATS),
                do=f"choose another {option}",
            )
        if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            there = path.parent.is_dir()
            raise InputError(
                f"{option} cannot be written.",
                got=f"{path.parent}, where nothing may be written" if there else f"no folder {path.parent} to write to",
                expected="an existing folder",
                do=f"{'get the permission' if there else 'make the folder'}, or choose another {option}",
            )


def check_together(options: dict[str, Any]) -> None:
    """Refuse some of several options without the others."""
    given = [option for option, value in options.items() if value]
    if given and len(given) < len(options):
        raise InputError(
            f"{' and '.join(options)} belong together.",
            got=f"{' and '.join(given)} only",
            expected="both, or neither",
            do="add the other",
        )


def check_new_file(path: Path, suffixes: tuple[str, ...]) -> None:
    """Refuse an output file that exists, has another format or cannot be written."""
    if path.suffix.lower() not in suffixes:
        raise InputError(
            "--out has a format that cannot be written.",
            got=str(path),
            expected="a name ending in " + ", ".join(suffixes),
            do="choose another --out",
        )
    if path.exists() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise RunFolderError(
            f"{path} {'exists already' if path.exists() else 'cannot be written'}.",
            got=str(path) if path.exists() else f"no folder {path.parent} to write to",
            expected="a new file in an existing folder",
            do="choose another --out",
        )


def show_found(found: Any, out: Path | None = None, format: str = "csv") -> None:
    """Print what was found, and write its tables if a folder is given for them."""
    from bayesharm.results.console import show

    show(found)
    if out is not None:
        typer.echo("Tables: " + ", ".join(str(file) for file in found.write(out, format)))
