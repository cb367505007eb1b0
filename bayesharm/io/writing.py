"""Writing scan × feature values in the form in which the user gave them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bayesharm.errors import InputError
from bayesharm.io.tables import TABLE_FORMATS, write_table

WRITTEN_FORMATS = (".npy", *TABLE_FORMATS)


@contextmanager
def create_matrix(
    path: str | os.PathLike[str],
    *,
    scan_ids: Sequence[str] | np.ndarray,
    names: Sequence[str] | np.ndarray,
    dtype: Any,
) -> Iterator[np.ndarray]:
    """A scan × feature array to fill; the file appears under its name only once the block ends without error.

    A .npy file is filled on disk; .csv, .tsv and .parquet start with a column ``scan_id`` and are held in
    memory.
    `dtype` is kept if it is a floating type; harmonized integers need fractions and become float64.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in WRITTEN_FORMATS or not path.parent.is_dir():
        raise InputError(
            "The output file cannot be written.",
            got=str(path),
            expected="an existing folder and a name ending in " + ", ".join(WRITTEN_FORMATS),
            do="create the folder, or choose another name",
        )
    dtype = np.dtype(dtype) if np.dtype(dtype).kind == "f" else np.dtype(np.float64)
    shape = (len(scan_ids), len(names))
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        if suffix == ".npy":
            array: np.ndarray = np.lib.format.open_memmap(unfinished, mode="w+", dtype=dtype, shape=shape)
            yield array
            array.flush()  # type: ignore[attr-defined]
        else:
            array = np.full(shape, np.nan, dtype)
            yield array
            frame = pd.DataFrame(array, columns=pd.Index(list(names)))
            frame.insert(0, "scan_id", list(scan_ids))
            write_table(unfinished, frame, suffix)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
