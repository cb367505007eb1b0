"""An unfinished run on disk: its finished parts, so that it can go on after anything.

``unfinished/plan.json`` in the run folder says what the run is of. Each part is one file that appears whole or not at all,
and whose name holds the sha256 of its content: a damaged part is found when the run goes on, and computed again.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from bayesharm.errors import RunFolderError
from bayesharm.io.atomic import write_whole

UNFINISHED, RECORD, TREE = "unfinished", "run.json", "posterior.zarr"
Arrays = dict[str, np.ndarray]


class Checkpoints:
    """Finished parts of a run; without a folder nothing is kept.

    Attributes
    ----------
    folder : Path, optional
    kept : int
        Parts that are there from before.
    damaged : list of str
        Files that were not what was written, and were removed.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.kept, self.damaged = 0, []
        for path in sorted(folder.glob("*.npz")) if folder else ():
            name = path.name.split(".")[0]
            if path.name == _name(name, path.read_bytes()):
                self.kept += 1
            else:
                self.damaged.append(path.name)
                path.unlink()

    def read(self, name: str) -> Arrays | None:
        """A part as it was kept, or None."""
        if self.folder is None:
            return None
        for path in self.folder.glob(f"{name}.*.npz"):
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        return None

    def write(self, name: str, arrays: Arrays) -> None:
        """Keep a part.

        Raises
        ------
        RunFolderError
            The disk is full, or the folder cannot be written. What was kept before stays.
        """
        if self.folder is None:
            return
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        content = buffer.getvalue()
        whole = self.folder / _name(name, content)
        write_whole(whole, content)
        for path in self.folder.glob(f"{name}.*.npz"):  # of other features: it was not used, and would be found first
            if path != whole:
                path.unlink()

    def clear(self) -> None:
        """Remove all parts."""
        for path in self.folder.glob("*.npz") if self.folder else ():
            path.unlink()


@contextmanager
def keep_parts(out: Path | None, plan: Mapping[str, Any], overwrite: bool = False) -> Iterator[Checkpoints]:
    """Start a run in its folder, or go on with one that was interrupted; one process at a time.

    The parts are removed when the context is left without an error, that is, when the run is finished.

    Parameters
    ----------
    out : Path, optional
        The run folder; without it nothing is kept.
    plan : mapping
        All that the result depends on: a run goes on only under the plan that it was started with.
    overwrite : bool
        Remove the run that is there, finished or not, once no other process is at work on it.

    Raises
    ------
    RunFolderError
        Another process is at work there, the run was started with another plan, or the folder cannot be written.
    """
    if out is None:
        yield Checkpoints()
        return
    folder = out / UNFINISHED
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock", timeout=0).acquire()
    except Timeout:
        raise RunFolderError(
            f"Another process is at work on {out}.",
            got=f"{folder / 'lock'}, which it holds",
            expected="one process for a run folder",
            do="wait until it has finished, or choose another --out",
        ) from None
    except OSError as error:
        raise RunFolderError(f"{out} cannot be written.", got=str(error), do="choose another --out") from None
    with lock:
        if overwrite:
            _remove_run(out)
        text = json.dumps(plan, indent=2, sort_keys=True)
        if (folder / "plan.json").exists():
            _compare(out, (folder / "plan.json").read_bytes(), json.loads(text))
        else:
            Checkpoints(folder).clear()  # nobody knows what these are parts of
            write_whole(folder / "plan.json", text.encode())
        yield Checkpoints(folder)
        shutil.rmtree(folder)


def _remove_run(out: Path) -> None:
    """Remove a run, first what completes it; the lock stays."""
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


def _compare(out: Path, kept: bytes, plan: Mapping[str, Any]) -> None:
    """Refuse to go on with a run of other data, another model or other versions."""
    try:
        before = dict(json.loads(kept))
        if plan and not before.keys() & plan.keys():
            raise ValueError("nothing of a plan")
    except (ValueError, TypeError):
        raise RunFolderError(
            f"{out} holds an unfinished run of which nobody knows what it was started with.",
            got=f"{out / UNFINISHED / 'plan.json'}, damaged",
            expected="what bayesharm wrote",
            do="start afresh with --overwrite, or choose another --out",
        ) from None
    compare_plans(
        f"{out} holds an unfinished run that was started otherwise",
        before,
        plan,
        "give what it was started with and it goes on, or start afresh with --overwrite, or choose another --out",
    )


def compare_plans(what: str, before: Mapping[str, Any], plan: Mapping[str, Any], do: str) -> None:
    """Refuse to work on a run of other data, another model or other versions.

    Parameters
    ----------
    what : str
        What to say if the plans differ.
    before, plan : mapping
        What the run was started with, and what was given now.
    do : str

    Raises
    ------
    RunFolderError
    """
    differ = [name for name in sorted({*before, *plan}) if before.get(name) != plan.get(name)]
    if differ:
        now, then = ({f"{a}.{b}": c for a in differ for b, c in _items(some.get(a))} for some in (plan, before))
        details = [name for name in sorted({*now, *then}) if now.get(name) != then.get(name)]
        raise RunFolderError(
            f"{what}: {', '.join(differ)} changed.",
            got=_listed(details, now),
            expected=_listed(details, then),
            do=do,
        )


def _items(value: Any) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, dict) else [("", value)]


def _listed(names: list[str], values: Mapping[str, Any]) -> str:
    texts = [f"{name.rstrip('.')}: {values.get(name)}" for name in names[:3]]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(text if len(text) < 120 else f"{text[:117]}..." for text in texts) + more


def _name(name: str, content: bytes) -> str:
    return f"{name}.{hashlib.sha256(content).hexdigest()[:32]}.npz"
