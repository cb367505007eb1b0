"""Folds of scans to be predicted, grouped by the values that their scans have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from bayesharm.likelihood.moments import number_rows
from bayesharm.model.design import Design


class PredictionUnits(NamedTuple):
    """Units of prediction with the same values, each a part of a fold: the scans of one participant, for instance.

    Attributes
    ----------
    numbers, fold : (unit,) int arrays
        Numbers of the units, and positions of their folds in :attr:`HeldOutGroups.folds`.
    value, n_scans : (unit value,) int arrays
        The values of the fold that these units have, and the number of scans of each.
    means : (unit × unit value, scan) sparse array
        Averages the scans of each value.
    """

    numbers: np.ndarray
    fold: np.ndarray
    value: np.ndarray
    n_scans: np.ndarray
    means: sparse.csr_array


class HeldOutGroups(NamedTuple):
    """Folds with the same values of f, each value of equally many scans.

    Attributes
    ----------
    folds : (fold,) int array
        Numbers of the folds.
    combinations, with_gain : (value, column) sparse arrays
        The effects that make each value, and those of them that the gain of the scanner multiplies.
    scanner, is_single_scan, relative_noise, noise_scale : (value,) arrays
        They determine the noise of a value; `noise_scale` is the scale that multiplies its sd, or -1.
    n_scans : (value,) int array
    means : (fold × value, scan) sparse array
        Averages the scans of each value.
    scans, position, value : (scan of these folds,) int arrays
        The scans, the positions of their folds in `folds`, and their values.
    units : tuple of PredictionUnits, or None
        None where the folds themselves are predicted.
    """

    folds: np.ndarray
    combinations: sparse.csr_array
    with_gain: sparse.csr_array
    scanner: np.ndarray
    is_single_scan: np.ndarray
    relative_noise: np.ndarray
    noise_scale: np.ndarray
    n_scans: np.ndarray
    means: sparse.csr_array
    scans: np.ndarray
    position: np.ndarray
    value: np.ndarray
    units: tuple[PredictionUnits, ...] | None


def arrange_folds(design: Design, folds: np.ndarray, units: np.ndarray | None = None) -> tuple[HeldOutGroups, ...]:
    """Group folds with the same values, and the scans of each fold by value.

    Parameters
    ----------
    design : Design
    folds : (scan,) int array
        The fold of each scan of the design, from 0; -1 for scans that are never held out.
    units : (scan,) int array, optional
        The unit of each scan, from 0, a part of its fold, or -1 for scans that are not predicted; by default the folds.
    """
    rows = np.column_stack([number_rows(design.matrix), design.scan_class, design.scan_weight])
    pattern = np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)
    members = {fold: np.flatnonzero(folds == fold) for fold in range(folds.max() + 1)}
    groups = _group_equal({fold: pattern[scans] for fold, scans in members.items()})
    return tuple(
        _held_out_groups(design, pattern, values, count, np.array(numbers), members, units)
        for (values, count), numbers in groups
    )


def _group_equal(values: Mapping[int, np.ndarray]) -> list[tuple[tuple[np.ndarray, np.ndarray], list[int]]]:
    """Groups of numbers with the same values, each value equally often: the values, their counts, and the numbers."""
    groups: dict[tuple[Any, Any], list[int]] = {}
    for number, of_number in values.items():
        unique, count = np.unique(of_number, return_counts=True)
        groups.setdefault((tuple(unique), tuple(count)), []).append(number)
    return [((np.array(unique), np.array(count)), numbers) for (unique, count), numbers in groups.items()]


def _held_out_groups(
    design: Design,
    pattern: np.ndarray,
    values: np.ndarray,
    count: np.ndarray,
    numbers: np.ndarray,
    members: Mapping[int, np.ndarray],
    units: np.ndarray | None,
) -> HeldOutGroups:
    scans = np.concatenate([members[fold] for fold in numbers])
    position = np.repeat(np.arange(len(numbers)), [len(members[fold]) for fold in numbers])
    value = np.searchsorted(values, pattern[scans])
    examples = np.unique(pattern, return_index=True)[1][values]
    classes, combinations = design.scan_class[examples], design.matrix.tocsr()[examples]
    scanner = design.class_scanner[classes]
    is_known = design.gain_is_known[scanner] & (design.spec.gain != "none")
    scaled = sparse.diags_array(is_known.astype(float)) @ combinations @ sparse.diags_array(design.has_gain.astype(float))
    return HeldOutGroups(
        folds=numbers,
        combinations=combinations,
        with_gain=scaled.tocsr(),
        scanner=scanner,
        is_single_scan=design.class_single_scan[classes],
        relative_noise=design.class_variance[classes] / design.scan_weight[examples],
        noise_scale=design.class_noise_scale[classes],
        n_scans=count,
        means=_averages(position, value, scans, (len(numbers), len(values)), design.n_scans),
        scans=scans,
        position=position,
        value=value,
        units=None if units is None else _arrange_units(units, scans, position, value, design.n_scans),
    )


def _averages(
    group: np.ndarray, value: np.ndarray, scans: np.ndarray, shape: tuple[int, int], n_scans: int
) -> sparse.csr_array:
    """Matrix that averages the scans of each group with the same value, (group × value, scan)."""
    row = group * shape[1] + value
    share = 1 / np.bincount(row, minlength=shape[0] * shape[1])[row]
    return sparse.csr_array((share, (row, scans)), shape=(shape[0] * shape[1], n_scans))


def _arrange_units(
    units: np.ndarray, scans: np.ndarray, position: np.ndarray, value: np.ndarray, n_scans: int
) -> tuple[PredictionUnits, ...]:
    members = {unit: np.flatnonzero(units[scans] == unit) for unit in np.unique(units[scans]) if unit >= 0}
    arranged = []
    for (values, count), numbers in _group_equal({unit: value[rows] for unit, rows in members.items()}):
        rows = np.concatenate([members[unit] for unit in numbers])
        group = np.repeat(np.arange(len(numbers)), [len(members[unit]) for unit in numbers])
        shape = (len(numbers), len(values))
        means = _averages(group, np.searchsorted(values, value[rows]), scans[rows], shape, n_scans)
        fold = np.array([position[members[unit][0]] for unit in numbers])
        arranged.append(PredictionUnits(np.array(numbers), fold, values, count, means))
    return tuple(arranged)
