"""Reported effects: finite-population contrasts of the columns of a design."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse


@dataclass(frozen=True)
class EffectGroup:
    """Reported effects of one family: finite-population contrasts.

    The reported effect of a level is its effect minus the mean over its contrast group, the levels that share its scale.
    A level that shares its scale with no other level is left out. Effects against a reference have no contrast group and are
    reported as they are. With protocol factors, the effect of a scanner is a *sum* of columns, and scanners share columns.

    Attributes
    ----------
    name, dim : str
        Name of the group, and of the dimension of its levels.
    levels : tuple of str
        Printed labels, unique within the group.
    columns : (level, component) int array
        The columns whose sum is the effect of a level; one column except for sums.
    contrast_group : (level,) int array
        Levels with the same number are one contrast group; -1 is none.
    weight : (level,) array
        Factor of the contrast.
    n_columns : int
        Number of columns of the design.
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
        """Contrasts as a dense matrix, (level, column); large with many levels."""
        same = (self.contrast_group[:, None] == self.contrast_group) & (self.contrast_group >= 0)
        rows = np.eye(len(self.levels)) - same / np.maximum(same.sum(axis=1, keepdims=True), 1)
        return self.weight[:, None] * (rows @ add_columns(self.columns, self.n_columns))

    @property
    def is_sum(self) -> bool:
        """Whether an effect is the sum of several columns."""
        return self.columns.shape[1] > 1


def add_columns(columns: np.ndarray, n_columns: int) -> sparse.csr_array:
    """Return sums of columns, (sum, component) int array, as a matrix of ones, (sum, column)."""
    at = (np.repeat(np.arange(len(columns)), columns.shape[1]), columns.reshape(-1))
    return sparse.csr_array((np.ones(columns.size), at), shape=(len(columns), n_columns))
