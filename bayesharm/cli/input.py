"""Reading of datasets for the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from bayesharm.errors import InputError, shorten


def load_named_model(model: str, formula: str) -> Any:
    """Load the model of ``--model``, None for `auto`; refuse it, or the formula, before the tables are read."""
    from bayesharm.model.catalog import AUTO, load_model
    from bayesharm.model.formula.text import parse_formula

    spec = None if model == AUTO else load_model(model)
    if text := formula or (spec.formula if spec else ""):
        parse_formula(text)
    return spec


def read_dataset(
    scans: Path, features: Path | None, select: list[str] | None, columns: dict[str, str], **options: Any
) -> Any:
    """Load a dataset, and name the features and scans that were dropped.

    Parameters
    ----------
    scans, features, columns
        As in :func:`bayesharm.load_dataset`.
    select : list of str, optional
        Values of ``--features``.
    **options
        Other arguments of :func:`bayesharm.load_dataset`.
    """
    if features is None and select and len(select) == 1 and Path(select[0]).exists():
        raise InputError(
            "--features selects features by name; it does not take a file.",
            got=f"--features {select[0]}, which is a file",
            expected="the file of features as an argument after the scans table, or the names of columns",
            do=f"write: {scans} {select[0]}",
        )
    from bayesharm.data.dataset import load_dataset

    dataset = load_dataset(scans, features, columns=columns, select=select or None, **options)
    for note in dataset.reading.get("notes", ()):
        typer.echo(f"Note: {note}", err=True)
    if dataset.dropped:
        typer.echo(
            f"Note: {len(dataset.dropped):,} features were dropped: {shorten(dataset.dropped, 3)}. "
            f"The first one is {next(iter(dataset.dropped.values()))}.",
            err=True,
        )
    if dataset.dropped_scans:
        typer.echo(
            f"Note: {len(dataset.dropped_scans):,} scans were dropped: {shorten(dataset.dropped_scans, 3)}. "
            f"The first one {next(iter(dataset.dropped_scans.values()))}.",
            err=True,
        )
    return dataset


def read_moved_dataset(posterior: Any, scans: Path | None, features: Path | None) -> Any:
    """Load the dataset of a fit from files that have moved; return None if neither file is given."""
    if scans is None and features is None:
        return None
    from bayesharm.data.dataset import load_dataset

    origin = dict(posterior.run.get("data") or {})
    files = {name: path for name, path in (("scans", scans), ("features", features)) if path is not None}
    return load_dataset(**(origin | files))
