"""The context of a fit: dataset, design, likelihood, settings and devices, the same for all features."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from bayesharm.algorithms.devices import Devices, find_devices
from bayesharm.conditional.finite_population import FamilyLevels, find_levels
from bayesharm.data.dataset import Dataset, load_dataset
from bayesharm.errors import InputError, shorten
from bayesharm.fitting.settings import Settings
from bayesharm.inference.effective_features import Residualization, residualize
from bayesharm.inference.error_patterns import make_pattern_map, make_patterns
from bayesharm.likelihood.moments import MomentReader, Moments, Standardization
from bayesharm.likelihood.problem import Problem, make_problem
from bayesharm.likelihood.scan_weights import ScanTerms, list_scan_terms
from bayesharm.model.design import FIXED, Design, build_design
from bayesharm.results.posterior import Posterior
from bayesharm.results.requirements import require_gaussian

# Features that a device samples together: 64 fit the caches of a processor, 4,096 keep an accelerator busy.
CPU_BLOCK, PREVIEW_BLOCK, ACCELERATOR_BLOCK = 64, 128, 4096
N_NOISE_FEATURES = 128  # features from which the noise sds of the scans are estimated, for error patterns
MIN_REPEATS = 3  # repeated scans that an incomplete feature needs, to say that they are copies
SMALLEST_NOISE = 1e-10  # mean square change between scans of a person, over the variance of the feature
LARGEST_VARIANCE = 1e200  # squared units of a feature: sums of products stay finite


@dataclass(frozen=True, eq=False)
class FitContext:
    """Everything that the fits of all features have in common.

    Attributes
    ----------
    dataset : Dataset
    design : Design
    problem : Problem
    unit : float, optional
        The common divisor of the features; None if each is divided by its own sd.
    seed : int
    settings : Settings
    devices : Devices
    lacks_values : bool
        Whether features lack scans of the design.
    """

    dataset: Dataset
    design: Design
    problem: Problem
    unit: float | None
    seed: int
    settings: Settings
    devices: Devices = field(default_factory=find_devices)
    lacks_values: bool = False

    @property
    def n_features(self) -> int:
        """Number of features."""
        return len(self.dataset.features.names)

    @property
    def has_missing(self) -> bool:
        """Whether each feature has sums of products of its own, because it lacks scans or its scans have weights."""
        return self.problem.likelihood.has_missing

    @property
    def block_size(self) -> int:
        """Number of features in a block, on all devices together."""
        n_devices = len(self.devices.all)
        default = ACCELERATOR_BLOCK
        if self.devices.is_cpu:
            default = PREVIEW_BLOCK if self.settings.preview else CPU_BLOCK
        return n_devices * min(self.settings.block_size or default, -(-self.n_features // n_devices))

    def moments(self, features: np.ndarray) -> tuple[Moments, Standardization]:
        """Compute the moments of features by their indices."""
        return self._reader(features)

    def values(self, features: np.ndarray) -> np.ndarray:
        """Read features by their indices, in their own units; (scan of the design, feature), NaN where missing."""
        return self._reader.values(features)

    def standardized(self, features: np.ndarray) -> np.ndarray:
        """Read features by their indices, standardized; (scan of the design, feature)."""
        _, standardization = self.moments(features)
        return (self.values(features) - standardization.center) / standardization.sd

    def error_patterns(self, standardized: np.ndarray) -> np.ndarray:
        """Return the error patterns, (entry, feature), of standardized features, (scan of the design, feature)."""
        return make_patterns(self._pattern_map, self._residualization.fill(standardized))

    @property
    def residual_dof(self) -> int:
        """Degrees of freedom of the residuals that error patterns are made of."""
        return self._residualization.dof

    @cached_property
    def _pattern_map(self) -> np.ndarray | None:
        return make_pattern_map(self._residualization, self.design.n_scans, self.seed)

    @cached_property
    def _residualization(self) -> Residualization:
        first = np.arange(min(self.n_features, N_NOISE_FEATURES))  # neighbors are read together
        return residualize(self.design, self.dataset.scans, self.values(first))

    @cached_property
    def levels(self) -> FamilyLevels:
        """The level of each family that each scan has."""
        return find_levels(self.design)

    @cached_property
    def scan_terms(self) -> ScanTerms:
        """What each scan adds to weighted sums."""
        return list_scan_terms(self.design)

    @cached_property
    def _reader(self) -> MomentReader:
        return MomentReader(self.dataset.features, self.design, self.unit, self.has_missing)


def make_fit_context(
    dataset: Dataset, design: Design, seed: int, settings: Settings, devices: Devices | None = None
) -> FitContext:
    """Lay out a sorted dataset and its design for the inference.

    Features with too few observed scans for the model are dropped from the dataset, with the reason.

    Raises
    ------
    InputError
        Features do not vary over the scans in use, or their variance is too small or too large.
    """
    devices = devices or find_devices()
    dataset, unit, lacks_values = _check_features(dataset, design)
    with devices.in_use("float64"):
        problem = make_problem(design, has_missing=lacks_values or design.spec.has_tails)
    return FitContext(dataset, design, problem, unit, seed, settings, devices, lacks_values)


def load_fit_context(posterior: Posterior, dataset: Dataset | None = None) -> FitContext:
    """Restore the context of a finished fit, for analyses that need the scans themselves.

    Parameters
    ----------
    posterior : Posterior
    dataset : Dataset, optional
        The dataset of the fit; by default it is read from the files of the fit.

    Raises
    ------
    InputError
        The data are missing, or are not those of the fit.
    """
    run = posterior.run
    require_gaussian(posterior, "This analysis needs a run with Gaussian noise.")
    if run.get("learned"):
        raise InputError(
            "An adapted posterior has no data of its own.",
            got="a posterior that was adapted to more scans",
            expected="the posterior of a fit",
            do="use the posterior of the fit, or fit again with all scans",
        )
    dataset = (_load_origin(run.get("data")) if dataset is None else dataset).transformed(run.get("transform")).sorted()
    current = {"scans": hash_scans(dataset), "fingerprint": dataset.features.fingerprint()}
    words = {"scans": "scans", "fingerprint": "features"}
    if changed := [words[name] for name, value in current.items() if value != run[name]]:
        raise InputError(
            "These are not the data of the fit.",
            got=f"other {' and '.join(changed)}: {len(dataset.scans):,} scans × {dataset.features.n_features:,} features",
            expected=f"the {run['n_features']:,} features and the scans of the fit, unchanged",
            do="give the data of the fit, read with the same options",
        )
    design = build_design(dataset.scans, posterior.spec)
    return make_fit_context(dataset, design, run["seed"], Settings(**run["settings"]))


def _load_origin(origin: dict[str, Any] | None) -> Dataset:
    """Read the data of a fit from its files."""
    if not origin:
        raise InputError(
            "The run does not say where its data are.",
            got="a fit of data in memory",
            expected="the dataset of the fit",
            do="give the dataset too",
        )
    absent = [origin[name] for name in ("scans", "features") if name in origin and not Path(origin[name]).exists()]
    if absent:
        raise InputError(
            "The data of the run have been moved or removed.",
            got=f"no file {shorten(absent)}",
            expected="the scans and the features of the fit",
            do="put them back; or name both after the run, where a command takes them: bayesharm … RUN SCANS FEATURES (in "
            "Python: give the dataset)",
        )
    return load_dataset(**origin)


def hash_scans(dataset: Dataset) -> str:
    """Compute the sha256 of the table of scans."""
    return hashlib.sha256(dataset.scans.to_csv(index=False).encode()).hexdigest()


def _check_features(dataset: Dataset, design: Design) -> tuple[Dataset, float | None, bool]:
    """Look at all features over the scans in use.

    Returns
    -------
    dataset : Dataset
        Without the features that have too few observed scans.
    unit : float or None
        The common divisor of the features, their root mean square sd, if the model asks for one.
    has_missing : bool
        Whether features lack scans.

    Raises
    ------
    InputError
        Features do not vary over the scans in use or between scans of a person, or their variance is too small or too large.
    """
    squares, n_missing = 0.0, 0
    constant: list[str] = []
    copied: list[str] = []
    extreme: list[str] = []
    too_few: dict[str, str] = {}
    repeats = _repeats(design)
    n_needed = 2 + int((design.column_scale == FIXED).sum())  # one more than the mean and the covariates, and one to vary
    for start, stop in dataset.features.blocks():
        with np.errstate(over="ignore", invalid="ignore"):  # reported below
            values = dataset.features.read(start, stop)[design.rows]
            observed = ~np.isnan(values)
            n_observed, is_complete = observed.sum(axis=0), observed.all(axis=0)
            values, size = np.where(observed, values, 0.0), np.maximum(n_observed, 1)
            deviation = np.where(observed, values - values.sum(axis=0) / size, 0.0)
            variance = (deviation**2).sum(axis=0) / size
            low = np.min(values, axis=0, where=observed, initial=np.inf)
            high = np.max(values, axis=0, where=observed, initial=-np.inf)
            varies = high > low
            change = _change_within_people(repeats, deviation, observed, is_complete, variance)
            is_scarce = ~is_complete & ((n_observed < n_needed) | ~varies)
            is_extreme = ~((variance > 1 / LARGEST_VARIANCE) & (variance < LARGEST_VARIANCE))
            is_copied = varies & ~is_extreme & ~is_scarce & (change < SMALLEST_NOISE * variance)
        names = dataset.features.names[start:stop]
        for k in np.flatnonzero(is_scarce):
            too_few[str(names[k])] = f"observed in {n_observed[k]} of {len(design.rows)} scans in use, too few for the model"
        constant += list(names[~varies & ~is_scarce])
        extreme += list(names[varies & is_extreme & ~is_scarce])
        copied += list(names[is_copied])
        squares += variance[~is_scarce].sum()
        n_missing += int((~observed)[:, ~is_scarce].sum())
    limits = f"a variance between {1 / LARGEST_VARIANCE:.0e} and {LARGEST_VARIANCE:.0e}"
    leave_out = "leave these features out"
    for found, problem, expected, advice in (
        (constant, "do not vary over the scans in use", "at least two different values", leave_out),
        (copied, "are the same in all scans of a person", "values that differ between scans, if only by noise", leave_out),
        (extreme, "are too small or too large over the scans in use", limits, f"{leave_out}, or give them in another unit"),
    ):
        if found:
            raise InputError(f"Some features {problem}.", got=shorten(found), expected=expected, do=advice)
    if too_few:
        kept = [name for name in dataset.features.names if name not in too_few]
        if not kept:
            raise InputError(
                "Every feature lacks too many of the scans in use.",
                got=f"{shorten(too_few)}; the first is {next(iter(too_few.values()))}",
                expected=f"features with at least {n_needed} different observed scans",
                do="complete the features, or choose a model that uses more scans",
            )
        dropped = {**dataset.dropped, **too_few}
        dataset = replace(dataset, features=dataset.features.take(kept), dropped=dropped)
    unit = float(np.sqrt(squares / dataset.features.n_features)) if design.spec.feature_scaling == "common" else None
    return dataset, unit, n_missing > 0


def _repeats(design: Design) -> sparse.csr_array:
    """Scans of each participant with several, (participant, scan of the design)."""
    person = pd.factorize(np.asarray(design.participants))[0]
    scans = np.flatnonzero(np.bincount(person)[person] > 1)
    people, row = np.unique(person[scans], return_inverse=True)
    return sparse.csr_array((np.ones(len(scans)), (row, scans)), shape=(len(people), len(person)))


def _change_within_people(
    repeats: sparse.csr_array, deviation: np.ndarray, observed: np.ndarray, is_complete: np.ndarray, variance: np.ndarray
) -> np.ndarray:
    """Mean square difference between two observed scans of a person, (feature,); the variance where too few are left."""
    n = repeats @ observed.astype(float)
    squares = repeats @ deviation**2 - (repeats @ deviation) ** 2 / np.maximum(n, 1)
    dof = np.maximum(n - 1, 0).sum(axis=0)
    is_known = dof >= np.where(is_complete, 1, MIN_REPEATS)
    return np.where(is_known, 2 * np.maximum(squares, 0).sum(axis=0) / np.maximum(dof, 1), variance)
