"""The three measures of the 2019 study."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from bayesharm.evaluation.metrics.jackknife import Measure, Rows, combine, select, travel
from bayesharm.model.catalog import load_model
from bayesharm.model.design import Design, build_design

RIDGE = 8.0  # of the study's test half


class Published(NamedTuple):
    """The sizes of effects that are estimated from harmonized data: sd over features, mean over the levels of a family.

    Attributes
    ----------
    measurement : Measure
        Of measurement bias, in the features' units. It is not 0 after perfect harmonization: noise remains. Show an oracle.
    participant_ratio : Measure
        That of participants over that of measurement, both of the harmonized data; the study divided the participants' of
        the data that were not harmonized.
    disorder_ratio : Measure or None
        That of disorders over that of measurement; None if everybody has the same diagnosis.
    """

    measurement: Measure
    participant_ratio: Measure
    disorder_ratio: Measure | None


def measures_of_2019(values: np.ndarray, scans: pd.DataFrame, *, ridge: float = RIDGE) -> Published:
    """Sizes of effects that :func:`bayesharm.yamashita2019` finds in harmonized data of people that no method has seen.

    Give every method the same rows: the study's ComBat and GLM could not correct scanners of travelers only, and left them
    as they were.

    Parameters
    ----------
    values : (scan, feature) array
        Harmonized. Scans with NaN in all features are left out.
    scans : DataFrame
        As from :func:`bayesharm.load_dataset`.
    ridge : float
        The penalty; the study took 8 for its test half.

    Returns
    -------
    Published

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
    rows = select(values, scans)
    travel(rows.scans)
    design = build_design(rows.scans.reset_index(drop=True), load_model("traveling_and_cohort"))
    sizes = _sizes(rows, design, ridge)
    found = {name: rows.measure(column.iloc[0], column.iloc[1:]) for name, column in sizes.items()}
    measurement, disorder = found["measurement"], found.get("disorder")
    return Published(
        measurement,
        combine(np.divide, found["participant"], measurement),
        None if disorder is None else combine(np.divide, disorder, measurement),
    )


def _sizes(rows: Rows, design: Design, ridge: float) -> pd.DataFrame:
    """Sizes by family of all people's scans, and then without each person.

    Effects are linear in the values, so that their variances over features follow from products of scans.
    """
    x = design.matrix.toarray()
    y = rows.values - rows.values.mean(1, keepdims=True)
    y /= np.sqrt(max(y.shape[1] - 1, 1))
    family = design.families.astype(str)
    centered = [scale for scale in np.unique(design.column_scale[~np.isin(family, ["mean", "disorder"])])]
    constraints = np.array([design.column_scale == scale for scale in centered], float)
    gram, products = x.T @ x, y @ (y.T @ x)
    spread = x.T @ products
    sizes = [_sizes_of(gram, spread, constraints, family, ridge)]
    for of in rows.of_person:
        own, cross = x[of], x[of].T @ products[of]
        less = cross + cross.T - own.T @ (y[of] @ y[of].T) @ own
        sizes.append(_sizes_of(gram - own.T @ own, spread - less, constraints, family, ridge))
    return pd.DataFrame(sizes)


def _sizes_of(gram: np.ndarray, spread: np.ndarray, constraints: np.ndarray, family: np.ndarray, ridge: float) -> pd.Series:
    """Mean over levels of the sd over features, from X'X and from X' times the covariance of scans over features times X."""
    there = gram.diagonal() > 0.5  # who has left takes their own columns along
    constraints = constraints[:, there]
    constraints = constraints[constraints.any(1)]
    system = np.block([
        [gram[np.ix_(there, there)] + ridge * np.eye(there.sum()), constraints.T],
        [constraints, np.zeros((len(constraints),) * 2)],
    ])  # fmt: skip
    solve = np.linalg.inv(system)[: there.sum(), : there.sum()]
    variance = np.einsum("ij,jk,ik->i", solve, spread[np.ix_(there, there)], solve, optimize=True)
    return pd.Series(np.sqrt(np.maximum(variance, 0))).groupby(family[there]).mean()
