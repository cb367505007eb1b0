"""Square matrices: checks, regions without values, and the edges in the order of the regions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from bayesharm.data.readers.files import cut
from bayesharm.errors import InputError

TOLERANCE = 1e-6  # of symmetry, of the diagonal and of the limits of a correlation

Kind = Literal["r", "z", "any"]


@dataclass(frozen=True)
class Square:
    """Rules for the matrices of a measure.

    Attributes
    ----------
    kind : {"r", "z", "any"}
        Correlations between -1 and 1, Fisher z, or numbers of any size.
    check_diagonal : bool
        Whether the diagonal of correlations must be 1 (or 0 or missing, in all regions).
    """

    kind: Kind
    check_diagonal: bool = True


def edge_names(regions: list[str]) -> np.ndarray:
    """Return the names ``edge_<row>_<column>`` of the lower triangle, row by row, as for matrices in memory."""
    row, column = np.tril_indices(len(regions), -1)
    return np.array([f"edge_{regions[i]}_{regions[j]}" for i, j in zip(row, column, strict=True)], dtype=str)


def check_square(values: np.ndarray, names: list[str] | None, rules: Square, path: Path) -> tuple[np.ndarray, int, int]:
    """Check the matrix of one scan, and mark regions without signal as missing.

    Parameters
    ----------
    values : (row, column) array
    names : list of str or None
        Names of the regions, for messages.
    rules : Square
    path : Path
        File, for messages.

    Returns
    -------
    values : (region, region) array
        NaN in regions without signal.
    n_absent, n_silent : int
        Number of edges that are missing in the file, and of edges of regions whose values are all zero.

    Raises
    ------
    InputError
        The matrix is not square or not symmetric, or its values or diagonal are impossible.
    """
    rows, columns = values.shape
    if rows != columns:
        raise _refuse(path, "is not square", f"{rows:,} rows and {columns:,} columns", "as many rows as columns")
    if rows < 2:
        raise _refuse(path, "has no edges", f"{rows} region", "two regions or more")
    with np.errstate(invalid="ignore", over="ignore"):
        uneven = np.abs(values - values.T) > TOLERANCE * np.maximum(1, np.abs(values))
    uneven |= np.isnan(values) != np.isnan(values).T
    if uneven.any():
        i, j = np.argwhere(uneven)[0]
        got = f"{values[i, j]:.6g} in one direction and {values[j, i]:.6g} in the other between {_pair(names, i, j)}"
        raise _refuse(path, "is not symmetric", got, f"undirected connectivity, symmetric to {TOLERANCE:g}")
    diagonal = values.diagonal().copy()
    off = values.copy()
    np.fill_diagonal(off, np.nan)
    _check_range(off, names, rules.kind, path)
    if rules.kind == "r" and rules.check_diagonal:
        _check_diagonal(diagonal, names, path)
    absent = np.isnan(off)
    n_absent = int(absent.sum() - rows) // 2
    silent = ((off == 0) | absent).all(axis=0) & (off == 0).any(axis=0)
    if silent.any():
        off[silent], off[:, silent] = np.nan, np.nan
    n_silent = int(np.isnan(off).sum() - rows) // 2 - n_absent
    return off, n_absent, n_silent


def _check_range(off: np.ndarray, names: list[str] | None, kind: Kind, path: Path) -> None:
    largest = 1 + TOLERANCE if kind == "r" else np.finfo(float).max
    with np.errstate(invalid="ignore"):
        outside = np.abs(off) > largest
    if outside.any():
        i, j = np.argwhere(outside)[0]
        got = f"{off[i, j]:.6g} between {_pair(names, i, j)}, and {int(outside.sum() // 2) - 1:,} more"
        expected = "correlations between -1 and 1" if kind == "r" else "finite numbers"
        raise _refuse(path, "has impossible values", got, expected)


def _check_diagonal(diagonal: np.ndarray, names: list[str] | None, path: Path) -> None:
    """Refuse a diagonal that is not 1, 0 or missing: such a matrix holds something other than correlations."""
    wrong = ~(np.isnan(diagonal) | (np.abs(diagonal - 1) <= TOLERANCE) | (diagonal == 0))
    if wrong.any():
        k = int(np.flatnonzero(wrong)[0])
        got = f"{diagonal[k]:.6g} in region {_label(names, k)}, and {int(wrong.sum()) - 1:,} more"
        raise _refuse(path, "has a wrong diagonal", got, "1 (or 0 or n/a) on the diagonal of correlations")


def _pair(names: list[str] | None, i: int, j: int) -> str:
    return f"{_label(names, i)} and {_label(names, j)}"


def _label(names: list[str] | None, k: int) -> str:
    return repr(cut(names[k])) if names is not None else f"number {k + 1}"


def _refuse(path: Path, problem: str, got: str, expected: str) -> InputError:
    return InputError(
        f"A matrix {problem}.",
        got=f"{path}: {got}",
        expected=expected,
        do="write the file again with the tool that made it, or choose other files (--measure, --input-format)",
    )
