"""What commands do before their work starts: reading as the options say, and refusing outputs that could not be written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import typer

from bayesharm.errors import InputError, RunFolderError, shorten


def column_mapping(**names: str | None) -> dict[str, str]:
    """From our names to the user's, for the options that were given."""
    return {our: user for our, user in names.items() if user is not None}


def read_dataset(
    scans: Path, features: Path | None, select: list[str] | None, columns: dict[str, str], **options: Any
) -> Any:
    """Load a dataset as the options say, and tell the user which features are left out."""
    if features is None and select and len(select) == 1 and Path(select[0]).exists():
        raise InputError(
            "--features chooses features by name; it does not take a file.",
            got=f"--features {select[0]}, which is a file",
            expected="the file of features as an argument after the scans table, or the names of columns",
            do=f"write: {scans} {select[0]}",
        )
    from bayesharm.dataset import load_dataset

    dataset = load_dataset(scans, features, columns=columns, select=select or None, **options)
    if dataset.dropped:
        typer.echo(
            f"Note: features left out ({len(dataset.dropped):,}): {shorten(dataset.dropped, 3)}; the "
            f"first is {next(iter(dataset.dropped.values()))}.",
            err=True,
        )
    return dataset


def moved_data(posterior: Any, scans: Path | None, features: Path | None) -> Any:
    """The dataset of a fit from other files than those it was read from then; None if none are given."""
    if scans is None and features is None:
        return None
    from bayesharm.dataset import load_dataset

    origin = dict(posterior.run.get("data") or {})
    files = {name: path for name, path in (("scans", scans), ("features", features)) if path is not None}
    return load_dataset(**(origin | files))


def check_table_folder(folder: Path | None, format: str) -> None:
    """Refuse a folder for tables that holds such already, before any work."""
    if folder is not None:
        from bayesharm.table_files import check_tables

        check_tables(folder, format)


def check_new_folder(folder: Path, *, resume: bool = False, overwrite: bool = False, repair: bool = False) -> None:
    """Refuse an output folder that holds something or cannot be made."""
    from bayesharm.run_folders import check_output

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
    from bayesharm.io.writing import WRITTEN_FORMATS

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


def keep_programs() -> None:
    """Compiled programs are kept in the cache folder of the user, if it can be written: a second run need not compile."""
    import jax
    import pooch

    folder = pooch.os_cache("bayesharm") / "programs"
    if jax.config.jax_compilation_cache_dir is None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            return
        if os.access(folder, os.W_OK):
            jax.config.update("jax_compilation_cache_dir", str(folder))
