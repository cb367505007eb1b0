"""What a study can tell: which contrasts its data identify, and which rest on a prior.

All of it follows from the table of scans and the scales; no feature is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from bayesharm.errors import InputError, listed
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.model.contrasts import EffectGroup, add_columns
from bayesharm.model.design import FIXED, Design
from bayesharm.model.protocol_factors import count_contrasts, on_factors

WEAK = 0.5  # below this contraction, more is known from the prior than from the data

# What the difference between two scanners rests on, best first, and how a sentence says it.
TRAVELERS, POPULATION = "travelers", "shared population"
SAMPLING, PARTICIPANTS = "prior of sampling bias", "prior of participant effects"
SAID = {
    POPULATION: "is seen in different people of one population, not in the same people",
    SAMPLING: "rests on the prior of sampling bias",
    PARTICIPANTS: "rests on the prior of participant effects, which takes the people there to be alike",
}


@dataclass(frozen=True, eq=False)
class Identifiability:
    """What the data of a study identify.

    *Contraction* is the share of a contrast's posterior precision that comes from the data,
    1 − posterior variance / prior variance, given the scales. It does not say on which other prior it relies:
    with one on sampling bias, scans of different people inform the difference between two scanners too. That
    is why ``contraction_travelers``, the same from the scans of travelers alone, stands beside it.

    Attributes
    ----------
    components : tuple of tuple of str
        Scanners that travelers join, directly or through others; the largest group first.
    contrasts : DataFrame
        A row for each reported effect: ``group``, ``level``, ``n_scans``, ``n_participants``, ``contraction``
        and ``contraction_travelers`` (NaN where the group is not by scanner).
    scanners : DataFrame
        Indexed by scanner: ``component``, ``n_scans``, ``n_travelers``, ``n_once`` (people scanned once).
    pairs : DataFrame
        A row for each pair of scanners: ``first``, ``second``, ``rests_on`` (`travelers`,
        `shared population`, `prior of sampling bias` or `prior of participant effects`), and ``contraction``
        and ``contraction_travelers`` of their difference.
    correlation : (effect, effect) array
        Of what is uncertain of the effects of scanners, each counted from the mean of all, and after them of populations.
    factors : DataFrame
        A row for each protocol factor: ``contrasts`` between its levels, how many are its ``own`` and no other factor's,
        and the factors that the rest is ``mimicked_by``.
    remarks : tuple of str
        What :meth:`sentences` says.
    """

    components: tuple[tuple[str, ...], ...]
    contrasts: pd.DataFrame
    scanners: pd.DataFrame
    pairs: pd.DataFrame
    correlation: np.ndarray
    factors: pd.DataFrame
    remarks: tuple[str, ...]

    def sentences(self) -> list[str]:
        """Plain sentences for the user, the most important first; none if there is nothing to beware of."""
        return list(self.remarks)


def identify(design: Design, log_scales: np.ndarray | None = None, ratios: VarianceRatios | None = None) -> Identifiability:
    """Find out what the data of a study identify.

    Parameters
    ----------
    design : Design
    log_scales : (scale,) array, optional
        Natural logarithms of ``design.scales``, in standard deviations of a feature; by default those of
        their prior medians.
    ratios : VarianceRatios, optional
        log lambda of each scanner, then log kappa of each; 0 by default.

    Raises
    ------
    InputError
        Not one number for each scale.
    """
    log_scales = np.asarray(np.log(design.scale_medians) if log_scales is None else log_scales, float)
    if log_scales.shape != design.scale_medians.shape:
        raise InputError(
            "There must be one log-scale for each scale of the model.",
            got=f"an array of shape {log_scales.shape}",
            expected=f"shape {design.scale_medians.shape}: {', '.join(design.scales)}",
            do="give one for each",
        )
    traveling = np.isin(design.participants, design.travelers)
    person = pd.factorize(design.participants)[0]
    joined = _joined(design, traveling, person)
    shared = _joined_by_population(design, traveling, person)
    ratios = ratios or VarianceRatios.equal(len(design.scanners))
    everything = _posterior(design, log_scales, ratios, np.full(design.n_scans, True))
    by_travelers = _posterior(design, log_scales, ratios, traveling)

    components = _groups(design.scanners, joined)
    scanners = _scanner_table(design, traveling, components)
    contrasts = _contrast_table(design, everything, by_travelers, person)
    pairs = _pair_table(design, everything, by_travelers, _rests_on(design, traveling, joined, shared))
    factors = count_contrasts(_levels_of_factors(design))
    remarks = (
        *_on_separation(design, components),
        *_on_components(design, components, pairs),
        *on_factors(factors, len(design.scanners)),
        *_on_scanners(scanners),
        *_on_levels(contrasts),
        *design.notes,
    )
    return Identifiability(components, contrasts, scanners, pairs, _correlation(design, everything), factors, remarks)


class Gaussian(NamedTuple):
    """All effects given the scales: linear forms of the dense ones, and independent parts of their own.

    Attributes
    ----------
    prior : (column,) array
        Prior variances.
    covariance : (dense, dense) array
        Of the dense effects.
    form : (column, dense) array
    own : (column,) array
        Variances.
    """

    prior: np.ndarray
    covariance: np.ndarray
    form: np.ndarray
    own: np.ndarray


def _posterior(design: Design, log_scales: np.ndarray, ratios: VarianceRatios, rows: np.ndarray) -> Gaussian:
    """What is known of the effects once the scans in rows are in."""
    variance = np.exp(2 * log_scales)
    prior_sd = np.where(
        design.column_scale == FIXED, design.column_sd, np.sqrt(variance[np.maximum(design.column_scale, 0)])
    )
    noise, bias = ratios.noise, ratios.bias
    own, scanner = design.bias_ratio_of, design.class_scanner[design.scan_class]
    prior_sd = prior_sd * np.where(own >= 0, np.sqrt(bias[own]), 1.0)
    noise_sd = np.sqrt(
        variance[0] * noise[scanner] + design.class_single_scan[design.scan_class] * variance[design.single_scan_scale]
    )
    # in units of prior and noise sd the prior precision is the identity: well conditioned at any scales
    x = (sparse.diags_array(1 / noise_sd) @ design.matrix @ sparse.diags_array(prior_sd)).tocsr()[rows]
    dense, eliminated = x[:, : design.n_dense], x[:, design.n_dense :]
    pivot = 1 + np.asarray(eliminated.power(2).sum(axis=0)).reshape(-1)  # these share no scan with one another
    cross = (eliminated.T @ dense).toarray()
    slope = cross / pivot[:, None]
    precision = np.eye(design.n_dense) + (dense.T @ dense).toarray() - cross.T @ slope
    form = np.concatenate([np.eye(design.n_dense), -slope]) * prior_sd[:, None]
    own = np.concatenate([np.zeros(design.n_dense), 1 / pivot]) * prior_sd**2
    return Gaussian(prior_sd**2, np.linalg.inv(precision), form, own)


def _contraction(known: Gaussian, group: EffectGroup) -> np.ndarray:
    """1 − posterior variance / prior variance of each contrast of a group."""
    if group.is_sum:
        return _contraction_of_forms(known, sparse.csr_array(group.contrasts))
    alone = group.contrast_group < 0
    contrast_group = np.where(alone, 0, np.unique(group.contrast_group, return_inverse=True)[1])
    n_mates = np.bincount(contrast_group, minlength=1)
    form, own, prior = (part[group.columns[:, 0]] for part in (known.form, known.own, known.prior))

    def of_contrasts(variance: np.ndarray) -> np.ndarray:
        """Variance of independent effects minus the mean of their mates."""
        of_mean = np.bincount(contrast_group, variance) / n_mates**2
        return np.where(alone, variance, variance * (1 - 2 / n_mates[contrast_group]) + of_mean[contrast_group])

    center = sparse.csr_array((1 / n_mates[contrast_group], (contrast_group, np.arange(len(contrast_group))))) @ form
    form = np.where(alone[:, None], form, form - center[contrast_group])
    after = ((form @ known.covariance) * form).sum(axis=1) + of_contrasts(own)
    return 1 - after / of_contrasts(prior)


def _contraction_of_forms(known: Gaussian, rows: sparse.csr_array) -> np.ndarray:
    """The same of any linear forms of the columns, (form, column), most of whose numbers are 0."""
    form, squares = rows @ known.form, rows.power(2)
    after = ((form @ known.covariance) * form).sum(axis=1) + squares @ known.own
    return 1 - after / (squares @ known.prior)


def _joined(design: Design, rows: np.ndarray, node: np.ndarray) -> np.ndarray:
    """Component of each scanner in the graph where scans of one node join their scanners."""
    scanner = design.class_scanner[design.scan_class]
    shape = (len(design.scanners), node.max() + 1)
    seen = sparse.csr_array((np.ones(rows.sum()), (scanner[rows], node[rows])), shape=shape)
    return connected_components(seen @ seen.T, directed=False)[1]


def _joined_by_population(design: Design, traveling: np.ndarray, person: np.ndarray) -> np.ndarray:
    """The same when also different people join scanners if they share all effects but their own."""
    own = {f.name for f in design.spec.families if f.grouping in ("scanner", "participant")} | {*design.spec.components}
    shared = (design.column_scale != FIXED) & ~np.isin(design.families, list(own))
    pattern = np.unique(design.matrix[:, shared].toarray(), axis=0, return_inverse=True)[1].reshape(-1)
    node = np.where(traveling, person, person.max() + 1 + pattern)
    return _joined(design, np.full(len(person), True), node)


def _groups(scanners: tuple[str, ...], label: np.ndarray) -> tuple[tuple[str, ...], ...]:
    groups = (tuple(np.array(scanners, object)[label == k]) for k in np.unique(label))
    return tuple(sorted(groups, key=lambda group: (-len(group), group)))


def _rests_on(design: Design, traveling: np.ndarray, joined: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """What the difference of each pair of scanners rests on, from the components of both graphs."""
    i, j = np.triu_indices(len(joined), 1)
    # the prior of sampling bias speaks where both sides have a cohort; else only people can be compared
    scanner = design.class_scanner[design.scan_class]
    cohort = np.isin(shared, shared[scanner[~traveling]])
    return np.select(
        [joined[i] == joined[j], shared[i] == shared[j], cohort[i] & cohort[j]],
        [TRAVELERS, POPULATION, SAMPLING],
        PARTICIPANTS,
    )


def _scanner_table(design: Design, traveling: np.ndarray, components: tuple[tuple[str, ...], ...]) -> pd.DataFrame:
    names = np.array(design.scanners, object)[design.class_scanner[design.scan_class]]
    scans = pd.DataFrame({"scanner": names, "person": design.participants})
    component = {scanner: k for k, group in enumerate(components) for scanner in group}
    table = pd.DataFrame(index=pd.Index(design.scanners, name="scanner"))
    table["component"] = table.index.map(component)
    once = scans[~scans.person.duplicated(keep=False)]
    counted = {"n_scans": scans, "n_travelers": scans[traveling].drop_duplicates(), "n_once": once}
    for name, some in counted.items():
        table[name] = some.scanner.value_counts().reindex(table.index, fill_value=0)
    return table


def _contrast_table(design: Design, everything: Gaussian, by_travelers: Gaussian, person: np.ndarray) -> pd.DataFrame:
    matrix, parts = design.matrix.tocsc(), []
    n_scans = np.diff(matrix.indptr)
    for group in design.effects:
        own = [columns[n_scans[columns].argmin()] for columns in group.columns]  # of a scanner: what nothing else shares
        scans = [matrix.indices[matrix.indptr[column] : matrix.indptr[column + 1]] for column in own]
        parts.append(
            pd.DataFrame(
                {
                    "group": group.name,
                    "level": group.levels,
                    "n_scans": [len(some) for some in scans],
                    "n_participants": [len(np.unique(person[some])) for some in scans],
                    "contraction": _contraction(everything, group),
                    "contraction_travelers": _contraction(by_travelers, group) if group.dim == "scanner" else np.nan,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def _pair_table(design: Design, everything: Gaussian, by_travelers: Gaussian, rests_on: np.ndarray) -> pd.DataFrame:
    i, j = np.triu_indices(len(design.scanners), 1)
    effect = add_columns(design.of_scanner, len(design.columns))
    difference = effect[i] - effect[j]
    names = np.array(design.scanners, object)
    return pd.DataFrame(
        {
            "first": names[i],
            "second": names[j],
            "rests_on": rests_on,
            "contraction": _contraction_of_forms(everything, difference),
            "contraction_travelers": _contraction_of_forms(by_travelers, difference),
        }
    )


def _correlation(design: Design, known: Gaussian) -> np.ndarray:
    scanner = add_columns(design.of_scanner, len(design.columns)).toarray()
    sampling = [group.contrasts for group in design.effects if group.dim == "population"]
    forms = sparse.csr_array(np.concatenate([scanner - scanner.mean(0), *sampling]))
    form = forms @ known.form
    covariance = form @ known.covariance @ form.T + ((forms * known.own) @ forms.T).toarray()
    sd = np.sqrt(np.diag(covariance))
    with np.errstate(invalid="ignore", divide="ignore"):  # a single scanner has no contrast
        return covariance / sd / sd[:, None]


def _separates(design: Design) -> bool:
    """Whether the model has a term for sampling bias, or leaves out everyone who has any."""
    return design.spec.participants == "travelers" or any(f.grouping == "population" for f in design.spec.families)


def _on_separation(design: Design, components: tuple[tuple[str, ...], ...]) -> list[str]:
    effect = f"the {design.spec.removed_effect} effect of a scanner is both together"
    if len(components) == len(design.scanners):
        rest = (
            "only their priors tell them apart."
            if _separates(design)
            else f"{effect}, and removing it also removes real differences between populations."
        )
        return [f"Nobody traveled: measurement and sampling bias are not separable; {rest}"]
    if not _separates(design):
        return [
            f"This model does not separate measurement from sampling bias: {effect}. People traveled: "
            "the model traveling_and_cohort separates them."
        ]
    return []


def _on_components(design: Design, components: tuple[tuple[str, ...], ...], pairs: pd.DataFrame) -> list[str]:
    """Which scanners no traveler joins with the largest group, and what their difference rests on."""
    if not _separates(design) or len(components) == len(design.scanners):
        return []  # said already
    sentences: list[str] = []
    alone: dict[str, list[str]] = {reason: [] for reason in SAID}
    for group in components[1:]:
        crossing = pairs[pairs["first"].isin(group) != pairs["second"].isin(group)]
        best = next(reason for reason in SAID if reason in set(crossing.rests_on))
        if len(group) == 1:
            alone[best] += group
            continue
        others = [scanner for scanner in design.scanners if scanner not in group]
        rest = listed(others) if len(others) <= 3 else f"the other {len(others)} scanners"
        sentences.append(f"No traveler joins {listed(group)} with {rest}: the difference between them {SAID[best]}.")
    for reason, names in alone.items():
        if names:
            sentences.append(
                f"No traveler joins {listed(names)} with any other scanner: the difference from the others {SAID[reason]}."
            )
    return sentences


def _levels_of_factors(design: Design) -> dict[str, np.ndarray]:
    """Which level of each protocol factor the scanners have, (scanner, level)."""
    effect, families = add_columns(design.of_scanner, len(design.columns)).toarray(), design.families
    return {f.name: effect[:, families == f.name] for f in design.spec.factors if f.name in families}


def _on_scanners(scanners: pd.DataFrame) -> list[str]:
    sentences = []
    one = scanners.index[(scanners.n_travelers == 1) & scanners.component.duplicated(keep=False)]
    if len(one):
        sentences.append(
            f"{listed(one)}: one traveler only; what was particular to that visit cannot be told from the scanner."
        )
    one = scanners.index[scanners.n_scans == 1]
    if len(one):
        sentences.append(
            f"{listed(one)}: one scan only; whether it is noisier there than elsewhere is judged from that scan alone."
        )
    return sentences


def _on_levels(contrasts: pd.DataFrame) -> list[str]:
    """Levels of which the prior tells more than the data, group by group."""
    sentences = []
    weak = contrasts[contrasts.contraction < WEAK].round({"contraction": 9}).sort_values("contraction", kind="stable")
    for group in weak.group.unique():
        levels = weak[weak.group == group]
        shares = zip(levels.level, levels.contraction, strict=True)
        named = listed(f"{level} ({share:.0%})" for level, share in shares)
        sentences.append(
            f"{group}: less than half of what is known about {named} comes from the data, the rest from the prior."
        )
    return sentences
