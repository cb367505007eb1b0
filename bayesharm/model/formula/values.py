"""Values of the columns and functions of a formula for a table of scans, and all problems of the table."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from bayesharm.data.finding import Finding
from bayesharm.data.scans import name_columns
from bayesharm.errors import shorten
from bayesharm.model.formula.factors import Call, Column
from bayesharm.model.formula.functions import EXTRAPOLATIONS, FUNCTIONS, Result, call_function
from bayesharm.model.formula.text import Formula

NUMBERS = (bool, int, float, np.bool_, np.number)
MOST_NAMED = 5  # scans of a finding, with their values
IN_DOMAIN: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "log": lambda values: values > 0,
    "log2": lambda values: values > 0,
    "log10": lambda values: values > 0,
    "sqrt": lambda values: values >= 0,
    "exp": lambda values: values < 700,
}


@dataclass
class FactorReader:
    """Reads the factors of a formula from a table of scans.

    Attributes
    ----------
    table : DataFrame
    states : dict
        What each factor learned from the scans of the fit, by its text, such as knots or categories; filled if empty.
    is_fit : bool
        Whether these are the scans of the fit.
    findings : list of Finding
        All problems of the table.
    """

    table: pd.DataFrame
    states: dict[str, dict[str, Any]]
    is_fit: bool
    findings: list[Finding] = field(default_factory=list)

    def factors(self, formula: Formula) -> dict[str, Any]:
        """Return the values of all factors by their text, complete if there is no finding."""
        usable = [name for name in formula.columns if self._is_usable(name)]
        values = {}
        for text, node in formula.factors.items():
            if node.column in usable:
                values[text] = self._categories(node) if self.is_category(node) else self._numbers(node)
        return values

    def typical(self, formula: Formula) -> dict[str, Any]:
        """Return a usual value of each column: the mean of numbers, else the most frequent category."""
        in_category = {node.column for node in formula.factors.values() if self.is_category(node)}
        return {
            name: _plain(self._column(name).mode().iloc[0])
            if name in in_category
            else float(_numbers(self._column(name)).mean())
            for name in formula.columns
        }

    def _column(self, name: str) -> pd.Series:
        """Return a column of the table; yes and no as 1 and 0, also where they have been joined with numbers."""
        values = self.table[name]
        known = values.dropna()
        if pd.api.types.is_bool_dtype(values) or (
            values.dtype == object and len(known) and all(isinstance(each, NUMBERS) for each in known)
        ):
            return pd.Series(_numbers(values), values.index)
        return values

    def is_category(self, node: Column | Call) -> bool:
        """Whether the values of a factor are categories."""
        if isinstance(node, Call):
            return FUNCTIONS[node.function].result is Result.CATEGORY
        if self.is_fit:
            return not pd.api.types.is_numeric_dtype(self._column(node.name))
        return "categories" in self.states.get(node.text, {})

    def _is_usable(self, name: str) -> bool:
        """Find what is wrong with a column whatever its use; return whether its values can be used."""
        if name not in self.table:
            near = difflib.get_close_matches(name, [str(column) for column in self.table], n=1, cutoff=0.6)
            self._find(
                "formula-column", f"The scans table has no column {name!r}, which the formula uses.",
                name_columns(self.table), "columns of the scans table",
                f"write {near[0]!r} if that is meant" if near else "correct the formula, or add the column", name,
            )  # fmt: skip
            return False
        values = self._column(name)
        if values.dtype.kind in "Mm":
            self._find(
                "formula-type", f"The column {name!r} of the formula is neither numbers nor categories.", str(values.dtype),
                "numbers or text", "make it a number, such as years since a date", name,
            )  # fmt: skip
            return False
        absent = (values.isna() | values.isin([np.inf, -np.inf])).to_numpy()
        if absent.any():
            self._find(
                "formula-missing", f"The column {name!r} of the formula has missing or infinite values.",
                f"no value for scans {self._named(absent)}", "a value for every scan",
                "complete the column, or leave these scans out", name, absent,
            )  # fmt: skip
        if self.is_fit and values.nunique() < 2:
            self._find(
                "formula-constant", f"The column {name!r} of the formula is the same for every scan in the model.",
                shorten(values.dropna().unique()), "columns that vary", "leave it out of the formula", name,
            )  # fmt: skip
            return False
        return True

    def _numbers(self, node: Column | Call) -> Any:
        """Return the values of a number or of a basis; NaN where there is none, None if they cannot be computed."""
        if isinstance(node, Column):
            return self._read_numbers(node.name)
        data = self._numbers(node.data)
        if data is None or not self._is_in_domain(node, data) or not np.isfinite(data).all():
            return None
        state, arguments = self.states.setdefault(node.text, {}), dict(node.arguments)
        values, problem = None, "the column has too few different values"
        n_needed = arguments.get("degree", 1) + 1 if node.function == "poly" else arguments.get("df", 0)
        if not self.is_fit or len(np.unique(data)) >= n_needed:
            try:
                with np.errstate(all="ignore"):
                    values = call_function(node.function, data, arguments, state)
                columns = values.values() if hasattr(values, "keys") else [values]
                if all(np.isfinite(np.asarray(column, float)).all() for column in columns):
                    problem = ""
            except Exception as error:  # formulaic's own checks, such as more knots than different values
                problem = str(error) or problem
        if problem:
            self._find(
                "formula-function", f"{node.text} cannot be computed.", problem, "a function that suits the column",
                "change its arguments, or leave it out of the formula", node.column,
            )  # fmt: skip
        return None if problem else values

    def _read_numbers(self, name: str) -> np.ndarray | None:
        values = self._column(name)
        if pd.api.types.is_numeric_dtype(values):
            return _numbers(values)
        words = (pd.to_numeric(values.astype(object), errors="coerce").isna() & values.notna()).to_numpy()
        if self.is_fit and words[values.notna()].all():
            self._find(
                "formula-number", f"The formula uses the column {name!r} as a number, but it has categories.",
                shorten(values[words].unique()), "numbers", f"write {Column(name).text} alone, without a function", name,
            )  # fmt: skip
            return None
        self._find(
            "formula-number", f"The column {name!r} of the formula is not a number.",
            f"{shorten(values[words].unique())}, of scans {self._named(words)}" if words.any() else "numbers as text",
            "numbers" if self.is_fit else "numbers, as in the fit",
            "correct these values or leave these scans out; for categories use C", name, words,
        )  # fmt: skip
        return None

    def _is_in_domain(self, node: Call, data: np.ndarray) -> bool:
        """Find values for which a function has none: outside of its domain, or beyond the boundary knots."""
        function, arguments, known = FUNCTIONS[node.function], dict(node.arguments), np.isfinite(data)
        if node.function in IN_DOMAIN and (wrong := known & ~IN_DOMAIN[node.function](data)).any():
            self._find(
                "formula-domain", f"{node.text} has no value for some scans.", self._named(wrong, data), function.wants,
                "correct these values, leave these scans out, or use another function", node.column, wrong,
            )  # fmt: skip
            return False
        if not function.is_spline or not known.any():
            return True
        given = self.states.get(node.text) or arguments
        low = float(given.get("lower_bound", data[known].min()))
        high = float(given.get("upper_bound", data[known].max()))
        if low >= high or not all(low < knot < high for knot in arguments.get("knots", ())):
            self._find(
                "formula-knots", f"The knots of {node.text} are not within its range.", f"range {low:.6g} to {high:.6g}",
                "knots above the lower and below the upper bound", "correct knots, lower_bound or upper_bound", node.column,
            )  # fmt: skip
            return False
        beyond = known & ((data < low) | (data > high))
        if arguments.get("extrapolation", EXTRAPOLATIONS[0]) != EXTRAPOLATIONS[0] or not beyond.any():
            return True
        self._find(
            "formula-range", f"The column {node.column!r} is outside the range of {node.text} in some scans.",
            self._named(beyond, data), f"values from {low:.6g} to {high:.6g}, the boundary knots",
            "leave these scans out; or fit with lower_bound and upper_bound that include them, or with "
            "extrapolation='clip' or 'extend'", node.column, beyond,
        )  # fmt: skip
        return False

    def _categories(self, node: Column | Call) -> Any:
        """Return the values of a factor of categories, None if they cannot be used."""
        values, state = self._column(node.column), self.states.setdefault(node.text, {})
        arguments = dict(node.arguments) if isinstance(node, Call) else {}
        is_number = pd.api.types.is_numeric_dtype(values)
        known = values.notna().to_numpy()
        labels = np.array([_plain(value) if is_number else str(value) for value in values], object)
        if "categories" not in state:
            if self._has_wrong_categories(node, values, labels[known]):
                return None
            state["categories"] = arguments.get("levels") or _order(values, labels[known])
        categories = state["categories"]
        unseen = known & ~np.isin(labels.astype(str), [str(category) for category in categories])
        coding = arguments.get("contrasts")
        if unseen.any():
            which = "that its levels lack" if "levels" in arguments else "that the fit has not seen"
            self._find(
                "formula-category", f"The column {node.column!r} has categories {which}.",
                f"{shorten(dict.fromkeys(labels[unseen]))}, of scans {self._named(unseen)}",
                f"some of {shorten(categories, 20)}", "write categories as in the fit, or leave these scans out",
                node.column, unseen,
            )  # fmt: skip
        if coding is not None and coding.base is not None and coding.base not in categories:
            self._find(
                "formula-category", f"The reference category of {node.text} is none of its categories.", repr(coding.base),
                f"one of {shorten(categories, 20)}", "correct the reference", node.column,
            )  # fmt: skip
            return None
        if unseen.any() or not known.all():
            return None
        position = {str(category): k for k, category in enumerate(categories)}
        codes = [position[str(label)] for label in labels]
        series = pd.Series(pd.Categorical.from_codes(codes, categories=pd.Index(categories, dtype=object)))
        return call_function("C", series, arguments, state) if isinstance(node, Call) else series

    def _has_wrong_categories(self, node: Column | Call, values: pd.Series, labels: np.ndarray) -> bool:
        """Whether a column is no set of categories: numbers with some words, or too many different values."""
        names = dict.fromkeys(map(str, labels))
        is_number = pd.to_numeric(values.astype(object), errors="coerce").notna().to_numpy()
        words = ~is_number & values.notna().to_numpy()
        if isinstance(node, Column) and 0.5 <= is_number.mean() < 1 and words.any():
            self._find(
                "formula-number", f"The column {node.name!r} of the formula is numeric except for some values.",
                f"{shorten(values[words].unique())}, of scans {self._named(words)}", "numbers only, or categories",
                "correct these values or leave these scans out; for categories use C", node.name, words,
            )  # fmt: skip
        elif len(names) > max(20, len(values) // 10):
            self._find(
                "formula-categories", f"The column {node.column!r} of the formula has too many categories.",
                f"{len(names)} for {len(values)} scans, such as {shorten(names)}", "a number, or a few categories",
                "leave identifiers out of the formula", node.column,
            )  # fmt: skip
        elif hidden := [name for name in names if name.startswith("__")]:
            self._find(
                "formula-categories", f"Categories of {node.column!r} begin with two underscores.", shorten(hidden),
                "other names", "rename these categories", node.column,
            )  # fmt: skip
        else:
            return False
        return True

    def _named(self, which: np.ndarray, data: np.ndarray | None = None) -> str:
        """Quote the first scans, with their values, and count the rest."""
        scans = self._scans(which)
        if data is None:
            return shorten(scans, MOST_NAMED)
        named = [f"{scan!r} ({value:.6g})" for scan, value in zip(scans, data[which], strict=True)][:MOST_NAMED]
        rest = f" and {len(scans) - MOST_NAMED} more" if len(scans) > MOST_NAMED else ""
        return f"scans {', '.join(named)}{rest}"

    def _scans(self, which: np.ndarray) -> tuple[str, ...]:
        names = self.table["scan_id"] if "scan_id" in self.table else self.table.index.to_series()
        return tuple(str(name) for name in names.to_numpy(object)[which])

    def _find(
        self, code: str, what: str, got: str, expected: str, do: str, column: str, which: np.ndarray | None = None
    ) -> None:
        scans = () if which is None else self._scans(which)
        finding = Finding(code, "error", what, got, expected, do, scans=scans, columns=(column,))
        if finding not in self.findings:  # a column may be in several factors
            self.findings.append(finding)


def _numbers(values: pd.Series) -> np.ndarray:
    return values.to_numpy(float, na_value=np.nan)


def _plain(value: Any) -> Any:
    """A number without needless decimals, else text: as JSON keeps it."""
    if not isinstance(value, NUMBERS):
        return str(value)
    return int(value) if float(value).is_integer() else float(value)


def _order(values: pd.Series, labels: np.ndarray) -> list[Any]:
    """Return the categories: in the order of a categorical column, else sorted."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        return [str(category) for category in values.cat.remove_unused_categories().cat.categories]
    return sorted(dict.fromkeys(labels))
