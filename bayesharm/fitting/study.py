"""The context of a fit: dataset, design, likelihood, settings and devices, the same for all features."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bayesharm.algorithms.devices import Devices, find_devices
from bayesharm.conditional.finite_population import FamilyLevels, find_levels
from bayesharm.data.dataset import Dataset, load_dataset, sort_dataset
from bayesharm.errors import InputError, shorten
from bayesharm.fitting.settings import Settings
from bayesharm.likelihood.moments import MomentReader, Moments, Standardization
from bayesharm.likelihood.problem import Problem, make_problem
from bayesharm.model.design import Design, build_design
from bayesharm.results.posterior import Posterior

BLOCK_OF_CPU, BLOCK_OF_PREVIEW, BLOCK_OF_ACCELERATOR = 64, 128, 4096
LARGEST_VARIANCE = 1e200  # sums of products stay finite


@dataclass(frozen=True, eq=False)
class FitContext:
    """What is fitted, and how; the same for all features.

    Attributes
    ----------
    dataset : Dataset
    design : Design
    problem : Problem
    unit : float, optional
        That all features share.
    seed : int
    settings : Settings
    devices : Devices
    """

    dataset: Dataset
    design: Design
    problem: Problem
    unit: float | None
    seed: int
    settings: Settings
    devices: Devices = field(default_factory=find_devices)

    @property
    def block_size(self) -> int:
        """Features at work at once, on all devices together."""
        n_devices, n_features = len(self.devices.all), len(self.dataset.features.names)
        is_cpu = BLOCK_OF_PREVIEW if self.settings.preview else BLOCK_OF_CPU
        size = self.settings.block_size or (is_cpu if self.devices.is_cpu else BLOCK_OF_ACCELERATOR)
        return n_devices * min(size, -(-n_features // n_devices))

    @cached_property
    def _reader(self) -> MomentReader:
        return MomentReader(self.dataset.features, self.design, self.unit)

    def moments(self, features: np.ndarray) -> tuple[Moments, Standardization]:
        """Moments of some features."""
        return self._reader(features)

    def values(self, features: np.ndarray) -> np.ndarray:
        """Some features as they are, (scan of the design, feature)."""
        return self._reader.values(features)

    @cached_property
    def levels(self) -> FamilyLevels:
        """The level of every family that each scan has."""
        return find_levels(self.design)


def load_fit_context(posterior: Posterior, dataset: Dataset | None = None) -> FitContext:
    """The study that a run is of, for what needs the scans themselves.

    Parameters
    ----------
    posterior : Posterior
    dataset : Dataset, optional
        That of the fit; by default it is read from where it was then.

    Raises
    ------
    InputError
        The data are not there, or are not those of the fit.
    """
    run = posterior.run
    if run.get("learned"):
        raise InputError(
            "An adapted posterior has no data of its own.",
            got="the posterior of a fit that has learned from more scans",
            expected="the posterior of a fit",
            do="take that, or fit again with all scans",
        )
    origin: dict[str, Any] | None = run.get("data")
    if dataset is None:
        if not origin:
            raise InputError(
                "The run does not say where its data are.",
                got="a fit of data in memory",
                expected="the dataset of the fit",
                do="give it too",
            )
        absent = [origin[name] for name in ("scans", "features") if name in origin and not Path(origin[name]).exists()]
        if absent:
            raise InputError(
                "The data of the run are no longer where they were.",
                got=f"no file {shorten(absent)}",
                expected="the scans and the features of the fit",
                do="name both after the run: bayesharm … RUN SCANS FEATURES (in Python: give the dataset)",
            )
        dataset = load_dataset(**origin)
    dataset = sort_dataset(dataset)
    found = {"fingerprint": dataset.features.fingerprint(), "scans": _hash_scans(dataset)}
    if changed := [what for name, what in (("scans", "scans"), ("fingerprint", "features")) if found[name] != run[name]]:
        raise InputError(
            "These are not the data that the run was fitted to.",
            got=f"other {' and '.join(changed)}: {len(dataset.scans):,} scans × {dataset.features.n_features:,} features",
            expected=f"the {run['n_features']:,} features and the scans of the fit, unchanged",
            do="give the data of the fit, read with the same options",
        )
    devices = find_devices()
    design = build_design(dataset.scans, posterior.spec)
    with devices.in_use("float64"):
        problem, unit = make_problem(design), _unit_of(dataset, design)
        return FitContext(dataset, design, problem, unit, run["seed"], Settings(**run["settings"]), devices)


def _hash_scans(dataset: Dataset) -> str:
    return hashlib.sha256(dataset.scans.to_csv(index=False).encode()).hexdigest()


def _unit_of(dataset: Dataset, design: Design) -> float | None:
    """The unit that all features share, if they do; refuses features that do not vary over the scans in use, or too much.

    Raises
    ------
    InputError
    """
    n_features, squares = len(dataset.features.names), 0.0
    flat: list[str] = []
    extreme: list[str] = []
    for start, stop in dataset.features.blocks():
        with np.errstate(over="ignore", invalid="ignore"):  # told below
            values = dataset.features.read(start, stop)[design.rows]
            variance, varies = values.var(axis=0), values.max(axis=0) > values.min(axis=0)
        names = dataset.features.names[start:stop]
        flat += list(names[~varies])
        extreme += list(names[varies & ~((variance > 1 / LARGEST_VARIANCE) & (variance < LARGEST_VARIANCE))])
        squares += variance.sum()
    if flat or extreme:
        limits = f"a variance between {1 / LARGEST_VARIANCE:.0e} and {LARGEST_VARIANCE:.0e}"
        raise InputError(
            f"Some features {'do not vary' if flat else 'are too small or too large'} over the scans that the model uses.",
            got=shorten(flat or extreme),
            expected="at least two different values" if flat else limits,
            do="leave these features out" + ("" if flat else ", or give them in another unit"),
        )
    return float(np.sqrt(squares / n_features)) if design.spec.feature_scaling == "common" else None
