"""What more travelers would add: the expected precision of scanner differences after one or two more people travel.

A new traveler with a scan on each of two scanners adds two observations and a participant effect. The participant effect is
integrated out, so that the covariance of all effects changes by a matrix of rank two: exact at the given scales.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import sparse

from bayesharm.conditional.posterior import ConditionalPosterior
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.model.catalog import load_model
from bayesharm.model.contrasts import add_columns
from bayesharm.model.covariates import Covariate
from bayesharm.model.design import Design, build_design
from bayesharm.model.spec import ModelSpec
from bayesharm.study_check.typical_scales import estimate_scales

ADDED = (1, 2)  # travelers
MOST = 100  # travelers that are tried to halve an sd


def expect_gains(
    scans: pd.DataFrame, spec: ModelSpec, covariates: tuple[Covariate, ...] = (), values: np.ndarray | None = None
) -> pd.DataFrame:
    """Compute what more travelers between each pair of scanners would add.

    Parameters
    ----------
    scans : DataFrame
        Canonical columns as in :class:`bayesharm.data.dataset.Dataset`.
    spec : ModelSpec
        A model that does not separate measurement from sampling bias is replaced by `traveling_and_cohort`.
    covariates : tuple of Covariate
        Those of the design of the study.
    values : (scan, feature) array, optional
        Features from which the scales are estimated; without them, the scales are the prior medians.

    Returns
    -------
    DataFrame
        A row for each pair of scanners, `first` and `second`, the largest gain of two travelers first. `sd_now`, `sd_1` and
        `sd_2`: expected sd of the difference of their measurement biases now, and after one or two more people had one scan
        on each of both, in sd of a feature. `all_now`, `all_1` and `all_2`: root mean square over all scanners of the
        expected sd of their biases. `to_halve`: number of travelers that halve `sd_now`; 0 if more than 100.
        New travelers have the reference diagnosis, and average or the most frequent covariates.
    """
    design, is_new = _with_visitor(scans, _separating(spec), covariates)
    scales = design.scale_medians if values is None else estimate_scales(design, values, ~is_new)
    return _gains(design, is_new, scales)


def _separating(spec: ModelSpec) -> ModelSpec:
    """Return a model that separates measurement from sampling bias and does not insist on travelers."""
    if spec.participants != "travelers" and not any(family.grouping == "population" for family in spec.families):
        other = load_model("traveling_and_cohort")
        spec = replace(other, reference=spec.reference, covariates=spec.covariates, priors=spec.priors)
    return replace(spec, requires_travelers=False)


def _with_visitor(scans: pd.DataFrame, spec: ModelSpec, covariates: tuple[Covariate, ...]) -> tuple[Design, np.ndarray]:
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
    for column in spec.covariates:
        values = scans[column]
        visits[column] = values.mean() if pd.api.types.is_numeric_dtype(values) else values.mode().iloc[0]
    design = build_design(pd.concat([scans, visits], ignore_index=True), spec, covariates)
    return design, design.participants == name


def _gains(design: Design, is_new: np.ndarray, scales: np.ndarray) -> pd.DataFrame:
    log_scales, n = np.log(scales), len(design.scanners)
    posterior = ConditionalPosterior.of_scans(design, log_scales, VarianceRatios.equal(n), ~is_new)
    scanner = design.class_scanner[design.scan_class]
    visits = design.matrix[np.flatnonzero(is_new)[np.argsort(scanner[is_new])]]
    by_participant = [family.name for family in design.spec.families if family.grouping == "participant"]
    visits = visits @ sparse.diags_array((~np.isin(design.families, by_participant)).astype(float))
    effects = add_columns(design.of_scanner, len(design.columns))
    joint = posterior.covariance(sparse.vstack([effects, visits]).tocsr())
    variance = np.exp(2 * log_scales)
    person = variance[design.single_scan_scale] if design.single_scan_scale else 0.0

    i, j = np.triu_indices(n, 1)
    pair = np.stack([i, j], axis=1)  # (pair, visit)
    of_effects, cross, of_visits = joint[:n, :n], joint[:n, n:], joint[n:, n:]
    centered = cross - cross.mean(0)
    products = centered.T @ centered
    observed = of_visits[pair[:, :, None], pair[:, None, :]]
    noise = variance[0] * np.eye(2) + person
    to_difference = cross[i[:, None], pair] - cross[j[:, None], pair]
    now = of_effects[i, i] + of_effects[j, j] - 2 * of_effects[i, j]
    all_now = np.trace(of_effects - of_effects.mean(0)) / n

    def after(added: int) -> tuple[np.ndarray, np.ndarray]:
        """Variance of the difference, and mean variance of all scanners, after some people traveled."""
        weight = np.linalg.inv(observed + noise / added)
        difference = now - np.einsum("pv,pvw,pw->p", to_difference, weight, to_difference)
        return difference, all_now - (weight * products[pair[:, :, None], pair[:, None, :]]).sum((1, 2)) / n

    names = np.array(design.scanners, object)
    table = pd.DataFrame({"first": names[i], "second": names[j], "sd_now": np.sqrt(now), "all_now": np.sqrt(all_now)})
    for added in ADDED:
        table[f"sd_{added}"], table[f"all_{added}"] = map(np.sqrt, after(added))
    halved = np.array([after(added)[0] <= now / 4 for added in range(1, MOST + 1)])
    table["to_halve"] = np.where(halved.any(0), halved.argmax(0) + 1, 0)
    columns = ["first", "second", "sd_now", "sd_1", "sd_2", "to_halve", "all_now", "all_1", "all_2"]
    return table[columns].sort_values("all_2", kind="stable", ignore_index=True)
