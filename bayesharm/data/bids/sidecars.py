"""Metadata of scans from JSON sidecars, by the inheritance principle of BIDS."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any

from bayesharm.data.bids.names import BidsName
from bayesharm.data.bids.tree import BidsFile, BidsTree
from bayesharm.errors import InputError, shorten
from bayesharm.io.limits import LARGEST_JSON, read_small


class Sidecars:
    """The JSON files of a dataset, each read once when a scan needs it.

    Attributes
    ----------
    problems : list of InputError
        Unreadable sidecars, and contradictions between sidecars.
    """

    def __init__(self, tree: BidsTree) -> None:
        self.problems: list[InputError] = []
        self._tree = tree
        self._contents: dict[PurePosixPath, dict[str, Any]] = {}
        self._conflicts: set[tuple[PurePosixPath, PurePosixPath, str]] = set()

    def metadata(self, image: BidsFile) -> dict[str, Any]:
        """Return the metadata of an image.

        A sidecar applies if it has the suffix of the image, lies in the folder of the image or above it, and all its
        entities are those of the image. The sidecar in the lower folder decides; in one folder, the sidecar with more
        entities.

        Source: BIDS specification 1.11, common principles, "The Inheritance Principle".
        """
        merged: dict[str, Any] = {}
        for folder in (*reversed(image.folder.parents), image.folder):
            applicable = [file for file in self._tree.sidecars.get(folder, ()) if _applies(file.name, image.name)]
            origin: dict[str, BidsFile] = {}  # field -> sidecar of this folder that sets it
            for file in sorted(applicable, key=lambda file: (len(file.name.entities), file.path)):
                for key, value in self._read(file).items():
                    earlier = origin.get(key)
                    if earlier and merged[key] != value and not earlier.name.entities.items() <= file.name.entities.items():
                        self._add_conflict(earlier, file, key, merged[key], value)
                    merged[key], origin[key] = value, file
        return merged

    def _read(self, file: BidsFile) -> dict[str, Any]:
        if file.path not in self._contents:
            self._contents[file.path] = self._parse(file)
        return self._contents[file.path]

    def _parse(self, file: BidsFile) -> dict[str, Any]:
        try:
            content = json.loads(read_small(self._tree.root / file.path, LARGEST_JSON).decode("utf-8-sig"))
        except OSError as error:
            self._add_unreadable(file, error.strerror or "unreadable", "get the file; in a DataLad dataset: datalad get")
        except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
            self._add_unreadable(file, str(error), "correct the file")
        else:
            if isinstance(content, dict):
                return content
            self._add_unreadable(file, f"a {type(content).__name__}", "correct the file")
        return {}

    def _add_unreadable(self, file: BidsFile, got: str, do: str) -> None:
        what, expected = "A sidecar is not valid JSON.", 'an object {"field": value, …} in UTF-8'
        self.problems.append(InputError(what, got=f"{file.path}: {got}", expected=expected, do=do))

    def _add_conflict(self, first: BidsFile, second: BidsFile, key: str, value: Any, other: Any) -> None:
        if (first.path, second.path, key) not in self._conflicts:
            self._conflicts.add((first.path, second.path, key))
            self.problems.append(
                InputError(
                    f"Two sidecars of one folder contradict each other on {key}.",
                    got=f"{shorten([value])} in {first.path}, {shorten([other])} in {second.path}, for the same scans",
                    expected="one value, or one sidecar whose entities include those of the other",
                    do="correct one of the sidecars",
                )
            )


def _applies(sidecar: BidsName, image: BidsName) -> bool:
    return sidecar.suffix == image.suffix and sidecar.entities.items() <= image.entities.items()
