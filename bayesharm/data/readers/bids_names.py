"""File names of the form ``key-value_key-value_suffix.extension``, as in BIDS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# Entities of raw data, which identify a scan. All other entities describe how a derivative was made.
SOURCE_ENTITIES = (
    "sub", "ses", "sample", "task", "tracksys", "acq", "nuc", "voi", "ce", "trc", "stain", "rec", "dir", "run", "mod",
    "echo", "flip", "inv", "mt", "part", "proc", "split", "chunk",
)  # fmt: skip


@dataclass(frozen=True)
class BidsName:
    """Parts of a file name: its entities in their order, the suffix, and the extension with its dot."""

    entities: Mapping[str, str]
    suffix: str
    extension: str

    @property
    def source(self) -> dict[str, str]:
        """The entities that identify the scan."""
        return {key: value for key, value in self.entities.items() if key in SOURCE_ENTITIES}

    @property
    def variant(self) -> dict[str, str]:
        """The entities that describe the derivative."""
        return {key: value for key, value in self.entities.items() if key not in SOURCE_ENTITIES}


def parse_name(name: str) -> BidsName | None:
    """Return the parts of a file name or of its beginning; None if it is not of this form."""
    stem, dot, extension = name.partition(".")
    parts = stem.split("_")
    suffix = "" if "-" in parts[-1] else parts.pop()
    entities: dict[str, str] = {}
    for part in parts:
        key, dash, value = part.partition("-")
        if not (key and dash and value) or key in entities:
            return None
        entities[key] = value
    return BidsName(entities, suffix, dot + extension) if entities else None


def join_entities(entities: Mapping[str, str]) -> str:
    """Return the beginning of a file name: ``sub-01_ses-A``."""
    return "_".join(f"{key}-{value}" for key, value in entities.items())


def is_same_value(one: str, other: str) -> bool:
    """Whether two values of an entity agree; numbers may have leading zeros (``run-1`` is ``run-01``)."""
    both_numbers = one.isdecimal() and other.isdecimal()
    return one == other or (both_numbers and one.lstrip("0") == other.lstrip("0"))
