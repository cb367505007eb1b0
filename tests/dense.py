"""The posterior of all effects given the scales, written down a second time from the definition of the model.

Everybody has an effect of their own here, people scanned once too, and everything is one dense matrix.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from studies import visits_sites

from bayesharm.model.spec import ModelSpec


class Dense(NamedTuple):
    """Effects by (family, level), of standardized features.

    Attributes
    ----------
    columns : MultiIndex
    mean : (column, feature) array
    covariance : (feature, column, column) array
    repeated : set of str
        People scanned more often than once.
    """

    columns: pd.MultiIndex
    mean: np.ndarray
    covariance: np.ndarray
    repeated: set[str]

    def levels(self, family: str, spec: ModelSpec) -> list[str]:
        """Levels of an effect; of the measurement effect of a model of protocol factors they are scanners."""
        name = "scanner" if family == spec.removed_effect and spec.factors else family
        names = [level for group, level in self.columns if group == name]
        return [level for level in names if family != "participant" or level in self.repeated]

    def forms(self, family: str, spec: ModelSpec, scans: pd.DataFrame) -> np.ndarray:
        """Each effect of a family as it is, (level, column)."""
        levels = self.levels(family, spec)
        if family != spec.removed_effect or not spec.factors:
            return np.array([self.columns == (family, level) for level in levels], float)
        first = scans.groupby("scanner").first()
        parts = [("scanner", None), *((factor.name, factor.by) for factor in spec.factors)]
        return np.array([
            sum((self.columns == (name, scanner if by is None else str(first.loc[scanner, by]))).astype(float)
                for name, by in parts if by is None or by in first)
            for scanner in levels
        ])  # fmt: skip

    def summary(self, forms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and sd, (form, feature)."""
        variance = np.einsum("ki,fij,kj->kf", forms, self.covariance, forms)
        return forms @ self.mean, np.sqrt(np.maximum(variance, 0))


def travels(scans: pd.DataFrame) -> np.ndarray:
    """Whose scans are of a traveler."""
    marked = scans["traveling"] if "traveling" in scans else pd.Series(False, scans.index)
    people = scans.assign(marked=marked).groupby("participant_id")
    return ((people.scanner.transform("nunique") > 1) | people.marked.transform("any")).to_numpy()


def lay_out_dense(
    scans: pd.DataFrame,
    spec: ModelSpec,
    scales: dict[str, np.ndarray],
    numbers: dict[str, np.ndarray],
    bias: dict[str, float],
) -> tuple[pd.MultiIndex, np.ndarray, np.ndarray]:
    """Columns, their values for each scan, and their prior sds, (column, feature).

    Parameters
    ----------
    scans : DataFrame
        Those that the model uses.
    spec : ModelSpec
    scales : dict of (feature,) arrays
        By name; effects without a scale are not there.
    numbers : dict of (scan,) arrays
        Standardized covariates.
    bias : dict
        Variance ratio of biases by scanner.
    """
    n_features = len(scales["noise"])
    found: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = {
        ("mean", "mean"): (np.ones(len(scans)), np.full(n_features, spec.priors.mean_sd))
    }

    def add(family: str, labels: np.ndarray, scale: str) -> None:
        for level in sorted({label for label in labels if label is not None}):
            found[family, level] = (labels == level).astype(float), scales[scale]

    traveling = travels(scans)
    for family in spec.families:
        if family.is_factor:
            if family.by in scans:
                add(family.name, scans[family.by].astype(str).to_numpy(object), family.name)
        elif family.by in ("scanner", "participant"):
            if family.name in scales:
                label = "scanner" if family.by == "scanner" else "participant_id"
                add(family.name, scans[label].to_numpy(object), family.name)
        elif family.by == "diagnosis" and family.name in scales:
            labels = scans.diagnosis.to_numpy(object)
            add(family.name, np.where(labels == spec.reference, None, labels), family.name)
        elif family.by == "population":
            groups = scans.diagnosis if "diagnosis" in scans else pd.Series("", scans.index)
            between_sites = visits_sites(scans)
            for group in sorted(groups[~between_sites].unique()):
                member = ~between_sites & (groups == group).to_numpy()
                scale = f"{family.name}_{group}" if group else family.name
                if scale in scales and (scans.site[member].nunique() > 1 or group in ("", spec.reference)):
                    add(family.name, np.where(member, scans.site + (f"/{group}" if group else ""), None), scale)
    for name, values in numbers.items():
        found["covariate", name] = values, np.full(n_features, spec.priors.slope_sd)
    apart = any(family.by == "population" for family in spec.families)
    sized = set(scans.scanner[traveling] if apart else scans.scanner)  # whose biases have a size of their own
    if scans.scanner.nunique() < 3 or spec.bias_ratio == "homogeneous":
        sized = set()
    for family in spec.families:
        for key in found:
            if family.by == "scanner" and key[0] == family.name and key[1] in sized:
                found[key] = found[key][0], found[key][1] * bias[key[1]] ** 0.5
    columns = pd.MultiIndex.from_tuples(list(found))
    return columns, np.stack([values for values, _ in found.values()], 1), np.stack([sd for _, sd in found.values()])


def solve_dense(
    scans: pd.DataFrame,
    values: np.ndarray,
    spec: ModelSpec,
    scales: dict[str, np.ndarray],
    ratio: dict[str, float],
    numbers: dict[str, np.ndarray] | None = None,
    bias: dict[str, float] | None = None,
) -> Dense:
    """The joint posterior of all effects; parameters as for `lay_out_dense`, the values standardized, (scan, feature).

    NaN is missing.
    """
    columns, x, prior = lay_out_dense(scans, spec, scales, numbers or {}, bias or {})
    relative = scans.scanner.map(ratio).to_numpy(float)
    mean, covariance = [], []
    for feature in range(values.shape[1]):
        weight = ~np.isnan(values[:, feature]) / (scales["noise"][feature] ** 2 * relative)  # 0 where missing
        precision = x.T @ (weight[:, None] * x) + np.diag(prior[:, feature] ** -2.0)
        covariance.append(np.linalg.inv(precision))
        mean.append(covariance[-1] @ (x.T @ (weight * np.nan_to_num(values[:, feature]))))
    repeated = set(scans.participant_id[scans.participant_id.duplicated()])
    return Dense(columns, np.stack(mean, 1), np.stack(covariance), repeated)


def predict_dense(
    scans: pd.DataFrame,
    values: np.ndarray,
    there: np.ndarray,
    spec: ModelSpec,
    scales: dict[str, np.ndarray],
    ratio: dict[str, float],
    numbers: dict[str, np.ndarray] | None = None,
    bias: dict[str, float] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sd of scans that are not there given those that are, as a conditional multivariate normal.

    `scans` are both, `values` those of the ones that are there; the others' noise is part of the sd.
    """
    _, x, prior = lay_out_dense(scans, spec, scales, numbers or {}, bias or {})
    relative = scans.scanner.map(ratio).to_numpy(float)
    mean, sd = [], []
    for feature in range(values.shape[1]):
        total = (x * prior[:, feature] ** 2) @ x.T + np.diag(scales["noise"][feature] ** 2 * relative)
        seen = np.flatnonzero(there)[~np.isnan(values[:, feature])]
        gain = np.linalg.solve(total[np.ix_(seen, seen)], total[np.ix_(seen, ~there)]).T
        mean.append(gain @ values[~np.isnan(values[:, feature]), feature])
        rest = total[np.ix_(~there, ~there)] - gain @ total[np.ix_(seen, ~there)]
        sd.append(np.sqrt(np.diag(rest)))
    return np.stack(mean, 1), np.stack(sd, 1)
