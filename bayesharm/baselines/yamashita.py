"""What others compute, on the same scans: point estimates to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse.linalg import splu

from bayesharm.data.dataset import Dataset
from bayesharm.errors import InputError
from bayesharm.model.catalog import load_model
from bayesharm.model.design import Design, build_design
from bayesharm.model.labels import Population, population_labels
from bayesharm.model.protocol_factors import name_factors
from bayesharm.model.spec import ModelSpec

MODEL = "traveling_and_cohort"  # whose columns are those of the paper: people scanned once have no effect of their own
RIDGE = 14.0


@dataclass(frozen=True, eq=False)
class Yamashita2019:
    """Point estimates of the 2019 study.

    Attributes
    ----------
    effects : dict of DataFrame
        (level × feature) of each family, in the features' units; over the levels of `measurement`, `participant` and of each
        diagnosis' `sampling` they add up to 0.
    mean : Series
        The constant of each feature.
    contributions : Series
        Contribution size of each family.
    populations : DataFrame
        `site` and `diagnosis` of each population, by its label; empty without populations.
    """

    effects: dict[str, pd.DataFrame]
    mean: pd.Series
    contributions: pd.Series
    populations: pd.DataFrame


def yamashita2019(dataset: Dataset, *, ridge: float = RIDGE, reference: str | None = None) -> Yamashita2019:
    """Constrained ridge regression of every feature on 0/1 columns of scanners, populations, diagnoses and travelers.

    One penalty for all coefficients, the constant too, and mean 0 of the effects of measurement, of travelers, and of the
    populations of each diagnosis: one system of equations for all features [1]_. The contribution of a family is the mean
    over scans and features of its squared effect over the sum of all squared effects and the squared residual, divided by
    its number of levels.

    The travelers' mean and the mean of the sites' populations are not 0 in truth: what these have in common goes into other
    effects.

    Parameters
    ----------
    dataset : Dataset
    ridge : float
        The penalty; the study took 14.
    reference : str, optional
        The diagnosis without an effect; that of the model if it is left out.

    Returns
    -------
    Yamashita2019

    Raises
    ------
    InputError
        An impossible penalty.
    ModelError
        Nobody traveled, or nobody has the reference diagnosis.

    References
    ----------
    .. [1] Yamashita et al. (2019). Harmonization of resting-state functional MRI data across multiple imaging sites via
       the separation of site differences into sampling bias and measurement bias. *PLOS Biology* 17, e3000042.
    """
    spec = _model(MODEL, ridge, reference)
    return _regress(dataset, build_design(dataset.scans, spec), ridge)


def univariate_effects(
    dataset: Dataset,
    factors: Sequence[str] | None = None,
    *,
    ridge: float = RIDGE,
    reference: str | None = None,
) -> dict[str, Yamashita2019]:
    """The same regression, again for each protocol factor, its levels in place of the scanners.

    Each factor stands alone and is credited with all that goes along with it: with other factors that the same scanners
    have, and with what is particular to these scanners. The model `protocol` asks for all of them at once.

    Parameters
    ----------
    dataset : Dataset
    factors : sequence of str, optional
        Columns of the scans table; by default those of the model `protocol` that are there.
    ridge, reference
        As for :func:`yamashita2019`.

    Returns
    -------
    dict of Yamashita2019
        By factor: its effects are those of this name, its contribution size is ``contributions[factor]``.

    Raises
    ------
    InputError, ModelError
        As :func:`yamashita2019`, and where a factor cannot be one.
    """
    spec = _model("protocol", ridge, reference)
    if factors is not None:
        spec = name_factors(spec, factors, dataset.scans)
    others = tuple(family for family in spec.families if not family.component_of)
    found = {}
    for factor in [family for family in spec.factors if family.grouping in dataset.scans] or spec.factors[:1]:
        alone = replace(spec, families=(*others, factor))
        found[factor.name] = _regress(dataset, build_design(dataset.scans, alone), ridge)
    return found


def _model(name: str, ridge: float, reference: str | None) -> ModelSpec:
    """The model whose columns are taken."""
    if not (np.isfinite(ridge) and ridge > 0):
        raise InputError(
            "The penalty is impossible.",
            got=f"ridge={ridge!r}",
            expected="a number above 0",
            do="leave it out",
        )
    spec = load_model(name)
    return spec if reference is None else replace(spec, reference=reference)


def _regress(dataset: Dataset, design: Design, ridge: float) -> Yamashita2019:
    """The regression on the columns of a design."""
    columns, constraints = design.matrix, _constraints(design)
    n_columns, n_features = columns.shape[1], dataset.features.n_features
    penalized = columns.T @ columns + ridge * sparse.eye_array(n_columns)
    solver = splu(sparse.block_array([[penalized, constraints.T], [constraints, None]], format="csc"))
    names = list(design.scale_labels[1:])  # but the noise
    members = [design.column_scale == k for k in range(1, len(design.scales))]
    coefficients, shares = np.empty((n_columns, n_features)), np.zeros(len(names))
    for start, stop in dataset.features.blocks():
        values = dataset.features.read(start, stop)[design.rows].astype(float)
        rhs = np.concatenate([columns.T @ values, np.zeros((constraints.shape[0], stop - start))])
        found = coefficients[:, start:stop] = solver.solve(rhs)[:n_columns]
        squares = np.stack([(columns[:, has_scale] @ found[has_scale]) ** 2 for has_scale in members])
        shares += (squares / (squares.sum(0) + (values - columns @ found) ** 2)).sum((1, 2))
    features, effects = pd.Index(dataset.features.names, name="feature"), {}
    populations = pd.DataFrame(columns=Population._fields)
    for name in dict.fromkeys(design.families[design.families != "mean"]):
        rows, dim = np.flatnonzero(design.families == name), design.spec.dimension_of(name)
        levels = [design.columns[k].level for k in rows]
        if dim == "population":
            pairs = [Population(design.columns[k].level, design.columns[k].group) for k in rows]
            levels = list(population_labels(pairs))
            populations = pd.DataFrame(pairs, index=pd.Index(levels, name=dim))
        effects[name] = pd.DataFrame(coefficients[rows], index=pd.Index(levels, name=dim), columns=features).sort_index()
    n_levels = np.array([has_scale.sum() for has_scale in members])
    contributions = pd.Series(shares / (design.n_scans * n_features) / n_levels, index=pd.Index(names, name="family"))
    mean = pd.Series(coefficients[np.argmax(design.families == "mean")], index=features)
    return Yamashita2019(effects, mean, contributions, populations)


def _constraints(design: Design) -> sparse.csr_array:
    """A row of ones for the columns of each scale but those of diagnoses."""
    is_centered = np.isin(design.families, [f.name for f in design.spec.families if f.grouping != "diagnosis"])
    rows = [is_centered & (design.column_scale == k) for k in range(len(design.scales))]
    return sparse.csr_array(np.array([row for row in rows if row.any()], float))
