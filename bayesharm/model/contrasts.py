"""Reported effects: finite-population contrasts of the columns of a design."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from bayesharm.model.labels import Column
from bayesharm.model.spec import ModelSpec
from bayesharm.model.terms import Term


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


def effect_groups(
    terms: Sequence[Term],
    place: np.ndarray,
    column_scale: np.ndarray,
    of_scanner: np.ndarray,
    scanners: tuple[str, ...],
    spec: ModelSpec,
) -> tuple[EffectGroup, ...]:
    """Build the reported contrasts from the final place of each column, and from its scale in the order of the terms."""
    groups, n_columns, n_scanners, start = [], len(place), len(scanners), 0
    for term in terms:
        stop = start + len(term.columns)
        scales, columns = column_scale[start:stop], place[start:stop]
        start = stop
        if term.name == "mean":
            continue
        # a level that shares its scale with no other level has nothing to be compared with
        is_reported = (np.bincount(scales + 1)[scales + 1] > 1) | (not term.is_centered)
        if is_reported.any():
            levels = tuple(label for label, reported in zip(term.labels, is_reported, strict=True) if reported)
            contrast_group = (scales if term.is_centered else np.full(len(scales), -1))[is_reported]
            weight = np.broadcast_to(term.weight, len(scales))[is_reported]
            dim = spec.dimension_of(term.name)
            groups.append(EffectGroup(term.name, dim, levels, columns[is_reported, None], contrast_group, weight, n_columns))
    if len(spec.components) > 1:
        one_group, ones = np.zeros(n_scanners, int), np.ones(n_scanners)
        groups.append(EffectGroup(spec.removed_effect, "scanner", scanners, of_scanner, one_group, ones, n_columns))
    return tuple(groups)


def columns_of_scanners(
    columns: Sequence[Column], matrix: sparse.csr_array, scanner: np.ndarray, spec: ModelSpec
) -> np.ndarray:
    """Return the columns of each scanner's effect, read off one scan of each scanner, (scanner, component) int array."""
    is_component = np.isin([column.family for column in columns], spec.components)
    scanners, first = np.unique(scanner, return_index=True)
    return np.nonzero(matrix[first].toarray() * is_component)[1].reshape(len(scanners), -1)


def removable_together(effects: Sequence[EffectGroup], spec: ModelSpec) -> list[EffectGroup]:
    """List the groups that can be removed together: effects of scanners, their slopes, and populations, in this order."""
    slopes = [family.slope_name for family in spec.slopes if family.name == spec.removed_effect]
    by_name = {group.name: group for group in effects}
    scanners = [by_name[name] for name in (spec.removed_effect, *slopes) if name in by_name]
    return scanners + [group for group in effects if group.dim == "population"]
