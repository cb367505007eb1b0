"""Terms of a model: the columns of the mean, of each family of effects, and of the covariates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from bayesharm.errors import ModelError, shorten
from bayesharm.model.labels import Column, Population, Scale, population_labels
from bayesharm.model.spec import Family, ModelSpec
from bayesharm.model.used_scans import UsedScans


@dataclass(frozen=True)
class Term:
    """Columns of one family, of the mean, or of the covariates.

    Attributes
    ----------
    name : str
        `mean`, `covariate` or a family's name.
    columns : tuple of Column
    labels : tuple of str
        Printed label of each level, unique within the term.
    matrix : (scan, column) sparse matrix
    scales : tuple of Scale or None
        Scale of each column; None where the prior sd is fixed.
    is_centered : bool
        Whether effects are reported relative to the mean of the levels that share a scale, or against a reference.
    prior_median : float
        Prior median of the scales, as a share of the feature's standard deviation.
    fixed_sd : float
        Prior sd of columns without a scale, in standard deviations of the feature.
    weight : float or (column,) array
        Factor from an effect to the reported effect.
    has_gain : bool
        Whether the gain of a scanner multiplies the effects.
    slope_of : str
        The term whose effects depend on a column, for the slopes of its levels; empty for other terms.
    """

    name: str
    columns: tuple[Column, ...]
    labels: tuple[str, ...]
    matrix: sparse.csr_array
    scales: tuple[Scale | None, ...]
    is_centered: bool
    prior_median: float = np.nan
    fixed_sd: float = np.inf
    weight: float | np.ndarray = 1.0
    has_gain: bool = False
    slope_of: str = ""


class TermLevels(NamedTuple):
    """Levels of a family in a study.

    Attributes
    ----------
    codes : (scan,) int array
        Level of each scan; -1 for none.
    columns : tuple of Column
        One for each level; empty if the study has no effects of this family.
    scales : tuple of Scale
        Scale of each level.
    notes : tuple of str
        Sentences about levels that were left out.
    """

    codes: np.ndarray
    columns: tuple[Column, ...]
    scales: tuple[Scale, ...]
    notes: tuple[str, ...] = ()


def family_levels(family: Family, study: UsedScans) -> TermLevels:
    """List the levels of a family, their scales, and the level of each scan.

    Raises
    ------
    ModelError
        No scan has the reference diagnosis.
    """
    by_column = _factor_levels if family.is_factor else _column_levels
    return LEVELS_OF.get(family.by, by_column)(family, study)


def family_term(family: Family, levels: TermLevels) -> Term:
    """Build the columns of a family: indicators of its levels."""
    is_population = family.by == "population"
    names = tuple(column.level for column in levels.columns)
    return Term(
        family.name,
        levels.columns,
        population_labels([Population(c.level, c.group) for c in levels.columns]) if is_population else names,
        indicators(levels.codes, len(names)),
        levels.scales,
        is_centered=family.by != "diagnosis",
        prior_median=family.prior_median,
        has_gain=family.has_gain,
    )


def slope_term(family: Family, of: Term, values: np.ndarray, sd: float) -> Term:
    """Build the slopes of the levels of a family: its indicators times the standardized values of a column, (scan,)."""
    return replace(
        of,
        name=family.slope_name,
        columns=tuple(column._replace(family=family.slope_name) for column in of.columns),
        matrix=sparse.csr_array(of.matrix * values[:, None]),
        scales=(Scale(family.slope_name),) * len(of.columns),
        prior_median=family.slope_prior_median,
        weight=1 / sd,
        slope_of=family.name,
    )


def mean_term(n_scans: int, spec: ModelSpec) -> Term:
    """Build the column of ones."""
    ones = sparse.csr_array(np.ones((n_scans, 1)))
    return Term("mean", (Column("mean", "mean"),), ("mean",), ones, (None,), False, fixed_sd=spec.priors.mean_sd)


def indicators(codes: np.ndarray, n_levels: int) -> sparse.csr_array:
    """Return the 0/1 matrix (scan, level) of level codes; a row of zeros where the code is -1."""
    scan = np.flatnonzero(codes >= 0)
    return sparse.csr_array((np.ones(len(scan)), (scan, codes[scan])), shape=(len(codes), n_levels))


def _one_scale(family: Family, labels: np.ndarray, levels: Sequence[str], *notes: str) -> TermLevels:
    """Levels that share one scale; scans whose label is not a level have none."""
    codes = pd.Index(levels, dtype=object).get_indexer(labels)
    return TermLevels(
        codes, tuple(Column(family.name, level) for level in levels), (Scale(family.name),) * len(levels), notes
    )


def _no_levels(study: UsedScans, *notes: str) -> TermLevels:
    return TermLevels(np.full(len(study.table), -1), (), (), notes)


def _scanner_levels(family: Family, study: UsedScans) -> TermLevels:
    return _one_scale(family, study.table.scanner.to_numpy(object), study.scanners)


def _factor_levels(family: Family, study: UsedScans) -> TermLevels:
    if family.name not in study.factors:
        return _no_levels(study)
    level = study.factors[family.name]
    return _one_scale(family, study.table.scanner.map(level).to_numpy(object), sorted(level.unique()))


def _column_levels(family: Family, study: UsedScans) -> TermLevels:
    labels = study.columns[family.name]
    return _one_scale(family, labels.to_numpy(object), sorted(labels.unique()))


def _participant_levels(family: Family, study: UsedScans) -> TermLevels:
    """People scanned more than once; the effect of a person with one scan is part of the noise of that scan."""
    people = study.table.participant_id.where(study.is_repeat_scanned, None)
    if not study.is_repeat_scanned.any():
        return _no_levels(study, "Nobody was scanned twice: participant effects are part of the noise.")
    return _one_scale(family, people.to_numpy(object), sorted(people[study.is_repeat_scanned].unique()))


def _diagnosis_levels(family: Family, study: UsedScans) -> TermLevels:
    """Diagnoses but the reference."""
    if "diagnosis" not in study.table:
        return _no_levels(study, f"No diagnosis column: no {family.name} effects.")
    present = sorted(study.table.diagnosis.unique())
    if study.reference not in present:
        raise ModelError(
            f"The reference diagnosis {study.reference!r} is not in the table.",
            got=f"diagnoses {shorten(present)}",
            expected=f"some scans with diagnosis {study.reference!r}",
            do="name the reference group with --reference, or leave the diagnosis column out",
        )
    patients = [name for name in present if name != study.reference]
    if not patients:
        return _no_levels(study, f"Everybody is {study.reference!r}: no {family.name} effects.")
    return _one_scale(family, study.table.diagnosis.to_numpy(object), patients)


def _population_levels(family: Family, study: UsedScans) -> TermLevels:
    """Populations (site × diagnosis) of the people of one site; of patients only if they come from two or more sites.

    People who were scanned at several sites, or are marked as traveling, belong to none. A reference group from one site
    keeps its term. Without it, the difference between these people and others would be attributed to their scanner.
    """
    cohort = study.table[~study.is_site_traveler]
    if cohort.empty:
        return _no_levels(study, f"Everybody traveled between sites: no {family.name} effects.")
    has_diagnosis = "diagnosis" in cohort
    populations: list[Population] = []
    notes: list[str] = []
    for diagnosis, people in cohort.groupby("diagnosis") if has_diagnosis else [("", cohort)]:
        recruited = sorted((Population(site, str(diagnosis)) for site in people.site.unique()), key=str)
        is_confounded = has_diagnosis and diagnosis != study.reference and len(recruited) < 2
        if len(recruited) < 2:
            notes.append(_on_single_site(str(diagnosis) or "everybody", recruited[0].site, is_confounded))
        if not is_confounded:
            populations += recruited
    place = {population: code for code, population in enumerate(populations)}
    diagnoses = study.table.diagnosis.astype(str) if has_diagnosis else [""] * len(study.table)
    pairs = zip(study.table.site, diagnoses, study.is_site_traveler, strict=True)
    return TermLevels(
        np.array([-1 if travels else place.get(Population(site, diagnosis), -1) for site, diagnosis, travels in pairs], int),
        tuple(Column(family.name, *population) for population in populations),
        tuple(Scale(family.name, population.diagnosis if family.split else "") for population in populations),
        tuple(notes),
    )


def _on_single_site(people: str, site: str, is_confounded: bool) -> str:
    if is_confounded:
        return (
            f"{people}: recruited at {site!r} only. Its sampling bias cannot be separated from its disorder effect and is "
            "part of it."
        )
    return (
        f"{people}: recruited at {site!r} only. The difference between these people and others is modeled separately from "
        "the scanner effect, but not reported: there is no other site to compare with."
    )


LEVELS_OF: Mapping[str, Callable[[Family, UsedScans], TermLevels]] = {
    "scanner": _scanner_levels,
    "population": _population_levels,
    "diagnosis": _diagnosis_levels,
    "participant": _participant_levels,
}
