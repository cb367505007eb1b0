"""Covariates as standardized columns of the design."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import sparse

from bayesharm.data.scans import IDENTIFIERS
from bayesharm.errors import InputError, shorten
from bayesharm.model.labels import Column, covariate_labels
from bayesharm.model.spec import ModelSpec
from bayesharm.model.terms import Term


@dataclass(frozen=True)
class Covariate:
    """A standardized column: a numeric covariate, or the indicator of one category.

    Attributes
    ----------
    level : str
        Printed label of the column, unique in the design.
    name : str
        The covariate.
    category : str or None
        The category of an indicator; None for a numeric covariate.
    categories : tuple of str
        All categories; the first is the reference and has no column.
    mean, sd : float
        Mean and sd of the column over the scans in the model.
    """

    level: str
    name: str
    category: str | None
    categories: tuple[str, ...]
    mean: float
    sd: float


def covariate_term(used: pd.DataFrame, covariates: Sequence[Covariate], spec: ModelSpec) -> Term:
    """Build the columns of the covariates; reported slopes are per unit of the covariate, not per sd."""
    values = [(covariate_values(used, each) - each.mean) / each.sd for each in covariates]
    labels = tuple(each.level for each in covariates)
    return Term(
        "covariate",
        tuple(Column("covariate", label) for label in labels),
        labels,
        sparse.csr_array(np.column_stack(values)),
        (None,) * len(labels),
        is_centered=False,
        fixed_sd=spec.priors.slope_sd,
        weight=1 / np.array([each.sd for each in covariates]),
        has_gain=True,
    )


def covariate_values(used: pd.DataFrame, covariate: Covariate) -> np.ndarray:
    """Return the values of a covariate, or the indicator of its category, (scan,).

    Raises
    ------
    InputError
        Values are missing, are not numbers as in the fit, or are categories that the fit did not have.
    """
    _check_values(used, covariate.name)
    values = used[covariate.name]
    if covariate.category is None:
        if not pd.api.types.is_numeric_dtype(values):
            raise InputError(
                f"The covariate {covariate.name!r} is not a number, as it was in the fit.",
                got=shorten(values.unique()),
                expected="numbers",
                do="correct the column",
            )
        return values.to_numpy(float)
    labels = values.astype(str)
    if len(unknown := set(labels) - set(covariate.categories)):
        raise InputError(
            f"The covariate {covariate.name!r} has categories that the fit has not seen.",
            got=shorten(sorted(unknown)),
            expected=f"some of {shorten(covariate.categories, 20)}",
            do="write categories as in the fit, or leave these scans out",
        )
    return (labels == covariate.category).to_numpy(float)


def find_covariates(used: pd.DataFrame, spec: ModelSpec) -> tuple[Covariate, ...]:
    """Define the columns of the covariates: numbers, or indicators of all categories but the first.

    Raises
    ------
    InputError
        A covariate is absent, has another use in the model, is constant, or has invalid values.
    """
    missing = [name for name in spec.covariates if name not in used]
    if missing:
        raise InputError(
            f"The scans table has no covariate {shorten(missing)}.",
            got=f"columns {shorten(used.columns, 30)}",
            expected="covariates that are columns",
            do="correct --covariates",
        )
    if identifiers := [name for name in dict.fromkeys(spec.covariates) if name in IDENTIFIERS]:
        raise InputError(
            f"{shorten(identifiers)} cannot be a covariate.",
            got=f"--covariates {','.join(spec.covariates)}",
            expected="columns that the model does not use already",
            do="leave it out of --covariates",
        )
    covariates = [each for name in dict.fromkeys(spec.covariates) for each in _columns_of(used, name)]
    labels = covariate_labels([(each.name, each.category) for each in covariates])
    return tuple(replace(each, level=label) for each, label in zip(covariates, labels, strict=True))


def _check_values(used: pd.DataFrame, name: str) -> None:
    values = used[name]
    if values.dtype.kind in "Mm":
        raise InputError(
            f"The covariate {name!r} is neither numbers nor categories.",
            got=str(values.dtype),
            expected="numbers or text",
            do="make it a number, such as years since a date",
        )
    if (bad := values.isna() | values.isin([np.inf, -np.inf])).any():
        raise InputError(
            f"The covariate {name!r} has missing or infinite values.",
            got=f"no value for scans {shorten(used.scan_id[bad])}",
            expected="a value for every scan",
            do="complete the column or leave those scans out",
        )


def _columns_of(used: pd.DataFrame, name: str) -> list[Covariate]:
    """Return the columns of one covariate; their labels are still missing."""
    _check_values(used, name)
    values = used[name]
    if values.nunique() < 2:
        raise InputError(
            f"The covariate {name!r} is the same for every scan in the model.",
            got=str(values.iloc[0]),
            expected="covariates that vary",
            do="leave it out of --covariates",
        )
    if pd.api.types.is_numeric_dtype(values):
        numbers = values.to_numpy(float)
        return [Covariate("", name, None, (), float(numbers.mean()), float(numbers.std()))]
    is_number = pd.to_numeric(values.astype(str), errors="coerce").notna()
    if 0.5 <= is_number.mean() < 1:
        raise InputError(
            f"The covariate {name!r} is numeric except for some values.",
            got=f"{shorten(values[~is_number].unique())}, of scans {shorten(used.scan_id[~is_number])}",
            expected="numbers only, or categories",
            do="correct these values or leave those scans out; if they are categories, give each a name that is no number",
        )
    categories = values.astype("category").cat.remove_unused_categories()
    if (n_levels := len(categories.cat.categories)) > max(20, len(values) // 10):
        raise InputError(
            f"The covariate {name!r} has too many categories.",
            got=f"{n_levels} for {len(values)} scans, such as {shorten(categories.cat.categories)}",
            expected="a number, or a few categories",
            do="leave identifiers out of --covariates",
        )
    labels, names = categories.astype(str), tuple(str(category) for category in categories.cat.categories)
    shares = [float((labels == category).mean()) for category in names]
    return [
        Covariate("", name, category, names, share, (share * (1 - share)) ** 0.5)
        for category, share in zip(names[1:], shares[1:], strict=True)
    ]
