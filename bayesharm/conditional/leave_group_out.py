"""Predictive densities of scans that are left out, exactly, given the scales: everything is Gaussian.

With what all scans say of the effects, f ~ N(mu, M) are the values without noise of the scans to be left out. Taking out
what these say themselves, with precisions W and residuals r = W^(1/2) (y − mu),

    B = I − W^(1/2) M W^(1/2),   f | others ~ N(y − W^(-1/2) B⁻¹ r, W^(-1/2) (B⁻¹ − I) W^(-1/2)),
    log p(y | others) = ½ log|B| − ½ rᵀB⁻¹r − ½ Σ log(2π / W)

(Sundararajan & Keerthi, *Neural Computation* 13, 2001, for single ones). Scans that are alike are one value of f, and what
differs between them is noise.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from scipy import sparse
from scipy.special import ndtr

from bayesharm.conditional.gaussian import condition_effects
from bayesharm.likelihood.moments import Moments, number_rows
from bayesharm.likelihood.problem import Problem
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.model.design import Design

LEAST = 1e-11  # eigenvalue of B above rounding
LANES, ROOM = 2048, 2**25  # nodes × features at once, and numbers that these may take


class Units(NamedTuple):
    """Units of prediction that are alike, each a part of a fold: scans of one participant, say.

    Attributes
    ----------
    numbers, fold : (unit,) int arrays
        Their numbers, and the places of their folds in :attr:`HeldOutGroups.folds`.
    pattern, n_scans : (value,) int arrays
        Which values of the fold they have, and of how many scans.
    means : (unit × value, scan) sparse array
    """

    numbers: np.ndarray
    fold: np.ndarray
    pattern: np.ndarray
    n_scans: np.ndarray
    means: sparse.csr_array


class HeldOutGroups(NamedTuple):
    """Folds that are alike: the same values of f, each of the same number of scans.

    Attributes
    ----------
    folds : (fold,) int array
        Their numbers.
    dense : (value, dense) array
        Dense columns of each value.
    column : (value,) int array
        Its eliminated column, or -1.
    scanner, once : (value,) arrays
        What its noise is.
    n_scans : (value,) int array
    means : (fold × value, scan) sparse array
    scans : (scan of these folds,) int array
        With their places in `folds` and values below.
    place, value : (scan of these folds,) int arrays
    units : tuple of Units
        Where they are not the folds themselves.
    """

    folds: np.ndarray
    dense: np.ndarray
    column: np.ndarray
    scanner: np.ndarray
    once: np.ndarray
    n_scans: np.ndarray
    means: sparse.csr_array
    scans: np.ndarray
    place: np.ndarray
    value: np.ndarray
    units: tuple[Units, ...]


class HeldOutDensity(NamedTuple):
    """Predictions of what was left out, of standardized features.

    Attributes
    ----------
    folds : (node, fold, feature) array
        log density of all scans of a fold, given all others.
    units : (node, unit, feature) array
        log density of the scans of a unit, given the scans that are not in its fold.
    below : (node, scan, feature) array of float32
        Probability of less than what was measured, for each scan; NaN for those never left out.
    """

    folds: np.ndarray
    units: np.ndarray
    below: np.ndarray | None


def arrange_folds(design: Design, folds: np.ndarray, units: np.ndarray | None = None) -> tuple[HeldOutGroups, ...]:
    """Compare the scans of each fold, and folds with one another.

    Parameters
    ----------
    design : Design
    folds : (scan,) int array
        The fold of each scan of the design, counted from 0; -1 is never left out.
    units : (scan,) int array, optional
        The unit of each scan, counted from 0, a part of its fold, or -1 for scans that are not predicted; by default the
        folds.
    """
    rows = np.column_stack([number_rows(design.matrix), design.class_scanner[design.scan_class]])
    rows = np.column_stack([rows, design.class_single_scan[design.scan_class]])
    pattern = np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)
    alike: dict[tuple, list[int]] = {}
    members = {fold: np.flatnonzero(folds == fold) for fold in range(folds.max() + 1)}
    for fold, scans in members.items():
        values, count = np.unique(pattern[scans], return_counts=True)
        alike.setdefault((*values, -1, *count), []).append(fold)
    first = np.unique(pattern, return_index=True)[1]
    matrix = design.matrix.tocsr()
    return tuple(
        _held_out_groups(design, matrix, pattern, first, np.array(key[: key.index(-1)]), np.array(numbers), members, units)
        for key, numbers in alike.items()
    )


def _held_out_groups(design, matrix, pattern, first, values, numbers, members, units) -> HeldOutGroups:
    scans = np.concatenate([members[fold] for fold in numbers])
    place = np.repeat(np.arange(len(numbers)), [len(members[fold]) for fold in numbers])
    value = np.searchsorted(values, pattern[scans])
    examples = first[values]
    rows = matrix[examples]
    eliminated = rows[:, design.n_dense :].tocsr()
    column = np.full(len(values), -1)
    filled = np.diff(eliminated.indptr) > 0
    column[filled] = eliminated.indices[eliminated.indptr[:-1][filled]]
    classes = design.scan_class[examples]
    count = np.bincount(value[place == 0], minlength=len(values))
    return HeldOutGroups(
        numbers,
        rows[:, : design.n_dense].toarray(),
        column,
        design.class_scanner[classes],
        design.class_single_scan[classes],
        count,
        _means(place, value, scans, (len(numbers), len(values)), design.n_scans),
        scans,
        place,
        value,
        () if units is None else _split(units, scans, place, value, design.n_scans),
    )


def _means(
    group: np.ndarray, value: np.ndarray, scans: np.ndarray, shape: tuple[int, int], n_scans: int
) -> sparse.csr_array:
    """Averages of the scans of each group that have the same value."""
    row = group * shape[1] + value
    share = 1 / np.bincount(row, minlength=shape[0] * shape[1])[row]
    return sparse.csr_array((share, (row, scans)), shape=(shape[0] * shape[1], n_scans))


def _split(units, scans, place, value, n_scans) -> tuple[Units, ...]:
    alike: dict[tuple, list[int]] = {}
    members = {unit: np.flatnonzero(units[scans] == unit) for unit in np.unique(units[scans]) if unit >= 0}
    for unit, own in members.items():
        values, count = np.unique(value[own], return_counts=True)
        alike.setdefault((*values, -1, *count), []).append(unit)
    found = []
    for key, numbers in alike.items():
        values, count = np.array(key[: key.index(-1)]), np.array(key[key.index(-1) + 1 :])
        own = np.concatenate([members[unit] for unit in numbers])
        group = np.repeat(np.arange(len(numbers)), [len(members[unit]) for unit in numbers])
        means = _means(group, np.searchsorted(values, value[own]), scans[own], (len(numbers), len(values)), n_scans)
        fold = np.array([place[members[unit][0]] for unit in numbers])
        found.append(Units(np.array(numbers), fold, values, count, means))
    return tuple(found)


def leave_group_out(
    problem: Problem,
    ratios: VarianceRatios,
    moments: Moments,
    values: np.ndarray,
    log_scales: np.ndarray,
    held: tuple[HeldOutGroups, ...],
    below: bool = False,
) -> HeldOutDensity:
    """Predict the scans of each fold from all others, in double precision.

    Parameters
    ----------
    problem : Problem
    ratios : VarianceRatios
    moments : Moments
    values : (scan, feature) array
        Standardized features, in the order of the design's scans.
    log_scales : (node, scale, feature) array
    held : tuple of Held
        From :func:`arrange_folds`.
    below : bool
        Whether probabilities of single scans are wanted.
    """
    n_nodes, _, n_features = log_scales.shape
    n_folds = sum(len(each.folds) for each in held)
    n_units = max((int(units.numbers.max()) + 1 for each in held for units in each.units), default=n_folds)
    found = HeldOutDensity(
        np.empty((n_nodes, n_folds, n_features)),
        np.empty((n_nodes, n_units, n_features)),
        np.full((n_nodes, *values.shape), np.nan, np.float32) if below else None,
    )
    n_dense = problem.likelihood.plan.layout.dense_gram.shape[1]
    n_values = max(len(each.n_scans) for each in held)
    room = max(n_dense * (len(problem.likelihood.plan.kinds.of_column) + n_dense), n_values**2)
    lanes = int(np.clip(ROOM // room, 1, LANES))
    width = min(n_features, lanes)
    for first in range(0, n_features, width):
        own = slice(first, first + width)
        data = [
            (each, _group_moments(each.means, each.n_scans, values[:, own]),
             [_group_moments(units.means, units.n_scans, values[:, own]) for units in each.units])
            for each in held
        ]  # fmt: skip
        those = Moments(*(part[..., own] for part in moments))
        for start in range(0, n_nodes, lanes // width):
            some = slice(start, start + lanes // width)
            scales = np.asarray(log_scales[some, :, own])
            known = jax.tree.map(np.asarray, condition_effects(problem, ratios, those, scales))
            single = None if found.below is None else found.below[some, :, own]
            parts = HeldOutDensity(found.folds[some, :, own], found.units[some, :, own], single)
            for each, seen, of_units in data:
                _predict(problem, ratios, scales, each, seen, of_units, values[:, own], known, parts)
    return found


def _group_moments(means: sparse.csr_array, n_scans: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the scans of each value, and the sum of their squares from it: (feature, group, value) both."""
    shape = (-1, len(n_scans), values.shape[1])
    mean, square = (np.moveaxis((means @ part).reshape(shape), 2, 0) for part in (values, values**2))
    return mean, np.maximum(square - mean**2, 0) * n_scans


def _predict(problem, ratios, log_scales, held: HeldOutGroups, seen, of_units, values, known, found) -> None:
    """Fill in what is found of some folds, for some nodes and features."""
    variance = np.exp(2 * log_scales[:, 0, :, None]) * ratios.noise[held.scanner]
    if problem.likelihood.plan.single_scan_scale:
        variance = variance + np.exp(2 * log_scales[:, problem.likelihood.plan.single_scan_scale, :, None]) * held.once
    there = held.column >= 0
    column = np.where(there, held.column, 0)
    form = held.dense - there[:, None] * known.slope[..., column, :]  # (node, feature, value, dense)
    mean = (form @ known.mean[..., None])[..., 0] + there * known.constant[..., column]
    covariance = form @ known.covariance @ np.swapaxes(form, -1, -2)
    covariance += np.where((held.column[:, None] == held.column) & there, known.own[..., column][..., None], 0.0)

    root = np.sqrt(held.n_scans / variance)
    identity = np.eye(len(column))
    b = identity - root[..., :, None] * covariance * root[..., None, :]
    # nodes so far out that the others say nothing within rounding weigh nothing, and must not stop the rest
    lost = ~(np.linalg.eigvalsh(np.where(np.isfinite(b), b, 0.0))[..., 0] > LEAST)
    b = np.where(lost[..., None, None], identity, b)
    average, within = seen  # (feature, fold, value)
    residual = root[..., None, :] * (average - mean[..., None, :])  # (node, feature, fold, value)
    solved = np.swapaxes(np.linalg.solve(b, np.swapaxes(residual, -1, -2)), -1, -2)
    log_det = np.linalg.slogdet(b)[1][..., None]
    apart = (held.n_scans * np.log(2 * np.pi * variance)).sum(-1)[..., None] + (within / variance[..., None, :]).sum(-1)
    joint = 0.5 * (log_det - (residual * solved).sum(-1) - apart)
    joint = np.where(lost[..., None], np.inf, joint)  # so that without the fold nothing is left of them
    found.folds[:, held.folds] = np.swapaxes(joint, 1, 2)
    if not of_units:
        found.units[:, held.folds] = np.swapaxes(np.where(lost[..., None], 0.0, joint), 1, 2)
        if found.below is None:
            return
    # f given the other folds
    center = average - solved / root[..., None, :]
    spread = (np.linalg.inv(b) - identity) / root[..., :, None] / root[..., None, :]
    for units, (average, within) in zip(held.units, of_units, strict=True):
        noise, n_values = variance[..., units.pattern], len(units.pattern)
        total = spread[..., units.pattern[:, None], units.pattern] + np.eye(n_values) * (noise / units.n_scans)[..., None]
        away = average - center[:, :, units.fold][..., units.pattern]
        solved = np.swapaxes(np.linalg.solve(total, np.swapaxes(away, -1, -2)), -1, -2)
        log_det = np.linalg.slogdet(total)[1] - np.log(noise / units.n_scans).sum(-1)
        apart = (units.n_scans * np.log(2 * np.pi * noise)).sum(-1)[..., None] + (within / noise[..., None, :]).sum(-1)
        density = -0.5 * (log_det[..., None] + (away * solved).sum(-1) + apart)
        density = np.where(lost[..., None], 0.0, density)
        found.units[:, units.numbers] = np.swapaxes(density, 1, 2)
    if found.below is not None:
        sd = np.sqrt(np.diagonal(spread, axis1=-2, axis2=-1) + variance)[..., held.value]
        away = values[held.scans].T - center[:, :, held.place, held.value]
        found.below[:, held.scans] = np.swapaxes(np.where(lost[..., None], 0.5, ndtr(away / sd)), 1, 2)
