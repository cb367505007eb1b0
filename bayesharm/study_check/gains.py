"""Gain in precision from more travelers: the expected precision of scanner differences after one or two more people travel.

A new traveler with a scan on each of two scanners adds two observations and a participant effect. The participant effect is
integrated out, so that the covariance of all effects changes by a matrix of rank two: exact at the given scales.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from bayesharm.conditional.posterior import ConditionalPosterior
from bayesharm.data.scans import CANONICAL
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.model.catalog import load_model
from bayesharm.model.contrasts import add_columns
from bayesharm.model.covariates import typical_values
from bayesharm.model.design import Design, build_design
from bayesharm.model.spec import ModelSpec
from bayesharm.model.standards import Standards
from bayesharm.study_check.typical_scales import estimate_scales

ADDED = (1, 2)  # travelers
MOST = 100  # travelers that are tried to halve an sd


def expect_gains(
    scans: pd.DataFrame,
    spec: ModelSpec,
    standards: Standards | None = None,
    values: np.ndarray | None = None,
    known: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Compute what more travelers between each pair of scanners would add.

    Parameters
    ----------
    scans : DataFrame
        Canonical columns as in :class:`bayesharm.data.dataset.Dataset`.
    spec : ModelSpec
        A model that does not separate measurement from sampling bias is replaced by `traveling_and_cohort`.
    standards : Standards, optional
        Those of the design of the study.
    values : (scan, feature) array, optional
        Features from which the scales are estimated; without them, the scales are the prior medians.
    known : mapping, optional
        Scales of the study by label; used if the model with new travelers has no other ones.

    Returns
    -------
    DataFrame
        A row for each pair of scanners, `first` and `second`: pairs that travelers do not link (`is_linked`) first, those
        that need the fewest travelers before others, then the largest gain of two travelers. `sd_0`, `sd_1` and `sd_2`:
        expected sd of the difference of their measurement biases now, and after one or two more people had one scan on each
        of both, in sd of a feature. `all_0`, `all_1` and `all_2`: root mean square over all scanners of the expected sd of
        their biases. `to_halve`: number of more travelers that halve `sd_0`. `to_link`: number with which travelers alone
        give half of the information on the difference, 0 if they do already. -1 if more than 100.
        New travelers have the reference diagnosis, and average or the most frequent covariates.
    """
    design, is_new = _with_visitor(scans, _separating(spec), standards)
    if known is not None and set(known) == set(design.scale_labels):
        scales = np.array([known[label] for label in design.scale_labels])
    else:
        scales = design.scale_medians if values is None else estimate_scales(design, values, ~is_new)
    return _gains(design, is_new, scales)


def _separating(spec: ModelSpec) -> ModelSpec:
    """Return a model that separates measurement from sampling bias and does not insist on travelers."""
    if spec.participants != "travelers" and not any(family.by == "population" for family in spec.families):
        other = load_model("traveling_and_cohort")
        kept = {name: getattr(spec, name) for name in ("reference", "covariates", "formula", "noise_weight", "priors")}
        spec = replace(other, **kept)
    return replace(spec, requires_travelers=False)


def _with_visitor(scans: pd.DataFrame, spec: ModelSpec, standards: Standards | None) -> tuple[Design, np.ndarray]:
    """Lay out the study together with one new person who visits every scanner once; and the mask of these scans."""
    name = "new"
    while (scans.participant_id == name).any():
        name += "'"
    visits = scans.drop_duplicates("scanner").assign(participant_id=name)
    visits["scan_id"] = [f"{name} on {scanner}" for scanner in visits.scanner]
    if "diagnosis" in scans:
        visits["diagnosis"] = spec.reference
    if "traveling" in scans:
        visits["traveling"] = True
    for family in spec.families:
        if family.scaled_by_gain and family.columns[-1] not in CANONICAL:
            visits[family.columns[-1]] = name  # nobody's sibling
    numbers = [*(family.slope for family in spec.slopes), *([spec.noise_weight] if spec.noise_weight else [])]
    for column in (*spec.covariates, *numbers):
        values = scans[column]
        visits[column] = values.mean() if pd.api.types.is_numeric_dtype(values) else values.mode().iloc[0]
    usual = typical_values([each for each in standards.covariates if each.basis is not None] if standards else [])
    if "diagnosis" in usual and (scans["diagnosis"] == spec.reference).any():
        del usual["diagnosis"]
    visits = visits.assign(**usual)
    design = build_design(pd.concat([scans, visits], ignore_index=True), spec, standards)
    return design, design.participants == name


def _gains(design: Design, is_new: np.ndarray, scales: np.ndarray) -> pd.DataFrame:
    travels = np.isin(design.participants, design.travelers)
    everybody, travelers = (_Updates.given(design, scales, is_new, rows) for rows in (~is_new, ~is_new & travels))
    first, second = everybody.pair.T
    names = np.array(design.scanners, object)
    table = pd.DataFrame({"first": names[first], "second": names[second]})
    for added in (0, *ADDED):
        difference, mean = everybody.after(added)
        table[f"sd_{added}"], table[f"all_{added}"] = np.sqrt(difference), np.sqrt(mean)
    table["to_halve"] = _smallest([everybody.after(added)[0] <= everybody.after(0)[0] / 4 for added in range(MOST + 1)])
    half = _Updates.given(design, scales, is_new, np.full(design.n_scans, False)).after(0)[0] / 2
    table["to_link"] = _smallest([travelers.after(added)[0] <= half for added in range(MOST + 1)])
    label = connected_components(_visits(design, ~is_new & travels), directed=False)[1]
    table["is_linked"] = label[first] == label[second]
    columns = ["first", "second", "is_linked", "sd_0", "sd_1", "sd_2", "to_halve", "to_link", "all_0", "all_1", "all_2"]
    order = np.lexsort([table.all_2, np.where(table.is_linked, 0, table.to_link % (MOST + 2)), table.is_linked])
    return table.loc[order, columns].reset_index(drop=True)


def _visits(design: Design, rows: np.ndarray) -> sparse.csr_array:
    """Number of people with scans on both of two scanners, among some scans."""
    person, scanner = pd.factorize(design.participants[rows])[0], design.class_scanner[design.scan_class[rows]]
    shape = (max(len(person), 1), len(design.scanners))
    visits = sparse.csr_array((np.ones(len(person)), (person, scanner)), shape=shape)
    return visits.T @ visits


def _smallest(is_enough: list[np.ndarray]) -> np.ndarray:
    """Smallest number of travelers that is enough, for each pair; -1 if none is."""
    return np.where(np.any(is_enough, axis=0), np.argmax(is_enough, axis=0), -1)


class _Updates(NamedTuple):
    """Posterior of the scanner effects given some scans, and what a new traveler between two scanners changes.

    Attributes
    ----------
    pair : (pair, 2) int array
    now : (pair,) array
        Variance of the difference of two scanners.
    mean_now : float
        Mean over scanners of the variance of their effects, each minus the mean of all.
    to_difference : (pair, 2) array
        Covariance of the difference with the expectation of the two new scans.
    to_all : (pair, 2, 2) array
        Sum over scanners of the products of such covariances.
    observed, noise : (pair, 2, 2) and (2, 2) arrays
        Covariance of the expectation of the two new scans; of their noise and participant effect.
    """

    pair: np.ndarray
    now: np.ndarray
    mean_now: float
    to_difference: np.ndarray
    to_all: np.ndarray
    observed: np.ndarray
    noise: np.ndarray

    @classmethod
    def given(cls, design: Design, scales: np.ndarray, is_new: np.ndarray, rows: np.ndarray) -> _Updates:
        """Condition on some scans of a design, in which the new person has one scan on each scanner."""
        n = len(design.scanners)
        equal = VarianceRatios.equal(n, len(design.correlations))
        posterior = ConditionalPosterior.of_scans(design, np.log(scales), equal, rows)
        scanner = design.class_scanner[design.scan_class]
        by_participant = [family.name for family in design.spec.families if family.by == "participant"]
        visits = design.matrix[np.flatnonzero(is_new)[np.argsort(scanner[is_new])]]
        visits = visits @ sparse.diags_array((~np.isin(design.families, by_participant)).astype(float))
        effects = add_columns(design.of_scanner, len(design.columns))
        joint = posterior.covariance(sparse.vstack([effects, visits]).tocsr())
        of_effects, cross, of_visits = joint[:n, :n], joint[:n, n:], joint[n:, n:]
        i, j = np.triu_indices(n, 1)
        pair = np.stack([i, j], axis=1)
        centered = cross - cross.mean(0)
        person = scales[design.single_scan_scale] ** 2 if design.single_scan_scale else 0.0
        return cls(
            pair=pair,
            now=of_effects[i, i] + of_effects[j, j] - 2 * of_effects[i, j],
            mean_now=float(np.trace(of_effects - of_effects.mean(0)) / n),
            to_difference=cross[i[:, None], pair] - cross[j[:, None], pair],
            to_all=(centered.T @ centered)[pair[:, :, None], pair[:, None, :]] / n,
            observed=of_visits[pair[:, :, None], pair[:, None, :]],
            noise=scales[0] ** 2 * np.eye(2) + person,
        )

    def after(self, added: int) -> tuple[np.ndarray, np.ndarray]:
        """Variance of the difference of each pair, and `mean_now`, after some people had a scan on each of both."""
        if not added:
            return self.now, np.full(len(self.now), self.mean_now)
        weight = np.linalg.inv(self.observed + self.noise / added)
        difference = self.now - np.einsum("pv,pvw,pw->p", self.to_difference, weight, self.to_difference)
        return difference, self.mean_now - (weight * self.to_all).sum((1, 2))
