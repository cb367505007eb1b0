"""Reading of data as the options of a command say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from bayesharm.errors import InputError, shorten


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
    from bayesharm.data.dataset import load_dataset

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
    from bayesharm.data.dataset import load_dataset

    origin = dict(posterior.run.get("data") or {})
    files = {name: path for name, path in (("scans", scans), ("features", features)) if path is not None}
    return load_dataset(**(origin | files))
