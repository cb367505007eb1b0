"""The file ``model.toml``: its content as a model, or all that is wrong with it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from bayesharm.errors import ModelError, shorten
from bayesharm.io.limits import read_small
from bayesharm.model.spec import Family, ModelSpec, Priors
from bayesharm.model.spec_rules import broken_rules

LARGEST, MOST_POINTS = 1 << 16, 200  # bytes of a model.toml; points in a line: tomllib needs their square for a.b.c = 1
# Words for the values of a key, by its type; keys of other types are left to the rules of a model.
WORDS: dict[Any, tuple[str, type | tuple[type, ...]]] = {
    str: ("text in quotes", str),
    bool: ("true or false", bool),
    float: ("a number", (int, float)),
    tuple[str, ...]: ('a list of texts, such as ["age"]', list),
    tuple[Family, ...]: ("tables that begin with [[families]]", list),
    Priors: ("a table that begins with [priors]", dict),
}
# For keys that are wrong, so that the rules about the others can be checked.
STAND_INS: dict[str, Any] = {
    "name": "",
    "title": "",
    "participants": "all",
    "requires_travelers": False,
    "removed_effect": "",
}


class Problem(NamedTuple):
    """A mistake in a key."""

    key: str
    error: ModelError


def read_model(path: Path) -> ModelSpec:
    """Read a model from its file.

    Raises
    ------
    ModelError
        The file is not TOML, or keys are unknown, missing or have values that no model can have: all problems at once.
    """
    try:
        text = read_small(path, LARGEST).decode()
        if max(line.count(".") for line in text.split("\n")) > MOST_POINTS:
            raise ValueError(f"more than {MOST_POINTS} points in a line")
        table = tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not valid TOML.", got=str(error), do="correct the file") from None
    spec, errors = _build(table)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ModelError(f"{path} has {len(errors)} problems.", problems=errors, do="correct all of them, then try again")
    return spec


def _build(table: Mapping[str, Any]) -> tuple[ModelSpec, list[ModelError]]:
    """Build a model from the keys that are sound; also return all errors."""
    model, of_model = _keep_sound(table, ModelSpec, "")
    priors, of_priors = _keep_sound(model.pop("priors", {}), Priors, " of priors")
    families, of_families = [], []
    for number, each in enumerate(model.pop("families", []), 1):
        family, problems = _keep_sound(each, Family, f" of family {each.get('name') or number!r}")
        of_families += problems
        if all(name in family for name in _required(Family)):
            families.append(Family(**family))
    if "covariates" in model:
        model["covariates"] = tuple(model["covariates"])
    spec = ModelSpec(**STAND_INS | model, families=tuple(families), priors=Priors(**priors))
    wrong = {problem.key for problem in of_model}
    for owner, key, error in broken_rules(spec):
        if owner is not spec:
            of_families.append(Problem(key, error))
        elif key not in wrong and not (of_families and key in ("families", "removed_effect")):  # they presuppose families
            of_model.append(Problem(key, error))
    return spec, [problem.error for problem in (*of_model, *of_families, *of_priors)]


def _required(owner: type) -> list[str]:
    return [field.name for field in fields(owner) if field.default is MISSING]


def _keep_sound(table: Mapping[str, Any], owner: type, place: str) -> tuple[dict[str, Any], list[Problem]]:
    """Return the keys of a table that have values of the right type, and the problems of the others."""
    problems = list(_find_problems(table, owner, place))
    wrong = {problem.key for problem in problems}
    return {key: value for key, value in table.items() if key not in wrong}, problems


def _find_problems(table: Mapping[str, Any], owner: type, place: str) -> Iterator[Problem]:
    hints = get_type_hints(owner)
    for key in _required(owner):
        if key not in table:
            yield Problem(key, ModelError(
                f"model.toml: the key {key!r}{place} is missing.", got=f"the keys {shorten(table, 20)}",
                expected=f"at least {', '.join(_required(owner))}", do=f"add {key} = … ({WORDS[hints[key]][0]})",
            ))  # fmt: skip
    for key, value in table.items():
        if key not in hints:
            near = get_close_matches(key, hints, n=1)
            yield Problem(key, ModelError(
                f"model.toml: the key {key!r}{place} is unknown.", got=f"{key} = {value!r}",
                expected=f"some of {', '.join(hints)}", do=f"did you mean {near[0]!r}?" if near else "remove it",
            ))  # fmt: skip
        elif hints[key] in WORDS and not _is_of_type(value, hints[key]):
            yield Problem(key, ModelError(
                f"model.toml: the key {key!r}{place} has a value of the wrong kind.", got=f"{key} = {value!r}",
                expected=WORDS[hints[key]][0], do="correct the value",
            ))  # fmt: skip


def _is_of_type(value: Any, hint: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, WORDS[hint][1]):
        return isinstance(value, bool) and hint is bool
    parts = {tuple[str, ...]: str, tuple[Family, ...]: dict}.get(hint, object)
    return not isinstance(value, list) or all(isinstance(part, parts) for part in value)
