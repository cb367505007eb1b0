"""Remove the effects of scanners from scans, with the uncertainty of the correction, in the units of the input."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from bayesharm.data.dataset import Dataset
from bayesharm.errors import BayesharmError, InputError
from bayesharm.harmonization.blockwise import prepare_correction
from bayesharm.harmonization.options import CorrectionOptions, NewScanners
from bayesharm.io.writers import Output, create_matrices
from bayesharm.notebook import first_values, make_card, one_line
from bayesharm.progress import Progress, no_progress
from bayesharm.results.posterior import Posterior
from bayesharm.results.run_folder import refuse_inside_run


@dataclass(frozen=True, eq=False, repr=False)
class Harmonized:
    """Harmonized scans; rows in the order of the scans table, columns in that of the features.

    Attributes
    ----------
    scan_id : (scan,) str array
    names : (feature,) str array
    mean : (scan, feature) array
        Input minus the posterior mean of the removed effects, in the input's units and floating type (integers become
        float64). Missing values stay missing. If the fit transformed the features, as Fisher z, the subtraction is in z, and
        the values are tanh of the result: the posterior medians of r. The posterior means differ from them by at most
        0.385 times the variance of z.
    sd : (scan, feature) array
        Posterior sd of the harmonized values, in the same units (with a transform, by quadrature); NaN where the input is.
    removed : str
        The families of effects that were removed.
    notes : tuple of str
        Remarks for the user: features left out or not converged, real differences that were removed with the effects.
    draws : (draw, scan, feature) array, optional
        Joint posterior draws of the harmonized scans: within a draw, all scans of a scanner get the same correction.
    """

    scan_id: np.ndarray
    names: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    removed: str
    notes: tuple[str, ...]
    draws: np.ndarray | None = None

    def __repr__(self) -> str:
        return one_line("Harmonized", self._counts())

    def _counts(self) -> dict[str, int]:
        n_draws = 0 if self.draws is None else len(self.draws)
        return {"scans": self.mean.shape[0], "features": self.mean.shape[1]} | ({"draws": n_draws} if n_draws else {})

    def _repr_html_(self) -> str:
        table = first_values("Mean ± posterior sd", self.mean, self.sd, self.scan_id, self.names)
        facts = self._counts() | {"removed": self.removed}
        return make_card("Harmonized scans", facts, table, folded={"Remarks": self.notes})

    def to_frame(self) -> pd.DataFrame:
        """Return `mean` as a table: scans, by `scan_id`, × features."""
        return pd.DataFrame(self.mean, index=pd.Index(self.scan_id, name="scan_id"), columns=self.names)


def harmonize(
    posterior: Posterior,
    dataset: Dataset,
    *,
    remove: str | Sequence[str] | None = None,
    target: str | None = None,
    match_gain: bool = False,
    match_noise: bool = False,
    draws: int = 0,
    new_scanners: NewScanners = "error",
    inverse: bool = False,
    seed: int = 0,
) -> Harmonized:
    """Subtract the effect of its scanner, relative to the average scanner, from every scan.

    The scans may be those of the fit, or new scans of known or new people on the scanners of the fit. Diagnoses are not
    needed, except to remove sampling bias.

    Parameters
    ----------
    posterior : Posterior
        From :func:`bayesharm.fit`, or from :func:`bayesharm.adapt` for scanners that are not in the fit.
    dataset : Dataset
        From :func:`bayesharm.load_dataset`; for new scans, with ``check="apply"``.
    remove : str or sequence of str, optional
        A family of effects by scanner; by default `measurement` (in the model `cohort`, `site`). ``"measurement,sampling"``
        also removes sampling bias: real differences between the people recruited at different sites.
    target : str, optional
        A scanner of the posterior: all scans become as if it had measured them, and its own scans do not change. By
        default, the average scanner.
    match_gain : bool
        Also match the gains of scanners. A scan's deviation from the mean level of the feature is divided by the gain of
        its scanner, so that people differ as much on every scanner. Needs a fit with ``gain="scanner"``. Where no traveler
        was scanned, the gain is not known, and 1.
    match_noise : bool
        Also match the noise of scanners. A scan's deviation from its expected value, given its diagnosis, covariates and
        population, is rescaled so that its variance is the same on every scanner (of people with trajectories, at their
        first scan). Needs the covariates of the fit. The uncertainty of the expected value is not propagated.
    draws : int
        Number of joint posterior draws to return.
    new_scanners : {'error', 'prior'}
        How to treat scanners and populations that are not in the posterior: refuse them, or take them as average ones,
        with the uncertainty of the prior. To learn their effects, call :func:`bayesharm.adapt` first.
    inverse : bool
        Add the effects instead of subtracting them: the inverse of the same call without `inverse`.
    seed : int
        Seed of the draws.

    Warns
    -----
    UserWarning
        For each of `Harmonized.notes`.

    Raises
    ------
    InputError
        A scanner is not in the posterior, features of the fit are absent, a column on which biases depend is far outside of
        its range in the fit, or an option is impossible.
    """
    options = CorrectionOptions(remove, target, match_gain, match_noise, inverse, new_scanners)
    correction = prepare_correction(posterior, dataset, options, draws, seed)
    shape = (len(dataset.scans), correction.features.n_features)
    mean, sd = np.empty(shape, correction.dtype), np.empty(shape, correction.sd_dtype)
    drawn = np.empty((draws, *shape), correction.dtype) if draws else None
    notes = [*correction.notes, *correction.fill(mean, sd, drawn)]
    for note in notes:
        warnings.warn(note, stacklevel=2)
    scan_id, removed = dataset.scans["scan_id"].to_numpy(str), ", ".join(correction.families)
    return Harmonized(scan_id, correction.features.names, mean, sd, removed, tuple(notes), drawn)


def harmonize_to_files(
    posterior: Posterior,
    dataset: Dataset,
    mean: str | os.PathLike[str],
    sd: str | os.PathLike[str] | None = None,
    draws_file: str | os.PathLike[str] | None = None,
    *,
    draws: int = 0,
    remove: str | Sequence[str] | None = None,
    target: str | None = None,
    match_gain: bool = False,
    match_noise: bool = False,
    new_scanners: NewScanners = "error",
    inverse: bool = False,
    seed: int = 0,
    progress: Progress = no_progress,
) -> tuple[str, ...]:
    """Harmonize as :func:`harmonize` does, block by block into files, for data larger than memory.

    Parameters
    ----------
    posterior, dataset
        As in :func:`harmonize`.
    mean, sd : path
        .npy, .zarr, .csv, .tsv or .parquet; existing files are replaced. The results of a preview are marked by a file
        ``<file>.PREVIEW.txt`` beside each of them.
    draws_file : path
        File of the `draws` joint draws; tables have a row for each scan of each draw.
    draws, remove, target, match_gain, match_noise, new_scanners, inverse, seed
        As in :func:`harmonize`.
    progress : callable, optional
        Receives (stage, done, total, note), as in :func:`bayesharm.fit`: features, draws, rows of tables.

    Returns
    -------
    tuple of str
        Notes as in `Harmonized`; no warnings are issued.

    Raises
    ------
    InputError
        As in :func:`harmonize`; or a file has an unknown format, no folder or the name of an input. Nothing is written then.
    RunFolderError
        A file would be in a run folder. Nothing is written then.
    BayesharmError
        The files could not be written.
    """
    if (draws_file is None) != (draws == 0):
        raise InputError(
            "The number of draws and their file must be given together.",
            got=f"draws={draws!r}, draws_file={draws_file!r}",
            expected="both, or neither",
            do="give the other too",
        )
    for output in [Path(path) for path in (mean, sd, draws_file) if path is not None]:
        refuse_inside_run(output.parent, output)
    options = CorrectionOptions(remove, target, match_gain, match_noise, inverse, new_scanners)
    correction = prepare_correction(posterior, dataset, options, draws, seed)
    scan_id, names = dataset.scans["scan_id"].to_numpy(str), correction.features.names
    files = (("mean", mean, correction.dtype, None), ("sd", sd, correction.sd_dtype, None),
             ("draws", draws_file, correction.dtype, draws))  # fmt: skip
    outputs = {
        name: Output(path, scan_id, names, dtype, n_draws, posterior.preview_notice)
        for name, path, dtype, n_draws in files
        if path is not None
    }
    try:
        with create_matrices(*outputs.values(), inputs=dataset.files, progress=progress) as matrices:
            arrays = dict(zip(outputs, matrices, strict=True))
            unit_notes = correction.fill(arrays["mean"], arrays.get("sd"), arrays.get("draws"), progress)
    except OSError as error:
        raise BayesharmError(
            "The harmonized features could not be written.",
            got=str(error),
            do="free some disk space, or choose another folder; no incomplete files were left behind",
        ) from error
    return (*correction.notes, *unit_notes)
