"""Noise classes: scans whose noise variance is the same function of the scales."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from bayesharm.data.scans import name_columns
from bayesharm.errors import InputError, shorten
from bayesharm.model.spec import ModelSpec

STEP = 1.15  # ratio of the relative noise variances of neighboring classes of single-scan participants
MAX_ERROR = STEP**0.5 - 1  # the largest relative error of the noise variance of such a scan
LEAST_COUNT = 10  # whole numbers from which on they are taken for counts of volumes


class NoiseClasses(NamedTuple):
    """Noise classes of a study; attributes as in :class:`bayesharm.model.design.Design`."""

    scan_class: np.ndarray
    class_scanner: np.ndarray
    class_single_scan: np.ndarray
    class_variance: np.ndarray
    scan_weight: np.ndarray


def classify_noise(scanner: np.ndarray, is_single: np.ndarray, relative_noise: np.ndarray) -> NoiseClasses:
    """Classify scans by scanner, by whether the participant has a single scan, and by relative noise variance.

    The scans of repeat-scanned participants keep their own relative noise variances, as weights. Those of participants with
    a single scan are rounded to powers of `STEP`, since the participant's effect is part of their noise.

    Parameters
    ----------
    scanner : (scan,) int array
    is_single : (scan,) bool array
    relative_noise : (scan,) array
        Relative noise variances.
    """
    step = np.where(is_single, _steps(relative_noise), 0)
    classes, scan_class = np.unique(np.stack([scanner, is_single, step]), axis=1, return_inverse=True)
    class_scanner, single, class_step = classes
    weight = np.where(is_single, 1.0, 1 / relative_noise)
    return NoiseClasses(scan_class.reshape(-1), class_scanner, single.astype(bool), STEP ** class_step.astype(float), weight)


def round_noise(relative_noise: np.ndarray) -> np.ndarray:
    """Round relative noise variances to powers of `STEP`, those of the noise classes."""
    return STEP ** _steps(relative_noise).astype(float)


def _steps(relative_noise: np.ndarray) -> np.ndarray:
    return np.round(np.log(relative_noise) / np.log(STEP)).astype(int)


def notes_on_rounding(is_single: np.ndarray, relative_noise: np.ndarray, spec: ModelSpec) -> list[str]:
    """Say by how much the rounding of relative noise variances changes those of participants with a single scan."""
    single = relative_noise[is_single]
    if np.allclose(single, round_noise(single), rtol=1e-3):
        return []
    return [
        f"The noise variances of people scanned once ({spec.noise_weight}) are rounded to powers of {STEP}: each is off by "
        f"at most {MAX_ERROR:.0%}."
    ]


def read_relative_noise(used: pd.DataFrame, spec: ModelSpec) -> np.ndarray:
    """Read the relative noise variance of each scan in a model, (scan,); 1 where the model does not know them.

    Raises
    ------
    InputError
        The column is absent, is not numeric, has values that are missing or not above 0, or counts.
    """
    name = spec.noise_weight
    if not name:
        return np.ones(len(used))
    if name not in used:
        raise InputError(
            f"The scans table has no column {name!r} of noise weights.",
            got=name_columns(used),
            expected="a column with the relative noise variance of each scan",
            do="correct --noise-weight, or leave it out",
        )
    values = pd.to_numeric(used[name], errors="coerce").to_numpy(float)
    if (bad := ~(np.isfinite(values) & (values > 0))).any():
        raise InputError(
            f"The column {name!r} of noise weights has values that are not variances.",
            got=shorten(f"{value} of {scan}" for value, scan in zip(used[name][bad], used.scan_id[bad], strict=True)),
            expected="a number above 0 for every scan: its noise variance relative to other scans, such as 1 / volumes",
            do="correct or complete the column, or leave these scans out",
        )
    if (values >= LEAST_COUNT).all() and (values == np.round(values)).all():
        raise InputError(
            f"The column {name!r} of noise weights seems to count volumes, but more volumes mean less noise.",
            got=f"whole numbers from {values.min():,.0f} to {values.max():,.0f}",
            expected="the noise variance of each scan relative to other scans, such as 1 / volumes",
            do=f"add a column with 1 / {name}; if these are variances, divide them by any number: only their ratios count",
        )
    return values
