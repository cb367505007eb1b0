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
from bayesharm.model.protocol_factors import name_factors
from bayesharm.model.spec import ModelSpec
from bayesharm.model.terms import levels_by

MODEL = "traveling_and_cohort"  # has the columns of the paper: no participant effects for people scanned once
RIDGE = 14.0  # ridge penalty of the paper, for 1,216 scans


@dataclass(frozen=True, eq=False)
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
    """

    effects: dict[str, pd.DataFrame]
    mean: pd.Series
    contributions: pd.Series


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
    for factor in [family for family in spec.factors if family.grouping in dataset.scans] or spec.factors[:1]:
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
    column_family = np.array([design.scales[scale] if scale >= 0 else "mean" for scale in design.column_scale])
    names = list(design.scales[1:])  # without the noise
    coefficients, shares = np.empty((n_columns, n_features)), np.zeros(len(names))
    for start, stop in dataset.features.blocks():
        values = dataset.features.read(start, stop)[design.rows].astype(float)
        rhs = np.concatenate([columns.T @ values, np.zeros((constraints.shape[0], stop - start))])
        estimates = coefficients[:, start:stop] = solver.solve(rhs)[:n_columns]
        squares = np.stack([(columns[:, column_family == name] @ estimates[column_family == name]) ** 2 for name in names])
        shares += (squares / (squares.sum(0) + (values - columns @ estimates) ** 2)).sum((1, 2))
    labels = [name.partition(":") for name in design.columns]
    features = pd.Index(dataset.features.names, name="feature")
    effects = {}
    for name in dict.fromkeys(label[0] for label in labels if label[0] != "mean"):
        rows = [k for k, label in enumerate(labels) if label[0] == name]
        index = pd.Index([labels[k][2] for k in rows], name=levels_by(design.spec, name))
        effects[name] = pd.DataFrame(coefficients[rows], index=index, columns=features).sort_index()
    levels = np.array([(column_family == name).sum() for name in names])
    contributions = pd.Series(shares / (design.n_scans * n_features) / levels, index=pd.Index(names, name="family"))
    mean = pd.Series(coefficients[design.columns.index("mean:mean")], index=features)
    return Yamashita2019(effects, mean, contributions)


def _constraints(design: Design) -> sparse.csr_array:
    """Return the sum-to-zero constraints: one row for each scale except those of diagnoses."""
    centered = {family.name for family in design.spec.families if family.grouping != "diagnosis"}
    rows = [
        [scale == k and name.partition(":")[0] in centered
         for scale, name in zip(design.column_scale, design.columns, strict=True)]
        for k in range(len(design.scales))
    ]  # fmt: skip
    return sparse.csr_array(np.array([row for row in rows if any(row)], float))
