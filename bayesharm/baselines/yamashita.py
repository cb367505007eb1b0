"""The constrained ridge regression of Yamashita et al. 2019."""

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
from bayesharm.notebook import MAX_COLUMNS, make_card, one_line

MODEL = "traveling_and_cohort"  # has the columns of the paper: no participant effects for people scanned once
RIDGE = 14.0  # ridge penalty of the paper, for 1,216 scans


@dataclass(frozen=True, eq=False, repr=False)
class Yamashita2019:
    """Point estimates of the constrained ridge regression.

    Attributes
    ----------
    effects : dict of DataFrame
        Family -> effects (level × feature) in the units of the features. Effects of `measurement`, of `participant` and of
        `sampling` within a diagnosis sum to 0 over levels.
    mean : Series
        Constant of each feature.
    contributions : Series
        Contribution size of each family, as in the paper.
    populations : DataFrame
        `site` and `diagnosis` of each population, by its label; empty without populations.
    """

    effects: dict[str, pd.DataFrame]
    mean: pd.Series
    contributions: pd.Series
    populations: pd.DataFrame

    def __repr__(self) -> str:
        return one_line("Yamashita2019", self._counts())

    def _counts(self) -> dict[str, int]:
        return {"features": len(self.mean)} | {f"{name} effects": len(table) for name, table in self.effects.items()}

    def _repr_html_(self) -> str:
        tables = {"Contribution of each family": self.contributions.rename("contribution").to_frame()}
        tables |= {f"Effects: {name}, first features": table.iloc[:, :MAX_COLUMNS] for name, table in self.effects.items()}
        return make_card("Constrained ridge regression of the 2019 study", self._counts(), tables)


def yamashita2019(dataset: Dataset, *, ridge: float = RIDGE, reference: str | None = None) -> Yamashita2019:
    """Fit the constrained ridge regression of the 2019 study to each feature [1]_.

    The columns are indicators of scanners, populations, diagnoses and travelers. All coefficients, including the constant,
    have the same penalty. The effects of scanners, of travelers, and of the populations of each diagnosis sum to 0. The
    contribution size of a family is the squared effect divided by the sum of all squared effects and the squared residual,
    averaged over scans and features, and divided by the number of levels.

    In reality the means of the travelers and of the populations are not 0: the constraints move them into other effects.

    Parameters
    ----------
    dataset : Dataset
        Scans of travelers and of a cohort.
    ridge : float
        Ridge penalty; the study used 14.
    reference : str, optional
        Reference diagnosis, which has no effect; default: that of the model.

    Returns
    -------
    Yamashita2019

    Raises
    ------
    InputError
        The penalty is not a number above 0.
    ModelError
        There are no travelers, or nobody has the reference diagnosis.

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
    """Repeat the regression for each protocol factor, with its levels in place of the scanners.

    Each factor is tested alone, so that its effects include those of correlated factors and of the individual scanners. The
    model `protocol` estimates all factors jointly.

    Parameters
    ----------
    dataset : Dataset
        As for :func:`yamashita2019`.
    factors : sequence of str, optional
        Columns of the scans table; default: the factors of the model `protocol` in the table.
    ridge, reference
        As for :func:`yamashita2019`.

    Returns
    -------
    dict of Yamashita2019
        Factor -> regression, with ``effects[factor]`` and ``contributions[factor]``.

    Raises
    ------
    InputError, ModelError
        As :func:`yamashita2019`, or a column cannot be a factor.
    """
    spec = _model("protocol", ridge, reference)
    if factors is not None:
        spec = name_factors(spec, factors, dataset.scans)
    others = tuple(family for family in spec.families if not family.component_of)
    regressions = {}
    for factor in [family for family in spec.factors if family.by in dataset.scans] or spec.factors[:1]:
        with_factor = replace(spec, families=(*others, factor))
        regressions[factor.name] = _regress(dataset, build_design(dataset.scans, with_factor), ridge)
    return regressions


def _model(name: str, ridge: float, reference: str | None) -> ModelSpec:
    """Load the model that defines the columns."""
    if not (np.isfinite(ridge) and ridge > 0):
        raise InputError(
            "The ridge penalty is not valid.",
            got=f"ridge={ridge!r}",
            expected="a number above 0",
            do="omit the option to use the default",
        )
    spec = load_model(name)
    return spec if reference is None else replace(spec, reference=reference)


def _regress(dataset: Dataset, design: Design, ridge: float) -> Yamashita2019:
    """Fit the regression on the columns of a design, block by block."""
    columns, constraints = design.matrix, _constraints(design)
    n_columns, n_features = columns.shape[1], dataset.features.n_features
    penalized = columns.T @ columns + ridge * sparse.eye_array(n_columns)
    solver = splu(sparse.block_array([[penalized, constraints.T], [constraints, None]], format="csc"))
    names = list(design.scale_labels[1:])  # without the noise
    members = [design.column_scale == k for k in range(1, len(design.scales))]
    coefficients, shares = np.empty((n_columns, n_features)), np.zeros(len(names))
    for start, stop in dataset.features.blocks():
        values = dataset.features.read(start, stop)[design.rows].astype(float)
        rhs = np.concatenate([columns.T @ values, np.zeros((constraints.shape[0], stop - start))])
        estimates = coefficients[:, start:stop] = solver.solve(rhs)[:n_columns]
        squares = np.stack([(columns[:, has_scale] @ estimates[has_scale]) ** 2 for has_scale in members])
        shares += (squares / (squares.sum(0) + (values - columns @ estimates) ** 2)).sum((1, 2))
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
    """Return the sum-to-zero constraints: one row for each scale except those of diagnoses."""
    is_centered = np.isin(design.families, [f.name for f in design.spec.families if f.by != "diagnosis"])
    rows = [is_centered & (design.column_scale == k) for k in range(len(design.scales))]
    return sparse.csr_array(np.array([row for row in rows if row.any()], float))
