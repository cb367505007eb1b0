"""Take effects of scanners out of scans, with what is uncertain of them, in the user's own units."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd

from bayesharm.algorithms.random_streams import Stage
from bayesharm.data.dataset import Dataset
from bayesharm.data.features import Features
from bayesharm.errors import BayesharmError, InputError, check_type, shorten
from bayesharm.harmonization.corrections import Correction
from bayesharm.harmonization.feature_matching import compare_units, match_features, root_mean_square
from bayesharm.harmonization.noise_scaling import Expectation, noise_factors
from bayesharm.harmonization.selection import (
    NewScanners,
    adapt_to_new_scanners,
    choose_families,
    find_target,
    interpretation_notes,
    place_scans,
)
from bayesharm.io.writers import Output, create_matrices
from bayesharm.progress import Progress, no_progress
from bayesharm.results.posterior import Posterior

DRAWN_BYTES = 1 << 29  # of a draw that are written together; as many of the input are in memory
STRIP_VALUES = 1 << 16  # that are corrected together, within a processor's cache


@dataclass(frozen=True, eq=False)
class Harmonized:
    """Scans without the effect of their scanner; rows and columns in the order of the input.

    Attributes
    ----------
    scan_id : (scan,) str array
    names : (feature,) str array
    mean : (scan, feature) array
        Input minus the posterior mean of the effect, in the input's units and floating type (integers become
        float64). What was missing is missing.
    sd : (scan, feature) array
        Posterior sd of the effect that was subtracted, same units; missing where the input is.
    removed : str
        The families of effects that were removed.
    notes : tuple of str
        What the user should know: features left out or not converged, what else was removed with the effect.
    draws : (draw, scan, feature) array, optional
        Joint posterior draws of the harmonized scans: within a draw, scans of a scanner have lost the same.
    """

    scan_id: np.ndarray
    names: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    removed: str
    notes: tuple[str, ...]
    draws: np.ndarray | None = None

    def to_frame(self) -> pd.DataFrame:
        """`mean` as a table, scans by `scan_id` × features."""
        return pd.DataFrame(self.mean, index=pd.Index(self.scan_id, name="scan_id"), columns=self.names)


def harmonize(
    posterior: Posterior,
    dataset: Dataset,
    *,
    remove: str | Sequence[str] | None = None,
    target: str | None = None,
    match_noise: bool = False,
    draws: int = 0,
    new_scanners: NewScanners = "error",
    inverse: bool = False,
    seed: int = 0,
) -> Harmonized:
    """Subtract from every scan the centered effect of its scanner.

    Works for the scans of the fit, and for new scans and people on some or all of its scanners; nobody's diagnosis needs to
    be known.

    Parameters
    ----------
    posterior : Posterior
    dataset : Dataset
        From :func:`bayesharm.load_dataset`, for new scans with ``check="apply"``.
    remove : str or sequence of str, optional
        A family of effects by scanner, by default what the model is made to remove (`measurement`; in `cohort`, `site`);
        and `sampling` with it, to remove also how the people of a site differ, which is real.
    target : str, optional
        The scanner that scans are brought to: they become as if it had measured them, and its own stay as they are. By
        default the average of all scanners of the fit.
    match_noise : bool
        Also equalize the noise of scanners: what a person deviates from what is expected of the diagnosis, covariates and
        population is multiplied so that its variance is the same on every scanner. The expectation is taken as known, and
        needs the covariates of the fit.
    draws : int
        How many joint posterior draws to give.
    new_scanners : {'error', 'prior', 'adapt'}
        What to do about scanners (and populations) that the fit has not seen: refuse them; take them as average ones, with
        the uncertainty of the prior; or learn what they do from their scans first, as :func:`bayesharm.adapt` does. Nothing
        is learned from scans on known scanners then, which may have been in the fit.
    inverse : bool
        Add the effects that this function would subtract.
    seed : int
        Of draws.

    Warns
    -----
    UserWarning
        For each of `Harmonized.notes`.

    Raises
    ------
    InputError
        A scanner is unknown to the posterior, features of the fit are absent, or an option is impossible.
    """
    job = _prepare(posterior, dataset, remove, target, match_noise, draws, new_scanners, inverse, seed)
    shape = (len(dataset.scans), job.features.n_features)
    mean, sd = np.empty(shape, job.dtype), np.empty(shape, job.sd_dtype)
    every = np.empty((draws, *shape), job.dtype) if draws else None
    job.fill(mean, sd, every)
    for note in job.notes:
        warnings.warn(note, stacklevel=2)
    scan_id = dataset.scans["scan_id"].to_numpy(str)
    return Harmonized(scan_id, job.features.names, mean, sd, job.removed, tuple(job.notes), every)


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
    match_noise: bool = False,
    new_scanners: NewScanners = "error",
    inverse: bool = False,
    seed: int = 0,
    progress: Progress = no_progress,
) -> tuple[str, ...]:
    """The same as :func:`harmonize`, block by block into files: large data are never in memory as a whole.

    Parameters
    ----------
    posterior, dataset
        As in :func:`harmonize`.
    mean, sd : path
        .npy, .zarr, .csv, .tsv or .parquet; replaced if they exist. Beside what comes from a preview lies
        ``<file>.PREVIEW.txt``, which says so.
    draws_file : path
        Where `draws` joint draws go; tables have a row for each scan of each draw.
    draws, remove, target, match_noise, new_scanners, inverse, seed
        As in :func:`harmonize`.
    progress : callable, optional
        Receives (stage, done, total, note), as in :func:`fit`: features, draws, rows of tables.

    Returns
    -------
    tuple of str
        Notes as in `Harmonized`; no warnings are issued.

    Raises
    ------
    InputError
        As in :func:`harmonize`, or a file has an unknown format, no folder or the name of an input; nothing is written then.
    BayesharmError
        The files could not be written.
    """
    if (draws_file is None) != (draws == 0):
        raise InputError(
            "Draws and their file belong together.",
            got=f"draws={draws!r}, draws_file={draws_file!r}",
            expected="both, or neither",
            do="give the other too",
        )
    job = _prepare(posterior, dataset, remove, target, match_noise, draws, new_scanners, inverse, seed)
    wanted = ((mean, job.dtype, None), (sd, job.sd_dtype, None), (draws_file, job.dtype, draws))
    outputs = {
        name: Output(path, dataset.scans["scan_id"].to_numpy(str), job.features.names, dtype, n, posterior.preview_notice)
        for name, (path, dtype, n) in zip(("mean", "sd", "draws"), wanted, strict=True)
        if path is not None
    }
    try:
        with create_matrices(*outputs.values(), inputs=dataset.files, progress=progress) as arrays:
            files = dict(zip(outputs, arrays, strict=True))
            job.fill(files["mean"], files.get("sd"), files.get("draws"), progress)
    except OSError as error:
        raise BayesharmError(
            "The harmonized features could not be written.",
            got=str(error),
            do="make room, or choose another place; nothing was left behind",
        ) from error
    return tuple(job.notes)


@dataclass(eq=False)
class _Job:
    """What is done to which features.

    Attributes
    ----------
    posterior : Posterior
    features : Features
    correction : Correction
    expectation : Expectation, optional
        Where noise is equalized.
    n_draws : int
    inverse : bool
    removed : str
    notes : list of str
        Grows while features are read.
    """

    posterior: Posterior
    features: Features
    correction: Correction
    expectation: Expectation | None
    n_draws: int
    inverse: bool
    removed: str
    scanner: np.ndarray
    scanners: Sequence[str]
    notes: list[str] = field(default_factory=list)

    @property
    def dtype(self) -> np.dtype:
        given = self.features.dtype
        return given if given.kind == "f" else np.dtype(np.float64)

    @property
    def sd_dtype(self) -> np.dtype:
        """In half precision a small sd would round to 0, which is to say: certain."""
        return np.promote_types(self.dtype, np.float32)

    def fill(self, mean: Any, sd: Any, draws: Any, progress: Progress = no_progress) -> None:
        """Write means, and sds and draws where there is something that takes them, some columns at a time.

        Of a draw many columns are written together, best all of them: a file takes whole rows faster.
        """
        n_features = self.features.n_features
        size = np.empty((len(self.scanners), n_features))
        for start, stop in self.features.blocks():
            part, values = slice(start, stop), self.features.read(start, stop)
            size[:, part] = root_mean_square(values, self.scanner)
            mean[:, part] = next(self._corrected(values, part))
            if sd is not None:
                sd[:, part] = self._spread(values, part)
            progress("harmonizing", stop, n_features, "")
        self.notes += compare_units(self.posterior, self.correction.at, size, self.features.names, self.scanners)
        parts = list(self.features.blocks(DRAWN_BYTES // self.dtype.itemsize)) if self.n_draws else []
        for k, (start, stop) in enumerate(parts):
            note = f"part {k + 1} of {len(parts)}" if len(parts) > 1 else ""
            for number, drawn in enumerate(self._drawn(slice(start, stop))):
                draws[number, :, start:stop] = drawn
                progress("drawing", k * self.n_draws + number + 1, len(parts) * self.n_draws, note)
            del drawn  # its array would stay while the next part is read

    def _drawn(self, part: slice) -> Iterator[np.ndarray]:
        """Joint draws, one after the other in the same array."""
        yield from self._corrected(self.features.read(part.start, part.stop, self.dtype), part, range(self.n_draws))

    def _spread(self, values: np.ndarray, part: slice) -> np.ndarray:
        """Sds of harmonized values."""
        sd = self.correction.sd(part)[self.correction.kind]
        if self.expectation is not None and not self.inverse:
            sd = sd * self._factor(part)[self.correction.scanner]
        return np.where(np.isnan(values), np.nan, sd)

    def _corrected(self, values: np.ndarray, part: slice, numbers: Iterable[int | None] = (None,)) -> Iterator[np.ndarray]:
        """Harmonized values: the mean, or joint draws of some numbers, one after the other in the same array."""
        found = np.empty(values.shape, self.dtype)
        step = max(1, STRIP_VALUES // max(1, values.shape[1]))
        strips = [slice(first, first + step) for first in range(0, len(values), step)]
        for number in numbers:
            shift = self.correction.mean(part) if number is None else self.correction.draw(part, number)
            factor = self._factor(part, number)
            for rows in strips:
                own = shift[self.correction.kind[rows]]
                if self.expectation is None:
                    found[rows] = values[rows] + own if self.inverse else values[rows] - own
                else:
                    by, expected = factor[self.correction.scanner[rows]], self.expectation(part, rows)
                    found[rows] = self._rescaled(values[rows], own, by, expected)
            yield found

    def _rescaled(self, values: np.ndarray, shift: np.ndarray, factor: np.ndarray, expected: np.ndarray) -> np.ndarray:
        if self.inverse:
            return np.where(factor == 1, values, (values - (1 - factor) * expected) / factor) + shift
        away = values - shift
        return np.where(factor == 1, away, factor * away + (1 - factor) * expected)

    @cached_property
    def _log_ratios(self) -> np.ndarray:
        """Draws of log lambda, (draw, scanner), in random order: the first ones serve however many are asked for."""
        names = self.correction.effects.levels[: self.correction.effects.n_scanners]
        ratio = self.posterior.tree["hyper"].to_dataset()["noise_ratio"].reindex(scanner=names, fill_value=1.0)
        logs = np.log(ratio.values).reshape(-1, len(names))
        return logs[np.random.default_rng([self.correction.seed, Stage.HARMONIZE]).permutation(len(logs))]

    def _factor(self, part: slice, draw: int | None = None) -> np.ndarray:
        """Factors of scanners, (scanner, feature): at the mean of log lambda, or at one of its draws."""
        if self.expectation is None:
            return np.ones((0, 0))
        logs = self._log_ratios
        chosen = logs.mean(0) if draw is None else logs[draw % len(logs)]
        return noise_factors(self.posterior, chosen, self.correction.target, self.correction.at[part])


def _prepare(
    posterior: Posterior,
    dataset: Dataset,
    remove: str | Sequence[str] | None,
    target: str | None,
    match_noise: bool,
    draws: int,
    new_scanners: NewScanners,
    inverse: bool,
    seed: int,
) -> _Job:
    """Check that the posterior speaks about these scans and features, and line both up."""
    check_type(posterior, Posterior, "harmonize", "load_posterior")
    check_type(dataset, Dataset, "harmonize", "load_dataset")
    for name, number in (("number of draws", draws), ("seed", seed)):
        if isinstance(number, bool) or not isinstance(number, Integral) or number < 0:
            raise InputError(f"The {name} is impossible.", got=repr(number), expected="0, 1, 2 …", do="correct it")
    families = choose_families(posterior.spec, remove)
    features, at, left_out = match_features(posterior, dataset.features)
    posterior, learned = adapt_to_new_scanners(posterior, dataset, new_scanners, inverse=inverse)
    notes = [*filter(None, [posterior.preview_notice]), *interpretation_notes(posterior.spec, families), *left_out, *learned]
    goal = find_target(posterior, target)
    effects, scanner, population, about = place_scans(posterior, dataset.scans, families, new_scanners, at)
    converged = posterior.tree["scales"].to_dataset()["converged"].values[at]
    if not converged.all():
        names = features.names[~converged]
        notes.append(
            f"Features that have not converged ({names.size} of {features.n_features}) are "
            f"harmonized all the same, but do not rely on them: {shorten(names)}."
        )
    place = -1 if goal is None else effects.levels.index(goal)
    correction = Correction(effects, scanner, population, place, at, seed)
    expectation = Expectation(posterior, dataset.scans, families, at, goal) if match_noise else None
    notes = list(dict.fromkeys([*notes, *about]))
    code, names = pd.factorize(dataset.scans["scanner"])
    return _Job(posterior, features, correction, expectation, int(draws), inverse, ", ".join(families), code, names, notes)
