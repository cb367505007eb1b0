"""Reported effects as finite-population contrasts of the columns of a design."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse


@dataclass(frozen=True)
class EffectGroup:
    """A reported family of effects: finite-population contrasts.

    Each level minus the mean of its mates, the levels that share its scale; levels that have their scale for themselves
    are left out. Levels without mates are reported as they are: against a reference. The effect of a scanner that is made of
    protocol factors is a *sum* of columns, which other scanners may have too.

    Attributes
    ----------
    name, dim : str
        Name of the group, and of the dimension that its levels span.
    levels : tuple of str
    columns : (level, part) int array
        The columns that a level's effect is the sum of; one, but for sums.
    contrast_group : (level,) int array
        Levels with the same number are mates; -1 has none.
    weight : (level,) array
        What the contrast is multiplied by.
    n_columns : int
        Of the design.
    """

    name: str
    dim: str
    levels: tuple[str, ...]
    columns: np.ndarray
    contrast_group: np.ndarray
    weight: np.ndarray
    n_columns: int

    @property
    def contrasts(self) -> np.ndarray:
        """Written out, (level, column): large where there are many levels."""
        same = (self.contrast_group[:, None] == self.contrast_group) & (self.contrast_group >= 0)
        rows = np.eye(len(self.levels)) - same / np.maximum(same.sum(axis=1, keepdims=True), 1)
        return self.weight[:, None] * (rows @ add_columns(self.columns, self.n_columns))

    @property
    def is_sum(self) -> bool:
        return self.columns.shape[1] > 1


def add_columns(columns: np.ndarray, n_columns: int) -> sparse.csr_array:
    """Sums of columns, (sum, part) int array, as a matrix of ones, (sum, column)."""
    at = (np.repeat(np.arange(len(columns)), columns.shape[1]), columns.reshape(-1))
    return sparse.csr_array((np.ones(columns.size), at), shape=(len(columns), n_columns))
