"""Sufficient statistics of the scans of a run: enough to update its posterior with new scans, without the old ones.

Given the scales, a fit depends on its scans only through sums of products (:mod:`bayesharm.likelihood.moments`). A run keeps
these sums and the unique *scan patterns*: a table with one row for all scans that are identical in every label of the model.
Single-scan participants are anonymous there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from bayesharm.io.tables import to_labels
from bayesharm.likelihood.collapsed import CollapsedLikelihood
from bayesharm.likelihood.counts import index_counts
from bayesharm.likelihood.grams import Grams
from bayesharm.likelihood.moments import Moments
from bayesharm.model.covariates import typical_values
from bayesharm.model.design import Design
from bayesharm.model.noise_classes import read_relative_noise, round_noise
from bayesharm.model.slopes import FIRST, first_values
from bayesharm.model.spec import ModelSpec
from bayesharm.model.standards import Standards

ANONYMOUS = "anonymous participant {}"


@dataclass(frozen=True, eq=False)
class SufficientStatistics:
    """Sums of products of the scans of a study.

    Attributes
    ----------
    patterns : DataFrame
        The unique scan patterns, as a table of scans.
    design : Design
        Of the patterns: its columns, scales and noise classes are those of the study, its scans are not.
    grams : Grams
    size : (class,) int array
        Numbers of scans.
    moments : Moments
        Of the standardized features.
    counts : (count,) array
        Counts of all scans (:mod:`bayesharm.likelihood.counts`), whether a feature lacks them or not.
    """

    patterns: pd.DataFrame
    design: Design
    grams: Grams
    size: np.ndarray
    moments: Moments
    counts: np.ndarray

    @property
    def has_missing(self) -> bool:
        """Whether features lack scans."""
        return self.moments.counts is not None

    def observed(self, gain: np.ndarray | None = None, weighted: bool = False) -> np.ndarray:
        """Count the observed scans of each column and feature, (column, feature); 0 for covariates and slopes.

        Where every feature has all scans, (column, 1).

        Parameters
        ----------
        gain : (class,) array, optional
            Factor on the scans of each noise class, for columns that the gain multiplies; 1 by default.
        weighted : bool
            Whether scans count by their weights, as they do in all products.
        """
        index = index_counts(self.design)
        rows = [(column, k) for k, columns in enumerate(index.patterns) for column in columns]
        column, pattern = np.array(rows, int).reshape(-1, 2).T
        shape, weight = (len(self.design.columns), len(self.counts)), np.ones(len(rows))
        start = index.first_pattern if weighted else 0
        if gain is not None:
            weight = np.where(self.design.has_gain[column], gain[index.pattern_class[pattern]], 1.0)
        members = sparse.csr_array((weight, (column, start + pattern)), shape=shape)
        return members @ self._counts

    @property
    def _counts(self) -> np.ndarray:
        return self.counts[:, None] if self.moments.counts is None else self.moments.counts

    @property
    def count(self) -> np.ndarray:
        """Number of scans of each column, 0 for covariates and slopes, (column,)."""
        index = index_counts(self.design)
        members = [np.repeat(k, len(columns)) for k, columns in enumerate(index.patterns)]
        columns = np.concatenate(index.patterns).astype(int)
        n = np.bincount(columns, self.counts[np.concatenate(members)], minlength=len(self.design.columns))
        return n.round().astype(int)

    def sums_of(self, columns: np.ndarray, gain: np.ndarray | None = None) -> np.ndarray:
        """Sum standardized covariates or slopes over the weighted observed scans of each feature, (column, feature or 1).

        Parameters
        ----------
        columns : int array
            Columns of covariates or slopes.
        gain : (class,) array, optional
            As for :meth:`observed`.
        """
        index = index_counts(self.design)
        products = self._counts[index.first_product :]
        if gain is not None:
            factor = np.where(self.design.has_gain[index.numeric], gain[index.product_class], 1.0)
            products = factor[:, None] * products
        return np.stack([products[(index.numeric == k) & (index.other == 0)].sum(0) for k in columns])

    @property
    def likelihood(self) -> CollapsedLikelihood:
        """The likelihood of all scans of the study, or of the observed ones of each feature."""
        return CollapsedLikelihood(self.design, self.grams, self.size, has_missing=self.has_missing)

    @property
    def likelihood_of_all_scans(self) -> CollapsedLikelihood:
        """The likelihood of a feature that has all scans."""
        return CollapsedLikelihood(self.design, self.grams, self.size)


def unique_scan_patterns(used: pd.DataFrame, spec: ModelSpec, noise_unit: float) -> pd.DataFrame:
    """Reduce a table of scans to its unique patterns: one row for scans with identical labels, covariates apart.

    A pattern that one participant has several times keeps two rows, so that the participant stays repeat-scanned. Relative
    noise variances, of which `noise_unit` is the unit, are those of the noise classes.
    """
    by = {family.by for family in spec.families}
    of_families = {name: True for family in spec.families for name in family.columns}
    wanted = {"participant_id": True, "scanner": True, "site": "population" in by}
    wanted |= (
        {"diagnosis": bool(by & {"diagnosis", "population"})} | {family.by: True for family in spec.factors} | of_families
    )
    names = [name for name, is_used in wanted.items() if is_used and name in used]
    patterns = pd.DataFrame({name: to_labels(used[name])[0].astype(object) for name in names})
    if "traveling" in used:
        patterns["traveling"] = used["traveling"].to_numpy(bool)
        names.append("traveling")
    is_single_scan = ~patterns.participant_id.duplicated(keep=False)
    for family in spec.slopes:
        if family.by == "participant":
            kept = [repr(float(value)) for value in first_values(used, family.slope)]
            patterns[FIRST.format(family.slope)] = np.where(is_single_scan, "", kept)
            names.append(FIRST.format(family.slope))
    if spec.noise_weight:
        relative = read_relative_noise(used, spec) / noise_unit
        patterns[spec.noise_weight] = noise_unit * np.where(is_single_scan, round_noise(relative), 1.0)
        names.append(spec.noise_weight)
    patterns.loc[is_single_scan, "participant_id"] = ""
    repetition = patterns.groupby(names, dropna=False).cumcount()
    patterns = patterns[(repetition < 2) & ~(is_single_scan & (repetition > 0))].reset_index(drop=True)
    anonymous = np.flatnonzero(patterns.participant_id == "")
    patterns.loc[anonymous, "participant_id"] = [ANONYMOUS.format(k) for k in range(len(anonymous))]
    return patterns


def with_numbers(patterns: pd.DataFrame, standards: Standards) -> pd.DataFrame:
    """Complete the patterns to a table of scans; columns do not depend on the values of covariates, so that any do."""
    values: dict[str, object] = {each.column: each.center for each in standards.slopes}
    values |= {name: value for name, value in typical_values(standards.covariates).items() if name not in patterns}
    return patterns.assign(scan_id=np.arange(len(patterns)).astype(str), **values)
