"""The format of a text table, found from its bytes: encoding, separator, line ends, and where its rows begin."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO

from bayesharm.errors import InputError

SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": "\t", ".dat": "\t"}  # tried first; others follow
TEXT_FORMATS = tuple(SEPARATORS)
BLANKS = " "  # any number of blanks or tabs between cells
LONGEST_LINE = 1 << 26  # characters: a longer line is no row of a table
MOST_COLUMNS = 200_000  # each takes ten kilobytes while it is read
SNIFFED_ROWS = 20
_NAMES = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars", BLANKS: "blanks"}
_OTHER_FILES = (
    (b"PK\x03\x04", "a zip archive, or an Excel workbook; name the latter .xlsx"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook (.xls); save it as .xlsx or .csv"),
    (b"\x1f\x8b", "a compressed file (gzip); decompress it first"),
    (b"BZh", "a compressed file (bzip2); decompress it first"),
    (b"\xfd7zXZ", "a compressed file (xz); decompress it first"),
    (b"PAR1", "a Parquet file; name it .parquet"),
    (b"%PDF", "a PDF"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a numpy array; name it .npy"),
    (b"$FL2", "an SPSS file; name it .sav"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself; fetch it with git lfs pull"),
)
_MARKUP = re.compile(rb"\s*(<!doctype|<html|<\?xml|<head|<body|\{\s*\"|\[\s*[\{\[])", re.IGNORECASE)


@dataclass(frozen=True)
class TextFormat:
    """Format of a text table.

    Attributes
    ----------
    encoding : str
        ``utf-8-sig``, ``utf-16-le``, ``utf-16-be`` or, for text that is none of them, ``cp1252``.
    separator : str
        A character, or `BLANKS`.
    header : tuple of str
        Names of the columns; an empty one for row names that have none (R).
    skipped : int
        Lines before the heading.
    has_rows : bool
    n_quotes : int
        Number of quotation marks in the file.
    """

    encoding: str
    separator: str
    header: tuple[str, ...]
    skipped: int
    has_rows: bool
    n_quotes: int

    @property
    def is_plain(self) -> bool:
        """Whether the file can be read as it is: UTF-8, with one character between cells."""
        return self.encoding == "utf-8-sig" and self.separator != BLANKS


def find_format(path: Path, what: str) -> TextFormat:
    """Find the format of a text file.

    Raises
    ------
    InputError
        The file is no text, or its first line is too long.
    """
    status = path.stat()
    return _find_format(path, status.st_size, status.st_mtime_ns, what)


@lru_cache(maxsize=8)
def _find_format(path: Path, size: int, mtime: int, what: str) -> TextFormat:
    encoding, n_quotes = _encoding(path, what)
    with path.open(encoding=encoding, errors="replace", newline="") as file:
        lines, skipped, given = _first_lines(file, path, what)
    separator, records = _separate(lines, given or SEPARATORS[path.suffix.lower()], given is not None)
    header = [name.strip() for name in (records[0] if records else [])]
    if len(records) > 1 and all(len(record) == len(header) + 1 for record in records[1:]):
        header = ["", *header]  # R writes row names without a heading
    return TextFormat(encoding, separator, tuple(header), skipped, len(records) > 1, n_quotes)


def _encoding(path: Path, what: str) -> tuple[str, int]:
    """Return the encoding of a file, and the number of its quotation marks."""
    with path.open("rb") as file:
        head = file.read(1 << 16)
        for magic, kind in _OTHER_FILES:
            if head.startswith(magic):
                raise _not_a_table(path, what, kind)
        if _MARKUP.match(head.removeprefix(codecs.BOM_UTF8)):
            raise _not_a_table(path, what, "a web page or another markup file; download the table itself")
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16", 0
        if b"\0" in head:
            even, odd = head[::2].count(0), head[1::2].count(0)
            if max(even, odd) > 0.3 * len(head) / 2 and min(even, odd) < 0.02 * len(head):
                return ("utf-16-be" if even > odd else "utf-16-le"), 0
            raise _not_a_table(path, what, "not text: it contains zero bytes")
        decoder, n_quotes = codecs.getincrementaldecoder("utf-8")(), 0
        file.seek(0)
        try:
            while block := file.read(1 << 22):
                n_quotes += block.count(b'"')
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "cp1252", 0
    return "utf-8-sig", n_quotes


def _not_a_table(path: Path, what: str, kind: str) -> InputError:
    return InputError(
        f"The file of {what} is no table of text.",
        got=f"{path}, which is {kind}",
        expected=f"a text file, as its name {path.suffix} says",
        do="give the table itself",
    )


def _first_lines(file: IO[str], path: Path, what: str) -> tuple[list[str], int, str | None]:
    """Return the first lines, without empty ones and Excel's ``sep=;`` above them; and the separator that this names."""
    lines: list[str] = []
    skipped, given, n_characters = 0, None, 0
    while len(lines) <= SNIFFED_ROWS and n_characters < LONGEST_LINE:
        line = file.readline(LONGEST_LINE)
        if len(line) >= LONGEST_LINE and not line.endswith(("\n", "\r")):
            raise InputError(
                f"A line of the file of {what} is too long.",
                got=f"{path}: more than {LONGEST_LINE:,} characters in line {skipped + len(lines) + 1}",
                expected="one line for each scan",
                do="check that this is the right file, and that it has line ends",
            )
        if not line:
            break
        n_characters += len(line)
        if max(line.count(mark) for mark in "\t;,|") > MOST_COLUMNS:
            raise InputError(
                f"The file of {what} has too many columns.",
                got=f"{path}: more than {MOST_COLUMNS:,} cells in line {skipped + len(lines) + 1}",
                expected="one line for each scan",
                do="transpose the table if its rows are features; for so many features, use .npy, .zarr or .parquet",
            )
        if not lines and (not line.strip() or re.fullmatch(r"sep=.\s*", line)):
            given = line[4] if line.strip() else given
            skipped += 1
            continue
        lines.append(line)
    return lines, skipped, given


def _separate(lines: Sequence[str], usual: str, is_given: bool) -> tuple[str, list[list[str]]]:
    """Return the separator and the records of the first lines.

    The first separator that gives all lines the same number of cells, two or more, is taken; the usual one is tried first.
    """
    found: dict[str, list[list[str]]] = {}
    for separator in [usual] if is_given else dict.fromkeys([usual, "\t", ";", ",", "|", BLANKS]):
        records = found[separator] = list(records_of(lines, separator))
        if records and len(records[0]) > 1 and len({len(record) for record in records}) == 1:
            return separator, records
    for separator, records in found.items():
        if records and len(records[0]) > 1 and {len(record) for record in records[1:]} == {len(records[0]) + 1}:
            return separator, records
    found = {separator: records for separator, records in found.items() if separator != BLANKS or is_given}
    separator = max(found, key=lambda each: len(found[each][0]) if found[each] else 0)
    return separator, found[separator]


def records_of(lines: Sequence[str], separator: str) -> Iterator[list[str]]:
    """Split lines into cells, with quoted separators and line ends."""
    options = {"delimiter": separator} if separator != BLANKS else {"delimiter": " ", "skipinitialspace": True}
    if separator == BLANKS:
        lines = [
            " ".join(line.replace("\t", " ").split()) + "\n" if '"' not in line else line.strip() + "\n" for line in lines
        ]
    for record in csv.reader(iter(lines), **options):
        if record:
            yield record
