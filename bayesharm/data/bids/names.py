"""File names of BIDS: ``key-value_key-value_suffix.extension``."""

from __future__ import annotations

from dataclasses import dataclass

# A multi-echo or complex-valued acquisition is one scan in several files.
PARTS_OF_A_SCAN = ("echo", "part")


@dataclass(frozen=True)
class BidsName:
    """The parts of a file name.

    Attributes
    ----------
    entities : dict
        Key -> label, in the order of the name, such as ``{"sub": "01", "task": "rest"}``.
    suffix, extension : str
        Such as ``"bold"`` and ``".nii.gz"``.
    """

    entities: dict[str, str]
    suffix: str
    extension: str

    @property
    def scan_id(self) -> str:
        """The identifier of the scan: the name without the suffix, and without the number of the echo."""
        return "_".join(f"{key}-{label}" for key, label in self.entities.items() if key not in PARTS_OF_A_SCAN)


def parse_name(file_name: str) -> BidsName | None:
    """Return the parts of a file name; None if it is not a name of BIDS."""
    stem, dot, extension = file_name.partition(".")
    *pairs, suffix = stem.split("_")
    entities: dict[str, str] = {}
    for pair in pairs:
        key, _, label = pair.partition("-")
        if not key.isalnum() or not label.replace("+", "0").isalnum() or key in entities:
            return None
        entities[key] = label
    return BidsName(entities, suffix, dot + extension) if suffix.isalnum() else None
