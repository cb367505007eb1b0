"""New scans and the statistics of old ones, in the columns of one design."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from bayesharm.dataset import Dataset
from bayesharm.design import Design, EffectGroup
from bayesharm.errors import InputError, shorten
from bayesharm.moments import Layout, Moments, arrange_layout
from bayesharm.statistics import NAMELESS, Statistics, design_of, find_kinds, with_covariates


class Joined(NamedTuple):
    """New scans under the columns of a design that has those of the old scans too.

    Attributes
    ----------
    old : Statistics
        Of the old scans under these columns.
    matrix : (scan, column) sparse array
        Of the new scans.
    classes : (scan,) int array
        Their noise classes.
    rows : (scan,) int array
        Their places in the table; the model may not use all.
    scans : DataFrame
        All rows of the table, with the columns of the old one.
    notes : tuple of str
    """

    old: Statistics
    matrix: sparse.csr_array
    classes: np.ndarray
    rows: np.ndarray
    scans: pd.DataFrame
    notes: tuple[str, ...]


def join_scans(old: Statistics, scans: pd.DataFrame) -> Joined:
    """Lay new scans out with the old ones, without learning from them.

    New scanners, people and populations make new columns. A scale that the fit does not know can have none: populations of a
    diagnosis whose sampling bias was not in the fit stay part of its disorder effect.

    Parameters
    ----------
    old : Statistics
    scans : DataFrame
        Canonical columns as in :class:`bayesharm.dataset.Dataset`.

    Raises
    ------
    InputError
        A column of the old scans is missing, or people of the fit have changed what they are.
    """
    scans, covariates = _complete(scans, old), old.design.covariates
    both = pd.concat([with_covariates(old.kinds, covariates), scans], ignore_index=True)
    design, notes = _only_known(design_of(both, old.design.spec, covariates), old, len(old.kinds))
    if changed := sorted(set(old.design.columns) - set(design.columns)):
        raise InputError(
            "People of the fit who had been scanned on one scanner have traveled since.",
            got=f"no other people make the effects {shorten(changed)}",
            expected="new people, or travelers of the fit",
            do="leave these people out, or fit again with all scans",
        )
    new = design.rows >= len(old.kinds)
    n_classes, n_features = len(design.class_scanner), old.moments.squares.shape[1]
    nothing = [(sparse.csr_array((0, len(design.columns))), np.empty((0, n_features)))] * n_classes
    rows = design.rows[new] - len(old.kinds)
    rearranged = _combine(old, design, nothing)
    return Joined(rearranged, design.matrix.tocsr()[new], design.scan_class[new], rows, scans, notes)


def add_scans(old: Statistics, dataset: Dataset, values: np.ndarray) -> tuple[Statistics, tuple[str, ...]]:
    """Statistics of the old scans and of new ones together.

    Parameters
    ----------
    old : Statistics
    dataset : Dataset
        The new scans.
    values : (scan, feature) array
        Standardized as the old ones.

    Returns
    -------
    Statistics
    notes : tuple of str

    Raises
    ------
    InputError
        As :func:`join_scans`.
    """
    joined = join_scans(old, dataset.scans)
    design, values = joined.old.design, values[joined.rows]
    parts = [(joined.matrix[joined.classes == c], values[joined.classes == c]) for c in range(len(design.class_scanner))]
    kinds = find_kinds(pd.concat([old.kinds, joined.scans.iloc[joined.rows]], ignore_index=True), design.spec)
    return replace(_combine(joined.old, design, parts), kinds=kinds), joined.notes


def _combine(old: Statistics, design: Design, parts: list[tuple[sparse.csr_array, np.ndarray]]) -> Statistics:
    """Old statistics under the columns of a design that has theirs too, and sums over new scans, class by class."""
    column = pd.Index(design.columns).get_indexer(pd.Index(old.design.columns))
    own = {name: c for c, name in enumerate(_class_names(design))}
    class_of = np.array([own[name] for name in _class_names(old.design)])
    size = np.array([len(y) for _, y in parts])
    squares = np.array([(y**2).sum(0) for _, y in parts])
    grams = [x.T @ x for x, _ in parts]
    for c, gram in zip(class_of, _full_grams(old), strict=True):
        grams[c] = grams[c] + _placed(gram, column, len(design.columns))
    np.add.at(size, class_of, old.size)
    np.add.at(squares, class_of, old.moments.squares)
    layout = arrange_layout([gram.tocsr() for gram in grams], design.n_dense)
    dense, eliminated = _add_products(old, parts, layout, design, class_of, column)
    return Statistics(old.kinds, design, layout, size, Moments(dense, eliminated, squares))


def _complete(scans: pd.DataFrame, old: Statistics) -> pd.DataFrame:
    """The new scans with the columns of the old ones.

    Raises
    ------
    InputError
        One is missing.
    """
    if missing := [name for name in old.kinds if name != "traveling" and name not in scans]:
        raise InputError(
            f"The new scans have no {shorten(missing)}.",
            got=f"columns {shorten(scans.columns, 30)}",
            expected="the columns that the fit used",
            do="add them",
        )
    if "traveling" in old.kinds and "traveling" not in scans:
        scans = scans.assign(traveling=False)
    if not old.design.once_scale:  # nobody has a participant effect
        scans = scans.assign(participant_id=[f"new {NAMELESS.format(k)}" for k in range(len(scans))])
    return scans


def _add_products(
    old: Statistics, parts: list, layout: Layout, design: Design, class_of: np.ndarray, column: np.ndarray
) -> list[np.ndarray]:
    """Products of columns and features, (entry, feature), of dense and of eliminated columns."""
    n, offset = len(design.columns), design.n_dense
    entries = [(layout.dense.classes, layout.dense.columns), (layout.eliminated.classes, layout.eliminated.columns + offset)]
    found = []
    for classes, columns in entries:
        products = np.zeros((len(classes), parts[0][1].shape[1]))
        for c, (x, y) in enumerate(parts):
            products[classes == c] = x[:, columns[classes == c]].T @ y
        found.append(products)
    keys = [classes * n + columns for classes, columns in entries]
    there = old.layout
    before = [
        (there.dense.classes, there.dense.columns, old.moments.dense),
        (there.eliminated.classes, there.eliminated.columns + old.design.n_dense, old.moments.eliminated),
    ]
    for classes, columns, values in before:
        key = class_of[classes] * n + column[columns]
        for own, products in zip(keys, found, strict=True):
            at = pd.Index(own).get_indexer(pd.Index(key))
            products[at[at >= 0]] += values[at >= 0]
    return found


def _class_names(design: Design) -> list[tuple[str, bool]]:
    return [(design.scanners[k], bool(once)) for k, once in zip(design.class_scanner, design.class_once, strict=True)]


def _full_grams(old: Statistics) -> list[sparse.csr_array]:
    """Products of all columns within each class."""
    n_dense, layout = old.design.n_dense, old.layout
    n = len(old.design.columns)
    found = []
    for c, dense in enumerate(layout.dense_gram):
        own = layout.eliminated.classes == c
        columns = n_dense + layout.eliminated.columns[own]
        k, n_own = np.arange(own.sum()), int(own.sum())
        spread = sparse.csr_array((np.ones(n_own), (columns, k)), shape=(n, n_own))
        cross = spread @ sparse.csr_array(np.pad(layout.cross_gram[own], ((0, 0), (0, n - n_dense))))
        diagonal = spread @ sparse.diags_array(layout.eliminated_gram[own]) @ spread.T
        whole = sparse.csr_array(np.pad(dense, (0, n - n_dense)))
        found.append((whole + cross + cross.T + diagonal).tocsr())
    return found


def _placed(gram: sparse.csr_array, column: np.ndarray, n: int) -> sparse.csr_array:
    entries = gram.tocoo()
    return sparse.csr_array((entries.data, (column[entries.coords[0]], column[entries.coords[1]])), shape=(n, n))


def _only_known(design: Design, old: Statistics, n_old: int) -> tuple[Design, tuple[str, ...]]:
    """Without columns that have a scale which the old design has not, or that old scans did not have."""
    scale = np.array([*old.design.scales, None], object)
    scales = np.array([*design.scales, None], object)[design.column_scale]
    new = ~np.isin(np.array(design.columns, object), np.array(old.design.columns, object))
    touches = np.asarray((design.matrix.tocsr()[design.rows < n_old] != 0).sum(0)).reshape(-1) > 0
    unknown = ~np.isin(scales.astype(str), scale.astype(str))
    drop = new & (touches | unknown)
    if drop.any():  # with their mates, which would be compared with nothing
        drop |= new & np.isin(design.families + scales.astype(str), (design.families + scales.astype(str))[drop])
    place = {name: k for k, name in enumerate(old.design.scales)}
    keep = np.flatnonzero(~drop)
    now = np.cumsum(~drop) - 1
    names = [design.columns[k] for k in np.flatnonzero(drop)]
    notes = (f"Without effects of their own, since the fit had none of the kind: {', '.join(names)}.",) if names else ()
    known = replace(
        design,
        scales=old.design.scales,
        scale_medians=old.design.scale_medians,
        columns=tuple(design.columns[k] for k in keep),
        matrix=design.matrix.tocsr()[:, keep],
        column_scale=np.array([place.get(name, -1) for name in scales[keep]]),
        column_sd=design.column_sd[keep],
        n_dense=int((keep < design.n_dense).sum()),
        once_scale=old.design.once_scale,
        effects=tuple(_restrict(group, ~drop, now) for group in design.effects if (~drop)[group.columns].any()),
        of_scanner=now[design.of_scanner],
    )
    return known, notes


def _restrict(group: EffectGroup, kept: np.ndarray, now: np.ndarray) -> EffectGroup:
    """A group without levels whose columns are dropped."""
    there = kept[group.columns].all(1)
    return replace(
        group,
        levels=tuple(np.array(group.levels, object)[there]),
        columns=now[group.columns[there]],
        mates=group.mates[there],
        weight=group.weight[there],
        n_columns=int(kept.sum()),
    )
