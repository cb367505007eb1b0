"""Variables of MATLAB files of versions 5 to 7: matrices of numbers, and cell arrays of text.

`scipy.io.loadmat` reads more kinds, but damaged files end its process: it takes the types of data in a file as places in
memory. The format is that of MathWorks' *MAT-File Format* (level 5).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bayesharm.data.readers.files import cut, open_file
from bayesharm.errors import InputError, shorten

LARGEST_VARIABLE = 1 << 27  # bytes, decompressed: those of 4,000 × 4,000 numbers
_HEADER, _HDF5 = 128, b"\x89HDF\r\n\x1a\n"
_MATRIX, _COMPRESSED, _CELL, _CHARACTERS, _COMPLEX = 14, 15, 1, 4, 0x800
_NUMERIC = range(6, 16)  # classes of arrays: double, single and integers
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXTS = {1: "utf-8", 2: "utf-8", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}


class _DamagedError(ValueError):
    """Bytes that are not as the format demands."""


def read_matlab(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """Read these variables of a ``.mat`` file: a matrix of numbers as an array, a cell array of text as a list.

    Raises
    ------
    InputError
        The file cannot be read, is of version 7.3, or lacks a variable.
    """
    with open_file(path) as file:
        data = file.read()
    if b"MATLAB 7.3" in data[:116] or _HDF5 in (data[:8], data[512:520]):
        raise InputError(
            "A MATLAB file of version 7.3 cannot be read.",
            got=str(path),
            expected="a file of version 7 or earlier",
            do="load it in MATLAB and save it again: data = load('FILE.mat'); save('FILE.mat', '-struct', 'data', '-v7')",
        )
    try:
        content = _read_variables(data, set(names))
    except (_DamagedError, zlib.error, ValueError, MemoryError) as error:
        raise _damaged(path, cut(error)) from None
    if lacking := [name for name in names if name not in content]:
        raise _damaged(path, f"no variable {shorten(lacking)}")
    return content


def to_matrix(values: Any, path: Path) -> np.ndarray:
    """Return a variable that is a matrix of numbers."""
    if not isinstance(values, np.ndarray) or values.ndim != 2 or not values.size:
        raise _damaged(path, "something other than a matrix of numbers")
    return values.astype(float)


def to_names(values: Any, path: Path) -> list[str]:
    """Return a variable that is a cell array of text."""
    if not isinstance(values, list):
        raise _damaged(path, "something other than a list of names")
    return values


def _read_variables(data: bytes, wanted: set[str]) -> dict[str, Any]:
    if len(data) < _HEADER or data[126:128] not in (b"IM", b"MI"):
        raise _DamagedError("no heading of a MATLAB file")
    order = "<" if data[126:128] == b"IM" else ">"
    found: dict[str, Any] = {}
    file = _Elements(data, order, _HEADER)
    while file.at < len(data) and wanted - found.keys():
        kind, content = file.next(padded=False)
        if kind == _COMPRESSED:
            inflater = zlib.decompressobj()
            kind, content = _Elements(inflater.decompress(content, LARGEST_VARIABLE), order).next()
        if kind != _MATRIX:
            raise _DamagedError(f"an element of type {kind} in place of a variable")
        array = _Elements(content, order)
        flags, shape, name = _read_heading(array)
        if name in wanted:
            found[name] = _read_array(array, flags, shape)
    return found


class _Elements:
    """The elements of a part of a file, one after the other; each states its type and its size."""

    def __init__(self, data: bytes, order: str, start: int = 0):
        self.data, self.order, self.at = data, order, start

    def next(self, padded: bool = True) -> tuple[int, bytes]:
        """Return the type and the bytes of the next element."""
        first, size = np.frombuffer(self._take(self.at, 8), f"{self.order}u4").tolist()
        if first >> 16:  # a small element, within its own heading
            kind, size, start = first & 0xFFFF, first >> 16, self.at + 4
            if size > 4:
                raise _DamagedError("a small element of more than 4 bytes")
            self.at += 8
        else:
            kind, start = first, self.at + 8
            self.at = start + size + (-size % 8 if padded else 0)
        return kind, self._take(start, size)

    def numbers(self) -> np.ndarray:
        """Return the next element as numbers."""
        kind, content = self.next()
        if kind not in _NUMBERS:
            raise _DamagedError(f"data of type {kind} in place of numbers")
        return np.frombuffer(content, self.order + _NUMBERS[kind])

    def text(self) -> str:
        """Return the next element as text."""
        kind, content = self.next()
        if kind not in _TEXTS:
            raise _DamagedError(f"data of type {kind} in place of text")
        encoding = _TEXTS[kind] if _TEXTS[kind] == "utf-8" else f"{_TEXTS[kind]}-{'le' if self.order == '<' else 'be'}"
        return content.decode(encoding, errors="replace")

    def _take(self, start: int, size: int) -> bytes:
        if start + size > len(self.data):
            raise _DamagedError("the file ends within a variable")
        return self.data[start : start + size]


def _read_heading(array: _Elements) -> tuple[int, tuple[int, ...], str]:
    """Return the flags, the shape and the name of an array."""
    flags, shape = array.numbers(), array.numbers()
    if not flags.size or not shape.size or flags.dtype.kind not in "iu" or shape.dtype.kind not in "iu" or (shape < 0).any():
        raise _DamagedError("a variable without flags or shape")
    return int(flags[0]), tuple(shape.tolist()), array.text()


def _read_array(array: _Elements, flags: int, shape: tuple[int, ...]) -> Any:
    """Return the values of a variable; None for kinds that no reader needs."""
    kind = flags & 0xFF
    if kind == _CELL:
        cells = []
        while array.at < len(array.data):
            inner_kind, content = array.next()
            cell = _Elements(content, array.order)
            inner_flags, _, _ = _read_heading(cell)
            if inner_kind != _MATRIX or inner_flags & 0xFF != _CHARACTERS:
                return None
            cells.append(cell.text().strip())
        return cells
    if kind not in _NUMERIC or flags & _COMPLEX:
        return None
    values = array.numbers()
    if values.size != np.prod(shape, dtype=object):
        raise _DamagedError(f"{values.size:,} numbers for a shape of {shape}")
    return values.reshape(shape, order="F")


def _damaged(path: Path, got: str) -> InputError:
    return InputError(
        "A MATLAB file is damaged, or of another kind.",
        got=f"{path}: {got}",
        expected="a readable .mat file of version 5 to 7, with the variables that its tool writes",
        do="write the file again with the tool that made it, or remove it",
    )
