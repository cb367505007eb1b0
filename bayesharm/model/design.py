"""From a table of scans and a model to columns, scales, noise classes and reported contrasts.

A *column* is one effect: the measurement bias of one scanner, the sampling bias of one population, …. The *dense* columns
come first. The *eliminated* columns come last and share no scan with one another. The normal matrix of all effects is
therefore a bordered block-diagonal (arrowhead) matrix: the block of the eliminated columns is diagonal, and the likelihood
solves it first (:mod:`bayesharm.likelihood.collapsed`).

A *noise class* holds the scans whose noise variance is the same function of the scales: the scans on one scanner of
participants with one scan, or of participants with several.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import sparse

from bayesharm.model.contrasts import EffectGroup
from bayesharm.model.covariates import Covariate, covariate_notes, covariate_term, find_covariates
from bayesharm.model.labels import Column, Scale, column_labels, scale_labels
from bayesharm.model.spec import ModelSpec
from bayesharm.model.terms import Term, family_levels, family_term, mean_term
from bayesharm.model.used_scans import UsedScans, select_scans

FIXED = -1  # scale index of columns with a fixed prior sd: the mean and the covariates
NOISE = Scale("noise")


@dataclass(frozen=True)
class Design:
    """Layout of a study for a model. It depends on the table of scans only, not on the features.

    Attributes
    ----------
    spec : ModelSpec
    rows : (scan,) int array
        Rows of the scans table in the model.
    scanners : tuple of str
        Sorted.
    scales : tuple of Scale
        The first is the noise.
    scale_medians : (scale,) array
        Prior medians, in standard deviations of a feature.
    columns : tuple of Column
        Dense columns first.
    matrix : (scan, column) sparse matrix
    column_scale : (column,) int array
        Index into ``scales``, or ``FIXED``.
    column_sd : (column,) array
        Prior sd of fixed columns; infinite elsewhere.
    n_dense : int
        Number of dense columns.
    scan_class : (scan,) int array
        Noise class of each scan.
    class_scanner : (class,) int array
        Scanner of each noise class.
    class_single_scan : (class,) bool array
        Whether the noise class holds participants with one scan, whose participant effect is part of the noise.
    effects : tuple of EffectGroup
        Sums last.
    of_scanner : (scanner, component) int array
        The columns whose sum is the effect of each scanner; several only with protocol factors.
    participants : (scan,) array
        Participant of each scan.
    travelers : tuple of str
    single_scan_scale : int
        Index of the scale of the participant effects; 0 in a design without participant effects.
    covariates : tuple of Covariate
    notes : tuple of str
        Sentences about scans, levels and factors that were left out, and why.
    """

    spec: ModelSpec
    rows: np.ndarray
    scanners: tuple[str, ...]
    scales: tuple[Scale, ...]
    scale_medians: np.ndarray
    columns: tuple[Column, ...]
    matrix: sparse.csr_array
    column_scale: np.ndarray
    column_sd: np.ndarray
    n_dense: int
    scan_class: np.ndarray
    class_scanner: np.ndarray
    class_single_scan: np.ndarray
    effects: tuple[EffectGroup, ...]
    of_scanner: np.ndarray
    participants: np.ndarray
    travelers: tuple[str, ...]
    single_scan_scale: int
    covariates: tuple[Covariate, ...]
    notes: tuple[str, ...]

    @property
    def n_scans(self) -> int:
        """Number of scans in the model."""
        return len(self.rows)

    @property
    def class_size(self) -> np.ndarray:
        """Number of scans in each noise class."""
        return np.bincount(self.scan_class, minlength=len(self.class_scanner))

    @property
    def families(self) -> np.ndarray:
        """Family of each column, or `mean` or `covariate`; (column,) str array."""
        return np.array([column.family for column in self.columns], object)

    @property
    def scale_labels(self) -> tuple[str, ...]:
        """Printed labels of the scales: ``sampling_HC``."""
        return scale_labels(self.scales)

    @property
    def column_labels(self) -> tuple[str, ...]:
        """Printed labels of the columns: ``sampling:ATT/HC``."""
        return column_labels(self.columns)

    @property
    def bias_ratio_of(self) -> np.ndarray:
        """Scanner whose bias variance ratio kappa scales the prior variance of each column, (column,) int array; -1: none.

        A ratio needs three scanners: two show one difference, which does not say which of them is far off. In a model
        with populations, it also needs travelers on the scanner: without travelers, a large difference can be measurement
        bias or sampling bias.
        """
        families = self.spec.families
        ratios = np.full(len(self.columns), -1, np.int32)
        if self.spec.bias_ratio != "scanner" or len(self.scanners) < 3:
            return ratios
        with_ratio = set(self.scanners)
        if any(family.by == "population" for family in families):
            visited = self.class_scanner[self.scan_class][np.isin(self.participants, self.travelers)]
            with_ratio = {self.scanners[k] for k in visited}
        by_scanner = {family.name for family in families if family.by == "scanner"}
        for k, column in enumerate(self.columns):
            if column.family in by_scanner and column.level in with_ratio:
                ratios[k] = self.scanners.index(column.level)
        return ratios


def build_design(scans: pd.DataFrame, spec: ModelSpec, covariates: tuple[Covariate, ...] = ()) -> Design:
    """Lay out a study for a model.

    Parameters
    ----------
    scans : DataFrame
        Canonical columns as in :class:`bayesharm.data.dataset.Dataset`.
    spec : ModelSpec
    covariates : tuple of Covariate
        Columns of the covariates as computed from other scans; by default they are computed from these scans.

    Raises
    ------
    ModelError
        The study lacks travelers, the reference diagnosis or protocol columns that the model needs.
    InputError
        A covariate is missing, constant, or has missing values; the formula or a protocol factor cannot be used.
    """
    study, notes = select_scans(scans, spec)
    covariates = covariates or find_covariates(study.table, spec)
    terms, term_notes = _list_terms(study, spec, covariates)
    medians = {NOISE: spec.noise_scale} | {scale: term.prior_median for term in terms for scale in term.scales if scale}
    index = {scale: k for k, scale in enumerate(medians)}

    columns = [column for term in terms for column in term.columns]
    column_scale = np.array([index[scale] if scale else FIXED for term in terms for scale in term.scales])
    column_sd = np.concatenate([np.full(len(term.columns), term.fixed_sd) for term in terms])
    matrix = sparse.hstack([term.matrix for term in terms]).tocsr()
    is_eliminated = _choose_eliminated(terms, matrix, spec)
    order = np.argsort(is_eliminated, kind="stable")
    matrix = matrix[:, order].tocsr()

    by_participant = {term.name for term in terms if spec.dimension_of(term.name) == "participant"}
    single_scan_scale = next((k for scale, k in index.items() if scale.family in by_participant), 0)
    is_single = ~study.is_repeat_scanned if single_scan_scale else np.zeros(len(study.table), bool)
    scanner = pd.Categorical(study.table.scanner, categories=study.scanners).codes.astype(int)
    classes, scan_class = np.unique(2 * scanner + is_single, return_inverse=True)

    ordered = tuple(columns[k] for k in order)
    of_scanner = _columns_of_scanners(ordered, matrix, scanner, spec)
    return Design(
        spec=spec,
        rows=study.rows,
        scanners=study.scanners,
        scales=tuple(medians),
        scale_medians=np.array(list(medians.values())),
        columns=ordered,
        matrix=matrix,
        column_scale=column_scale[order],
        column_sd=column_sd[order],
        n_dense=int((~is_eliminated).sum()),
        scan_class=scan_class,
        class_scanner=classes // 2,
        class_single_scan=(classes % 2).astype(bool),
        effects=_effect_groups(terms, np.argsort(order), column_scale, of_scanner, study.scanners, spec),
        of_scanner=of_scanner,
        participants=study.table.participant_id.to_numpy(object),
        travelers=tuple(sorted(study.table.participant_id[study.is_traveler].unique())),
        single_scan_scale=single_scan_scale,
        covariates=covariates,
        notes=(*notes, *term_notes, *covariate_notes(covariates)),
    )


def restrict_design(design: Design, kept: np.ndarray, scales: tuple[Scale, ...], scale_medians: np.ndarray) -> Design:
    """Return a design with a subset of its columns, and with its scales in a given order.

    Parameters
    ----------
    design : Design
    kept : (column,) bool array
    scales : tuple of Scale
        Scales of the kept columns, and perhaps others.
    scale_medians : (scale,) array
    """
    place = {scale: k for k, scale in enumerate(scales)}
    keep, new_index = np.flatnonzero(kept), np.cumsum(kept) - 1
    return replace(
        design,
        scales=scales,
        scale_medians=scale_medians,
        columns=tuple(design.columns[k] for k in keep),
        matrix=design.matrix[:, keep],
        column_scale=np.array([FIXED if k == FIXED else place[design.scales[k]] for k in design.column_scale[keep]]),
        column_sd=design.column_sd[keep],
        n_dense=int((keep < design.n_dense).sum()),
        single_scan_scale=place[design.scales[design.single_scan_scale]],
        effects=tuple(_restrict(group, kept, new_index) for group in design.effects if kept[group.columns].all(1).any()),
        of_scanner=new_index[design.of_scanner],
    )


def _restrict(group: EffectGroup, kept: np.ndarray, new_index: np.ndarray) -> EffectGroup:
    """Return a group with the levels whose columns are all kept."""
    is_kept = kept[group.columns].all(1)
    return replace(
        group,
        levels=tuple(np.array(group.levels, object)[is_kept]),
        columns=new_index[group.columns[is_kept]],
        contrast_group=group.contrast_group[is_kept],
        weight=group.weight[is_kept],
        n_columns=int(kept.sum()),
    )


def _list_terms(study: UsedScans, spec: ModelSpec, covariates: tuple[Covariate, ...]) -> tuple[list[Term], list[str]]:
    """List the terms of a model that have columns in a study: the mean, families, covariates; with notes."""
    levels = [family_levels(family, study) for family in spec.families]
    terms = [mean_term(len(study.table), spec)]
    terms += [family_term(family, each) for family, each in zip(spec.families, levels, strict=True) if each.columns]
    if covariates:
        terms.append(covariate_term(study.table, covariates, spec))
    return terms, [note for each in levels for note in each.notes]


def _choose_eliminated(terms: Sequence[Term], matrix: sparse.csr_array, spec: ModelSpec) -> np.ndarray:
    """Choose columns that share no scan with one another, (column,) bool array.

    Components of the scanner effect stay dense: the moments of their sum need the products of all of them.
    """
    by_column, dimension = matrix.tocsc(), [spec.dimension_of(term.name) for term in terms]
    start = np.concatenate([[0], np.cumsum([len(term.columns) for term in terms])])
    is_eliminated, is_covered = np.zeros(matrix.shape[1], bool), np.zeros(matrix.shape[0], bool)
    for wanted in ("participant", "population", "scanner"):
        for j, term in enumerate(terms):
            if dimension[j] != wanted or (term.name in spec.components and len(spec.components) > 1):
                continue
            for column in range(start[j], start[j + 1]):
                scans = by_column.indices[by_column.indptr[column] : by_column.indptr[column + 1]]
                if not is_covered[scans].any():
                    is_covered[scans] = is_eliminated[column] = True
    return is_eliminated


def _effect_groups(
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


def _columns_of_scanners(
    columns: Sequence[Column], matrix: sparse.csr_array, scanner: np.ndarray, spec: ModelSpec
) -> np.ndarray:
    """Return the columns of each scanner's effect, read off one scan of each scanner, (scanner, component) int array."""
    is_component = np.isin([column.family for column in columns], spec.components)
    scanners, first = np.unique(scanner, return_index=True)
    return np.nonzero(matrix[first].toarray() * is_component)[1].reshape(len(scanners), -1)
