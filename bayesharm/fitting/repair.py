"""Repair of a finished run: damaged files are computed again, and must get the same bytes as before."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bayesharm.errors import RunFolderError, shorten
from bayesharm.fitting.assembly import assemble_posterior
from bayesharm.fitting.block_sampler import RETRY_SCHEDULE
from bayesharm.fitting.context import FitContext
from bayesharm.fitting.scheduler import fit_features, refit_features, samples_together
from bayesharm.fitting.settings import Settings
from bayesharm.inference.hyperparameters import Hyperparameters
from bayesharm.io.atomic import digests, find_damage
from bayesharm.io.zarr_stores import check_store
from bayesharm.progress import Progress
from bayesharm.results.checkpoints import TREE, UNFINISHED, Arrays, Checkpoints, compare_manifests, open_checkpoints
from bayesharm.results.record import read_record
from bayesharm.results.schema import SCALES, SCAN_WEIGHTS, features_of_file

N_DRAWS = f"{SCALES.path}/n_draws"  # the array that tells which retries a feature needed
# depend on the typical scales of all features, or on the weights of the scans in all of them
OF_ALL_FEATURES = ("/contraction/c/", "/correlation/c/", f"{SCAN_WEIGHTS.path}/")


def repair_run(out: Path, context: FitContext, manifest: dict[str, Any], progress: Progress) -> None:
    """Mend the tree of a finished run, so that it holds the same bytes as before.

    The hyperparameters are learned again; then the features with a damaged file are sampled again, together with the other
    features of their blocks.

    Parameters
    ----------
    out : Path
    context : FitContext
    manifest : dict
        The run must have been started with it.
    progress : Progress

    Raises
    ------
    RunFolderError
        The run was started with another manifest, another process is at work on it, or a file gets other bytes than before:
        then nothing has changed.
    """
    run = read_record(out)
    before = {name: run.get("fingerprint" if name == "features" else name) for name in manifest}
    compare_manifests(
        f"{out} holds a run that was started with other inputs",
        before,
        json.loads(json.dumps(manifest)),
        "give the inputs of that run, or compute all of it again with --overwrite",
    )
    if not find_damage(out / TREE, run["files"]):
        progress("repair", 0, 0, "no file is damaged")
        if (out / UNFINISHED).exists():  # left by a process that was killed at its end
            with open_checkpoints(out, manifest):
                pass
        return
    with open_checkpoints(out, manifest) as checkpoints:
        damaged = find_damage(out / TREE, run["files"])
        progress("repair", 0, len(damaged), f"damaged: {shorten(damaged)}")
        hyper, results = _compute(out, context, checkpoints, progress, damaged)
        repaired = assemble_posterior(context.dataset, context.design, hyper, results, manifest)
        with repaired.write_aside(out) as tree:
            lost, computed = [name for name in damaged if name in run["files"]], digests(tree)
            different = [name for name in lost if computed.get(name) != run["files"][name]]
            if not different:
                _replace_files(out / TREE, tree, damaged, lost)
    if different:
        raise RunFolderError(
            f"{out} could not be repaired, and is as it was before.",
            got=f"other bytes than in the run for {shorten(different)}",
            expected="the same bytes, which the same machine and libraries give",
            do="repair it on the machine that made it, or compute all of it again with --overwrite",
        )
    progress("repair", len(damaged), len(damaged), "all files are as they were")


def _replace_files(tree: Path, repaired: Path, damaged: Sequence[str], lost: Sequence[str]) -> None:
    """Put repaired files into the tree, and remove files that are not of the run."""
    for name in damaged:
        if name in lost:
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (repaired / name).replace(tree / name)
        else:
            (tree / name).unlink()


def _compute(
    out: Path, context: FitContext, checkpoints: Checkpoints, progress: Progress, damaged: Sequence[str]
) -> tuple[Hyperparameters, Arrays]:
    """Compute the hyperparameters, and at least the features with a damaged file."""
    n_features = context.n_features
    needs_everything = (
        samples_together(context)
        or any(name.startswith(f"{N_DRAWS}/") for name in damaged)  # the blocks of the retries are unknown
        or any(part in name for name in damaged for part in OF_ALL_FEATURES)
    )
    if needs_everything:
        return fit_features(context, checkpoints, progress)
    wanted = np.zeros(n_features, bool)
    if kept := checkpoints.read("wanted"):  # of an interrupted repair, whose checkpoints serve
        wanted = kept["wanted"]
    for features in filter(None, map(features_of_file, damaged)):
        wanted[features] = True
    if not wanted.any():
        wanted[0] = True  # so that arrays have a shape
    checkpoints.write("wanted", {"wanted": wanted})
    return refit_features(context, checkpoints, progress, wanted, _last_retries(out, context.settings))


def _last_retries(out: Path, settings: Settings) -> np.ndarray:
    """Find the last retry of each feature, a position in `RETRY_SCHEDULE`, from its number of draws; (feature,)."""
    import zarr

    try:
        check_store(out / TREE / N_DRAWS, allow_links=False)
    except ValueError as error:
        raise RunFolderError(
            f"{out} cannot be repaired.",
            got=str(error),
            expected="the files that bayesharm wrote",
            do="compute all of it again with --overwrite",
        ) from None
    draws = np.asarray(zarr.open_array(out / TREE / N_DRAWS, mode="r")[:])
    if settings.preview:
        return np.zeros(len(draws), int)
    return np.searchsorted([len(runs) for runs in RETRY_SCHEDULE], draws // (settings.chains * settings.n_draws))
