"""Options that say what to read from a folder or a table of another tool."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from bayesharm.errors import InputError

ABSENT = ("", "none")


@dataclass(frozen=True)
class ReaderOptions:
    """Options of :func:`bayesharm.load_dataset` for the derivatives of other tools.

    Attributes
    ----------
    format : str, optional
        Name of the format, such as ``"xcp_d"``; found from the files if omitted.
    atlas : str, optional
        Atlas or parcellation; needed if the folder has several.
    measure : str, optional
        Measure, such as ``"alff"``; needed if the folder has several and the format has no usual one.
    entities : mapping, optional
        Other parts of the file names, such as ``{"space": "fsLR"}``; an empty value or ``"none"`` means that the name
        has no such part.
    labels : path, optional
        File with the names of the regions of the atlas, for tools that do not write them.
    label_column : str, optional
        Column of a features table that identifies its scans.
    missing_files : {"error", "drop"}
        How to treat scans without values, and files or rows of scans that are not in the table.
    """

    format: str | None = None
    atlas: str | None = None
    measure: str | None = None
    entities: Mapping[str, str] = field(default_factory=dict)
    labels: str | os.PathLike[str] | None = None
    label_column: str | None = None
    missing_files: Literal["error", "drop"] = "error"

    def __post_init__(self) -> None:
        if self.missing_files not in ("error", "drop"):
            raise InputError(
                "Unknown treatment of missing files.",
                got=f"missing_files={self.missing_files!r}",
                expected="'error' or 'drop'",
                do="use one of these",
            )

    @property
    def given(self) -> dict[str, Any]:
        """The options that differ from their defaults, as plain data with absolute paths."""
        values = {name: value for name, value in vars(self).items() if value and value != "error"}
        if self.labels is not None:
            values["labels"] = os.path.abspath(self.labels)
        if self.entities:
            values["entities"] = dict(self.entities)
        return values

    def wants(self, variant: Mapping[str, str]) -> bool:
        """Whether a file with these entities is wanted."""
        return all(
            key not in variant if value in ABSENT else variant.get(key) == value for key, value in self.entities.items()
        )


def parse_entities(values: Sequence[str] | None) -> dict[str, str]:
    """Return the entities written as ``key=value`` or ``key-value``.

    Raises
    ------
    InputError
        A value has another form.
    """
    entities = {}
    for text in values or ():
        key, _, value = text.partition("=" if "=" in text else "-")
        if not key or key == text:
            raise InputError(
                "An entity cannot be used.",
                got=repr(text),
                expected="a part of the file names and its value, such as space=fsLR or desc=none",
                do="write key=value",
            )
        entities[key] = value
    return entities


def is_path_list(source: object) -> bool:
    """Whether `source` is a list of paths."""
    return (
        isinstance(source, (list, tuple)) and bool(source) and all(isinstance(each, (str, os.PathLike)) for each in source)
    )
