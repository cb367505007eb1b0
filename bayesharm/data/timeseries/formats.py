"""Files of region time series: .npy, .tsv, .csv, .txt, .1D and parcellated CIFTI."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bayesharm.data.readers.files import cut, decode, read_bytes, readable
from bayesharm.data.readers.text_values import LONGEST_LINE, read_text_values
from bayesharm.data.timeseries.series import Series
from bayesharm.errors import BayesharmError, InputError

CIFTI = ".ptseries.nii"


def read_series(path: Path) -> Series:
    """Read the time series of one scan; volumes in rows.

    Raises
    ------
    InputError
        The file is missing, damaged, of unknown format, or does not hold volumes × regions.
    """
    require_file(path)
    series = READERS[format_of(path.name)](path)
    if series.values.ndim != 2 or 0 in series.values.shape or series.values.dtype.kind not in "iuf":
        shape = " × ".join(map(str, series.values.shape))
        raise _refuse(
            path, f"an array of shape {shape or 'none'} and type {series.values.dtype}", "volumes × regions of numbers"
        )
    return series


def require_file(path: Path) -> None:
    """Raise an `InputError` unless a path is a plain file; a pipe, for example, would never end."""
    with readable(path):
        path.stat()
    if not path.is_file():
        raise _refuse(path, "a folder, a pipe or a device", "a plain file")


def format_of(name: str) -> str:
    """Return the ending of a file name if it is that of a format, else an empty text."""
    lowered = name.lower()
    return next((ending for ending in READERS if lowered.endswith(ending)), "")


def _read_npy(path: Path) -> Series:
    try:
        values = np.load(path, allow_pickle=False)
    except Exception as error:  # numpy raises a dozen types of error for damaged files
        got = "an array of Python objects" if "allow_pickle" in str(error) else cut(error)
        raise _refuse(path, got, "an array of numbers, volumes × regions") from None
    if not isinstance(values, np.ndarray):
        raise _refuse(path, "an archive of arrays", "one array, volumes × regions")
    return Series(values, None)


def _read_delimited(separator: bytes) -> Callable[[Path], Series]:
    def read(path: Path) -> Series:
        first = _lines(path)[0]
        cells = [decode(cell).strip().strip('"') for cell in first.split(separator)]
        has_header = _are_numbers_of_regions(cells) or not all(map(_is_number, cells))
        table = read_text_values(path, has_header=has_header, separator=separator)
        is_counted = table.columns == [
            str(k) for k in range(len(cells))
        ]  # the header that pandas gives a table without names
        return Series(table.values, None if table.columns is None or is_counted else tuple(table.columns))

    return read


def _read_blanks(path: Path) -> Series:
    """Read columns separated by blanks; the last comment line above them may name them (``#2001 #2002``)."""
    lines = _lines(path)
    is_comment = [line.lstrip().startswith(b"#") for line in lines]
    numbers = [line for line, skip in zip(lines, is_comment, strict=True) if not skip and line.strip()]
    if not numbers:
        raise _refuse(path, "no numbers", "a line of numbers for each volume")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            values = np.loadtxt(io.BytesIO(b"\n".join(numbers)), ndmin=2, dtype=float, comments=None)
    except (ValueError, UserWarning) as error:
        raise _refuse(path, cut(error), "the same number of numbers in every line") from None
    header = [line for line, comment in zip(lines, is_comment, strict=True) if comment]
    names = tuple(decode(cell).lstrip("#") for cell in header[-1].replace(b"# ", b"#").split()) if header else ()
    return Series(values, names if len(names) == values.shape[1] and all(names) else None)


def _read_cifti(path: Path) -> Series:
    nibabel = import_nibabel("CIFTI files")
    try:
        image = nibabel.load(path)
        axes = [image.header.get_axis(k) for k in range(image.ndim)]
        values = np.asarray(image.dataobj)
    except Exception as error:  # nibabel, expat and zlib raise a dozen types of error for damaged files
        raise _refuse(path, cut(error), "a complete CIFTI file with parcels") from None
    parcels = [k for k, axis in enumerate(axes) if isinstance(axis, nibabel.cifti2.ParcelsAxis)]
    if len(axes) != 2 or len(parcels) != 1:
        raise _refuse(path, "no parcels, or two axes of parcels", "one axis of volumes and one of parcels (ptseries)")
    return Series(values if parcels == [1] else values.T, tuple(map(str, axes[parcels[0]].name)))


READERS: dict[str, Callable[[Path], Series]] = {
    CIFTI: _read_cifti, ".npy": _read_npy, ".tsv": _read_delimited(b"\t"), ".csv": _read_delimited(b","),
    ".txt": _read_blanks, ".1d": _read_blanks,
}  # fmt: skip


def import_nibabel(what: str) -> Any:
    """Import nibabel.

    Raises
    ------
    BayesharmError
        It is not installed.
    """
    try:
        import nibabel
    except ModuleNotFoundError:
        raise BayesharmError(
            f"{what} need nibabel, which is not installed.", do="pip install 'bayesharm[nilearn]'"
        ) from None
    return nibabel


def _lines(path: Path) -> list[bytes]:
    lines = read_bytes(path).split(b"\n")
    if (longest := max(map(len, lines))) > LONGEST_LINE:
        raise _refuse(path, f"a line of {longest / 1e6:,.0f} MB", "a line of numbers for each volume")
    return lines


def _are_numbers_of_regions(cells: list[str]) -> bool:
    """Whether a first line counts the columns or numbers the regions: whole numbers, each larger than the one before."""
    numbers = [int(cell) for cell in cells if cell.isdecimal()]
    return len(numbers) == len(cells) > 1 and all(one < other for one, other in zip(numbers, numbers[1:], strict=False))


def _is_number(cell: str) -> bool:
    if cell.lower() in ("n/a", "na", ""):
        return True
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _refuse(path: Path, got: str, expected: str) -> InputError:
    return InputError(
        "A file of time series cannot be used.",
        got=f"{path}: {got}",
        expected=expected,
        do="write the file again, or leave it out (--match chooses files by name)",
    )
