"""Identifiability: which contrasts the data of a study identify, and which rest on a prior.

It follows from the table of scans and the scales alone; no feature is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from bayesharm.conditional.caveats import (
    PARTICIPANTS,
    POPULATION,
    SAMPLING,
    TRAVELERS,
    on_components,
    on_contraction,
    on_gains,
    on_scanners,
    on_separation,
)
from bayesharm.conditional.posterior import ConditionalPosterior
from bayesharm.errors import InputError
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.model.contrasts import add_columns, removable_together
from bayesharm.model.design import FIXED, Design
from bayesharm.model.protocol_factors import count_contrasts, on_factors


@dataclass(frozen=True, eq=False)
class Identifiability:
    """The contrasts that the data of a study identify.

    The *contraction* of a contrast is 1 − posterior variance / prior variance, given the scales: the share of its posterior
    precision that comes from the data. It does not show which other prior the contrast relies on: with a prior on sampling
    bias, scans of different people also inform the difference between two scanners. Therefore ``contraction_travelers``,
    from the scans of travelers alone, stands beside it.

    Attributes
    ----------
    components : tuple of tuple of str
        Groups of scanners that travelers link, directly or through other scanners; the largest group first.
    contrasts : DataFrame
        A row for each reported effect: ``group``, ``level``, ``n_scans``, ``n_participants``, ``contraction``
        and ``contraction_travelers`` (NaN where the group is not by scanner).
    scanners : DataFrame
        Indexed by scanner: ``component``, ``n_scans``, ``n_travelers``, ``n_single_scan`` (single-scan participants).
    pairs : DataFrame
        A row for each pair of scanners: ``first``, ``second``, ``rests_on`` (`travelers`,
        `shared population`, `prior of sampling bias` or `prior of participant effects`), and ``contraction``
        and ``contraction_travelers`` of their difference.
    correlation : (effect, effect) array
        Posterior correlation of the effects of scanners, each minus the mean of all, followed by those of populations.
    factors : DataFrame
        A row for each protocol factor: the number of ``contrasts`` between its levels, the number that are its ``own`` and
        no other factor's, and the factors that the rest is ``mimicked_by``.
    remarks : tuple of str
        The sentences that :meth:`sentences` returns.
    """

    components: tuple[tuple[str, ...], ...]
    contrasts: pd.DataFrame
    scanners: pd.DataFrame
    pairs: pd.DataFrame
    correlation: np.ndarray
    factors: pd.DataFrame
    remarks: tuple[str, ...]

    def sentences(self) -> list[str]:
        """Caveats for the user, the most important first; empty if there are none."""
        return list(self.remarks)


def identify(design: Design, log_scales: np.ndarray | None = None, ratios: VarianceRatios | None = None) -> Identifiability:
    """Find the contrasts that the data of a study identify.

    Parameters
    ----------
    design : Design
    log_scales : (scale,) array, optional
        Natural logarithms of ``design.scales``, in standard deviations of a feature; the prior medians by default.
    ratios : VarianceRatios, optional
        Variance ratios of the scanners; 1 by default.

    Raises
    ------
    InputError
        `log_scales` does not have one number for each scale.
    """
    log_scales = np.asarray(np.log(design.scale_medians) if log_scales is None else log_scales, float)
    if log_scales.shape != design.scale_medians.shape:
        raise InputError(
            "There must be one log-scale for each scale of the model.",
            got=f"an array of shape {log_scales.shape}",
            expected=f"shape {design.scale_medians.shape}: {', '.join(design.scale_labels)}",
            do="give one for each",
        )
    traveling = np.isin(design.participants, design.travelers)
    person = pd.factorize(design.participants)[0]
    linked = _link_by_people(design, traveling, person)
    shared = _link_by_population(design, traveling, person)
    ratios = ratios or VarianceRatios.equal(len(design.scanners), len(design.correlations))
    posterior = ConditionalPosterior.of_scans(design, log_scales, ratios, np.full(design.n_scans, True))
    of_travelers = ConditionalPosterior.of_scans(design, log_scales, ratios, traveling)

    components = sort_components(design.scanners, linked)
    scanners = _scanner_table(design, traveling, components)
    contrasts = _contrast_table(design, posterior, of_travelers, person)
    pairs = _pair_table(design, posterior, of_travelers, _rests_on(design, traveling, linked, shared))
    factors = count_contrasts(_levels_of_factors(design))
    remarks = (
        *on_separation(design, components),
        *on_components(design, components, pairs),
        *on_factors(factors, len(design.scanners)),
        *on_scanners(scanners),
        *on_gains(design),
        *on_contraction(contrasts),
        *design.notes,
        *design.cost,
    )
    correlation = _correlation(design, posterior)
    return Identifiability(components, contrasts, scanners, pairs, correlation, factors, remarks)


def _link_by_people(design: Design, rows: np.ndarray, person: np.ndarray) -> np.ndarray:
    """Component of each scanner in the graph in which the scans of one person link their scanners, (scanner,)."""
    scanner = design.class_scanner[design.scan_class]
    shape = (len(design.scanners), person.max() + 1)
    visits = sparse.csr_array((np.ones(rows.sum()), (scanner[rows], person[rows])), shape=shape)
    return connected_components(visits @ visits.T, directed=False)[1]


def _link_by_population(design: Design, traveling: np.ndarray, person: np.ndarray) -> np.ndarray:
    """The same, when different people who share all effects but their own and the scanner's link their scanners too."""
    families = design.spec.families
    own = {f.name for f in families if f.by in ("scanner", "participant")} | {*design.spec.components}
    own |= {f.slope_name for f in families}
    shared = (design.column_scale != FIXED) & ~np.isin(design.families, list(own))
    pattern = np.unique(design.matrix[:, shared].toarray(), axis=0, return_inverse=True)[1].reshape(-1)
    linking = np.where(traveling, person, person.max() + 1 + pattern)
    return _link_by_people(design, np.full(len(person), True), linking)


def sort_components(scanners: Sequence[str], component: np.ndarray) -> tuple[tuple[str, ...], ...]:
    """Group scanners by the number of their component, the largest group first, (scanner,) int array."""
    groups = (tuple(np.array(scanners, object)[component == k]) for k in np.unique(component))
    return tuple(sorted(groups, key=lambda group: (-len(group), group)))


def _rests_on(design: Design, traveling: np.ndarray, linked: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """Basis of the difference of each pair of scanners, from the components of both graphs."""
    i, j = np.triu_indices(len(linked), 1)
    # the prior of sampling bias informs the difference if both sides have a cohort; else only participants are compared
    scanner = design.class_scanner[design.scan_class]
    cohort = np.isin(shared, shared[scanner[~traveling]])
    return np.select(
        [linked[i] == linked[j], shared[i] == shared[j], cohort[i] & cohort[j]],
        [TRAVELERS, POPULATION, SAMPLING],
        PARTICIPANTS,
    )


def _scanner_table(design: Design, traveling: np.ndarray, components: tuple[tuple[str, ...], ...]) -> pd.DataFrame:
    names = np.array(design.scanners, object)[design.class_scanner[design.scan_class]]
    scans = pd.DataFrame({"scanner": names, "person": design.participants})
    component = {scanner: k for k, group in enumerate(components) for scanner in group}
    table = pd.DataFrame(index=pd.Index(design.scanners, name="scanner"))
    table["component"] = table.index.map(component)
    single_scans = scans[~scans.person.duplicated(keep=False)]
    counted = {"n_scans": scans, "n_travelers": scans[traveling].drop_duplicates(), "n_single_scan": single_scans}
    for name, rows in counted.items():
        table[name] = rows.scanner.value_counts().reindex(table.index, fill_value=0)
    return table


def _contrast_table(
    design: Design, posterior: ConditionalPosterior, of_travelers: ConditionalPosterior, person: np.ndarray
) -> pd.DataFrame:
    matrix, tables = design.matrix.tocsc(), []
    n_scans = np.diff(matrix.indptr)
    for group in design.effects:
        # of the columns of a scanner with protocol factors, the one that no other scanner shares
        columns = [columns[n_scans[columns].argmin()] for columns in group.columns]
        scans = [matrix.indices[matrix.indptr[column] : matrix.indptr[column + 1]] for column in columns]
        tables.append(
            pd.DataFrame(
                {
                    "group": group.name,
                    "level": group.levels,
                    "n_scans": [len(rows) for rows in scans],
                    "n_participants": [len(np.unique(person[rows])) for rows in scans],
                    "contraction": posterior.contraction_of(group),
                    "contraction_travelers": of_travelers.contraction_of(group) if group.dim == "scanner" else np.nan,
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def _pair_table(
    design: Design, posterior: ConditionalPosterior, of_travelers: ConditionalPosterior, rests_on: np.ndarray
) -> pd.DataFrame:
    i, j = np.triu_indices(len(design.scanners), 1)
    effect = add_columns(design.of_scanner, len(design.columns))
    difference = effect[i] - effect[j]
    names = np.array(design.scanners, object)
    return pd.DataFrame(
        {
            "first": names[i],
            "second": names[j],
            "rests_on": rests_on,
            "contraction": posterior.contraction(difference),
            "contraction_travelers": of_travelers.contraction(difference),
        }
    )


def _correlation(design: Design, posterior: ConditionalPosterior) -> np.ndarray:
    scanner = add_columns(design.of_scanner, len(design.columns)).toarray()
    others = [group.contrasts for group in removable_together(design.effects, design.spec)[1:]]
    covariance = posterior.covariance(sparse.csr_array(np.concatenate([scanner - scanner.mean(0), *others])))
    sd = np.sqrt(np.diag(covariance))
    with np.errstate(invalid="ignore", divide="ignore"):  # a single scanner has no contrast
        return covariance / sd / sd[:, None]


def _levels_of_factors(design: Design) -> dict[str, np.ndarray]:
    """Indicators of the level of each protocol factor that the scanners have, (scanner, level)."""
    effect, families = add_columns(design.of_scanner, len(design.columns)).toarray(), design.families
    return {f.name: effect[:, families == f.name] for f in design.spec.factors if f.name in families}
