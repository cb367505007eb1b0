"""Analyses of harmonized values, all features at once, for :func:`bayesharm.propagate`.

Each function here prepares an analysis once; what it returns is then given the values of one draw after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from bayesharm.errors import InputError, shorten
from bayesharm.propagation.least_squares import FeatureEstimates, on_scans_there, plan_contrast, plan_correlation


def contrast(
    design: pd.DataFrame,
    of: str | Mapping[str, float],
    *,
    robust: bool = True,
    participants: ArrayLike | None = None,
) -> Callable[[ArrayLike], FeatureEstimates]:
    """Least squares of every feature on a design: one coefficient, or a weighted sum of several.

    Parameters
    ----------
    design : DataFrame
        (scan, column) numbers, none missing; the constant must be one of the columns if there is to be one.
    of : str or mapping
        A column, or column -> weight, such as ``{"MDD": 1, "SCZ": -1}``.
    robust : bool
        Variances that hold where noise differs between scans (HC2); else ordinary ones.
    participants : (scan,) array, optional
        Who was scanned. Scans of one person may then depend on one another in any way (cluster-robust variances, CR2):
        needed where people were scanned more than once, and whatever `robust` says. If nobody was, it is HC2.

    Returns
    -------
    callable
        (scan, feature) values -> :class:`FeatureEstimates` by feature, in the features' units. Of a feature with
        missing values the
        other scans are used; where these do not suffice, the result is NaN.

    Raises
    ------
    InputError
        The design does not determine the contrast, has missing values, or has as many columns as scans.

    Notes
    -----
    CR2 and its degrees of freedom are by Bell & McCaffrey 2002, *Survey Methodology* 28(2); see Imbens & Kolesár 2016, doi
    10.1162/REST_a_00552. With a cluster for each scan it is HC2: Welch's standard error if there are just two groups.
    """
    table = pd.DataFrame(design)
    _check_same_rows(design=design, participants=participants)
    if not isinstance(of, str | Mapping) or (not isinstance(of, str) and not any(of.values())):
        raise InputError(
            "This is no contrast.", got=repr(of), expected="a column, or column -> weight, not all 0",
            do='write one of the columns, or such as {"MDD": 1, "SCZ": -1}',
        )  # fmt: skip
    weights = {of: 1.0} if isinstance(of, str) else dict(of)
    if unknown := [name for name in weights if name not in table]:
        raise InputError(
            "The design has no such column.",
            got=shorten(unknown),
            expected=f"columns of the design: {shorten(table.columns, 20)}",
            do="name columns of the design",
        )
    x = _to_numbers(table, "design")
    c = np.array([weights.get(name, 0.0) for name in table.columns])
    people = None if participants is None else _number_people(participants, len(x))
    return on_scans_there(lambda rows: plan_contrast(x, c, rows, robust, people), np.ones(len(x), bool))


def group_difference(
    group: ArrayLike,
    reference: str,
    other: str,
    covariates: pd.DataFrame | None = None,
    *,
    robust: bool = True,
    participants: ArrayLike | None = None,
) -> Callable[[ArrayLike], FeatureEstimates]:
    """Difference of two groups, `other` minus `reference`, by least squares.

    Parameters
    ----------
    group : (scan,) array
        Such as the column `diagnosis` of the scans table. Scans of neither group are left out.
    reference, other : str
    covariates : DataFrame, optional
        (scan, covariate) numbers or categories, known of all scans of the two groups.
    robust, participants
        As in :func:`contrast`.

    Returns
    -------
    callable
        As in :func:`contrast`.

    Raises
    ------
    InputError
        A group has no scans, or covariates tell the groups apart; else as in :func:`contrast`.
    """
    _check_same_rows(group=group, covariates=covariates, participants=participants)
    labels = pd.Series(np.asarray(group, dtype=object))
    if absent := [name for name in (reference, other) if not (labels == name).any()]:
        raise InputError(
            "A group has no scans.",
            got=f"no scan of {', '.join(map(repr, absent))}",
            expected=f"two of the groups there are: {', '.join(map(repr, labels.dropna().unique()[:20].tolist()))}",
            do="write groups as in the table",
        )
    rows = labels.isin([reference, other]).to_numpy()
    x = np.column_stack([labels == other, _to_design(covariates, rows)]).astype(float)
    c = np.eye(x.shape[1])[0]
    people = None if participants is None else _number_people(participants, len(x))
    return on_scans_there(lambda rows: plan_contrast(x, c, rows, robust, people), rows)


def correlation(x: ArrayLike, covariates: pd.DataFrame | None = None) -> Callable[[ArrayLike], FeatureEstimates]:
    """Correlation of every feature with a number for each scan, such as age; partial if covariates are given.

    Parameters
    ----------
    x : (scan,) array
        Scans without a number are left out.
    covariates : DataFrame, optional
        (scan, covariate) numbers or categories, known of all scans that have a number.

    Returns
    -------
    callable
        (scan, feature) values -> :class:`FeatureEstimates`: Fisher z and its variance, 1 / (scans - 3 - covariates).
        They are pooled
        in that form; the table has correlations with their intervals, and `se`, `within` and `between` in that unit, by the
        slope of tanh. Scans are taken as independent: where people were scanned repeatedly, use :func:`contrast`. Missing
        values as there.

    Raises
    ------
    InputError
        `x` is constant or determined by the covariates, these are missing, or there are too few scans.
    """
    _check_same_rows(x=x, covariates=covariates)
    number = _to_numbers(pd.DataFrame({"x": pd.Series(np.asarray(x)).astype(object)}), "numbers", missing=True)[:, 0]
    rows = np.isfinite(number)
    design = _to_design(covariates, rows)
    project = on_scans_there(lambda rows: plan_correlation(number, design, rows), rows)

    def correlate(values: ArrayLike) -> FeatureEstimates:
        along, squares, df, _ = project(values)
        with np.errstate(invalid="ignore", divide="ignore"):  # constant features
            return FeatureEstimates(np.arctanh(along / np.sqrt(squares)), 1 / df, scale="fisher_z")

    return correlate


def estimator_score(
    estimator: Any, y: ArrayLike, *, cv: Any = 5, groups: ArrayLike | None = None, scoring: Any = None
) -> Callable[[np.ndarray], pd.Series]:
    """Cross-validated score of a scikit-learn estimator that predicts `y` from the features.

    Parameters
    ----------
    estimator : scikit-learn estimator
        Give it a `random_state` if it has one; else its own chance is counted as uncertainty of harmonization.
    y : (scan,) array
    cv, groups, scoring
        As in :func:`sklearn.model_selection.cross_validate`; every draw is split alike. With participants as `groups` and a
        splitter that respects them, nobody is in both training and test.

    Returns
    -------
    callable
        (scan, feature) values -> mean score over the folds. It has no variance: what is pooled is its spread between draws.

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
            "Scores of estimators need scikit-learn.", got="it is not installed", do="pip install scikit-learn"
        ) from None
    y = np.asarray(y)
    splitter = check_cv(cv, y, classifier=is_classifier(estimator))
    splits = list(splitter.split(np.zeros((len(y), 1)), y, groups))
    name = scoring if isinstance(scoring, str) else "score"

    def score(values: np.ndarray) -> pd.Series:
        return pd.Series([cross_val_score(estimator, values, y, cv=splits, scoring=scoring).mean()], [name])

    return score


def _check_same_rows(**given: Any) -> None:
    """Tables that have labels of scans must have them in the same order: they are used by position."""
    labelled = {name: part.index for name, part in given.items() if isinstance(part, pd.DataFrame | pd.Series)}
    for (one, first), (other, index) in combinations(labelled.items(), 2):
        if len(first) == len(index) and not first.equals(index) and set(first) == set(index):
            raise InputError(
                f"{one} and {other} have their scans in different orders.",
                got=f"{shorten(first, 3)} and {shorten(index, 3)}",
                expected="the same scans in the same order",
                do=f"give {other}.loc[{one}.index]",
            )


def _to_design(covariates: pd.DataFrame | None, rows: np.ndarray) -> np.ndarray:
    """A constant and covariates, (scan, column); a column for each category but the first that is used."""
    n = len(rows)
    if covariates is None:
        return np.ones((n, 1))
    table = pd.DataFrame(covariates).reset_index(drop=True)
    if len(table) != n:
        raise InputError(
            "The covariates are not of these scans.",
            got=f"{len(table)} rows",
            expected=f"{n} rows",
            do="give a row for each scan",
        )
    used = table[rows]
    if len(incomplete := used.columns[used.isna().any()]):
        raise InputError(
            "Covariates are missing for some scans.",
            got=shorten(incomplete),
            expected="a value for each scan that is used",
            do="complete them, or leave these scans out of the covariates, the group and the draws",
        )
    used = pd.get_dummies(used, drop_first=True, dtype=float)
    design = np.zeros((n, 1 + used.shape[1]))
    design[rows] = np.column_stack([np.ones(rows.sum()), _to_numbers(used, "covariates")])
    return design


def _to_numbers(table: pd.DataFrame, what: str, missing: bool = False) -> np.ndarray:
    try:
        x = table.to_numpy(float)
        wrong = table.columns[~(np.isfinite(x) | (missing & np.isnan(x))).all(0)]
    except (TypeError, ValueError):
        wrong = table.select_dtypes(exclude=["number", "bool"]).columns
    if len(wrong):
        raise InputError(
            f"A column of the {what} is not made of finite numbers.",
            got=shorten(wrong),
            expected="a finite number for each scan",
            do="complete what is missing, and code categories as 0 and 1",
        )
    return x


def _number_people(participants: ArrayLike, n: int) -> np.ndarray:
    codes = pd.factorize(np.asarray(participants, dtype=object))[0]
    if len(codes) != n or (codes < 0).any():
        raise InputError(
            "It is not known of each scan who was scanned.",
            got=f"{len(codes)} participants, {(codes < 0).sum()} of them missing",
            expected=f"one for each of {n} scans",
            do="give the column participant_id of the scans table",
        )
    return codes
