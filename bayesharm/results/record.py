"""``run.json``: the record of a finished run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bayesharm.errors import RunFolderError
from bayesharm.model.spec_rules import spec_from_dict
from bayesharm.results.checkpoints import RECORD, TREE, refuse_links
from bayesharm.results.run_folder import contents_of, run_state

PREVIEW = "This is a PREVIEW: Laplace and importance approximations, nothing was sampled. Fit without preview to rely on it."
FORMAT = 12  # of the run folder; a reader refuses any other


def to_json(run: Mapping[str, Any]) -> bytes:
    """Return the text of a record."""
    return (json.dumps(run, indent=2, sort_keys=True) + "\n").encode()


def read_record(folder: Path) -> dict[str, Any]:
    """``run.json`` of a finished run.

    Raises
    ------
    RunFolderError
        There is no run, it is half-written, its record is damaged, or another version of the format wrote it.
    """
    if not (folder / RECORD).is_file():
        if run_state(folder) == "an unfinished run":
            state, advice = "unfinished", "give the same command as before: it goes on where it stopped"
        elif (folder / TREE).exists():
            state, advice = "half-written: it has no run.json", "fit again, into a new folder or with --overwrite"
        else:
            state, advice = "not a run folder", "name a folder that 'bayesharm fit' has made"
        raise RunFolderError(
            f"{folder} is {state}.",
            got=contents_of(folder),
            expected="a folder that 'bayesharm fit … --out' finished",
            do=advice,
        )
    refuse_links(folder)
    try:
        run = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        version, versions = run["format"], dict(run.get("versions", {}))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RunFolderError(
            f"{folder / 'run.json'} is damaged.",
            got=str(error),
            expected="what bayesharm wrote",
            do="compute it again: the same command as before with --overwrite",
        ) from None
    if version != FORMAT:
        raise RunFolderError(
            f"{folder} was written in another version of the run format.",
            got=f"format {version}",
            expected=f"format {FORMAT}",
            do=f"fit again, or open it with its version, bayesharm {versions.get('bayesharm', '?')}",
        )
    try:
        record = {name: value for name, value in run.items() if name != "sha256"}
        if run["sha256"] != hashlib.sha256(to_json(record)).hexdigest():
            raise ValueError("run.json: changed")
        spec_from_dict(run["spec"])
    except Exception as error:  # a record that somebody made up may have a right sha256
        raise RunFolderError(
            f"{folder} cannot be read.",
            got=str(error) or repr(error),
            expected="the run.json that bayesharm wrote",
            do="compute it again: the same command as before with --overwrite",
        ) from None
    return run
