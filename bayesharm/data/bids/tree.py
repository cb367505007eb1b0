"""The files of a raw BIDS dataset, and the reasons why other files are left out."""

from __future__ import annotations

import errno
import fnmatch
import os
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from bayesharm.data.bids.names import BidsName, parse_name
from bayesharm.errors import InputError, shorten
from bayesharm.io.limits import read_small

FOLDER_OF = {"bold": "func", "T1w": "anat", "dwi": "dwi"}  # suffix of a scan -> its data type
IMAGES = (".nii", ".nii.gz")
LARGEST_LIST = 1 << 16  # bytes of .bidsignore
# Entities of processed images, which some datasets keep beside the raw ones.
_PROCESSED = ("space", "desc", "res", "den", "label", "seg", "atlas")
_KNOWN_FOLDERS = ("derivatives", "sourcedata", "code", "stimuli", "phenotype", "docs", "logs")


@dataclass(frozen=True)
class BidsFile:
    """A file of the dataset: its path from the root, with ``/``, and the parts of its name."""

    path: PurePosixPath
    name: BidsName

    @property
    def folder(self) -> PurePosixPath:
        """Folder of the file, from the root."""
        return self.path.parent


@dataclass
class BidsTree:
    """The files of a dataset that matter for the scans table.

    Attributes
    ----------
    root : Path
    images : list of BidsFile
        Images of the wanted kind, in the order of their paths.
    sidecars : dict
        Folder -> its JSON files.
    tables : list of BidsFile
        Files ``*_sessions.tsv`` and ``*_scans.tsv``.
    ignored : dict
        Reason -> paths of the files and folders left out for it.
    participants : list of str
        Folders ``sub-*``.
    """

    root: Path
    images: list[BidsFile] = field(default_factory=list)
    sidecars: dict[PurePosixPath, list[BidsFile]] = field(default_factory=lambda: defaultdict(list))
    tables: list[BidsFile] = field(default_factory=list)
    ignored: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    participants: list[str] = field(default_factory=list)


def check_root(root: Path) -> None:
    """Refuse a path that is not a folder.

    Raises
    ------
    InputError
    """
    if not root.is_dir():
        raise InputError(
            "The BIDS folder does not exist." if not root.exists() else "The BIDS dataset is not a folder.",
            got=str(root),
            expected="the root folder of a BIDS dataset",
            do=f"check the path; the current folder is {Path.cwd()}",
        )


def read_tree(root: Path, suffix: str, participants: Collection[str] = ()) -> BidsTree:
    """List the images of one kind in a BIDS dataset, with the files that describe them.

    Only the folders that BIDS defines are visited: the root, ``sub-*``, ``ses-*`` and the data types in them. Links to
    files and folders are followed.

    Parameters
    ----------
    root : path
    suffix : {"bold", "T1w", "dwi"}
        Kind of image.
    participants : collection of str
        Labels of the participants to visit, without ``sub-``; default: all.

    Raises
    ------
    InputError
        `root` is not a folder, a folder cannot be read, or a link leads back to a folder that contains it.
    """
    check_root(root)
    walk = _Walk(root, suffix, frozenset(participants))
    walk.visit(PurePosixPath(), tuple(_identify(parent) for parent in root.resolve().parents))
    walk.tree.images.sort(key=lambda image: image.path)
    return walk.tree


class _Walk:
    def __init__(self, root: Path, suffix: str, participants: frozenset[str]) -> None:
        self.tree, self.suffix, self.participants = BidsTree(root), suffix, participants
        self.patterns = _read_bidsignore(root)

    def visit(self, folder: PurePosixPath, above: tuple[tuple[int, int], ...]) -> None:
        """Collect the files of a folder and of the folders of BIDS in it; `above` identifies the folders that contain it."""
        path = self.tree.root / folder
        here = _identify(path)
        if here in above:
            raise _loop(path, f"the link leads to {path.resolve()}, which contains it")
        for entry in sorted(_list(path), key=lambda entry: entry.name):
            inside = folder / entry.name
            if entry.name.startswith("."):
                if entry.name != ".bidsignore":
                    self.tree.ignored["hidden"].append(str(inside))
            elif self._is_ignored(inside):
                self.tree.ignored["named in .bidsignore"].append(str(inside))
            elif _is_folder(entry):
                if reason := self._reason_against_folder(inside):
                    self.tree.ignored[reason].append(f"{inside}/")
                else:
                    self.visit(inside, (*above, here))
            else:
                self._add_file(inside)

    def _reason_against_folder(self, folder: PurePosixPath) -> str:
        """Return the reason to leave out a folder; "" if it is visited."""
        name, depth = folder.name, len(folder.parts)
        if depth == 1 and name.startswith("sub-"):
            self.tree.participants.append(name)
            is_wanted = not self.participants or name.removeprefix("sub-") in self.participants
            return "" if is_wanted else "not among the chosen participants"
        if depth == 1:
            return "no raw data" if name in _KNOWN_FOLDERS else "not a folder of BIDS"
        if (
            (depth == 2 and name.startswith("ses-"))
            or name == FOLDER_OF[self.suffix]
            and folder.parts[-2][:4] in ("sub-", "ses-")
        ):
            return ""
        return "another data type"

    def _add_file(self, path: PurePosixPath) -> None:
        name = parse_name(path.name)
        is_image = path.name.endswith(IMAGES)
        if name is None:
            if is_image:
                self.tree.ignored["not a name of BIDS"].append(str(path))
        elif name.extension == ".json":
            self.tree.sidecars[path.parent].append(BidsFile(path, name))
        elif name.extension == ".tsv" and name.suffix in ("sessions", "scans"):
            self.tree.tables.append(BidsFile(path, name))
        elif is_image and (reason := self._reason_against(path, name)):
            self.tree.ignored[reason].append(str(path))
        elif is_image:
            self.tree.images.append(BidsFile(path, name))

    def _reason_against(self, path: PurePosixPath, name: BidsName) -> str:
        """Return the reason to leave out an image; "" if it is a scan."""
        if name.suffix != self.suffix:
            return f"{name.suffix} image"
        if any(entity in name.entities for entity in _PROCESSED):
            return "processed image"
        if path.parent.name != FOLDER_OF[self.suffix]:
            return f"not in a folder {FOLDER_OF[self.suffix]}"
        if name.entities.get("part") in ("phase", "imag"):
            return "phase image"
        return ""

    def _is_ignored(self, path: PurePosixPath) -> bool:
        return any(
            fnmatch.fnmatch(str(path) if "/" in pattern else path.name, pattern.strip("/")) for pattern in self.patterns
        )


def _read_bidsignore(root: Path) -> list[str]:
    """Return the patterns of the file ``.bidsignore``; a pattern without a slash is for names in all folders."""
    try:
        lines = read_small(root / ".bidsignore", LARGEST_LIST).decode(errors="replace").splitlines()
    except (OSError, ValueError):
        return []
    patterns = [line.strip().removeprefix("**/") for line in lines]
    return [pattern.removesuffix("/") for pattern in patterns if pattern.strip("/") and not pattern.startswith(("#", "!"))]


def _identify(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _list(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError as error:
        raise InputError(
            "A folder of the BIDS dataset cannot be read.",
            got=f"{folder}: {error.strerror}",
            expected="permission to read all folders",
            do="get the permission, or leave these participants out with --participant-label",
        ) from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _loop(Path(entry.path), "the link leads to itself") from None
        return False


def _loop(path: Path, got: str) -> InputError:
    return InputError(
        "The BIDS dataset has a loop of links.",
        got=f"{shorten([path])}: {got}",
        expected="links that do not lead back to a folder above them",
        do="remove the link",
    )
