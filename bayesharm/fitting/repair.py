"""A finished run with damaged files: what is damaged is computed again, and must come out as it was."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bayesharm.errors import RunFolderError, shorten
from bayesharm.fitting.assembly import label_posterior
from bayesharm.fitting.block_sampler import RETRY_SCHEDULE
from bayesharm.fitting.scheduler import MOST_TOGETHER, run_again, run_study
from bayesharm.fitting.settings import Settings
from bayesharm.fitting.study import FitContext
from bayesharm.inference.hyperparameters import Hyperparameters
from bayesharm.io.atomic import digests, find_damage
from bayesharm.progress import Progress
from bayesharm.results.checkpoints import TREE, UNFINISHED, Arrays, Checkpoints, compare_plans, keep_parts
from bayesharm.results.posterior import FEATURES_A_FILE, read_record

# A file of an array along features, and the place of its features; all else but OF_ALL is made anew in any case.
PIECE = re.compile(
    r"(?:scales/(?!feature/|family/)\w+|sources/(?:finite_sd|finite_covariance|contribution|larger|with_scale)|draws/scales"
    r"|statistics/(?:dense|eliminated|squares)"
    r"|effects/[^/]+/(?:mean|sd))/c/(?:\d+/)*(\d+)"
)
OF_ALL = ("/contraction/c/", "/correlation/c/")  # from the typical scales of all features


def repair_run(out: Path, study: FitContext, plan: dict[str, Any], progress: Progress) -> None:
    """Mend the tree of a finished run, so that it holds the same bytes as before.

    What features share is learned again, and then the features of which a file is damaged are sampled again, with those
    that they were in a block with.

    Parameters
    ----------
    out : Path
    study : Study
    plan : dict
        What the run must have been started with.
    progress : callable

    Raises
    ------
    RunFolderError
        The run was started otherwise, another process is at work on it, or something comes out otherwise than it was:
        then nothing has changed.
    """
    run = read_record(out)
    before = {name: run.get("fingerprint" if name == "features" else name) for name in plan}
    compare_plans(
        f"{out} holds a run that was started otherwise",
        before,
        json.loads(json.dumps(plan)),
        "give what it was started with, or compute all of it again with --overwrite",
    )
    if not find_damage(out / TREE, run["files"]):
        progress("repair", 0, 0, "nothing is damaged")
        if (out / UNFINISHED).exists():  # of a process that was killed on its way out
            with keep_parts(out, plan):
                pass
        return
    with keep_parts(out, plan) as parts:
        damaged = find_damage(out / TREE, run["files"])
        progress("repair", 0, len(damaged), f"damaged: {shorten(damaged)}")
        hyper, results = _compute(out, study, parts, progress, damaged)
        with label_posterior(study.dataset, study.design, hyper, results, plan).write_aside(out) as tree:
            lost, now = [name for name in damaged if name in run["files"]], digests(tree)
            others = [name for name in lost if now.get(name) != run["files"][name]]
            for name in [] if others else damaged:
                target = out / TREE / name
                if name in lost:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    (tree / name).replace(target)
                else:
                    target.unlink()
    if others:
        raise RunFolderError(
            f"{out} could not be repaired, and is as it was before.",
            got=f"computed again, {shorten(others)} came out otherwise than in the run",
            expected="the same bytes, which the same machine and libraries give",
            do="repair it on the machine that made it, or compute all of it again with --overwrite",
        )
    progress("repair", len(damaged), len(damaged), "all as it was")


def _compute(
    out: Path, study: FitContext, parts: Checkpoints, progress: Progress, damaged: Sequence[str]
) -> tuple[Hyperparameters, Arrays]:
    """Hyperparameters, and at least the features of which something is damaged."""
    n_features = len(study.dataset.features.names)
    everything = (
        (n_features <= MOST_TOGETHER and not study.settings.preview)  # sampled together, or perhaps
        or any(name.startswith("scales/draws/") for name in damaged)  # nobody knows who was sampled with whom
        or any(part in name for name in damaged for part in OF_ALL)
    )
    if everything:
        return run_study(study, parts, progress)
    wanted = np.zeros(n_features, bool)
    if kept := parts.read("wanted"):  # by a repair that was interrupted, whose parts serve
        wanted = kept["wanted"]
    for piece in filter(None, map(PIECE.fullmatch, damaged)):
        start = int(piece[1]) * FEATURES_A_FILE
        wanted[start : start + FEATURES_A_FILE] = True
    if not wanted.any():
        wanted[0] = True  # that arrays have a shape
    parts.write("wanted", {"wanted": wanted})
    return run_again(study, parts, progress, wanted, _last_turns(out, study.settings))


def _last_turns(out: Path, settings: Settings) -> np.ndarray:
    """The last of the `RETRY_SCHEDULE` in which each feature was sampled, from the number of its draws."""
    import zarr

    draws = np.asarray(zarr.open_array(out / TREE / "scales" / "draws", mode="r")[:])
    if settings.preview:
        return np.zeros(len(draws), int)
    return np.searchsorted([len(parts) for parts in RETRY_SCHEDULE], draws // (settings.chains * settings.n_draws))
