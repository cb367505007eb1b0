"""New scans and the statistics of old ones, in the columns of one design."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from bayesharm.data.dataset import Dataset
from bayesharm.errors import InputError, shorten
from bayesharm.io.tables import to_labels
from bayesharm.likelihood.layout import Entries, arrange_layout
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.sufficient_statistics import NAMELESS, SufficientStatistics, unique_scan_patterns, with_covariates
from bayesharm.model.design import FIXED, Design, build_design, restrict_design


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

    old: SufficientStatistics
    matrix: sparse.csr_array
    classes: np.ndarray
    rows: np.ndarray
    scans: pd.DataFrame
    notes: tuple[str, ...]


def align_new_scans(old: SufficientStatistics, scans: pd.DataFrame) -> Joined:
    """Lay new scans out with the old ones, without learning from them.

    New scanners, people and populations make new columns. A scale that the fit does not know can have none: populations of a
    diagnosis whose sampling bias was not in the fit stay part of its disorder effect. People scanned repeatedly on one
    scanner who travel now are travelers, whose old scans leave their population too.

    Parameters
    ----------
    old : Statistics
    scans : DataFrame
        Canonical columns as in :class:`bayesharm.data.dataset.Dataset`.

    Raises
    ------
    InputError
        A column of the old scans is missing or has no values, or the new scans are of a kind that the model knows nothing
        about.
    """
    scans, covariates, n_old = _complete(scans, old), old.design.covariates, len(old.kinds)
    kinds = with_covariates(old.kinds, covariates).assign(traveling=old.kinds.get("traveling", False))
    both = build_design(pd.concat([kinds, scans], ignore_index=True), old.design.spec, covariates)
    design, notes = _only_known(both, old, n_old)
    new = design.rows >= n_old
    n_classes, n_features = len(design.class_scanner), old.moments.squares.shape[1]
    nothing = [(sparse.csr_array((0, len(design.columns))), np.empty((0, n_features)))] * n_classes
    rearranged = _combine(old, design, _place_columns(old, design), nothing)
    return Joined(rearranged, design.matrix[new], design.scan_class[new], design.rows[new] - n_old, scans, notes)


def append_scans(
    old: SufficientStatistics, dataset: Dataset, values: np.ndarray
) -> tuple[SufficientStatistics, tuple[str, ...]]:
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
        As :func:`align_new_scans`.
    """
    joined = align_new_scans(old, dataset.scans)
    design, values = joined.old.design, values[joined.rows]
    parts = [(joined.matrix[joined.classes == c], values[joined.classes == c]) for c in range(len(design.class_scanner))]
    kinds = old.kinds.assign(traveling=old.kinds.get("traveling", False))
    kinds = unique_scan_patterns(pd.concat([kinds, joined.scans.iloc[joined.rows]], ignore_index=True), design.spec)
    both = _combine(joined.old, design, sparse.eye_array(len(design.columns), format="csr"), parts)
    return replace(both, kinds=kinds), joined.notes


def _complete(scans: pd.DataFrame, old: SufficientStatistics) -> pd.DataFrame:
    """The new scans with the columns of the old ones, and no others.

    Raises
    ------
    InputError
        One is missing, or has no values.
    """
    names = [name for name in old.kinds if name != "traveling"]
    wanted = ["scan_id", *names, *dict.fromkeys(covariate.name for covariate in old.design.covariates)]
    if missing := [name for name in wanted if name not in scans]:
        raise InputError(
            f"The new scans have no {shorten(missing)}.",
            got=f"columns {shorten(scans.columns, 30)}",
            expected="the columns that the fit used",
            do="add them",
        )
    for name in names:
        if (empty := to_labels(scans[name])[1]).any():
            raise InputError(
                f"The new scans do not all have a {name}.",
                got=f"none for scans {shorten(scans['scan_id'][empty])}",
                expected="a value for every scan: a model cannot learn from them, or predict them, otherwise",
                do="complete the column, or leave these scans out",
            )
    factors = {family.grouping: _as_known(scans[family.grouping], old.kinds[family.grouping])
               for family in old.design.spec.factors if family.grouping in names}  # fmt: skip
    traveling = scans["traveling"] if "traveling" in scans else False
    scans = scans[wanted].assign(traveling=traveling, **factors)
    if not old.design.single_scan_scale:  # nobody has a participant effect
        scans["participant_id"] = [f"new {NAMELESS.format(k)}" for k in range(len(scans))]
    return scans


def _as_known(values: pd.Series, known: pd.Series) -> np.ndarray:
    """Labels of a protocol factor; numbers are written as in the fit (3 as 3.0, where 1.5 was there too)."""
    labels = to_labels(values)[0].astype(object)
    if not pd.api.types.is_numeric_dtype(values):
        return labels
    names = pd.Series(known.unique(), dtype=object)
    numbers = dict(zip(pd.to_numeric(names, errors="coerce"), names, strict=True))
    return np.array([numbers.get(number, label) for number, label in zip(values, labels, strict=True)], object)


def _only_known(design: Design, old: SufficientStatistics, n_old: int) -> tuple[Design, tuple[str, ...]]:
    """Without columns that have a scale which the old design has not, or that old scans did not have.

    Raises
    ------
    InputError
        Diagnoses are among them: their people are not like those of the reference.
    """
    known, known_scales = set(old.design.columns), set(old.design.scales)
    new = np.array([column not in known for column in design.columns])
    has_scale = np.array([k == FIXED or design.scales[k] in known_scales for k in design.column_scale])
    touches = np.asarray((design.matrix[design.rows < n_old] != 0).sum(0)).reshape(-1) > 0
    drop = new & (touches | ~has_scale)
    labels = np.array(design.column_labels, object)
    by_diagnosis = [family.name for family in design.spec.families if family.grouping == "diagnosis"]
    if len(unknown := labels[drop & np.isin(design.families, by_diagnosis)]):
        raise InputError(
            "Some new scans are of people with a diagnosis, and the fit had none of these.",
            got=f"effects {shorten(unknown)}",
            expected=f"people of the reference, {design.spec.reference!r}, since the fit had no others",
            do="leave these scans out, or fit again with them",
        )
    names = ", ".join(labels[drop])
    notes = (f"Without effects of their own, since the fit had none of the kind: {names}.",) if names else ()
    return restrict_design(design, ~drop, old.design.scales, old.design.scale_medians), notes


def _place_columns(old: SufficientStatistics, design: Design) -> sparse.csr_array:
    """Old columns in those of a design that has their scans too, (old column, column).

    Who has become a traveler leaves a population: what the column of the person has is taken from that of the population.

    Raises
    ------
    InputError
        Somebody leaves several populations, so that sums do not tell which scans leave which.
    """
    shape = (len(old.design.columns), len(design.columns))
    position = {column: k for k, column in enumerate(design.columns)}
    column = np.array([position.get(name, -1) for name in old.design.columns])
    there = np.flatnonzero(column >= 0)  # a population that all its people leave has no column any more
    place = sparse.csr_array((np.ones(len(there)), (there, column[there])), shape=shape)
    before, after = old.design.matrix, design.matrix[design.rows < len(old.kinds)]
    kinds, populations = (before @ place != after).nonzero()
    is_person = [design.spec.dimension_of(name) == "participant" for name in old.design.families]
    of_kind = (before @ sparse.diags_array(np.array(is_person, float))).argmax(1)  # the column of the person
    moved = {(int(of_kind[kind]), int(population)) for kind, population in zip(kinds, populations, strict=True)}
    for person, population in moved:
        if (of_kind == person).sum() > (of_kind[kinds[populations == population]] == person).sum():
            raise InputError(
                "Somebody of the fit who had been scanned on one scanner, under several diagnoses, has traveled since.",
                got=old.design.column_labels[person],
                expected="new people, travelers of the fit, or people of one diagnosis",
                do="leave this person out, or fit again with all scans",
            )
    leaving = np.array(sorted(moved), int).reshape(-1, 2)
    return place - sparse.csr_array((np.ones(len(leaving)), leaving.T), shape=shape)


def _combine(
    old: SufficientStatistics, design: Design, place: sparse.csr_array, parts: Sequence[tuple[sparse.csr_array, np.ndarray]]
) -> SufficientStatistics:
    """Old statistics under the columns of a design that has theirs too, and sums over new scans, class by class."""
    own = {name: c for c, name in enumerate(_class_names(design))}
    class_of = np.array([own[name] for name in _class_names(old.design)])
    size = np.array([len(y) for _, y in parts])
    squares = np.array([(y**2).sum(0) for _, y in parts])
    grams = [x.T @ x for x, _ in parts]
    for c, gram in zip(class_of, _full_grams(old), strict=True):
        grams[c] = grams[c] + place.T @ gram @ place
    np.add.at(size, class_of, old.size)
    np.add.at(squares, class_of, old.moments.squares)
    layout = arrange_layout([gram.tocsr() for gram in grams], design.n_dense)
    before = _all_products(old, class_of)
    dense, eliminated = (
        _products(Entries(entries.classes, entries.columns + offset), before, place, parts)
        for entries, offset in ((layout.dense, 0), (layout.eliminated, design.n_dense))
    )
    return SufficientStatistics(old.kinds, design, layout, size, Moments(dense, eliminated, squares))


def _all_products(old: SufficientStatistics, class_of: np.ndarray) -> tuple[Entries, np.ndarray]:
    """Products of old columns and features, (entry, feature), under the new numbers of their classes."""
    entries, offset = old.layout, old.design.n_dense
    classes = class_of[np.concatenate([entries.dense.classes, entries.eliminated.classes])]
    columns = np.concatenate([entries.dense.columns, offset + entries.eliminated.columns])
    return Entries(classes, columns), np.concatenate([old.moments.dense, old.moments.eliminated])


def _products(
    entries: Entries,
    before: tuple[Entries, np.ndarray],
    place: sparse.csr_array,
    parts: Sequence[tuple[sparse.csr_array, np.ndarray]],
) -> np.ndarray:
    """Products of columns and features, (entry, feature), of old scans and new ones."""
    there, values = before
    found = np.empty((len(entries.classes), values.shape[1]))
    for c, (x, y) in enumerate(parts):
        own, was = entries.classes == c, there.classes == c
        columns = entries.columns[own]
        found[own] = x[:, columns].T @ y + place[there.columns[was]][:, columns].T @ values[was]
    return found


def _class_names(design: Design) -> list[tuple[str, bool]]:
    return [(design.scanners[k], bool(once)) for k, once in zip(design.class_scanner, design.class_single_scan, strict=True)]


def _full_grams(old: SufficientStatistics) -> list[sparse.csr_array]:
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
