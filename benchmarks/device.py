"""The whole connectome on the devices of this machine: time by stage, compilation apart, and agreement with the processor.

    python benchmarks/device.py [--edges 35778] [--device gpu] [--dtype float32 float64] [--agree 2048] [--out table.md]

Every precision is fitted twice in one process, from features on disk to the finished run folder: the first fit compiles, the
second finds its programs. Then fewer features are fitted on the device and on the processor: the largest difference between
effects, in upper bounds of their Monte-Carlo standard error, and the share of features with one above 4.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from recovery import publish

from bayesharm import fit, load_dataset
from bayesharm.algorithms.devices import find_devices
from bayesharm.datasets.simulate import simulate_srpbs
from bayesharm.results.posterior import Posterior

MODEL = "traveling_and_cohort"


class Stopwatch:
    """Seconds of each stage; `fit` reports to it."""

    def __init__(self) -> None:
        self.last, self.began = "before", time.perf_counter()
        self.seconds: dict[str, float] = {}

    def __call__(self, stage: str, done: int = 0, total: int = 0, note: str = "") -> None:
        now = time.perf_counter()
        self.seconds[self.last] = self.seconds.get(self.last, 0.0) + now - self.began
        self.last, self.began = stage, now


def timed_fit(study: Path, out: Path, **settings) -> dict[str, float]:
    """Fit from disk to disk."""
    watch = Stopwatch()
    dataset = load_dataset(study / "scans.csv", study / "features.npy")
    posterior = fit(dataset, MODEL, seed=1, out=out, progress=watch, **settings)
    watch("after")
    return {
        "seconds": round(sum(watch.seconds.values()), 1),
        **{stage: round(seconds, 1) for stage, seconds in watch.seconds.items()},
        "not converged": posterior.run["n_features"] - posterior.run["n_converged"],
    }


def compare(one: Posterior, other: Posterior) -> dict[str, float]:
    """Differences between effects of two fits that draw differently, in standard errors."""
    gaps = []
    for family in one.tree["effects"].children:
        a, b = one.effect(family), other.effect(family)
        # effects are averaged over so many draws of the scales, over which their means vary less than they do themselves
        n = one.run["settings"]["effect_draws"]
        gaps.append((abs(a["mean"] - b["mean"]) / (a["sd"] * np.sqrt(2 / n))).values)
    gap = np.concatenate(gaps)
    return {
        "median difference": round(float(np.median(gap)), 3),
        "largest difference": round(float(gap.max()), 2),
        "features above 4": round(float((gap.max(0) > 4).mean()), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=int, default=35778)
    parser.add_argument("--device")
    parser.add_argument("--dtype", nargs="+", default=["float32", "float64"])
    parser.add_argument("--agree", type=int, default=2048)
    parser.add_argument("--block-size", type=int)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    settings = {"device": options.device, "block_size": options.block_size}
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        simulate_srpbs(options.edges, seed=1).write(folder / "study")
        for dtype in options.dtype:
            for programs in ("compiled on the way", "there"):
                found = timed_fit(folder / "study", folder / f"{dtype} {programs}", dtype=dtype, **settings)
                rows.append({"precision": dtype, "programs": programs} | found)
                print(rows[-1], flush=True)
    versions = ", ".join(f"{name} {version(name)}" for name in ("bayesharm", "jax", "numpyro"))
    where = f"{find_devices(options.device)}, Python {platform.python_version()}, {versions}"
    if options.agree:
        study = simulate_srpbs(options.agree, seed=2)
        dataset = load_dataset(study.scans, study.features)
        here = fit(dataset, MODEL, seed=1, device="cpu")
        for dtype in options.dtype:
            there = fit(dataset, MODEL, seed=1, dtype=dtype, **settings)
            found = compare(here, there)
            print(f"processor in float32 against {dtype} on {there.run['devices']}: {found}", flush=True)
            where += f"; {options.agree:,} edges, {dtype} against the processor: {found}"
    publish(pd.DataFrame(rows), where, options.out)


if __name__ == "__main__":
    main()
