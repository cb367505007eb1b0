"""ComBat by three libraries, each with its own way of applying what it has learned to new scans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import pandas as pd

from bayesharm.baselines.base import (
    Applied,
    bias_table,
    check_features,
    corrected,
    no_bias,
    read_all,
    read_finite,
    scanner_names,
)
from bayesharm.baselines.encoding import Encoding, indicators, learn_encoding
from bayesharm.baselines.external_process import ComparatorFailed, run_script, start_folder, write_arrays
from bayesharm.baselines.linear import REPEATED
from bayesharm.data.dataset import Dataset
from bayesharm.errors import listed

Library = Literal["neuroCombat", "neuroHarmonize", "combatlearn"]
AVERAGE = (
    "Applied to new scans it does not use their covariates: it takes everybody for the average person of the training scans "
    "(neuroCombatFromTraining)."
)


@dataclass(frozen=True, eq=False)
class FittedCombat:
    """A fitted ComBat, whose state is in files until it is gone (see `bayesharm.baselines.Fitted`).

    Attributes
    ----------
    bias : (scanner, feature) DataFrame
        Estimated gamma in the features' units: what a scan of the average person (all residuals 0) differs by. What a scan
        loses also depends on its residuals, which are multiplied.
    notes : tuple of str
    library : str
    learned : tuple of str
        Scanners by their number in the files.
    encoding : Encoding
    folder : TemporaryDirectory
    timeout : float
        Seconds.
    """

    bias: pd.DataFrame
    notes: tuple[str, ...]
    library: Library
    learned: tuple[str, ...]
    encoding: Encoding
    folder: TemporaryDirectory[str]
    timeout: float

    @property
    def scanners(self) -> tuple[str, ...]:
        return corrected(self.bias)

    def apply(self, dataset: Dataset) -> Applied:
        check_features(dataset, self.bias.columns)
        values, scanner = read_all(dataset), dataset.scans["scanner"]
        found, notes = np.full_like(values, np.nan), []
        factor = np.full_like(values, np.nan)
        covariates = self.encoding.encode(dataset.scans)
        known = scanner.isin(self.scanners).to_numpy()
        complete = np.isfinite(covariates).all(axis=1) | (self.library == "neuroCombat")
        if (lacking := known & ~complete).any():
            notes.append(f"{lacking.sum()} scans lack a covariate, or have a category that no training scan has.")
        used, there = known & complete, np.isfinite(values)
        if used.any():
            codes = np.tile(pd.Index(self.learned).get_indexer(scanner[used]), 2)
            given = np.where(there, values, 0.0)[used]
            step = given.std(0) + (given.std(0) == 0)  # what is learned is linear in the values: twice tells by what factor
            arrays = {"values": np.concatenate([given, given + step]), "scanner": codes,
                      "covariates": np.tile(covariates[used], (2, 1))}  # fmt: skip
            try:
                once, again = np.split(self._run(arrays), 2)
                found[used], factor[used] = once, (again - once) / step
            except ComparatorFailed as error:
                notes.append(f"{self.library} failed on the scans to correct: {error}.")
            else:
                if lost := int((~np.isfinite(found) & there)[used].any(axis=1).sum()):
                    notes.append(f"{self.library} gave NaN for {lost} scans.")
        found[~there] = np.nan
        return Applied(found, factor=factor, notes=tuple(notes))

    def _run(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
        folder = Path(self.folder.name)
        write_arrays(folder / "new.npz", arrays)
        run_script("apply", self.library, folder, folder / "new.npz", folder / "corrected.npz", timeout=self.timeout)
        with np.load(folder / "corrected.npz") as file:
            return file["values"]


def fit_combat(train: Dataset, covariates: Sequence[str] = (), *, library: Library, timeout: float = 3600.0) -> FittedCombat:
    """ComBat, parametric empirical Bayes, location and scale; the scanner is the batch, effects of covariates are kept.

    Scanners with a single scan are left out of the fit: none of the libraries can estimate their variance.

    Parameters
    ----------
    train : Dataset
    covariates : sequence of str
    library : {'neuroCombat', 'neuroHarmonize', 'combatlearn'}
    timeout : float
        Seconds that a process of the library may take.
    """
    values, notes = read_finite(train), [REPEATED]
    if library == "neuroCombat":
        notes.append(AVERAGE)
    counts = train.scans["scanner"].value_counts()
    scanners = [name for name in scanner_names(train) if counts[name] > 1]
    if single := [name for name in scanner_names(train) if counts[name] == 1]:
        notes.append(f"{listed(single)}: one scan, from which it cannot estimate a variance; not used and not corrected.")
    used = train.scans["scanner"].isin(scanners).to_numpy()
    scans, folder = train.scans[used], start_folder()
    encoding = learn_encoding(scans, covariates, indicators(scans["scanner"], scanners))
    notes += encoding.notes
    codes = pd.Index(scanners).get_indexer(scans["scanner"])
    arrays = {"values": values[used], "scanner": codes, "covariates": encoding.encode(scans)}
    bias = no_bias(train)
    try:
        write_arrays(Path(folder.name, "train.npz"), arrays)
        run_script("fit", library, Path(folder.name), timeout=timeout)
        with np.load(Path(folder.name, "fitted.npz")) as file:
            effects = np.where(np.isfinite(file["bias"]), file["bias"], np.nan)
            notes += [f"{library} says: {text}" for text in file["warnings"]]
        bias = bias_table(train, effects, scanners)
        if lost := [name for name in scanners if bias.loc[name].isna().any()]:
            notes.append(f"{library} gave NaN for scans of {listed(lost)}.")
    except ComparatorFailed as error:
        notes.append(f"{library} failed: {error}.")
    return FittedCombat(bias, tuple(notes), library, tuple(scanners), encoding, folder, timeout)
