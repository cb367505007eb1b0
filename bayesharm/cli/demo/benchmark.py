"""How long the work takes on this machine: a small version of the benchmarks, and what it says of larger studies."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import TYPE_CHECKING

from bayesharm.cli.progress_bar import peak_memory
from bayesharm.data.dataset import load_dataset
from bayesharm.datasets.simulate import simulate_srpbs
from bayesharm.fitting.fit import fit
from bayesharm.fitting.scheduler import STAGES
from bayesharm.harmonization.harmonize import harmonize_to_files
from bayesharm.progress import Progress
from bayesharm.results.console import as_text, make_table

if TYPE_CHECKING:
    from rich.table import Table

CONNECTOME = 35_778  # edges between 268 regions


@dataclass(frozen=True)
class Bench:
    """Times of the small benchmark.

    Attributes
    ----------
    n_features : int
    seconds : dict of float
        Of each step; `fit: features` is the part of `fit` that grows with the number of features.
    machine : str
    """

    n_features: int
    seconds: dict[str, float]
    machine: str

    @property
    def connectome(self) -> float:
        """Seconds that fitting 35,778 edges of as many scans would take."""
        grows = self.seconds["fit: features"] + self.seconds["read"]
        return self.seconds["fit"] - self.seconds["fit: features"] + grows * CONNECTOME / self.n_features

    def __rich__(self) -> Table:
        table = make_table(
            f"1,216 scans, {self.n_features:,} edges",
            f"{self.machine}. Fit, features: the part of fit that grows with their number; the rest is what they share and "
            f"compilation where no programs are kept. At these rates the {CONNECTOME:,} edges of a whole connectome "
            f"take about {self.connectome / 60:.1f} minutes.",
            ["step", "seconds", "edges per second"],
        )
        for step, seconds in self.seconds.items():
            table.add_row(step, f"{seconds:.2f}", f"{self.n_features / seconds:,.0f}")
        return table

    def __str__(self) -> str:
        return as_text(self)


def run_bench(n_features: int, progress: Progress) -> Bench:
    """Simulate a study of 1,216 scans, fit it, preview it and harmonize it, in a temporary folder.

    Parameters
    ----------
    n_features : int
    progress : callable
        As in :func:`bayesharm.fit`.
    """
    seconds: dict[str, float] = {}
    last, of_features, began = "", 0.0, 0.0

    def watch(stage: str, done: int, total: int, note: str) -> None:
        """How long the stages take that go through the features."""
        nonlocal last, of_features, began
        now = monotonic()
        if stage != last and stage in STAGES and not done:
            last, began = stage, now
        elif stage == last and done == total:
            of_features, last = of_features + now - began, ""
        progress(stage, done, total, note)

    def timed(step: str, work: Callable):
        started = monotonic()
        result = work()
        seconds[step] = monotonic() - started
        return result

    with TemporaryDirectory() as name:
        folder = Path(name)
        study = timed("simulate", lambda: simulate_srpbs(n_features, seed=1))
        study.write(folder)
        dataset = timed("read", lambda: load_dataset(folder / "scans.csv", folder / "features.npy"))
        model = "traveling_and_cohort"
        posterior = timed("fit", lambda: fit(dataset, model, seed=1, out=folder / "run", progress=watch))
        seconds["fit: features"] = of_features
        timed("preview", lambda: fit(dataset, model, seed=1, preview=True, progress=progress))
        mean, sd = folder / "mean.npy", folder / "sd.npy"
        timed("harmonize", lambda: harmonize_to_files(posterior, dataset, mean, sd))
    libraries = ", ".join(f"{package} {version(package)}" for package in ("bayesharm", "jax", "numpyro"))
    memory = f", peak memory {peak}" if (peak := peak_memory()) else ""
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {libraries}{memory}"
    return Bench(n_features, seconds, machine)
