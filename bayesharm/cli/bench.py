"""The command ``bench``: time the steps of a small study on this machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import TYPE_CHECKING, Any

from bayesharm.cli import options as opt
from bayesharm.cli.output import show_result
from bayesharm.cli.progress_bar import ProgressBar, peak_memory
from bayesharm.progress import Progress

if TYPE_CHECKING:
    from rich.table import Table

CONNECTOME = 35_778  # edges between 268 regions
MODEL = "traveling_and_cohort"
FEATURE_STEP = "fit: features"  # the part of `fit` whose time grows with the number of features


def bench(edges: opt.EdgesOption = 1000, quiet: opt.QuietOption = False) -> None:
    """Time the workflow on this machine, and estimate the time for a whole connectome.

    Example:

    $ bayesharm bench --edges 1000
    """
    from bayesharm.algorithms.programs import cache_programs

    cache_programs()
    with ProgressBar(quiet) as progress:
        result = run_benchmark(edges, progress)
    show_result(result)


@dataclass(frozen=True)
class Benchmark:
    """Times of the steps of a small study.

    Attributes
    ----------
    n_features : int
    seconds : dict of float
        Step -> seconds. `fit: features` is the part of `fit` that grows with the number of features.
    machine : str
        Description of the machine and the library versions.
    """

    n_features: int
    seconds: dict[str, float]
    machine: str

    @property
    def connectome_seconds(self) -> float:
        """Estimated time to read and fit 35,778 edges of the same scans, in seconds."""
        growing = self.seconds[FEATURE_STEP] + self.seconds["read"]
        return self.seconds["fit"] - self.seconds[FEATURE_STEP] + growing * CONNECTOME / self.n_features

    def __rich__(self) -> Table:
        from bayesharm.results.console import make_table

        table = make_table(
            f"1,216 scans, {self.n_features:,} edges",
            f"{self.machine}. 'fit: features' is the part of fit that grows with the number of features. The rest of fit "
            "estimates the hyperparameters and compiles programs that are not yet in the cache. At these rates, reading "
            f"and fitting the {CONNECTOME:,} edges of a whole connectome takes about "
            f"{self.connectome_seconds / 60:.1f} minutes.",
            ["step", "seconds", "edges per second"],
        )
        for step, seconds in self.seconds.items():
            table.add_row(step, f"{seconds:.2f}", f"{self.n_features / seconds:,.0f}")
        return table

    def __str__(self) -> str:
        from bayesharm.results.console import as_text

        return as_text(self)


def run_benchmark(n_features: int, progress: Progress) -> Benchmark:
    """Simulate, fit, preview and harmonize a study of 1,216 scans in a temporary folder, and time each step.

    Parameters
    ----------
    n_features : int
    progress : Progress
    """
    from bayesharm.data.dataset import load_dataset
    from bayesharm.datasets.simulate import simulate_srpbs
    from bayesharm.fitting.fit import fit
    from bayesharm.harmonization.harmonize import harmonize_to_files

    seconds: dict[str, float] = {}

    def time_step(step: str, work: Callable[[], Any]) -> Any:
        start = monotonic()
        result = work()
        seconds[step] = monotonic() - start
        return result

    feature_timer = _FeatureTimer(progress)
    with TemporaryDirectory() as name:
        folder = Path(name)
        study = time_step("simulate", lambda: simulate_srpbs(n_features, seed=1))
        study.write(folder)
        dataset = time_step("read", lambda: load_dataset(folder / "scans.csv", folder / "features.npy"))
        posterior = time_step("fit", lambda: fit(dataset, MODEL, seed=1, out=folder / "run", progress=feature_timer))
        seconds[FEATURE_STEP] = feature_timer.seconds
        time_step("preview", lambda: fit(dataset, MODEL, seed=1, preview=True, progress=progress))
        mean, sd = folder / "mean.npy", folder / "sd.npy"
        time_step("harmonize", lambda: harmonize_to_files(posterior, dataset, mean, sd))
    return Benchmark(n_features, seconds, _describe_machine())


class _FeatureTimer:
    """Passes progress on, and adds up the time of the stages that go through the features.

    Attributes
    ----------
    seconds : float
    """

    def __init__(self, progress: Progress):
        from bayesharm.fitting.scheduler import STAGES

        self.progress, self.stages = progress, STAGES
        self.seconds = self.start = 0.0
        self.running_stage = ""

    def __call__(self, stage: str, done: int, total: int, note: str, /) -> None:
        now = monotonic()
        if stage != self.running_stage and stage in self.stages and not done:
            self.running_stage, self.start = stage, now
        elif stage == self.running_stage and done == total:
            self.running_stage, self.seconds = "", self.seconds + now - self.start
        self.progress(stage, done, total, note)


def _describe_machine() -> str:
    libraries = ", ".join(f"{package} {version(package)}" for package in ("bayesharm", "jax", "numpyro"))
    memory = f", peak memory {peak}" if (peak := peak_memory()) else ""
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {libraries}{memory}"
