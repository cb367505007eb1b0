"""Correction of the features block by block, into arrays or files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd

from bayesharm.data.dataset import Dataset
from bayesharm.data.features import Features
from bayesharm.data.transforms import Transform, find_transform
from bayesharm.errors import InputError, check_type, shorten
from bayesharm.harmonization.corrections import Correction
from bayesharm.harmonization.feature_matching import compare_units, match_features, root_mean_square
from bayesharm.harmonization.mean_level import MeanLevel, check_gains, find_mean_level, notes_on_gains
from bayesharm.harmonization.new_data import refuse_miscoded_covariates
from bayesharm.harmonization.noise_scaling import (
    Expectation,
    NoiseMatching,
    notes_on_diagnoses,
    scale_deviations,
    unscale_deviations,
)
from bayesharm.harmonization.options import CorrectionOptions
from bayesharm.harmonization.scanner_ratios import read_ratios
from bayesharm.harmonization.selection import check_target, choose_families, interpretation_notes, place_scans
from bayesharm.harmonization.value_notes import ValueNotes
from bayesharm.harmonization.value_ranges import check_ranges, columns_of_correction
from bayesharm.progress import Progress, no_progress
from bayesharm.results.posterior import Posterior

DRAWN_BYTES = 1 << 29  # bytes of a draw that are written together; the input of these features is in memory too
STRIP_VALUES = 1 << 16  # values that are corrected together, so that they fit into a processor's cache


@dataclass(frozen=True, eq=False)
class BlockwiseCorrection:
    """A correction of all features of a dataset.

    Attributes
    ----------
    posterior : Posterior
    features : Features
        Those of the posterior, in the order of the dataset.
    scan_scanners : (scan,) array
        Name of each scan's scanner.
    families : tuple of str
        Families of effects to remove.
    correction : Correction
    level : MeanLevel, optional
        Where the gains of scanners are matched.
    noise : NoiseMatching, optional
        Where the noise of scanners is matched.
    n_draws : int
    inverse : bool
    transform : Transform, optional
        That of the fit: corrections are in its units, results in the user's.
    notes : list of str
        For the user; known before any feature is read.
    """

    posterior: Posterior
    features: Features
    scan_scanners: np.ndarray
    families: tuple[str, ...]
    correction: Correction
    level: MeanLevel | None
    noise: NoiseMatching | None
    n_draws: int
    inverse: bool
    transform: Transform | None
    notes: list[str]

    @property
    def dtype(self) -> np.dtype:
        """Floating type of the corrected values: that of the input, or float64 for integers."""
        given = self.features.dtype
        return given if given.kind == "f" else np.dtype(np.float64)

    @property
    def sd_dtype(self) -> np.dtype:
        """Floating type of the sds, at least float32: in half precision a small sd would round to 0, that is, certainty."""
        return np.promote_types(self.dtype, np.float32)

    def fill(self, mean: Any, sd: Any, draws: Any, progress: Progress = no_progress) -> list[str]:
        """Write the corrected features into arrays or files; return notes on suspect units and values.

        Parameters
        ----------
        mean : (scan, feature) array-like
        sd : (scan, feature) array-like or None
        draws : (draw, scan, feature) array-like or None
            Needed if `n_draws` is not 0. A draw is written in chunks of as many features as possible, since files take
            whole rows faster.
        progress : Progress
        """
        n_features, (scanner, scanner_names) = self.features.n_features, pd.factorize(self.scan_scanners)
        size = np.empty((len(scanner_names), n_features))
        values_seen = ValueNotes(may_be_amounts=not self.inverse and self.transform is None)
        for start, stop in self.features.blocks():
            columns, values = slice(start, stop), self.features.read(start, stop)
            size[:, columns] = root_mean_square(values, scanner)
            mean[:, columns] = corrected = next(self._corrected(values, columns, [None]))
            values_seen.add(self.features.names[columns], values, corrected)
            if sd is not None:
                sd[:, columns] = self._sd(values, corrected, columns)
            progress("harmonizing", stop, n_features, "")
        if self.n_draws:
            self._fill_draws(draws, progress)
        indices = self.correction.feature_indices
        units = compare_units(self.posterior, indices, size, self.features.names, scanner_names)
        return [*units, *values_seen.sentences()]

    def _fill_draws(self, draws: Any, progress: Progress) -> None:
        chunks = list(self.features.blocks(DRAWN_BYTES // self.dtype.itemsize))
        for k, (start, stop) in enumerate(chunks):
            note = f"part {k + 1} of {len(chunks)}" if len(chunks) > 1 else ""
            values = self.features.read(start, stop, self.dtype if self.transform is None else float)
            for draw, corrected in enumerate(self._corrected(values, slice(start, stop), range(self.n_draws))):
                draws[draw, :, start:stop] = corrected
                progress("drawing", k * self.n_draws + draw + 1, len(chunks) * self.n_draws, note)
            del values, corrected  # they would stay in memory while the next chunk is read

    def _sd(self, values: np.ndarray, corrected: np.ndarray, columns: slice) -> np.ndarray:
        """Return the sds of corrected values, in the user's units; NaN where the values are."""
        by_pattern, sd = self.correction.sd(columns), np.empty(corrected.shape)
        factors, bias = self._factors(columns), self.correction.mean_bias(columns)
        for rows in _strips(corrected):
            pattern, scanner = self.correction.correction_pattern[rows], self.correction.scanner[rows]
            strip = by_pattern[pattern]
            if self.level is not None:  # a deviation is as uncertain as the gain, in proportion
                measured = self._in_units_of_fit(corrected[rows]) if self.inverse else values[rows]
                away = measured - bias[pattern] - self.level.value[columns]
                strip = np.hypot(strip, away * self.correction.gain_sd[scanner, None])
            for factor in () if self.inverse else factors:
                strip = strip * factor[scanner]
            if self.transform is not None:
                strip = self.transform.inverse_moments(corrected[rows], strip)[1]
            sd[rows] = np.where(np.isnan(corrected[rows]), np.nan, strip)
        return sd

    def _corrected(self, values: np.ndarray, columns: slice, draws: Iterable[int | None]) -> Iterator[np.ndarray]:
        """Yield corrected values, at joint draws or (None) at the mean, one after the other in the same array.

        They are in the user's units. With a transform, those at the mean are posterior medians, and so `inverse` is exact.
        """
        corrected = np.empty(values.shape, self.dtype)
        for draw in draws:
            shift = self.correction.mean(columns) if draw is None else self.correction.draw(columns, draw)
            factors = self._factors(columns, draw)
            for rows in _strips(values):
                strip = self._correct(values[rows], columns, rows, shift, factors)
                corrected[rows] = strip if self.transform is None else self.transform.inverse(strip)
            yield corrected

    def _factors(self, columns: slice, draw: int | None = None) -> list[np.ndarray]:
        """Return the factors of deviations of each step, (scanner, feature or 1): of matching gain, and noise."""
        gain = [] if self.level is None else [self.correction.gain_factors(draw)[:, None]]
        return gain + ([] if self.noise is None else [self.noise.factors(columns, draw)])

    def _correct(
        self, values: np.ndarray, columns: slice, rows: slice, shift: np.ndarray, factors: list[np.ndarray]
    ) -> np.ndarray:
        """Correct the values of some scans, given the shift of each correction pattern and the factors of each scanner."""
        shift = shift[self.correction.correction_pattern[rows]]
        centers = [] if self.level is None else [self.level.value[columns]]
        centers += [] if self.noise is None else [self.noise.expectation(columns, rows)]
        steps = [(center, of[self.correction.scanner[rows]]) for center, of in zip(centers, factors, strict=True)]
        if self.inverse:
            for center, factor in reversed(steps):
                values = unscale_deviations(values, center, factor)
            return values + shift
        values = values - shift
        for center, factor in steps:
            values = scale_deviations(values, center, factor)
        return values

    def _in_units_of_fit(self, values: np.ndarray) -> np.ndarray:
        return values if self.transform is None else self.transform.forward(values)


def _strips(values: np.ndarray) -> list[slice]:
    step = max(1, STRIP_VALUES // max(1, values.shape[1]))
    return [slice(first, first + step) for first in range(0, len(values), step)]


def prepare_correction(
    posterior: Posterior, dataset: Dataset, options: CorrectionOptions, draws: int, seed: int
) -> BlockwiseCorrection:
    """Match the scans and features of a dataset with a posterior, and check that the options apply to both.

    Raises
    ------
    InputError
        They do not match, or an option is impossible.
    """
    check_type(posterior, Posterior, "harmonize", "load_posterior")
    check_type(dataset, Dataset, "harmonize", "load_dataset")
    for name, number in (("number of draws", draws), ("seed", seed)):
        if isinstance(number, bool) or not isinstance(number, Integral) or number < 0:
            raise InputError(f"The {name} is impossible.", got=repr(number), expected="0, 1, 2 …", do="correct it")
    transform = posterior.run.get("transform")
    dataset = dataset.transformed(transform)
    families, target = choose_families(posterior.spec, options.remove), options.target
    features, indices, feature_notes = match_features(posterior, dataset.features)
    check_target(posterior, target)
    if options.match_gain:
        check_gains(posterior)
    columns = columns_of_correction(posterior, families[0], options.match_noise)
    range_notes = check_ranges(posterior, dataset.scans, columns)
    level = find_mean_level(posterior, families[0], indices) if options.match_gain else None
    placed = place_scans(posterior, dataset.scans, families, options.new_scanners, indices, level)
    effects, scanner, population, slope, scan_notes = placed
    target_level = -1 if target is None else effects.levels.index(target)
    ratios = read_ratios(posterior, [str(name) for name in effects.levels[: effects.n_scanners]], seed)
    correction = Correction(
        effects, scanner, population, slope, target_level, ratios, options.match_gain, indices, posterior.error_pattern, seed
    )
    noise, noise_notes = None, []
    if options.match_gain:
        noise_notes += notes_on_gains(posterior, dataset.scans["scanner"])
    if options.match_noise:
        refuse_miscoded_covariates(posterior, dataset.scans)
        gain = np.exp(ratios.mean.log_gain)[scanner] * correction.gain_factors()[scanner]
        noise = NoiseMatching(posterior, correction, Expectation(posterior, dataset.scans, families, indices, target, gain))
        noise_notes += notes_on_diagnoses(posterior, dataset.scans)
        if unknown := sorted(set(dataset.scans["scanner"].astype(str)) - set(posterior.scanners)):
            noise_notes.append(
                f"Noise of scanners not in the fit: {shorten(unknown)} are taken as average scanners. Adapt the "
                "posterior to them to match their noise."
            )
    notes = [
        *filter(None, [posterior.preview_notice]),
        *interpretation_notes(posterior.spec, families, "n_observed" in posterior.tree["design"]),
        *feature_notes,
        *_convergence_notes(posterior, features, indices),
        *range_notes,
        *scan_notes,
        *noise_notes,
    ]
    return BlockwiseCorrection(
        posterior, features, dataset.scans["scanner"].to_numpy(), families, correction, level, noise, int(draws),
        options.inverse, None if transform is None else find_transform(transform), list(dict.fromkeys(notes)),
    )  # fmt: skip


def _convergence_notes(posterior: Posterior, features: Features, feature_indices: np.ndarray) -> list[str]:
    converged = posterior.scales["converged"].values[feature_indices]
    if converged.all():
        return []
    names = features.names[~converged]
    return [
        f"Some features have not converged ({names.size} of {features.n_features}): {shorten(names)}. They are harmonized "
        "nevertheless; do not rely on them."
    ]
