"""Mass-univariate estimators for :func:`bayesharm.propagate`.

Each function prepares an analysis once and returns a callable, which analyzes the values of one draw.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from bayesharm.errors import InputError, shorten
from bayesharm.propagation.least_squares import (
    FeatureEstimates,
    analyze_available_scans,
    prepare_contrast,
    prepare_correlation,
)


def contrast(
    design: pd.DataFrame,
    of: str | Mapping[str, float],
    *,
    robust: bool = True,
    participants: ArrayLike | None = None,
) -> Callable[[ArrayLike], FeatureEstimates]:
    """Prepare a least-squares contrast of every feature: one coefficient, or a weighted sum of several.

    Parameters
    ----------
    design : DataFrame
        (scan, column) numbers without missing values. No constant is added: include one as a column.
    of : str or mapping
        Name of a column, or column -> weight, such as ``{"MDD": 1, "SCZ": -1}``.
    robust : bool
        If True, heteroscedasticity-consistent variances (HC2); otherwise ordinary least-squares variances.
    participants : (scan,) array, optional
        Participant of each scan, for cluster-robust variances (CR2), which allow any dependence between scans of one
        participant. Required with repeated scans; `robust` then has no effect. Without repeated scans CR2 equals HC2.

    Returns
    -------
    callable
        Maps (scan, feature) values to :class:`FeatureEstimates`, in the units of the features. A feature with missing
        values is analyzed in its other scans; if these are too few, the result is NaN.

    Raises
    ------
    InputError
        The contrast is not estimable, the design has missing values, or there are not more scans than columns.

    Notes
    -----
    CR2 and its degrees of freedom are by Bell & McCaffrey 2002, *Survey Methodology* 28(2); see Imbens & Kolesár 2016, doi
    10.1162/REST_a_00552. With one scan per cluster CR2 equals HC2, which for a comparison of two groups is Welch's standard
    error.
    """
    table = pd.DataFrame(design)
    _check_same_rows(design=design, participants=participants)
    if not isinstance(of, str | Mapping) or (not isinstance(of, str) and not any(of.values())):
        raise InputError(
            "The contrast is not valid.", got=repr(of), expected="a column, or column -> weight, not all 0",
            do='name one of the columns, or pass a mapping such as {"MDD": 1, "SCZ": -1}',
        )  # fmt: skip
    weights = {of: 1.0} if isinstance(of, str) else dict(of)
    if unknown := [name for name in weights if name not in table]:
        raise InputError(
            "The contrast names columns that are not in the design.",
            got=shorten(unknown),
            expected=f"columns of the design: {shorten(table.columns, 20)}",
            do="use column names of the design",
        )
    x = _to_numbers(table, "design")
    c = np.array([weights.get(name, 0.0) for name in table.columns])
    clusters = None if participants is None else _number_participants(participants, len(x))
    return analyze_available_scans(lambda rows: prepare_contrast(x, c, rows, robust, clusters), np.ones(len(x), bool))


def group_difference(
    group: ArrayLike,
    reference: str,
    other: str,
    covariates: pd.DataFrame | None = None,
    *,
    robust: bool = True,
    participants: ArrayLike | None = None,
) -> Callable[[ArrayLike], FeatureEstimates]:
    """Prepare the difference of two groups, `other` minus `reference`, by least squares.

    Parameters
    ----------
    group : (scan,) array
        Group of each scan, such as the column `diagnosis` of the scans table. Scans of other groups are not used.
    reference, other : str
        Names of the two groups.
    covariates : DataFrame, optional
        (scan, covariate) numbers or categories, complete for all scans of the two groups.
    robust, participants
        As in :func:`contrast`.

    Returns
    -------
    callable
        As in :func:`contrast`.

    Raises
    ------
    InputError
        A group has no scans, or the covariates determine the group; otherwise as in :func:`contrast`.
    """
    _check_same_rows(group=group, covariates=covariates, participants=participants)
    labels = pd.Series(np.asarray(group, dtype=object))
    if absent := [name for name in (reference, other) if not (labels == name).any()]:
        raise InputError(
            "A group has no scans.",
            got=f"no scan of {', '.join(map(repr, absent))}",
            expected=f"two of the groups {', '.join(map(repr, labels.dropna().unique()[:20].tolist()))}",
            do="use group names of the table",
        )
    rows = labels.isin([reference, other]).to_numpy()
    x = np.column_stack([labels == other, _to_design(covariates, rows)]).astype(float)
    c = np.eye(x.shape[1])[0]
    clusters = None if participants is None else _number_participants(participants, len(x))
    return analyze_available_scans(lambda rows: prepare_contrast(x, c, rows, robust, clusters), rows)


def correlation(x: ArrayLike, covariates: pd.DataFrame | None = None) -> Callable[[ArrayLike], FeatureEstimates]:
    """Prepare the correlation of every feature with a variable, such as age; with covariates, the partial correlation.

    Parameters
    ----------
    x : (scan,) array
        The variable. Scans with a missing value are not used.
    covariates : DataFrame, optional
        (scan, covariate) numbers or categories, complete for all scans with a value of `x`.

    Returns
    -------
    callable
        Maps (scan, feature) values to :class:`FeatureEstimates`: Fisher z and its variance, 1 / (scans - 3 - covariates).
        Pooling uses Fisher z. The pooled table contains correlations with their intervals; `se`, `within` and `between` are
        converted to the scale of correlations by the delta method. Missing values are treated as in :func:`contrast`.
        Scans are assumed to be independent: with repeated scans of a person, use :func:`contrast`.

    Raises
    ------
    InputError
        `x` is constant or determined by the covariates, covariates are missing, or there are too few scans.
    """
    _check_same_rows(x=x, covariates=covariates)
    variable = _to_numbers(pd.DataFrame({"x": pd.Series(np.asarray(x)).astype(object)}), "numbers", allow_missing=True)[:, 0]
    rows = np.isfinite(variable)
    design = _to_design(covariates, rows)
    project = analyze_available_scans(lambda rows: prepare_correlation(variable, design, rows), rows)

    def correlate(values: ArrayLike) -> FeatureEstimates:
        numerator, sum_of_squares, df, _ = project(values)
        with np.errstate(invalid="ignore", divide="ignore"):  # constant features
            return FeatureEstimates(np.arctanh(numerator / np.sqrt(sum_of_squares)), 1 / df, scale="fisher_z")

    return correlate


def estimator_score(
    estimator: Any, y: ArrayLike, *, cv: Any = 5, groups: ArrayLike | None = None, scoring: Any = None
) -> Callable[[np.ndarray], pd.Series]:
    """Prepare the cross-validated score of a scikit-learn estimator that predicts `y` from the features.

    Parameters
    ----------
    estimator : scikit-learn estimator
        Set its `random_state`, if it has one: otherwise its own randomness counts as uncertainty of harmonization.
    y : (scan,) array
        Target of the prediction.
    cv, groups, scoring
        As in :func:`sklearn.model_selection.cross_validate`; all draws have the same folds. To keep each person in either
        training or test data, pass participants as `groups` and a group splitter as `cv`.

    Returns
    -------
    callable
        Maps (scan, feature) values to the mean score over the folds. It has no variance of its own: pooling gives its
        variation between draws only.

    Raises
    ------
    InputError
        scikit-learn is not installed.
    """
    try:
        from sklearn.base import is_classifier
        from sklearn.model_selection import check_cv, cross_val_score
    except ImportError:
        raise InputError(
            "Scores of estimators need scikit-learn.",
            got="scikit-learn is not installed",
            expected="scikit-learn",
            do="pip install scikit-learn",
        ) from None
    y = np.asarray(y)
    splitter = check_cv(cv, y, classifier=is_classifier(estimator))
    splits = list(splitter.split(np.zeros((len(y), 1)), y, groups))
    name = scoring if isinstance(scoring, str) else "score"

    def score(values: np.ndarray) -> pd.Series:
        return pd.Series([cross_val_score(estimator, values, y, cv=splits, scoring=scoring).mean()], [name])

    return score


def _check_same_rows(**inputs: Any) -> None:
    """Raise an `InputError` if labeled inputs have the same scans in different orders: inputs are used by position."""
    indices = {name: table.index for name, table in inputs.items() if isinstance(table, pd.DataFrame | pd.Series)}
    for (one, first), (other, second) in combinations(indices.items(), 2):
        if len(first) == len(second) and not first.equals(second) and set(first) == set(second):
            raise InputError(
                f"{one} and {other} have their scans in different orders.",
                got=f"{shorten(first, 3)} and {shorten(second, 3)}",
                expected="the same scans in the same order",
                do=f"pass {other}.loc[{one}.index]",
            )


def _to_design(covariates: pd.DataFrame | None, rows: np.ndarray) -> np.ndarray:
    """Return a design of a constant and the covariates, (scan, column), with the first category as reference."""
    n = len(rows)
    if covariates is None:
        return np.ones((n, 1))
    table = pd.DataFrame(covariates).reset_index(drop=True)
    if len(table) != n:
        raise InputError(
            "The covariates do not match the scans.",
            got=f"{len(table)} rows",
            expected=f"{n} rows",
            do="pass one row for each scan",
        )
    used_rows = table[rows]
    if len(incomplete := used_rows.columns[used_rows.isna().any()]):
        raise InputError(
            "Covariates are missing for some scans.",
            got=shorten(incomplete),
            expected="a value for each scan in the analysis",
            do="complete them, or omit these scans from the covariates, the group and the draws",
        )
    used_rows = pd.get_dummies(used_rows, drop_first=True, dtype=float)
    design = np.zeros((n, 1 + used_rows.shape[1]))
    design[rows] = np.column_stack([np.ones(rows.sum()), _to_numbers(used_rows, "covariates")])
    return design


def _to_numbers(table: pd.DataFrame, what: str, allow_missing: bool = False) -> np.ndarray:
    """Convert a table to finite float64 numbers, with NaN for missing values if allowed."""
    try:
        x = table.to_numpy(float)
        wrong = table.columns[~(np.isfinite(x) | (allow_missing & np.isnan(x))).all(0)]
    except (TypeError, ValueError):
        wrong = table.select_dtypes(exclude=["number", "bool"]).columns
    if len(wrong):
        raise InputError(
            f"A column of the {what} has values that are not finite numbers.",
            got=shorten(wrong),
            expected="a finite number for each scan",
            do="complete missing values, and code categories as 0 and 1",
        )
    return x


def _number_participants(participants: ArrayLike, n: int) -> np.ndarray:
    """Return a number for each participant, by scan."""
    codes = pd.factorize(np.asarray(participants, dtype=object))[0]
    if len(codes) != n or (codes < 0).any():
        raise InputError(
            "Some scans have no participant.",
            got=f"{len(codes)} participants, {(codes < 0).sum()} of them missing",
            expected=f"one participant for each of {n} scans",
            do="pass the column participant_id of the scans table",
        )
    return codes
