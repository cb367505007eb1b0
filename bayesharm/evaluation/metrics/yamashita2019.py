"""The evaluation of Yamashita et al. 2019: magnitudes of measurement bias, participant and disorder effects."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from bayesharm.evaluation.metrics.jackknife import CompleteScans, JackknifeEstimate, combine, select_complete, traveler_mask
from bayesharm.model.catalog import load_model
from bayesharm.model.design import Design, build_design

RIDGE = 8.0  # ridge penalty of the paper for the test half of its data


class EffectMagnitudes(NamedTuple):
    """Magnitudes of the effects estimated from harmonized data: sd over features, averaged over the levels of a family.

    Attributes
    ----------
    measurement : JackknifeEstimate
        Magnitude of measurement bias, in the units of the features. Because of noise it is not 0 even after perfect
        harmonization: compare it with an oracle.
    participant_ratio : JackknifeEstimate
        Magnitude of participant effects relative to that of measurement bias, both in the harmonized data. The paper used
        the participant effects before harmonization.
    disorder_ratio : JackknifeEstimate or None
        Magnitude of disorder effects relative to that of measurement bias; None if all have the same diagnosis.
    """

    measurement: JackknifeEstimate
    participant_ratio: JackknifeEstimate
    disorder_ratio: JackknifeEstimate | None


def effect_magnitudes(values: np.ndarray, scans: pd.DataFrame, *, ridge: float = RIDGE) -> EffectMagnitudes:
    """Compute effect magnitudes with the regression :func:`bayesharm.yamashita2019`, in harmonized data of held-out people.

    Use the same scans for every method. In the paper, ComBat and the GLM could not correct scanners with travelers only,
    and left them unchanged.

    Parameters
    ----------
    values : (scan, feature) array
        Harmonized values. Scans with NaN in all features are not used.
    scans : DataFrame
        As from :func:`bayesharm.load_dataset`.
    ridge : float
        Ridge penalty; the paper used 8 for its test half.

    Returns
    -------
    EffectMagnitudes

    Raises
    ------
    InputError
        Nobody was scanned on several scanners.
    ModelError
        Nobody has the reference diagnosis.

    References
    ----------
    .. [1] Yamashita et al. (2019). Harmonization of resting-state functional MRI data across multiple imaging sites via
       the separation of site differences into sampling bias and measurement bias. *PLOS Biology* 17, e3000042.
    """
    data = select_complete(values, scans)
    traveler_mask(data.scans)
    design = build_design(data.scans.reset_index(drop=True), load_model("traveling_and_cohort"))
    magnitudes = _magnitudes(data, design, ridge)
    metrics = {name: data.to_estimate(column.iloc[0], column.iloc[1:]) for name, column in magnitudes.items()}
    measurement, disorder = metrics["measurement"], metrics.get("disorder")
    return EffectMagnitudes(
        measurement,
        combine(np.divide, metrics["participant"], measurement),
        None if disorder is None else combine(np.divide, disorder, measurement),
    )


def _magnitudes(data: CompleteScans, design: Design, ridge: float) -> pd.DataFrame:
    """Compute magnitudes by family, (1 + person, family): from all scans, then without each person.

    Effects are linear in the values. Their variances over features therefore follow from the inner products of scans.
    """
    x = design.matrix.toarray()
    y = data.values - data.values.mean(1, keepdims=True)
    y /= np.sqrt(max(y.shape[1] - 1, 1))
    family = design.families.astype(str)
    centered = [scale for scale in np.unique(design.column_scale[~np.isin(family, ["mean", "disorder"])])]
    constraints = np.array([design.column_scale == scale for scale in centered], float)
    gram, products = x.T @ x, y @ (y.T @ x)
    spread = x.T @ products
    magnitudes = [_family_magnitudes(gram, spread, constraints, family, ridge)]
    for person_rows in data.rows_of_person:
        person_x, cross = x[person_rows], x[person_rows].T @ products[person_rows]
        less = cross + cross.T - person_x.T @ (y[person_rows] @ y[person_rows].T) @ person_x
        magnitudes.append(_family_magnitudes(gram - person_x.T @ person_x, spread - less, constraints, family, ridge))
    return pd.DataFrame(magnitudes)


def _family_magnitudes(
    gram: np.ndarray, spread: np.ndarray, constraints: np.ndarray, family: np.ndarray, ridge: float
) -> pd.Series:
    """Compute the mean over levels of the sd over features.

    `gram` is X'X, and `spread` is X'SX with the covariance S of scans over features.
    """
    has_scans = gram.diagonal() > 0.5  # a left-out person has no scans: their columns are empty
    constraints = constraints[:, has_scans]
    constraints = constraints[constraints.any(1)]
    system = np.block([
        [gram[np.ix_(has_scans, has_scans)] + ridge * np.eye(has_scans.sum()), constraints.T],
        [constraints, np.zeros((len(constraints),) * 2)],
    ])  # fmt: skip
    solve = np.linalg.inv(system)[: has_scans.sum(), : has_scans.sum()]
    variance = np.einsum("ij,jk,ik->i", solve, spread[np.ix_(has_scans, has_scans)], solve, optimize=True)
    return pd.Series(np.sqrt(np.maximum(variance, 0))).groupby(family[has_scans]).mean()
