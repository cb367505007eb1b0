"""Products of the factors of a formula, in which numbers count from their means over the scans of the fit.

Without that, the effect of a group beside ``age:group`` would be the difference at age 0, far from all data, and its prior
would act there. A formula keeps the span that it has in R: a factor counts from its mean only where the rest of the product
is in the model.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd

from bayesharm.model.formula.factors import Call
from bayesharm.model.formula.text import Formula


def term_name(term: tuple[str, ...]) -> str:
    """Return the text of a term."""
    return ":".join(term)


def find_centers(
    formula: Formula, factors: Mapping[str, Any], categories: Collection[str], in_model: Collection[tuple[str, str]]
) -> dict[str, dict[str, Any]]:
    """Find the factors of each product that count from their means, and these means.

    Parameters
    ----------
    formula : Formula
    factors : mapping
        Values of each factor for the scans of the fit.
    categories : collection of str
        The factors that are categories; their coding stays as it is.
    in_model : collection of (str, str)
        Columns whose effects are in the model outside of the formula: ("number" or "category", column).
    """
    identity: dict[str, tuple[str, str]] = {}
    for name, node in formula.factors.items():
        kind = "category" if name in categories else "function" if isinstance(node, Call) else "number"
        identity[name] = (kind, node.text if kind == "function" else node.column)
    of_terms = {term: frozenset(identity[name] for name in term) for term in formula.terms}
    present = {frozenset(), *(frozenset({each}) for each in in_model), *of_terms.values()}  # the empty one is the mean
    centers: dict[str, dict[str, Any]] = {}
    for term, whole in of_terms.items():
        left_out = [frozenset[tuple[str, str]]()]
        for name in term if len(term) > 1 else ():
            more = [each | {identity[name]} for each in left_out]
            # (a - mean) b = a b - mean b: the rest of the term must be in the model
            if name not in categories and all(whole - each in present for each in more):
                left_out += more
                centers.setdefault(term_name(term), {})[name] = _mean(factors[name])
    return centers


def multiply(
    formula: Formula, factors: Mapping[str, Any], centers: Mapping[str, Mapping[str, Any]], n_scans: int
) -> tuple[np.ndarray, tuple[str, ...], tuple[str, ...]]:
    """Multiply the factors of each term; return (scan, column) values, and name and term of each column.

    Parameters
    ----------
    formula : Formula
    factors : mapping
        Values of each factor.
    centers : mapping
        As of :func:`find_centers`.
    n_scans : int
    """
    values, columns, terms = _multiply(formula, factors, n_scans)
    for group in {tuple(of_term) for of_term in centers.values()}:
        names = [name for name, of_term in centers.items() if tuple(of_term) == group]
        centered = {name: _subtract(factors[name], mean) for name, mean in centers[names[0]].items()}
        at = [k for k, term in enumerate(terms) if term in names]
        values[:, at] = _multiply(formula, {**factors, **centered}, n_scans)[0][:, at]
    return values, columns, terms


def _multiply(
    formula: Formula, factors: Mapping[str, Any], n_scans: int
) -> tuple[np.ndarray, tuple[str, ...], tuple[str, ...]]:
    """Multiply the factors as they are, by formulaic."""
    from formulaic import Formula as Terms
    from formulaic import ModelSpec
    from formulaic.parser.types import Factor, Term

    terms = [Term([Factor("1", eval_method="literal")])]
    terms += [Term([Factor(name, eval_method="lookup") for name in term]) for term in formula.terms]
    spec = ModelSpec(formula=Terms(terms), output="numpy", na_action="ignore")
    matrix = spec.get_model_matrix(pd.DataFrame(index=range(n_scans)), context=dict(factors))
    made = matrix.model_spec.structure
    names = [(name, term_name(tuple(factor.expr for factor in row.term.factors))) for row in made for name in row.columns]
    return (
        np.array(matrix, float)[:, 1:],
        tuple(name.replace("[T.", "[") for name, _ in names[1:]),
        tuple(term for _, term in names[1:]),
    )


def _mean(values: Any) -> Any:
    """Mean of a number, or of each column of several, as plain data."""
    if hasattr(values, "keys"):
        return [float(np.mean(column)) for column in values.values()]
    return np.asarray(values, float).mean(axis=0).tolist()


def _subtract(values: Any, mean: Any) -> Any:
    """Subtract the mean of each column; formulaic's remarks on the columns stay with them."""
    from formulaic.materializers.types import FactorValues

    if hasattr(values, "keys"):
        centered: Any = {key: np.asarray(values[key], float) - of_key for key, of_key in zip(values, mean, strict=True)}
    else:
        centered = np.asarray(values, float) - np.asarray(mean)
    known = getattr(values, "__formulaic_metadata__", None)
    return centered if known is None else FactorValues(centered, metadata=known)
