"""Notes on harmonized values: codes among them that are no measurements, and amounts that became negative."""

from __future__ import annotations

import numpy as np
from scipy.stats import skew

from bayesharm.data.screening.coding import find_codes
from bayesharm.data.screening.words import MISSING_CODES
from bayesharm.errors import shorten

LEAST_SCANS = 20  # fewer do not tell that a feature cannot be negative
SKEWED = 4.0  # skewness, in standard errors of that of normal values, from which values crowd above 0


def ends_at_zero(values: np.ndarray) -> bool:
    """Return whether values that are not negative are amounts, which cannot be: they reach 0, or crowd above it.

    Symmetric values near 0, such as correlations, may be positive by chance; that a few become negative is normal.
    """
    return bool(np.nanmin(values) == 0 or skew(values, nan_policy="omit") > SKEWED * np.sqrt(6 / np.isfinite(values).sum()))


class ValueNotes:
    """Counts suspect values, block by block.

    Parameters
    ----------
    may_be_amounts : bool
        Whether values may be amounts, which cannot be negative: not correlations, nor values to which effects are added.
    """

    def __init__(self, may_be_amounts: bool):
        self.may_be_amounts = may_be_amounts
        self.n_values = self.n_negative = 0
        self.negative: list[str] = []
        self.coded: list[str] = []
        self.codes: set[float] = set()

    def add(self, names: np.ndarray, before: np.ndarray, after: np.ndarray) -> None:
        """Look at a block of features, (scan, feature), before and after the correction."""
        if len(before) < LEAST_SCANS:
            return
        low, high = np.fmin.reduce(before), np.fmax.reduce(before)
        self.n_values += before.size
        amounts = np.flatnonzero(low >= 0)
        if amounts.size and self.may_be_amounts:
            count = np.count_nonzero(after[:, amounts] < 0, axis=0)
            for k, n in zip(amounts[count > 0], count[count > 0], strict=True):
                if ends_at_zero(before[:, k]):
                    self.n_negative += int(n)
                    self.negative.append(str(names[k]))
        for k in np.flatnonzero(np.isin(low, MISSING_CODES) | np.isin(high, MISSING_CODES)):
            if (is_code := find_codes(before[:, k])[0]).any():
                self.coded.append(str(names[k]))
                self.codes |= set(before[is_code, k].tolist())

    def sentences(self) -> list[str]:
        """Return the notes."""
        notes = []
        if self.negative:
            notes.append(
                f"{self.n_negative:,} of {self.n_values:,} harmonized values, in {len(self.negative):,} features "
                f"({shorten(self.negative, 3)}), are negative, where no value was negative before. Fit logarithms or square "
                "roots of counts and of other amounts near 0."
            )
        if self.coded:
            notes.append(
                f"{len(self.coded):,} features ({shorten(self.coded, 3)}) have values that are usual codes for 'missing' "
                f"({', '.join(f'{code:g}' for code in sorted(self.codes))}); they were corrected like measurements."
            )
        return notes
