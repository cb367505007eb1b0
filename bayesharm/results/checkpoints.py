"""Checkpoints of an unfinished run: files of its finished chunks, from which it resumes after an interruption.

``unfinished/manifest.json`` in the run folder records everything on which the result depends. Each checkpoint is one file
that appears whole or not at all and has the sha256 of its content in its name: a damaged one is found when the run resumes,
and is computed again.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from bayesharm.errors import RunFolderError, shorten
from bayesharm.io.atomic import write_whole
from bayesharm.io.limits import walk_files

UNFINISHED, RECORD, TREE, MANIFEST = "unfinished", "run.json", "posterior.zarr", "manifest.json"
MOST_CHANGES, LONGEST_CHANGE = 3, 120  # changes of a manifest that an error names, and characters of each
Arrays = dict[str, np.ndarray]


class Checkpoints:
    """Finished chunks of a run; without a folder nothing is kept.

    Attributes
    ----------
    folder : Path, optional
    n_kept : int
        Checkpoints of an earlier, interrupted run.
    damaged : list of str
        Files with another content than was written; they are removed.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.n_kept, self.damaged = 0, []
        for path in sorted(folder.glob("*.npz")) if folder else ():
            name = path.name.split(".")[0]
            if path.name == _file_name(name, path.read_bytes()):
                self.n_kept += 1
            else:
                self.damaged.append(path.name)
                path.unlink()

    def read(self, name: str) -> Arrays | None:
        """Return the arrays of a checkpoint, or None if there is none of this name."""
        if self.folder is None:
            return None
        for path in self.folder.glob(f"{name}.*.npz"):
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        return None

    def write(self, name: str, arrays: Arrays) -> None:
        """Keep arrays under a name.

        Raises
        ------
        RunFolderError
            The disk is full, or the folder cannot be written. Earlier checkpoints stay.
        """
        if self.folder is None:
            return
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        content = buffer.getvalue()
        written = self.folder / _file_name(name, content)
        write_whole(written, content)
        for path in self.folder.glob(f"{name}.*.npz"):  # an unused one of other features would be found first
            if path != written:
                path.unlink()

    def clear(self) -> None:
        """Remove all checkpoints."""
        for path in self.folder.glob("*.npz") if self.folder else ():
            path.unlink()


@contextmanager
def open_checkpoints(out: Path | None, manifest: Mapping[str, Any], overwrite: bool = False) -> Iterator[Checkpoints]:
    """Start a run in its folder, or resume an interrupted one; one process at a time.

    The checkpoints are removed when the context ends without an error, that is, when the run is finished.

    Parameters
    ----------
    out : Path, optional
        The run folder; without it nothing is kept.
    manifest : mapping
        Everything on which the result depends. A run resumes only under the manifest with which it was started.
    overwrite : bool
        Remove an earlier run, finished or not, unless another process is at work on it.

    Raises
    ------
    RunFolderError
        Another process is at work there, the run was started with another manifest, or the folder cannot be written.
    """
    if out is None:
        yield Checkpoints()
        return
    folder = out / UNFINISHED
    refuse_links(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock", timeout=0).acquire()
    except Timeout:
        raise RunFolderError(
            f"Another process is at work on {out}.",
            got=f"{folder / 'lock'}, which it holds",
            expected="one process for each run folder",
            do="wait until it has finished, or choose another --out",
        ) from None
    except OSError as error:
        raise RunFolderError(f"{out} cannot be written.", got=str(error), do="choose another --out") from None
    with lock:
        if overwrite:
            _remove_run(out)
        text = json.dumps(manifest, indent=2, sort_keys=True)
        if (folder / MANIFEST).exists():
            _check_manifest(out, (folder / MANIFEST).read_bytes(), json.loads(text))
        else:
            _refuse_unknown_files(out, folder)
            write_whole(folder / MANIFEST, text.encode())
        yield Checkpoints(folder)
        shutil.rmtree(folder)


def refuse_links(out: Path) -> None:
    """Refuse a run folder with links, which may come from a stranger and lead to other files of the user.

    Raises
    ------
    RunFolderError
    """
    try:
        for name in (RECORD, f".{RECORD}.part", TREE, UNFINISHED):
            if (out / name).is_symlink():
                raise ValueError(f"{out / name} is a link to {os.readlink(out / name)}")
            if (out / name).is_dir():
                for _ in walk_files(out / name, allow_links=False):
                    pass
    except (OSError, ValueError) as error:
        raise RunFolderError(
            f"{out} holds something other than plain files.",
            got=str(error),
            expected="a run folder as bayesharm wrote it, without links",
            do="copy it with 'cp -rL'; in a DataLad data set, 'datalad unlock' it",
        ) from None


def _remove_run(out: Path) -> None:
    """Remove a run, beginning with the record that makes it complete; the lock stays."""
    try:
        for name in (RECORD, TREE):
            if (out / name).is_dir():
                shutil.rmtree(out / name)
            else:
                (out / name).unlink(missing_ok=True)
        for path in (out / UNFINISHED).iterdir():
            if path.name != "lock":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    except OSError as error:
        raise RunFolderError(f"{out} cannot be overwritten.", got=str(error), do="choose another --out") from None


def _refuse_unknown_files(out: Path, folder: Path) -> None:
    """Refuse to remove checkpoints whose origin is unknown, such as those of an earlier version."""
    if unknown := sorted(path.name for path in folder.glob("*.npz")):
        raise RunFolderError(
            f"{out} holds an unfinished run without a readable manifest.",
            got=f"{shorten(unknown)} in {folder}, but no {MANIFEST}; an earlier version may have written them",
            expected="an unfinished run of this version",
            do="start afresh with --overwrite, choose another --out, or finish the run with the version that began it",
        )


def _check_manifest(out: Path, written: bytes, manifest: Mapping[str, Any]) -> None:
    """Refuse to resume a run of other data, another model or other versions."""
    try:
        before = dict(json.loads(written))
        if manifest and not before.keys() & manifest.keys():
            raise ValueError("no key of a manifest")
    except (ValueError, TypeError):
        raise RunFolderError(
            f"{out} holds an unfinished run without a readable manifest.",
            got=f"{out / UNFINISHED / MANIFEST}, damaged",
            expected="the file that bayesharm wrote",
            do="start afresh with --overwrite, or choose another --out",
        ) from None
    compare_manifests(
        f"{out} holds an unfinished run that was started with other inputs",
        before,
        manifest,
        "give the inputs of that run to resume it, or start afresh with --overwrite, or choose another --out",
    )


def compare_manifests(what: str, before: Mapping[str, Any], now: Mapping[str, Any], do: str) -> None:
    """Refuse to work on a run of other data, another model or other versions.

    Parameters
    ----------
    what : str
        The first sentence of the error.
    before, now : mapping
        Manifests of the run and of the present call.
    do : str
        The advice of the error.

    Raises
    ------
    RunFolderError
        The manifests differ.
    """
    changed = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if changed:
        new, old = ({f"{a}.{b}": c for a in changed for b, c in _items(each.get(a))} for each in (now, before))
        details = [name for name in sorted({*new, *old}) if new.get(name) != old.get(name)]
        raise RunFolderError(
            f"{what}: {', '.join(changed)} changed.",
            got=_describe(details, new),
            expected=_describe(details, old),
            do=do,
        )


def _items(value: Any) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, dict) else [("", value)]


def _describe(names: list[str], values: Mapping[str, Any]) -> str:
    texts = [f"{name.rstrip('.')}: {values.get(name)}" for name in names[:MOST_CHANGES]]
    more = f" and {len(names) - MOST_CHANGES} more" if len(names) > MOST_CHANGES else ""
    return ", ".join(text if len(text) < LONGEST_CHANGE else f"{text[: LONGEST_CHANGE - 3]}..." for text in texts) + more


def _file_name(name: str, content: bytes) -> str:
    return f"{name}.{hashlib.sha256(content).hexdigest()[:32]}.npz"
