"""Covariates as standardized columns of the design: columns of the scans table, and columns of a formula."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from bayesharm.data.scans import CANONICAL, IDENTIFIERS, name_columns
from bayesharm.errors import InputError, shorten
from bayesharm.model.formula.basis import FormulaBasis, basis_from_dict, determines, learn_basis
from bayesharm.model.formula.text import Formula, parse_formula
from bayesharm.model.labels import Column, covariate_labels, unique_labels
from bayesharm.model.spec import LEVELS, ModelSpec
from bayesharm.model.terms import Term

LEAST_OWN = 1e-3  # own part of a column below which rounding could reach the results


@dataclass(frozen=True)
class Covariate:
    """A standardized column: a numeric covariate, the indicator of one category, or a column of the formula.

    Attributes
    ----------
    level : str
        Printed label of the column, unique in the design.
    name : str
        The covariate, or the term of the formula.
    category : str or None
        The category of an indicator; None elsewhere.
    categories : tuple of str
        All categories of an indicator; the first is the reference and has no column.
    mean, sd : float
        Mean and sd of the column over the scans in the model.
    basis : FormulaBasis or None
        The columns of the formula, if this is one of them.
    own : float
        Sd of the part of the standardized column that the other columns do not explain.
    """

    level: str
    name: str
    category: str | None
    categories: tuple[str, ...]
    mean: float
    sd: float
    basis: FormulaBasis | None = None
    own: float = 1.0  # as in runs of earlier versions

    @property
    def unit(self) -> float:
        """Difference of the covariate that the design has as 1."""
        return self.sd * self.own


def covariate_term(used: pd.DataFrame, covariates: Sequence[Covariate], spec: ModelSpec) -> Term:
    """Build the columns of the covariates; reported slopes are per unit of the covariate.

    The prior of a slope is that of the effect of the part of its column that no other column explains. A prior of the effect
    of the whole column would leave no room for the curve of age beside its square. With this one, no linear combination of
    p columns that has sd 1 has an effect with a prior sd below ``slope_sd / sqrt(p)``.
    """
    unit = np.array([each.unit for each in covariates])
    labels = tuple(each.level for each in covariates)
    return Term(
        "covariate",
        tuple(Column("covariate", label) for label in labels),
        labels,
        sparse.csr_array(centered_covariates(used, covariates) / unit),
        (None,) * len(labels),
        is_centered=False,
        fixed_sd=spec.priors.slope_sd,
        weight=1 / unit,
        has_gain=True,
    )


def centered_covariates(table: pd.DataFrame, covariates: Sequence[Covariate]) -> np.ndarray:
    """Return the covariates minus their means over the scans of the fit, (scan, covariate).

    Raises
    ------
    InputError
        Values are missing, are not of the kind of the fit, are outside of its range, or are categories that it did not have.
    """
    plain = [covariate_values(table, each) for each in covariates if each.basis is None]
    bases = [each.basis for each in covariates if each.basis is not None]
    of_formula = list(bases[0].values(table).T) if bases else []
    return np.column_stack([*plain, *of_formula]) - [each.mean for each in covariates]


def covariate_sources(covariates: Sequence[Covariate]) -> tuple[str, ...]:
    """Return the columns of the scans table from which the covariates come."""
    return tuple(typical_values(covariates))


def typical_values(covariates: Sequence[Covariate]) -> dict[str, Any]:
    """Return a usual value of each column of the scans table from which the covariates come."""
    values: dict[str, Any] = {}
    for each in covariates:
        if each.basis is not None:
            values |= each.basis.typical
        else:
            values[each.name] = each.mean if each.category is None else each.categories[0]
    return values


def covariate_notes(covariates: Sequence[Covariate]) -> list[str]:
    """Return sentences on columns of the formula that are left out."""
    return next((each.basis.notes for each in covariates if each.basis is not None), [])


def covariates_to_dict(covariates: Sequence[Covariate]) -> dict[str, Any]:
    """Return plain data, as a run keeps it: `covariates`, and `formula` if there is one."""
    records = [asdict(replace(each, basis=None)) for each in covariates]
    for record in records:
        del record["basis"]
    bases = [each.basis for each in covariates if each.basis is not None]
    return {"covariates": records, **({"formula": bases[0].to_dict()} if bases else {})}


def covariates_from_dict(record: Mapping[str, Any]) -> tuple[Covariate, ...]:
    """Invert :func:`covariates_to_dict`."""
    covariates = [Covariate(**{**each, "categories": tuple(each["categories"])}) for each in record["covariates"]]
    if "formula" not in record:
        return tuple(covariates)
    basis = basis_from_dict(record["formula"])
    n_plain = len(covariates) - len(basis.kept)  # the columns of the formula come last
    return (*covariates[:n_plain], *(replace(each, basis=basis) for each in covariates[n_plain:]))


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
    """Define the columns of the covariates: numbers, indicators of all categories but the first, columns of the formula.

    Raises
    ------
    InputError
        A covariate is absent, has another use in the model, is constant, or has invalid values; or the formula cannot be
        used.
    """
    missing = [name for name in spec.covariates if name not in used]
    if missing:
        raise InputError(
            f"The scans table has no covariate {shorten(missing)}.",
            got=name_columns(used),
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
    covariates = [replace(each, level=label) for each, label in zip(covariates, labels, strict=True)]
    return _with_own_parts(used, [*covariates, *(_columns_of_formula(used, spec, covariates) if spec.formula else ())])


def _with_own_parts(used: pd.DataFrame, covariates: list[Covariate]) -> tuple[Covariate, ...]:
    """Measure the own part of each column: from the diagonal of the inverse correlations, the variance inflation factors."""
    if len(covariates) < 2:
        return tuple(covariates)
    columns = centered_covariates(used, covariates) / [each.sd for each in covariates]
    values, vectors = np.linalg.eigh(columns.T @ columns / len(columns))
    own = (vectors**2 / np.maximum(values, np.finfo(float).eps)).sum(axis=1) ** -0.5
    if (own < LEAST_OWN).any():
        found = [f"{covariates[k].level} (own part {own[k]:.1g} sd)" for k in np.flatnonzero(own < LEAST_OWN)]
        raise InputError(
            "Covariates are almost linear combinations of one another.",
            got=", ".join(found[:10]),
            expected=f"columns with a part of their own, at least {LEAST_OWN:g} of their sd",
            do="leave one of them out; for powers write poly(age, 2) in the formula, or subtract the mean before squaring",
        )
    return tuple(replace(each, own=float(part)) for each, part in zip(covariates, own, strict=True))


def _columns_of_formula(used: pd.DataFrame, spec: ModelSpec, covariates: Sequence[Covariate]) -> list[Covariate]:
    """Return the columns of the formula."""
    _refuse_other_use(parse_formula(spec.formula), spec)
    others = {each.level: covariate_values(used, each) for each in covariates}
    in_model = {("number" if each.category is None else "category", each.name) for each in covariates}
    if any(family.by == "diagnosis" for family in spec.families):
        in_model.add(("category", "diagnosis"))
    basis, values = learn_basis(spec.formula, used, others, in_model)
    _refuse_slopes_of_diagnosis(used, spec, np.column_stack([*others.values(), values]))
    names = [(basis.columns[k], str(k)) for k in basis.kept]
    labels = unique_labels([*others, *(name for name, _ in names)], [*others, *(f"{name} ({k})" for name, k in names)])
    columns = zip(labels[len(others) :], basis.kept, values.T, strict=True)
    return [
        Covariate(label, basis.terms[k], None, (), float(column.mean()), float(column.std()), basis)
        for label, k, column in columns
    ]


def _refuse_other_use(formula: Formula, spec: ModelSpec) -> None:
    """Refuse columns that the model uses otherwise, and those that are covariates already."""
    in_use = {*CANONICAL, *(family.by for family in spec.families if family.by not in LEVELS)} - {"diagnosis"}
    if reserved := [name for name in formula.columns if name in in_use]:
        raise InputError(
            f"{shorten(reserved)} cannot be in the formula.",
            got=formula.text,
            expected="columns that the model does not use already",
            do="leave it out of the formula",
        )
    alone = {term[0]: formula.factors[term[0]].column for term in formula.terms if len(term) == 1}
    if "diagnosis" in alone.values() and any(family.by == "diagnosis" for family in spec.families):
        raise InputError(
            "The effect of the diagnosis is in the model twice.",
            got=f"diagnosis in the formula {formula.text}, and the disorder effects of the model {spec.name!r}",
            expected="one of them; products such as age:diagnosis may be in the formula",
            do="leave diagnosis out of the formula; write age + age:diagnosis in place of age * diagnosis",
        )
    if twice := [name for name in dict.fromkeys(spec.covariates) if alone.get(name) == name]:
        raise InputError(
            f"{shorten(twice)} is a covariate and in the formula: the same column twice.",
            got=f"--covariates {','.join(spec.covariates)} and --formula {formula.text!r}",
            expected="each column once",
            do="leave it out of one of them",
        )


def _refuse_slopes_of_diagnosis(used: pd.DataFrame, spec: ModelSpec, columns: np.ndarray) -> None:
    """Refuse products of the diagnosis and a number, if the disorder effects of the model depend on that number already."""
    formula = parse_formula(spec.formula)
    products = [{formula.factors[name].column for name in term} for term in formula.terms]
    for family in spec.slopes:
        if family.by != "diagnosis" or not any({"diagnosis", family.slope} <= product for product in products):
            continue
        slope, diagnosis = used[family.slope].to_numpy(float), used.diagnosis.astype(str).to_numpy()
        groups = diagnosis[:, None] == np.unique(diagnosis)
        if any(determines(np.column_stack([columns, groups]), slope * group) for group in groups.T):
            raise InputError(
                f"The product of {family.slope} and diagnosis is in the model twice.",
                got=f"the formula {formula.text}, and the effects {family.slope_name!r} of the model {spec.name!r}",
                expected="one of them",
                do=f"leave the product out of the formula: /effects/{family.slope_name} has the slope of each diagnosis",
            )


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
