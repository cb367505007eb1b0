"""From the text of a formula to its terms; nothing in the text is evaluated.

formulaic's tokenizer finds the factors. :mod:`bayesharm.model.formula.factors` reads each of them as a column or as a call
of a known function with literal arguments, and refuses everything else. formulaic's parser then sees plain names in place of
the factors, and expands the operators ``+ - * / : ** %in%``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from bayesharm.errors import InputError, ended
from bayesharm.model.formula.factors import Call, Column, Source, read_factor, shorten_code

if TYPE_CHECKING:
    from formulaic.parser.types import Token

MOST_CHARACTERS, MOST_TOKENS, MOST_TERMS = 2000, 200, 500
OPERATORS = ("+", "-", "*", "/", ":", "**", "^", "in")
WITH_MEAN = "a formula without 0 and -1: every model here has a mean"


@dataclass(frozen=True)
class Formula:
    """A formula that has been read.

    Attributes
    ----------
    text : str
    factors : mapping
        Columns and calls by their text.
    terms : tuple of tuple of str
        The factors of each term, main effects first; without the mean.
    """

    text: str
    factors: Mapping[str, Column | Call]
    terms: tuple[tuple[str, ...], ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the scans table in the formula."""
        return tuple(dict.fromkeys(factor.column for factor in self.factors.values()))


def covariate_columns(covariates: Iterable[str], formula: str) -> tuple[str, ...]:
    """Return the columns of the scans table that covariates and a formula use, the diagnosis apart."""
    names = parse_formula(formula).columns if formula else ()
    return tuple(dict.fromkeys([*covariates, *(name for name in names if name != "diagnosis")]))


def parse_formula(text: str) -> Formula:
    """Read a formula such as ``bs(age, df=4) + sex + age:sex``.

    Raises
    ------
    InputError
        The formula is malformed, has anything but columns and known functions, has a left-hand side, leaves the mean out, or
        is too large.
    """
    if not isinstance(text, str):
        raise _error("The formula is not text.", f"a {type(text).__name__}", "such as 'age + sex'", "join the terms by +")
    return _parse(text)


@lru_cache(maxsize=64)
def _parse(text: str) -> Formula:
    if not "".join(text.split()).isprintable():
        raise _error("The formula has invisible characters.", ascii(text), "letters, digits and signs", "retype it")
    if len(text) > MOST_CHARACTERS:
        raise _error("The formula is too long.", text, f"at most {MOST_CHARACTERS:,} characters", "use fewer terms")
    from formulaic.parser import DefaultFormulaParser
    from formulaic.parser.algos.tokenize import tokenize
    from formulaic.parser.types import Token

    parser = DefaultFormulaParser(include_intercept=False, feature_flags=set())
    try:
        found = list(tokenize(re.sub(r"^(\s*)~", r"\1 ", text)))
    except Exception as error:  # whatever the tokenizer makes of it: the text is at fault
        raise _syntax_error(text, error) from None
    if len(found) > MOST_TOKENS:
        raise _error("The formula is too long.", text, f"at most {MOST_TOKENS} names and operators", "use fewer terms")
    factors: dict[str, Column | Call] = {}
    tokens = [_read_token(token, factors) for token in found]
    mean, plus = Token("1", kind="value"), Token("+", kind="operator")
    has_sign = bool(tokens) and tokens[0].kind is Token.Kind.OPERATOR
    try:
        tree = parser.get_ast_from_tokens([mean, *tokens] if has_sign or not tokens else [mean, plus, *tokens], context={})
        n_terms = _count_terms(tree)
        terms = [] if n_terms > MOST_TERMS else list(parser.get_terms_from_ast(tree, context={})._simplify())
    except Exception as error:
        raise _syntax_error(text, error) from None
    if n_terms > MOST_TERMS:
        raise _error("The formula has too many terms.", text, f"at most {MOST_TERMS}", "use fewer terms, or smaller powers")
    return _collect(text, [tuple(factor.expr for factor in term.factors) for term in terms], factors)


def _collect(text: str, terms: list[tuple[str, ...]], factors: dict[str, Column | Call]) -> Formula:
    """Take the mean out, and sort the terms by their number of factors, as formulaic and R do."""
    if ("1",) not in terms:
        raise _error("The formula leaves the mean out.", text, WITH_MEAN, "leave 0 + and - 1 out")
    kept = sorted((term for term in terms if term != ("1",)), key=len)
    if not kept:
        raise _error("The formula has no terms.", text, "terms of columns", "write terms, such as age + sex")
    used = dict.fromkeys(name for term in kept for name in term)
    if not used.keys() <= factors.keys():
        raise _error("The formula multiplies a term by a number.", text, "columns and functions", "leave the number out")
    return Formula(text, {name: factors[name] for name in used}, tuple(kept))


def _read_token(token: Token, factors: dict[str, Column | Call]) -> Token:
    """Check a token; replace a column or call by a name that is its text, and add it to the factors."""
    kinds, source = type(token).Kind, Source(token.token, token.source_start or 0)
    if token.kind in (kinds.NAME, kinds.PYTHON):
        factor = Column(token.token) if token.kind is kinds.NAME else read_factor(source)
        factors[factor.text] = factor
        return token.copy_with_attrs(token=factor.text, kind=kinds.NAME)
    if token.kind is kinds.OPERATOR:
        for symbol in re.findall(r"\*\*|in|.", token.token):
            if symbol in "~|":
                raise source.error("The formula has two sides.", "covariates only: age + sex", "leave the left side out")
            if symbol not in OPERATORS:
                raise source.error(f"There is no operator {symbol!r}.", f"one of {' '.join(OPERATORS)}", "correct it")
    elif token.kind is kinds.VALUE and token.token == "0":
        raise source.error("The formula leaves the mean out.", WITH_MEAN, "leave 0 + and - 1 out")
    elif token.token == ".":
        raise source.refusal("name the columns one by one")
    elif token.token in ("[", "]"):
        raise source.refusal("use round parentheses")
    elif token.kind is kinds.VALUE and not token.token.isdecimal():
        raise source.refusal("leave it out")
    return token


def _count_terms(node: Any) -> int:
    """Return an upper bound of the number of terms of formulaic's tree, without expanding them.

    Raises
    ------
    ValueError
        A power is not a whole number, or is that of one column.
    """
    if not hasattr(node, "args"):
        return 1
    symbol, counts = node.operator.symbol, [_count_terms(each) for each in node.args]
    if symbol in ("**", "^"):
        power = str(getattr(node.args[1], "token", ""))
        if not power.isdecimal() or power == "0":
            raise ValueError("a power is a whole number, such as (age + sex)**2")
        if counts[0] == 1:
            raise ValueError("a power of one column is the column itself; for polynomials use poly(age, 2)")
        return counts[0] ** min(int(power), MOST_TERMS)
    return sum(counts) + (math.prod(counts) if len(counts) == 2 and symbol in (":", "*", "/", "in") else 0)


def _syntax_error(text: str, error: Exception) -> InputError:
    """Restate an error of formulaic, whose message marks a place in the text."""
    reason, _, marked = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).partition("\n\n")
    place = f" at character {marked.index('⧛') + 1}" if "⧛" in marked else ""
    if reason.startswith("Numeric literals"):
        what = f"The formula multiplies a term by a number, or adds one{place}."
        return _error(what, text, "columns and functions", "leave the number out")
    what = ended(f"The formula has a syntax error{place}: {shorten_code(reason, 200)}")
    return _error(what, text, "terms joined by +, such as bs(age, df=4) + sex + age:sex", "correct it")


def _error(what: str, text: str, expected: str, do: str) -> InputError:
    return InputError(what, got=shorten_code(text, 200) or "nothing", expected=expected, do=do)
