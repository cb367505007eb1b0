"""Error classes with four parts: the problem, the input, the expected input, and the remedy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Protocol

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class BayesharmError(Exception):
    """Base class of all errors that bayesharm raises deliberately.

    Parameters
    ----------
    what : str
        The problem, in one sentence.
    got, expected, do : str, optional
        The input as it is, the input as it should be, and the user's next step.
    problems : sequence of Problem, optional
        Several problems together, of which `what` gives the number.
    """

    def __init__(self, what: str, *, got: str = "", expected: str = "", do: str = "", problems: Sequence[Problem] = ()):
        self.what, self.got, self.expected, self.do, self.problems = what, got, expected, do, tuple(problems)
        parts = [("got", got), ("expected", expected), ("do this", do)]
        lines = [f"  {name}: {text}" for name, text in parts if text]
        super().__init__(visible("\n".join([what, *([numbered(problems)] if problems else []), *lines])))

    @property
    def brief(self) -> str:
        """The problem, or all of them, without the other parts."""
        return " ".join([self.what, *(each.what for each in self.problems)])


class InputError(BayesharmError, ValueError):
    """Invalid scans table, features or option."""


class ModelError(BayesharmError, ValueError):
    """Unknown or malformed model, or a model that does not suit the study."""


class RunFolderError(BayesharmError):
    """Unreadable run folder, or a location where it cannot be written."""


class Problem(Protocol):
    """An error, or a finding, in its four parts."""

    @property
    def what(self) -> str: ...

    @property
    def got(self) -> str: ...

    @property
    def expected(self) -> str: ...

    @property
    def do(self) -> str: ...


def visible(text: str) -> str:
    """Return text with control characters written out: names from files must not command the terminal."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def check_type(argument: object, expected_type: type, function: str, source: str) -> None:
    """Raise an `InputError` unless `argument` is the object that ``bayesharm.<source>`` returns."""
    if not isinstance(argument, expected_type):
        raise InputError(
            f"{function} needs a {expected_type.__name__}.",
            got=f"a {type(argument).__name__}",
            expected=f"the result of bayesharm.{source}",
            do=f"call bayesharm.{source} first",
        )


def shorten(names: Iterable[object], most: int = 5) -> str:
    """Quote the first `most` names and count the rest: ``'a', 'b' and 7 more``."""
    labels = [str(name) for name in names]
    text = ", ".join(repr(label) for label in labels[:most])
    return text if len(labels) <= most else f"{text} and {len(labels) - most} more"


def ended(text: str) -> str:
    """Return text with one mark at its end."""
    return text if text.endswith((".", "?", "!")) else f"{text}."


def numbered(problems: Iterable[Problem]) -> str:
    """Number problems, and write each in its four parts, below one another."""
    return "\n".join(
        f"{k}. {each.what}\n     got: {each.got}\n     expected: {each.expected}\n     do this: {each.do}"
        for k, each in enumerate(problems, 1)
    )


def listed(names: Iterable[str], most: int = 6) -> str:
    """Join names for a sentence, with commas and a final `and`; beyond `most` names, count the rest."""
    names = list(names)
    if len(names) > most:
        names = [*names[:most], f"{len(names) - most} more"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
