"""A run killed at many moments of its life, each attempt a fork of one process that has imported everything.

``python killed.py STUDY FOLDER RECORDED KILLS SEED`` prints what was found, as JSON. What takes a minute to trace and
to compile, the samplers, is not run: their results, recorded in a run of the same study, are handed over after
some time. All else is done as in any fit: reading, parts, labels, files.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import zarr  # noqa: F401 -- once, not in every fork

import bayesharm
from bayesharm.fitting import scheduler
from bayesharm.fitting.block_sampler import BlockSampler
from bayesharm.fitting.fit import fit as fit_model
from bayesharm.inference.hyperparameters import Hyperparameters
from bayesharm.results import schema
from bayesharm.results.checkpoints import Checkpoints

FEATURES_PER_FILE = 32
SETTINGS = {"block_size": 2, "hyper_features": 32}  # so that 96 features are three parts
SECONDS_OF_HYPER, SECONDS_OF_A_BLOCK = 0.3, 0.03


def contents(folder, without=""):
    paths = [path for path in folder.rglob("*") if path.is_file() and path.relative_to(folder).parts[0] != without]
    return {path.relative_to(folder): path.read_bytes() for path in paths}


def stage(out):
    """How far the run has come, by what lies in its folder."""
    parts = [path.name.split(".")[0] for path in (out / "unfinished").glob("*.npz")]
    if (out / "run.json").exists():
        return "finished"
    if (out / "posterior.zarr").exists() or any((out / "unfinished").glob(".*/posterior.zarr")):
        return "writing"
    return "features" if len(parts) > 1 else "hyperparameters" if parts else "nothing"


def hand_over(recorded):
    """Put what was recorded in the place of the samplers."""

    def learn(*args):
        time.sleep(SECONDS_OF_HYPER)
        arrays = {name[6:]: array for name, array in recorded.items() if name.startswith("hyper-")}
        return Hyperparameters.from_arrays(arrays), None

    def sample(self, block, retry=0):
        time.sleep(SECONDS_OF_A_BLOCK)
        start = f"{retry}-{block[0]}-"
        return {name.removeprefix(start): array for name, array in recorded.items() if name.startswith(start)}

    scheduler._learn, scheduler._compile, BlockSampler.sample = learn, lambda *_: None, sample
    schema.FEATURES_PER_FILE = FEATURES_PER_FILE


def main(study, folder, n_kills, seed):
    dataset = bayesharm.load_dataset(study / "scans.csv", study / "features.npy")

    def start(out):
        if child := os.fork():
            return child
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell may have changed
        try:
            fit_model(dataset, "traveling", seed=1, out=out, **SETTINGS)
            os._exit(0)
        except KeyboardInterrupt:
            os._exit(130)
        finally:
            os._exit(1)

    started = time.monotonic()
    assert os.waitpid(start(folder / "whole"), 0)[1] == 0
    length, whole = time.monotonic() - started, contents(folder / "whole")
    found = {"length": length, "killed": [], "stopped": [], "same": True, "damaged": []}
    draw, out = random.Random(seed), folder / "run"

    def attempt(moment, how=signal.SIGKILL):
        """Start or go on, and kill it at some moment unless it has ended."""
        child, started = start(out), time.monotonic()
        while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() - started < moment:
            time.sleep(0.001)
        if ended[0]:
            assert ended[1] == 0, "a fit has failed"
            return
        os.kill(child, how)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == 0:  # it ended a moment before
            return
        found["killed" if code == -signal.SIGKILL else "stopped"].append(stage(out))
        if (out / "unfinished").exists():
            found["damaged"] += Checkpoints(out / "unfinished").damaged

    n_lives = n_kills // 2  # each run is killed twice: once in each part of its life, and again when it goes on
    while len(found["killed"]) < n_kills:
        gone = (len(found["killed"]) // 2 % n_lives + draw.random()) / n_lives * length
        attempt(gone)
        if not (out / "run.json").exists():
            attempt(draw.uniform(0, length - min(gone, length / 2)))
        if not (out / "run.json").exists():
            attempt(60)
        found["same"] &= contents(out, without="unfinished") == whole  # perhaps killed on its way out
        shutil.rmtree(out)
    attempt(length / 2, signal.SIGINT)
    attempt(60)
    found["same"] &= contents(out) == whole
    return found


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message=".*fork.*")
    with np.load(sys.argv[3]) as arrays:
        hand_over(dict(arrays))
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[4]), int(sys.argv[5]))))
