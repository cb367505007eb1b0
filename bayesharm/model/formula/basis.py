"""The columns of a formula, learned from the scans of a fit and frozen: knots, categories and contrasts stay as they are."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bayesharm.data.finding import refuse_errors
from bayesharm.errors import InputError, listed, shorten
from bayesharm.model.formula.factors import Column
from bayesharm.model.formula.products import find_centers, multiply
from bayesharm.model.formula.text import parse_formula
from bayesharm.model.formula.values import FactorReader

MOST_PER_SCAN = 3  # columns before redundant ones are left out
REDUNDANT = 1e-7  # part of a column that no other columns explain, below which it is their linear combination
INTEGER_KEYS = ("alpha", "norms2")  # of the states of poly, by degree


@dataclass(frozen=True)
class FormulaBasis:
    """The columns of a formula for any scans, as they were for the scans of a fit.

    Attributes
    ----------
    formula : str
    columns : tuple of str
        Names of all columns of the model matrix but the constant.
    terms : tuple of str
        The term of each column.
    kept : tuple of int
        Indices of the columns that are used; the others are linear combinations of these.
    typical : mapping
        A usual value of each column of the scans table in the formula.
    states : mapping
        What each function learned, by its text: knots, categories, means.
    centers : mapping
        The means from which factors count in products, by product and factor.
    """

    formula: str
    columns: tuple[str, ...]
    terms: tuple[str, ...]
    kept: tuple[int, ...]
    typical: Mapping[str, Any]
    states: Mapping[str, Mapping[str, Any]]
    centers: Mapping[str, Mapping[str, Any]]

    @property
    def notes(self) -> list[str]:
        """Sentences on columns that are left out."""
        left_out = [name for k, name in enumerate(self.columns) if k not in self.kept]
        if not left_out:
            return []
        them = "it" if len(left_out) == 1 else "them"
        return [f"Left out of the formula, since the other columns determine {them}: {listed(left_out)}."]

    def values(self, table: pd.DataFrame) -> np.ndarray:
        """Compute the columns that are used, for any scans, (scan, column).

        Raises
        ------
        InputError
            All problems of the table together: columns are absent, values are missing or outside of the range of the fit,
            or categories are new.
        """
        formula = parse_formula(self.formula)
        reader = FactorReader(table, _thaw(self.states), is_fit=False)
        factors = reader.factors(formula)
        refuse_errors(reader.findings, can_be_accepted=False)
        values, names, _ = multiply(formula, factors, self.centers, len(table))
        if names != self.columns:
            raise InputError(
                "The formula makes other columns than in the fit.",
                got=shorten(names, 10),
                expected=shorten(self.columns, 10),
                do="use the version of formulaic of the fit, or fit again",
            )
        return values[:, list(self.kept)]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as a run keeps it; :func:`basis_from_dict` is the inverse."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}


def basis_from_dict(record: Mapping[str, Any]) -> FormulaBasis:
    """Restore the columns of a formula from plain data."""
    return FormulaBasis(
        formula=record["formula"],
        columns=tuple(record["columns"]),
        terms=tuple(record["terms"]),
        kept=tuple(record["kept"]),
        typical=record["typical"],
        states=record["states"],
        centers=record.get("centers", {}),  # runs of earlier versions multiply the factors as they are
    )


def learn_basis(
    text: str, used: pd.DataFrame, others: Mapping[str, np.ndarray], in_model: Collection[tuple[str, str]] = ()
) -> tuple[FormulaBasis, np.ndarray]:
    """Learn the columns of a formula from the scans of a fit; return also their values, (scan, column).

    Parameters
    ----------
    text : str
        The formula.
    used : DataFrame
        The scans in the model.
    others : mapping of (scan,) arrays
        Other covariates by name, of which no term may be a linear combination.
    in_model : collection of (str, str)
        Columns whose effects are in the model outside of the formula: ("number" or "category", column).

    Raises
    ------
    InputError
        The formula is malformed; values are missing or of the wrong kind; columns are constant; a term is a linear
        combination of others; or there are more columns than scans. All problems of the table come together.
    """
    formula = parse_formula(text)
    reader = FactorReader(used, {}, is_fit=True)
    factors = reader.factors(formula)
    refuse_errors(reader.findings, can_be_accepted=False)
    n_columns = sum(math.prod(_width(factors[name]) for name in term) for term in formula.terms)
    if n_columns > MOST_PER_SCAN * len(used):
        _refuse_size(n_columns, len(used))  # before a huge matrix is built
    categories = [name for name, node in formula.factors.items() if reader.is_category(node)]
    centers = find_centers(formula, factors, categories, in_model)
    values, columns, terms = multiply(formula, factors, centers, len(used))
    _refuse_constant(values, columns)
    kept = _find_independent(values, columns, terms, others)
    states = {name: _freeze(state) for name, state in reader.states.items() if state}
    basis = FormulaBasis(text, columns, terms, kept, reader.typical(formula), states, centers)
    return basis, values[:, list(kept)]


def contains_line(text: str, column: str, scans: pd.DataFrame) -> bool:
    """Whether a formula contains the line of a number: ``bs(time, df=4)`` contains that of time, ``sqrt(time)`` does not.

    A formula that cannot be used for these scans contains it only as a term of its own.
    """
    formula = parse_formula(text)
    if any(formula.factors[term[0]] == Column(column) for term in formula.terms if len(term) == 1):
        return True
    if column not in formula.columns or column not in scans or not pd.api.types.is_numeric_dtype(scans[column]):
        return False
    try:
        return determines(learn_basis(text, scans, {})[1], scans[column].to_numpy(float))
    except InputError:
        return False


def determines(columns: np.ndarray, values: np.ndarray) -> bool:
    """Whether values, (scan,), are a linear combination of the mean and of columns, (scan, column), up to rounding."""
    standardized = [(each - each.mean()) / (each.std() or 1.0) for each in (*columns.T, values)]
    matrix, target = np.column_stack(standardized[:-1]), standardized[-1]
    rest = target - matrix @ np.linalg.lstsq(matrix, target, rcond=None)[0]
    return bool(np.linalg.norm(rest) <= REDUNDANT * np.sqrt(len(target)))


def _width(factor: Any) -> int:
    """Number of columns of a factor."""
    if hasattr(factor, "cat"):
        return len(factor.cat.categories)
    return len(factor) if hasattr(factor, "keys") else int(np.prod(np.shape(factor)[1:]))


def _refuse_size(n_columns: int, n_scans: int) -> None:
    raise InputError(
        "The formula has too many columns for the scans.",
        got=f"{n_columns:,} columns for {n_scans:,} scans in the model",
        expected=f"at most {max(n_scans - 2, 0):,} columns, other covariates included",
        do="use fewer terms, a smaller df, or fewer categories",
    )


def _refuse_constant(values: np.ndarray, columns: tuple[str, ...]) -> None:
    spread = np.ptp(values, axis=0)
    if constant := [name for name, width in zip(columns, spread, strict=True) if width == 0]:
        raise InputError(
            "Columns of the formula are the same for every scan in the model.",
            got=shorten(constant),
            expected="columns that vary; for products of categories, scans of each combination",
            do="leave these terms out, or join categories",
        )


def _find_independent(
    values: np.ndarray, columns: tuple[str, ...], terms: tuple[str, ...], others: Mapping[str, np.ndarray]
) -> tuple[int, ...]:
    """Find the columns that are no linear combinations of the mean, other covariates, and one another.

    A term may lose some of its columns, as ``age:sex`` loses one beside ``bs(age, df=4)``, which contains the slope of age.
    Its first columns are left out: those of the reference category.

    Raises
    ------
    InputError
        A whole term is a linear combination of others, or there are more columns than scans.
    """
    n_scans = len(values)
    in_order = [k for term in dict.fromkeys(terms) for k in reversed(range(len(terms))) if terms[k] == term]
    candidates = [(-1, column) for column in others.values()] + [(k, values[:, k]) for k in in_order]
    basis, kept = np.empty((n_scans, 0)), []
    for k, column in candidates:
        column = (column - column.mean()) / column.std()
        rest = column - basis @ (basis.T @ column)
        rest -= basis @ (basis.T @ rest)  # once more, against rounding
        if (size := np.linalg.norm(rest)) > REDUNDANT * np.sqrt(n_scans):
            basis = np.column_stack([basis, rest / size])
            kept.append(k)
    if basis.shape[1] >= n_scans - 1:
        _refuse_size(len(candidates), n_scans)
    independent = {terms[k] for k in kept if k >= 0}
    if lost := [term for term in dict.fromkeys(terms) if term not in independent]:
        rest_of_terms = [*others, *(term for term in dict.fromkeys(terms) if term in independent)]
        raise InputError(
            "Terms of the formula are linear combinations of other columns.",
            got=f"{shorten(lost)}, determined by {listed(['the mean', *rest_of_terms])}",
            expected="terms that add something to the others",
            do="leave these terms out of the formula, or the same columns out of the covariates",
        )
    return tuple(sorted(k for k in kept if k >= 0))


def _freeze(value: Any) -> Any:
    """Turn what a function learned into plain data."""
    if isinstance(value, Mapping):
        return {str(name): _freeze(each) for name, each in value.items()}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _thaw(states: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Invert :func:`_freeze`, in a copy that functions may change."""

    def restore(name: str, value: Any) -> Any:
        if name in INTEGER_KEYS:
            return {int(key): each for key, each in value.items()}
        return np.array(value) if name == "constraints" and value is not None else copy.deepcopy(value)

    return {text: {name: restore(name, value) for name, value in state.items()} for text, state in states.items()}
