"""From a table of scans and a model to columns, scales, noise classes and reported contrasts.

A *column* is one effect: the measurement bias of one scanner, the sampling bias of one population, …. The *dense* columns
come first. The *eliminated* columns come last and share no scan with one another, but for the intercept and the slope of one
level, which are *partners*. The normal matrix of all effects is therefore a bordered block-diagonal (arrowhead) matrix: the
blocks of the eliminated columns are single numbers, or 2 × 2 of two partners, and the likelihood solves them first
(:mod:`bayesharm.likelihood.collapsed`).

A *noise class* holds the scans whose noise variance is the same function of the scales: the scans on one scanner of
participants with one scan, of about one relative noise variance, or of participants with several.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from bayesharm.model.contrasts import EffectGroup, columns_of_scanners, effect_groups
from bayesharm.model.covariates import Covariate, covariate_notes, covariate_term
from bayesharm.model.elimination import choose_eliminated, notes_on_cost
from bayesharm.model.labels import NOISE_RATIO, Column, Scale, column_labels, scale_labels
from bayesharm.model.noise_classes import classify_noise, notes_on_rounding, round_noise
from bayesharm.model.slopes import notes_on_slopes, slope_values
from bayesharm.model.spec import ModelSpec
from bayesharm.model.standards import Standards, standardize
from bayesharm.model.terms import Term, family_levels, family_term, mean_term, slope_term
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
        The first is the noise; the last are the noise ratios of the scanners, if each feature has its own.
    scale_medians : (scale,) array
        Prior medians, in standard deviations of a feature.
    columns : tuple of Column
        Dense columns first.
    matrix : (scan, column) sparse matrix
    column_scale : (column,) int array
        Index into ``scales``, or ``FIXED``.
    column_sd : (column,) array
        Prior sd of fixed columns; infinite elsewhere.
    partner : (column,) int array
        The slope that goes with an intercept, and the intercept that goes with a slope; -1 for other columns.
    correlation_of : (column,) int array
        Which of ``correlations`` an intercept and its slope have; -1 for none.
    correlations : tuple of str
        Families whose intercepts and slopes are correlated.
    has_gain : (column,) bool array
        Whether the gain of a scanner multiplies the effect.
    gain_is_known : (scanner,) bool array
        Whether travelers with several scans show the gain of a scanner; else it is 1.
    n_dense : int
        Number of dense columns.
    scan_weight : (scan,) array
        One over the relative noise variance of each scan, where the noise class does not have it.
    scan_class : (scan,) int array
        Noise class of each scan.
    class_scanner : (class,) int array
        Scanner of each noise class.
    class_single_scan : (class,) bool array
        Whether the noise class holds participants with one scan, whose participant effect is part of the noise.
    class_variance : (class,) array
        Relative noise variance of the scans of each noise class; 1 where each scan has its own.
    class_noise_scale : (class,) int array
        The scale that multiplies the noise sd of each class, of its scanner and the feature; -1 for none.
    effects : tuple of EffectGroup
        Sums last.
    of_scanner : (scanner, component) int array
        The columns whose sum is the effect of each scanner; several only with protocol factors.
    participants : (scan,) array
        Participant of each scan.
    travelers, site_travelers : tuple of str
        Participants on two or more scanners, or marked; and those at two or more sites, or marked.
    single_scan_scale : int
        Index of the scale of the participant effects; 0 in a design without participant effects.
    standards : Standards
        Standardization of the numeric columns.
    notes : tuple of str
        Sentences about scans, levels and factors that were left out, and why.
    cost : tuple of str
        A sentence on the time of a fit, if many effects are dense.
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
    partner: np.ndarray
    correlation_of: np.ndarray
    correlations: tuple[str, ...]
    has_gain: np.ndarray
    gain_is_known: np.ndarray
    n_dense: int
    scan_weight: np.ndarray
    scan_class: np.ndarray
    class_scanner: np.ndarray
    class_single_scan: np.ndarray
    class_variance: np.ndarray
    class_noise_scale: np.ndarray
    effects: tuple[EffectGroup, ...]
    of_scanner: np.ndarray
    participants: np.ndarray
    travelers: tuple[str, ...]
    site_travelers: tuple[str, ...]
    single_scan_scale: int
    standards: Standards
    notes: tuple[str, ...]
    cost: tuple[str, ...]

    @property
    def covariates(self) -> tuple[Covariate, ...]:
        """Columns of the covariates."""
        return self.standards.covariates

    @property
    def n_scans(self) -> int:
        """Number of scans in the model."""
        return len(self.rows)

    @property
    def eliminated_pairs(self) -> np.ndarray:
        """Intercepts and slopes among the eliminated columns, counted from the first of these, (pair, 2) int array."""
        partner = self.partner[self.n_dense :] - self.n_dense
        first = np.flatnonzero(partner > np.arange(len(partner)))
        return np.stack([first, partner[first]], axis=1)

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
    def n_eta(self) -> int:
        """Number of scales that are sds, whose log-scales have a mean eta; noise ratios, the last, have 0 in its place."""
        return sum(not scale.is_noise_ratio for scale in self.scales)

    @property
    def hyper_groups(self) -> tuple[Scale, ...]:
        """Groups of scales that share omega: every sd alone, and all noise ratios together."""
        return (*self.scales[: self.n_eta], *([Scale(NOISE_RATIO)] if self.n_eta < len(self.scales) else []))

    @property
    def scale_group(self) -> np.ndarray:
        """Index into ``hyper_groups`` of each scale, (scale,) int array."""
        return np.minimum(np.arange(len(self.scales)), self.n_eta)

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


def build_design(
    scans: pd.DataFrame, spec: ModelSpec, standards: Standards | None = None, scales: Collection[Scale] | None = None
) -> Design:
    """Lay out a study for a model.

    Parameters
    ----------
    scans : DataFrame
        Canonical columns as in :class:`bayesharm.data.dataset.Dataset`.
    spec : ModelSpec
    standards : Standards, optional
        Of a fit, whose scan patterns are then among the scans; by default they are computed from these scans.
    scales : collection of Scale, optional
        Those of the fit. They decide whether noise weights alone tell people from noise, which weights of new scans might.

    Raises
    ------
    ModelError
        The study lacks travelers, the reference diagnosis or protocol columns that the model needs.
    InputError
        A covariate is missing, constant, or has missing values; the formula or a protocol factor cannot be used.
    """
    study, notes = select_scans(scans, spec, check=standards is None)
    if standards is None:
        standards = standardize(study, spec)
        notes += notes_on_slopes(study.table, standards.slopes, spec)
    terms, term_notes = _list_terms(study, spec, standards)
    medians = {NOISE: spec.noise_scale} | {scale: term.prior_median for term in terms for scale in term.scales if scale}
    relative_noise = study.relative_noise / standards.noise_unit
    people = [family for family in spec.families if family.by == "participant"]
    people = [family for family in people if scales is None or Scale(family.name) in scales]
    if people and not study.is_repeat_scanned.any() and len(np.unique(round_noise(relative_noise))) > 1:
        medians |= {Scale(family.name): family.prior_median for family in people}
        term_notes.append(f"Only {spec.noise_weight!r} separates the size of participant effects from that of the noise.")
    if spec.noise_ratio == "scanner-feature":
        medians |= {Scale(NOISE_RATIO, scanner): 1.0 for scanner in study.scanners}
    index = {scale: k for k, scale in enumerate(medians)}

    columns = [column for term in terms for column in term.columns]
    column_scale = np.array([index[scale] if scale else FIXED for term in terms for scale in term.scales])
    column_sd = np.concatenate([np.full(len(term.columns), term.fixed_sd) for term in terms])
    matrix = sparse.hstack([term.matrix for term in terms]).tocsr()
    is_eliminated = choose_eliminated(terms, spec)
    order = np.argsort(is_eliminated, kind="stable")
    place = np.argsort(order)
    matrix = matrix[:, order].tocsr()
    partner = _find_partners(terms)[order]
    families = np.concatenate([np.full(len(term.columns), term.slope_of or term.name, object) for term in terms])[order]
    correlations = tuple(family.name for family in spec.slopes if family.name in families)

    single_scan_scale = next((index[Scale(family.name)] for family in people if Scale(family.name) in index), 0)
    is_single = ~study.is_repeat_scanned if single_scan_scale else np.zeros(len(study.table), bool)
    scanner = pd.Categorical(study.table.scanner, categories=study.scanners).codes.astype(int)
    noise = classify_noise(scanner, is_single, relative_noise)
    term_notes += notes_on_rounding(is_single, relative_noise, spec)
    noise_scale = np.array([index.get(Scale(NOISE_RATIO, name), -1) for name in study.scanners])
    has_repeats = np.isin(np.arange(len(study.scanners)), scanner[study.is_traveler & study.is_repeat_scanned])

    ordered, n_dense = tuple(columns[k] for k in order), int((~is_eliminated).sum())
    of_scanner = columns_of_scanners(ordered, matrix, scanner, spec)
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
        partner=np.where(partner >= 0, place[partner], -1),
        correlation_of=pd.Index(correlations, dtype=object).get_indexer(families),
        correlations=correlations,
        has_gain=np.concatenate([np.full(len(term.columns), term.has_gain) for term in terms])[order],
        gain_is_known=has_repeats,
        n_dense=n_dense,
        scan_weight=noise.scan_weight,
        scan_class=noise.scan_class,
        class_scanner=noise.class_scanner,
        class_single_scan=noise.class_single_scan,
        class_variance=noise.class_variance,
        class_noise_scale=noise_scale[noise.class_scanner],
        effects=effect_groups(terms, place, column_scale, of_scanner, study.scanners, spec),
        of_scanner=of_scanner,
        participants=study.table.participant_id.to_numpy(object),
        travelers=tuple(sorted(study.table.participant_id[study.is_traveler].unique())),
        site_travelers=tuple(sorted(study.table.participant_id[study.is_site_traveler].unique())),
        single_scan_scale=single_scan_scale,
        standards=standards,
        notes=(*notes, *term_notes, *covariate_notes(standards.covariates)),
        cost=tuple(notes_on_cost([column.family for column in ordered[:n_dense]])),
    )


def _list_terms(study: UsedScans, spec: ModelSpec, standards: Standards) -> tuple[list[Term], list[str]]:
    """List the terms of a model that have columns in a study: the mean, families with slopes, covariates; with notes."""
    levels = [family_levels(family, study) for family in spec.families]
    terms = [mean_term(len(study.table), spec)]
    column_of = {each.family: each for each in standards.slopes}
    for family, each in zip(spec.families, levels, strict=True):
        if each.columns:
            terms.append(family_term(family, each))
            if family.slope:
                column = column_of[family.name]
                terms.append(slope_term(family, terms[-1], slope_values(study.table, family, column), column.sd))
    if standards.covariates:
        terms.append(covariate_term(study.table, standards.covariates, spec))
    return terms, [note for each in levels for note in each.notes]


def _find_partners(terms: Sequence[Term]) -> np.ndarray:
    """The slope of each intercept and the intercept of each slope, in the order of the terms, (column,); -1 for none."""
    start = dict(zip([term.name for term in terms], np.cumsum([0] + [len(term.columns) for term in terms]), strict=False))
    partner = np.full(sum(len(term.columns) for term in terms), -1)
    for term in terms:
        if term.slope_of:
            levels = np.arange(len(term.columns))
            partner[start[term.name] + levels] = start[term.slope_of] + levels
            partner[start[term.slope_of] + levels] = start[term.name] + levels
    return partner
