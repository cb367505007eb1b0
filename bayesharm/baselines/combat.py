"""ComBat from three libraries, which apply the fitted correction to new scans in different ways."""

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
    correctable_scanners,
    no_bias,
    read_all,
    read_finite,
    scanners_with_variance,
)
from bayesharm.baselines.encoding import Encoding, indicators, learn_encoding
from bayesharm.baselines.external_process import ComparatorError, run_script, start_folder, write_arrays
from bayesharm.baselines.linear import REPEATED
from bayesharm.data.dataset import Dataset
from bayesharm.errors import listed

Library = Literal["neuroCombat", "neuroHarmonize", "combatlearn"]
AVERAGE = (
    "For new scans it ignores covariates and treats every person as the average training person (neuroCombatFromTraining)."
)


@dataclass(frozen=True, eq=False)
class FittedCombat:
    """A fitted ComBat, with its state in a temporary folder (see `bayesharm.baselines.Fitted`).

    Attributes
    ----------
    bias : (scanner, feature) DataFrame
        Estimated additive effect gamma in the units of the features. ComBat also rescales residuals, so that the correction
        of a scan equals gamma only if its residuals are 0.
    notes : tuple of str
        As in `Fitted`.
    library : str
        Library that did the fit.
    training_scanners : tuple of str
        Scanners of the fit; their positions are the scanner numbers in the files.
    encoding : Encoding
        Covariates as columns.
    folder : TemporaryDirectory
        State of the library; deleted with this object.
    timeout : float
        Limit of a process, in seconds.
    """

    bias: pd.DataFrame
    notes: tuple[str, ...]
    library: Library
    training_scanners: tuple[str, ...]
    encoding: Encoding
    folder: TemporaryDirectory[str]
    timeout: float

    @property
    def scanners(self) -> tuple[str, ...]:
        """Scanners that can be corrected."""
        return correctable_scanners(self.bias)

    def apply(self, dataset: Dataset) -> Applied:
        """Correct scans with the library; see `Applied.notes` for scans that it could not correct."""
        check_features(dataset, self.bias.columns)
        values, scanner = read_all(dataset), dataset.scans["scanner"]
        corrected, notes = np.full_like(values, np.nan), []
        factor = np.full_like(values, np.nan)
        covariates = self.encoding.encode(dataset.scans)
        is_known = scanner.isin(self.scanners).to_numpy()
        is_complete = np.isfinite(covariates).all(axis=1) | (self.library == "neuroCombat")
        if (incomplete := is_known & ~is_complete).any():
            notes.append(
                f"{incomplete.sum()} scans lack a covariate, or have a category that is absent from the training scans."
            )
        is_used, is_finite = is_known & is_complete, np.isfinite(values)
        if is_used.any():
            codes = np.tile(pd.Index(self.training_scanners).get_indexer(scanner[is_used]), 2)
            used_values = np.where(is_finite, values, 0.0)[is_used]
            # The correction is linear in the values: correcting them twice, once shifted by one sd, gives its factor.
            step = used_values.std(0) + (used_values.std(0) == 0)
            arrays = {"values": np.concatenate([used_values, used_values + step]), "scanner": codes,
                      "covariates": np.tile(covariates[is_used], (2, 1))}  # fmt: skip
            try:
                first, second = np.split(self._run(arrays), 2)
                corrected[is_used], factor[is_used] = first, (second - first) / step
            except ComparatorError as error:
                notes.append(f"{self.library} failed to correct these scans: {error}.")
            else:
                if n_failed := int((~np.isfinite(corrected) & is_finite)[is_used].any(axis=1).sum()):
                    notes.append(f"{self.library} returned NaN for {n_failed} scans.")
        corrected[~is_finite] = np.nan
        return Applied(corrected, factor=factor, notes=tuple(notes))

    def _run(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
        """Correct arrays in a process of the library."""
        folder = Path(self.folder.name)
        write_arrays(folder / "new.npz", arrays)
        run_script("apply", self.library, folder, folder / "new.npz", folder / "corrected.npz", timeout=self.timeout)
        with np.load(folder / "corrected.npz") as file:
            return file["values"]


def fit_combat(train: Dataset, covariates: Sequence[str] = (), *, library: Library, timeout: float = 3600.0) -> FittedCombat:
    """Fit ComBat: parametric empirical Bayes of location and scale, with the scanner as batch and covariates preserved.

    Scanners with a single scan are not used: none of the libraries can estimate their variance.

    Parameters
    ----------
    train : Dataset
        Training scans, complete.
    covariates : sequence of str
        Columns of the scans table whose effects are preserved.
    library : {'neuroCombat', 'neuroHarmonize', 'combatlearn'}
        Library that does the fit.
    timeout : float
        Limit of a process of the library, in seconds.

    Returns
    -------
    FittedCombat
        If the library fails, `bias` is NaN and `notes` has the message.
    """
    values, notes = read_finite(train), [REPEATED]
    if library == "neuroCombat":
        notes.append(AVERAGE)
    scanners, single = scanners_with_variance(train)
    notes += single
    is_used = train.scans["scanner"].isin(scanners).to_numpy()
    scans, folder = train.scans[is_used], start_folder()
    encoding = learn_encoding(scans, covariates, indicators(scans["scanner"], scanners))
    notes += encoding.notes
    codes = pd.Index(scanners).get_indexer(scans["scanner"])
    arrays = {"values": values[is_used], "scanner": codes, "covariates": encoding.encode(scans)}
    bias = no_bias(train)
    try:
        write_arrays(Path(folder.name, "train.npz"), arrays)
        run_script("fit", library, Path(folder.name), timeout=timeout)
        with np.load(Path(folder.name, "fitted.npz")) as file:
            effects = np.where(np.isfinite(file["bias"]), file["bias"], np.nan)
            notes += [f"{library} warns: {text}" for text in file["warnings"]]
        bias = bias_table(train, effects, scanners)
        if failed := [name for name in scanners if bias.loc[name].isna().any()]:
            notes.append(f"{library} returned NaN for scans of {listed(failed)}.")
    except ComparatorError as error:
        notes.append(f"{library} failed: {error}.")
    return FittedCombat(bias, tuple(notes), library, tuple(scanners), encoding, folder, timeout)
