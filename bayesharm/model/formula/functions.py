"""The functions and contrasts that a formula may use, with the arguments that each of them takes.

A formula is text that somebody typed or sent. It is never evaluated as Python: :mod:`bayesharm.model.formula.text` accepts
the functions of this list with literal arguments, and :mod:`bayesharm.model.formula.values` calls them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

import numpy as np

MOST_VALUES = 50  # of a list: knots or levels
MOST_COLUMNS = 30  # of one function
EXTRAPOLATIONS = ("raise", "clip", "extend")


class Result(Enum):
    """The kind of a function's result."""

    NUMBER = "one number for each scan"
    BASIS = "several columns"
    CATEGORY = "categories"


class Contrast(NamedTuple):
    """A coding of categories: its name in :data:`CONTRASTS`, and the reference category if one is named."""

    name: str
    base: str | float | None = None


class Argument(NamedTuple):
    """A rule for one argument: whether a value meets it, and the values that do, in words."""

    is_met: Callable[[Any], bool]
    expected: str


@dataclass(frozen=True)
class Function:
    """A function that a formula may use.

    Attributes
    ----------
    result : Result
    arguments : mapping
        Rule of each argument after the column, by name.
    n_positional : int
        Number of arguments that need no name, in order.
    wants : str
        Values of the column for which the function has a value; empty for all numbers.
    is_spline : bool
        Whether there are boundary knots, beyond which there are no values.
    """

    result: Result
    arguments: Mapping[str, Argument] = field(default_factory=dict)
    n_positional: int = 0
    wants: str = ""
    is_spline: bool = False


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300 and math.isfinite(value)


def _is_list(value: Any, is_item: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and 0 < len(value) <= MOST_VALUES and all(map(is_item, value))


def _count(least: int, most: int) -> Argument:
    return Argument(
        lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most,
        f"a whole number from {least} to {most}",
    )


def _one_of(*values: str) -> Argument:
    return Argument(lambda value: isinstance(value, str) and value in values, f"one of {', '.join(map(repr, values))}")


NUMBER = Argument(_is_number, "a number")
NUMBERS = Argument(lambda value: _is_list(value, _is_number), f"a list of 1 to {MOST_VALUES} numbers, such as [30, 50]")
FLAG = Argument(lambda value: isinstance(value, bool), "True or False")
LABELS = Argument(
    lambda value: _is_list(value, lambda item: isinstance(item, str) or _is_number(item)) and len(set(value)) == len(value),
    f"a list of 1 to {MOST_VALUES} different categories, such as ['F', 'M']",
)
CODING = Argument(lambda value: isinstance(value, Contrast), "contrasts, such as contr.treatment('F') or contr.sum")

_BOUNDS = {"lower_bound": NUMBER, "upper_bound": NUMBER}
_CUBIC = Function(
    Result.BASIS,
    {
        "df": _count(1, MOST_COLUMNS),
        "knots": NUMBERS,
        **_BOUNDS,
        "constraints": _one_of("center"),
        "extrapolation": _one_of(*EXTRAPOLATIONS),
    },
    n_positional=4,
    is_spline=True,
)
FUNCTIONS = {
    "bs": Function(
        Result.BASIS,
        {
            "df": _count(1, MOST_COLUMNS),
            "knots": NUMBERS,
            "degree": _count(0, 5),
            **_BOUNDS,
            "extrapolation": _one_of(*EXTRAPOLATIONS),
        },
        n_positional=3,
        is_spline=True,
    ),
    "cr": _CUBIC,
    "cs": _CUBIC,
    "cc": _CUBIC,
    "poly": Function(Result.BASIS, {"degree": _count(1, 10), "raw": FLAG}, n_positional=2),
    "scale": Function(Result.NUMBER, {"center": FLAG, "scale": FLAG, "ddof": _count(0, 1)}, n_positional=3),
    "standardize": Function(Result.NUMBER, {"center": FLAG, "rescale": FLAG, "ddof": _count(0, 1)}, n_positional=3),
    "center": Function(Result.NUMBER),
    "log": Function(Result.NUMBER, wants="positive numbers"),
    "log2": Function(Result.NUMBER, wants="positive numbers"),
    "log10": Function(Result.NUMBER, wants="positive numbers"),
    "sqrt": Function(Result.NUMBER, wants="numbers that are not negative"),
    "exp": Function(Result.NUMBER, wants="numbers below 700"),
    "C": Function(Result.CATEGORY, {"contrasts": CODING, "levels": LABELS}, n_positional=1),
}
MATH: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "log": np.log,
    "log2": np.log2,
    "log10": np.log10,
    "sqrt": np.sqrt,
    "exp": np.exp,
}
# Contrasts by the names of R and by those of patsy; those with True may name the reference category.
CONTRASTS = {
    "contr.treatment": True,
    "contr.SAS": True,
    "contr.sum": False,
    "contr.helmert": False,
    "contr.diff": False,
    "contr.poly": False,
    "Treatment": True,
    "Sum": False,
    "Helmert": False,
    "Diff": False,
    "Poly": False,
}
ALLOWED = (
    f"columns of the scans table, and the functions {', '.join(FUNCTIONS)} with numbers and text as arguments; in C also "
    f"{', '.join(list(CONTRASTS)[:6])}"
)


def call_function(name: str, values: Any, arguments: Mapping[str, Any], state: dict[str, Any]) -> Any:
    """Call a function of formulaic, or of NumPy, on the values of a column.

    Parameters
    ----------
    name : str
        In :data:`FUNCTIONS`.
    values : (scan,) array or Series
    arguments : mapping
    state : dict
        What the function learned from the scans of the fit, such as knots; it is filled if empty.
    """
    if name in MATH:
        return MATH[name](values)
    from formulaic.transforms import TRANSFORMS

    if name == "C":
        coding = arguments.get("contrasts")
        given = {} if coding is None else {"contrasts": _make_contrasts(coding)}
        return TRANSFORMS["C"](values, levels=state["categories"], **given)
    return TRANSFORMS[name](values, _state=state, **arguments)


def _make_contrasts(coding: Contrast) -> Any:
    """Contrasts of formulaic; only those that may name a reference get one."""
    from formulaic.transforms import TRANSFORMS

    registry, _, name = coding.name.rpartition(".")
    maker = getattr(TRANSFORMS["contr"], name) if registry else TRANSFORMS[name]
    return maker() if coding.base is None else maker(coding.base)
