"""Variables of MATLAB files up to version 7."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bayesharm.data.readers.files import LARGEST_FILE, cut, reading
from bayesharm.errors import InputError, shorten

_HDF5 = b"\x89HDF\r\n\x1a\n"


def read_matlab(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """Read these variables of a ``.mat`` file.

    Raises
    ------
    InputError
        The file cannot be read, is of version 7.3, or lacks a variable.
    """
    from scipy.io import loadmat

    with reading(path), path.open("rb") as file:
        start = file.read(520)
        size = path.stat().st_size
    if b"MATLAB 7.3" in start[:116] or _HDF5 in (start[:8], start[512:520]):
        raise InputError(
            "A MATLAB file of version 7.3 cannot be read.",
            got=str(path),
            expected="a file of version 7 or earlier",
            do="load it in MATLAB and save it again: save('FILE.mat', '-struct', 'data', '-v7')",
        )
    if not size or size > LARGEST_FILE:
        raise _damaged(path, f"{size:,} bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = loadmat(path, variable_names=list(names))
    except Exception as error:  # scipy raises a dozen types of error for damaged files
        raise _damaged(path, cut(f"{type(error).__name__}: {error}")) from None
    if lacking := [name for name in names if name not in content]:
        raise _damaged(path, f"no variable {shorten(lacking)}")
    return {name: content[name] for name in names}


def to_numbers(values: Any, path: Path) -> np.ndarray:
    """Return a matrix of numbers from a variable."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiub" or array.ndim != 2 or not array.size:
        raise _damaged(path, f"{array.dtype} of shape {array.shape} where a matrix of numbers is expected")
    return array.astype(float)


def to_names(values: Any, path: Path) -> list[str]:
    """Return the texts in a cell array."""
    names = []
    for cell in np.asarray(values).ravel():
        text = np.asarray(cell)
        if text.dtype.kind != "U" or text.size != 1:
            raise _damaged(path, "something other than a list of names")
        names.append(str(text.reshape(-1)[0]).strip())
    return names


def _damaged(path: Path, got: str) -> InputError:
    return InputError(
        "A MATLAB file is damaged, or of another kind.",
        got=f"{path}: {got}",
        expected="a readable .mat file with the variables that its tool writes",
        do="write the file again with the tool that made it, or remove it",
    )
