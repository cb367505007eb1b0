"""The factors of a formula: columns, and calls of known functions with literal arguments; nothing is evaluated."""

from __future__ import annotations

import ast
import difflib
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bayesharm.errors import InputError, ended
from bayesharm.model.formula.functions import ALLOWED, CODING, CONTRASTS, FUNCTIONS, Contrast, Result

DEEPEST = 3  # calls inside one another
PLAIN = re.compile(r"[^\W\d][\w. -]*")
QUOTED = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"|`([^`]+)`")


@dataclass(frozen=True)
class Column:
    """A column of the scans table in a formula."""

    name: str

    @property
    def text(self) -> str:
        """The name, in backticks if it could be read as anything else."""
        return self.name if PLAIN.fullmatch(self.name) else f"`{self.name}`"

    @property
    def column(self) -> str:
        """The column from which the values come."""
        return self.name


@dataclass(frozen=True)
class Call:
    """A call of a function in a formula.

    Attributes
    ----------
    function : str
        In :data:`FUNCTIONS`.
    data : Column or Call
    arguments : tuple of (str, value)
    text : str
        The call in a uniform spelling.
    """

    function: str
    data: Column | Call
    arguments: tuple[tuple[str, Any], ...]
    text: str

    @property
    def column(self) -> str:
        """The column from which the values come."""
        return self.data.column


@dataclass(frozen=True)
class Source:
    """A part of a formula, for messages.

    Attributes
    ----------
    code : str
    start : int
        Index of its first character in the formula.
    """

    code: str
    start: int

    def error(self, what: str, expected: str, do: str) -> InputError:
        """Return an error that shows the part and its place."""
        return InputError(what, got=f"{shorten_code(self.code)}, at character {self.start + 1}", expected=expected, do=do)

    def refusal(self, do: str, what: str = "The formula has a part that is not allowed.") -> InputError:
        """Return an error that shows the part and all that is allowed."""
        return self.error(what, ALLOWED, do)


def shorten_code(code: str, most: int = 80) -> str:
    """Return code without line breaks, cut if it is long."""
    code = " ".join(code.split())
    return code if len(code) <= most else f"{code[: most - 1]}…"


def read_factor(source: Source) -> Column | Call:
    """Read a factor that is not a plain name.

    Raises
    ------
    InputError
        It is neither a column nor a call of a known function with literal arguments.
    """
    prefix = "column"
    while prefix in source.code:
        prefix += "_"
    quoted: dict[str, str] = {}  # columns in backticks, by a name that Python can read

    def to_name(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0]
        quoted[name := f"{prefix}{len(quoted)}"] = match[1]
        return name

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the compiler, about strange literals
            tree = ast.parse(QUOTED.sub(to_name, source.code).strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        reason = f": {error.msg}" if isinstance(error, SyntaxError) else ""
        what = ended(f"The formula has a syntax error{reason}")
        raise source.error(what, "a column, or a function of a column", "correct it") from None
    return _read(tree, quoted, source, DEEPEST)


def _read(node: ast.expr, quoted: Mapping[str, str], source: Source, depth: int) -> Column | Call:
    """Read a column, or a call of a known function on a factor."""
    if isinstance(node, ast.Name):
        return Column(quoted.get(node.id, node.id))
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise source.refusal(_hint(node))
    name = node.func.id
    if name not in FUNCTIONS:
        near = difflib.get_close_matches(name, FUNCTIONS, n=1, cutoff=0.5)
        unknown = f"The formula calls {shorten_code(name)!r}, which is not allowed."
        raise source.refusal(f"write {near[0]} if that is meant" if near else _hint(node), unknown)
    if depth == 0:
        raise source.refusal("nest fewer functions")
    if not node.args or any(isinstance(each, ast.Starred) for each in node.args) or not all(k.arg for k in node.keywords):
        raise source.refusal(f"give {name} a column, then its arguments")
    data = _read(node.args[0], quoted, source, depth - 1)
    if isinstance(data, Call) and FUNCTIONS[data.function].result is not Result.NUMBER:
        raise source.refusal(f"give {name} a column, or a function of one that has one number for each scan")
    arguments, words = _read_arguments(name, node, source)
    column = f"`{data.name}`" if isinstance(data, Column) and not data.name.isidentifier() else data.text
    return Call(name, data, tuple(arguments.items()), f"{name}({', '.join([column, *words])})")


def _read_arguments(name: str, node: ast.Call, source: Source) -> tuple[dict[str, Any], list[str]]:
    """Read the arguments after the column, and how they are written."""
    function, in_order = FUNCTIONS[name], node.args[1:]
    positional = list(function.arguments)[: function.n_positional]
    if len(in_order) > len(positional):
        raise source.refusal(f"name the arguments of {name}: {', '.join(function.arguments) or 'it has none'}")
    given = [*zip(positional, in_order, strict=False), *((str(each.arg), each.value) for each in node.keywords)]
    values: dict[str, Any] = {}
    words = []
    for k, (argument, value) in enumerate(given):
        rule = function.arguments.get(argument)
        if rule is None or argument in values:
            problem = f"{name} has no argument {argument!r}." if rule is None else f"{name} has {argument!r} twice."
            raise source.error(problem, f"arguments: {', '.join(function.arguments) or 'none'}", "correct the argument")
        values[argument] = _read_contrast(value) if rule is CODING else _read_literal(value)
        if not rule.is_met(values[argument]):
            raise source.error(f"The argument {argument!r} of {name} cannot be used.", rule.expected, "correct the argument")
        words.append(ast.unparse(value) if k < len(in_order) else f"{argument}={ast.unparse(value)}")
    n_given = len({"df", "knots"} & set(values))
    if function.is_spline and (n_given == 2 or n_given == 0 and name != "bs"):
        raise source.error(f"{name} needs either df or knots.", f"{name}(age, df=4), for example", "give one of them")
    if name == "bs" and values.get("df", 5) < (degree := values.get("degree", 3)):
        raise source.error("The df of bs is below its degree.", f"df of {degree} or more", "raise df, or lower degree")
    return values, words


def _read_literal(node: ast.expr) -> Any:
    """Return a number, text, True, False, or a list of these; for all else Ellipsis, which meets no rule."""
    if isinstance(node, ast.List | ast.Tuple):
        return [... if isinstance(each, ast.List | ast.Tuple) else _read_literal(each) for each in node.elts]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
        number = node.operand.value
        return -number if isinstance(number, int | float) and not isinstance(number, bool) else ...
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float) else ...


def _read_contrast(node: ast.expr) -> Any:
    """Return contrasts such as ``contr.treatment('F')`` or ``contr.sum``; for all else Ellipsis."""
    given: list[ast.expr] = []
    if isinstance(node, ast.Call):
        given = [*node.args, *(each.value if each.arg in ("base", "reference") else each for each in node.keywords)]  # type: ignore[list-item]
        node = node.func
    name = ""
    if isinstance(node, ast.Name):
        name = node.id
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        name = f"{node.value.id}.{node.attr}"
    base = [_read_literal(each) for each in given]
    is_usable = len(base) <= CONTRASTS.get(name, -1) and all(isinstance(each, str | int | float) for each in base)
    return Contrast(name, *base) if is_usable else ...


def _hint(node: ast.expr) -> str:
    """Say what to do in place of something that is not allowed."""
    if isinstance(node, ast.Attribute):
        return "put a column whose name has points in backticks, `age.years`"
    if any(isinstance(part, ast.Pow | ast.Mult | ast.BitXor) for part in ast.walk(node)):
        return "for powers use poly(age, 2); compute other columns in the scans table"
    return "compute this column in the scans table, and write its name"
