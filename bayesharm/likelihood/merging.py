"""Merge new scans with the sufficient statistics of old ones, in the columns of one design."""

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
from bayesharm.likelihood.counts import count_scans, index_counts, place_counts
from bayesharm.likelihood.grams import Entries, arrange_grams
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.sufficient_statistics import ANONYMOUS, SufficientStatistics, unique_scan_patterns, with_numbers
from bayesharm.model.covariates import covariate_sources
from bayesharm.model.design import FIXED, Design, build_design
from bayesharm.model.restriction import restrict_design
from bayesharm.model.slopes import FIRST


class AlignedScans(NamedTuple):
    """New scans in the columns of a design that also has those of the old scans.

    Attributes
    ----------
    old : SufficientStatistics
        Of the old scans, in these columns.
    matrix : (scan, column) sparse array
        Of the new scans.
    classes : (scan,) int array
        Their noise classes.
    weight : (scan,) array
        Their weights.
    rows : (scan,) int array
        Their rows in the table; the model may not use all rows.
    scans : DataFrame
        All rows of the table, with the table columns of the old scans.
    notes : tuple of str
    """

    old: SufficientStatistics
    matrix: sparse.csr_array
    classes: np.ndarray
    weight: np.ndarray
    rows: np.ndarray
    scans: pd.DataFrame
    notes: tuple[str, ...]


def align_new_scans(old: SufficientStatistics, scans: pd.DataFrame) -> AlignedScans:
    """Align new scans with the columns of the old ones; the features of the new scans are not used.

    New scanners, participants and populations add columns. A column needs a scale of the fit: the sampling bias of a
    diagnosis that had none in the fit stays part of its disorder effect. A participant who was scanned repeatedly on one
    scanner, and on another one since, becomes a traveler; the old scans then leave their population too.

    Parameters
    ----------
    old : SufficientStatistics
    scans : DataFrame
        Canonical columns as in :class:`bayesharm.data.dataset.Dataset`.

    Raises
    ------
    InputError
        A column of the old scans is missing or has no values, or the new scans have a diagnosis that the fit did not have.
    """
    scans, standards, n_old = _complete(scans, old), old.design.standards, len(old.patterns)
    patterns = with_numbers(old.patterns, standards).assign(traveling=old.patterns.get("traveling", False))
    both = build_design(pd.concat([patterns, scans], ignore_index=True), old.design.spec, standards, old.design.scales)
    design, notes = _drop_unknown(both, old, n_old)
    is_new = design.rows >= n_old
    no_scans = NewScans(np.empty(0, int), np.empty((0, old.moments.n_features)))
    aligned = _combine(old, design, _place_columns(old, design), no_scans)
    rows = design.rows[is_new] - n_old
    of_scans = design.matrix[is_new], design.scan_class[is_new], design.scan_weight[is_new]
    return AlignedScans(aligned, *of_scans, rows, scans, notes)


def append_scans(
    old: SufficientStatistics, dataset: Dataset, values: np.ndarray
) -> tuple[SufficientStatistics, tuple[str, ...]]:
    """Add new scans to the statistics of old ones.

    Parameters
    ----------
    old : SufficientStatistics
    dataset : Dataset
        The new scans.
    values : (scan, feature) array
        Standardized with the center and sd of the old scans; NaN where missing.

    Returns
    -------
    SufficientStatistics
    notes : tuple of str

    Raises
    ------
    InputError
        As for :func:`align_new_scans`.
    """
    aligned = align_new_scans(old, dataset.scans)
    design = aligned.old.design
    new = NewScans(np.flatnonzero(design.rows >= len(old.patterns)), values[aligned.rows])
    patterns = old.patterns.assign(traveling=old.patterns.get("traveling", False))
    used = aligned.scans.iloc[aligned.rows]
    patterns = pd.concat([patterns, used], ignore_index=True)
    design = replace(design, standards=design.standards.widened(used))
    both = _combine(aligned.old, design, sparse.eye_array(len(design.columns), format="csr"), new)
    return replace(both, patterns=unique_scan_patterns(patterns, design.spec, design.standards.noise_unit)), aligned.notes


def _complete(scans: pd.DataFrame, old: SufficientStatistics) -> pd.DataFrame:
    """The new scans with the table columns of the old ones, and no others.

    Raises
    ------
    InputError
        A column is missing, or has no values.
    """
    spec, standards = old.design.spec, old.design.standards
    numbers = [*covariate_sources(standards.covariates), *(each.column for each in standards.slopes)]
    numbers += [spec.noise_weight] if spec.noise_weight else []
    kept = {"traveling", *numbers, *(FIRST.format(each.column) for each in standards.slopes)}
    names = [name for name in old.patterns if name not in kept]
    wanted = ["scan_id", *names, *dict.fromkeys(name for name in numbers if name not in names)]
    if missing := [name for name in wanted if name not in scans]:
        raise InputError(
            f"The new scans have no {shorten(missing)}.",
            got=f"columns {shorten(scans.columns, 30)}",
            expected="the table columns of the fit",
            do="add them",
        )
    for name in names:
        if (empty := to_labels(scans[name])[1]).any():
            raise InputError(
                f"The new scans do not all have a {name}.",
                got=f"none for scans {shorten(scans['scan_id'][empty])}",
                expected="a value for every scan, without which the model can neither use nor predict a scan",
                do="complete the column, or leave these scans out",
            )
    columns = dict.fromkeys(name for family in spec.families for name in family.columns if name in names)
    factors = {name: _write_as_in_fit(scans[name], old.patterns[name]) for name in columns}
    traveling = scans["traveling"] if "traveling" in scans else False
    scans = scans[wanted].assign(traveling=traveling, **factors)
    if not old.design.single_scan_scale:  # the model has no participant effects
        scans["participant_id"] = [f"new {ANONYMOUS.format(k)}" for k in range(len(scans))]
    return scans


def _write_as_in_fit(values: pd.Series, known: pd.Series) -> np.ndarray:
    """Labels of a family's column; numbers are written as in the fit (3 as 3.0, if the fit also had 1.5)."""
    labels = to_labels(values)[0].astype(object)
    if not pd.api.types.is_numeric_dtype(values):
        return labels
    names = pd.Series(known.unique(), dtype=object)
    numbers = dict(zip(pd.to_numeric(names, errors="coerce"), names, strict=True))
    return np.array([numbers.get(number, label) for number, label in zip(values, labels, strict=True)], object)


def _drop_unknown(design: Design, old: SufficientStatistics, n_old: int) -> tuple[Design, tuple[str, ...]]:
    """Drop new columns that have no scale in the old design, or that change the effects of old scans.

    Raises
    ------
    InputError
        A disorder effect is among them: it cannot be dropped, since patients are not like people of the reference.
    """
    known, known_scales = set(old.design.columns), set(old.design.scales)
    new = np.array([column not in known for column in design.columns])
    has_scale = np.array([k == FIXED or design.scales[k] in known_scales for k in design.column_scale])
    touches = np.asarray((design.matrix[design.rows < n_old] != 0).sum(0)).reshape(-1) > 0
    drop = new & (touches | ~has_scale)
    labels = np.array(design.column_labels, object)
    by_diagnosis = [name for name in set(design.families) if design.spec.dimension_of(name) == "diagnosis"]
    if len(unknown := labels[drop & np.isin(design.families, by_diagnosis)]):
        raise InputError(
            "Some new scans have a diagnosis that the fit did not have.",
            got=f"effects {shorten(unknown)}",
            expected=f"scans of the reference diagnosis, {design.spec.reference!r}, since the fit had no other",
            do="leave these scans out, or fit again with them",
        )
    names = ", ".join(labels[drop])
    notes = (f"Not estimated, since the fit had no such effects: {names}.",) if names else ()
    return restrict_design(design, ~drop, old.design.scales, old.design.scale_medians), notes


def _place_columns(old: SufficientStatistics, design: Design) -> sparse.csr_array:
    """Old columns as sums of the new ones, (old column, column).

    A participant who has become a traveler leaves a population: the sums of the participant's column are subtracted from
    those of the population's column.

    Raises
    ------
    InputError
        A participant leaves several populations: the sums do not say which scans leave which.
    """
    shape = (len(old.design.columns), len(design.columns))
    position = {column: k for k, column in enumerate(design.columns)}
    column = np.array([position.get(name, -1) for name in old.design.columns])
    kept = np.flatnonzero(column >= 0)  # a population that all its participants leave has no column any more
    place = sparse.csr_array((np.ones(len(kept)), (kept, column[kept])), shape=shape)
    before, after = old.design.matrix, design.matrix[design.rows < len(old.patterns)]
    patterns, populations = (before @ place != after).nonzero()
    of_people = [family.name for family in design.spec.families if family.by == "participant"]  # not their slopes
    is_person = np.isin(old.design.families.astype(str), of_people)
    person_of = (before @ sparse.diags_array(is_person.astype(float))).argmax(1)  # participant column of each pattern
    moved = {(int(person_of[k]), int(population)) for k, population in zip(patterns, populations, strict=True)}
    for person, population in moved:
        if (person_of == person).sum() > (person_of[patterns[populations == population]] == person).sum():
            raise InputError(
                "A participant who had been scanned on one scanner, under several diagnoses, has traveled since the fit.",
                got=old.design.column_labels[person],
                expected="new participants, travelers of the fit, or participants with one diagnosis",
                do="leave this participant out, or fit again with all scans",
            )
    leaving = np.array(sorted(moved), int).reshape(-1, 2)
    return place - sparse.csr_array((np.ones(len(leaving)), leaving.T), shape=shape)


class NewScans(NamedTuple):
    """New scans among those of a design.

    Attributes
    ----------
    scans : (new scan,) int array
        Their positions among the scans of the design.
    values : (new scan, feature) array
        NaN where missing.
    """

    scans: np.ndarray
    values: np.ndarray


def _combine(old: SufficientStatistics, design: Design, place: sparse.csr_array, new: NewScans) -> SufficientStatistics:
    """Old statistics in the columns of a design, plus sums over new scans."""
    number = {name: c for c, name in enumerate(_class_names(design))}
    class_of = np.array([number[name] for name in _class_names(old.design)])
    observed = ~np.isnan(new.values)
    values, classes, matrix = np.where(observed, new.values, 0.0), design.scan_class[new.scans], design.matrix[new.scans]
    weight = design.scan_weight[new.scans]
    weighted = values * weight[:, None]
    by_class = [(matrix[classes == c], weighted[classes == c]) for c in range(len(number))]
    size = np.bincount(classes, minlength=len(number))
    squares = np.array([(values * weighted)[classes == c].sum(0) for c in range(len(number))])
    grams = [x.T @ sparse.diags_array(weight[classes == c]) @ x for c, (x, _) in enumerate(by_class)]
    for c, gram in zip(class_of, _full_grams(old), strict=True):
        grams[c] = grams[c] + place.T @ gram @ place
    np.add.at(size, class_of, old.size)
    np.add.at(squares, class_of, old.moments.squares)
    combined = arrange_grams([gram.tocsr() for gram in grams], design.n_dense, design.eliminated_pairs)
    old_products = _all_products(old, class_of)
    dense, eliminated = (
        _products(Entries(entries.classes, entries.columns + offset), old_products, place, by_class)
        for entries, offset in ((combined.dense, 0), (combined.eliminated, design.n_dense))
    )
    placed = place_counts(old.design, design, place, class_of)
    of_scans = count_scans(design, index_counts(design))[:, new.scans]
    counts, by_feature = placed @ old.counts + of_scans.sum(axis=1), None
    if old.has_missing or not observed.all():
        before = old.counts[:, None] if old.moments.counts is None else old.moments.counts
        by_feature = placed @ before + of_scans @ observed.astype(float)
    moments = Moments(dense, eliminated, squares, by_feature)
    return SufficientStatistics(old.patterns, design, combined, size, moments, counts)


def _all_products(old: SufficientStatistics, class_of: np.ndarray) -> tuple[Entries, np.ndarray]:
    """Xᵀy of all old columns, (entry, feature), and their entries under the new numbers of the noise classes."""
    grams, offset = old.grams, old.design.n_dense
    classes = class_of[np.concatenate([grams.dense.classes, grams.eliminated.classes])]
    columns = np.concatenate([grams.dense.columns, offset + grams.eliminated.columns])
    return Entries(classes, columns), np.concatenate([old.moments.dense, old.moments.eliminated])


def _products(
    entries: Entries,
    old: tuple[Entries, np.ndarray],
    place: sparse.csr_array,
    new: Sequence[tuple[sparse.csr_array, np.ndarray]],
) -> np.ndarray:
    """Xᵀy over old and new scans, (entry, feature)."""
    old_entries, old_values = old
    products = np.empty((len(entries.classes), old_values.shape[1]))
    for c, (x, y) in enumerate(new):
        in_class, was_in_class = entries.classes == c, old_entries.classes == c
        columns = entries.columns[in_class]
        weights = place[old_entries.columns[was_in_class]][:, columns]
        products[in_class] = x[:, columns].T @ y + weights.T @ old_values[was_in_class]
    return products


def _class_names(design: Design) -> list[tuple[str, bool, float]]:
    """Scanner of each noise class, whether its participants have a single scan, and its relative noise variance."""
    classes = zip(design.class_scanner, design.class_single_scan, design.class_variance, strict=True)
    return [(design.scanners[k], bool(single), round(float(variance), 9)) for k, single, variance in classes]


def _full_grams(old: SufficientStatistics) -> list[sparse.csr_array]:
    """XᵀX of all columns within each noise class, (column, column)."""
    n_dense, grams = old.design.n_dense, old.grams
    n = len(old.design.columns)
    by_class = []
    for c, dense in enumerate(grams.dense_gram):
        in_class = grams.eliminated.classes == c
        columns, n_entries = n_dense + grams.eliminated.columns[in_class], int(in_class.sum())
        spread = sparse.csr_array((np.ones(n_entries), (columns, np.arange(n_entries))), shape=(n, n_entries))
        cross = spread @ sparse.csr_array(np.pad(grams.cross_gram[in_class], ((0, 0), (0, n - n_dense))))
        diagonal = spread @ sparse.diags_array(grams.eliminated_gram[in_class]) @ spread.T
        first = n_dense + grams.coupled.columns[grams.coupled.classes == c]
        at = (first, old.design.partner[first])
        between = sparse.csr_array((grams.coupled_gram[grams.coupled.classes == c], at), shape=(n, n))
        border = sparse.csr_array(np.pad(dense, (0, n - n_dense)))
        by_class.append((border + cross + cross.T + diagonal + between + between.T).tocsr())
    return by_class
