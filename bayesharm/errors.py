"""Errors that say what is wrong, what was got, what was expected and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable


class BayesharmError(Exception):
    """Base of every error that bayesharm raises on purpose.

    Parameters
    ----------
    what : str
        One sentence: what is wrong.
    got, expected, do : str, optional
        What was found, what would have been right, and what the user can do now.
    """

    def __init__(self, what: str, *, got: str = "", expected: str = "", do: str = ""):
        self.what, self.got, self.expected, self.do = what, got, expected, do
        parts = [("got", got), ("expected", expected), ("do this", do)]
        super().__init__("\n".join([what] + [f"  {name}: {text}" for name, text in parts if text]))


class InputError(BayesharmError, ValueError):
    """The scans table, the features or an option cannot be used as given."""


class ModelError(BayesharmError, ValueError):
    """The model does not exist, is malformed, or does not fit the study."""


class RunFolderError(BayesharmError):
    """A run folder cannot be read, or cannot be written where the user asked."""


def check_kind(given: object, kind: type, function: str, source: str) -> None:
    """Raise where what a function is given is something else than what `source` makes."""
    if not isinstance(given, kind):
        raise InputError(
            f"{function} needs a {kind.__name__}.",
            got=f"a {type(given).__name__}",
            expected=f"what bayesharm.{source} gives",
            do=f"call bayesharm.{source} first",
        )


def shorten(names, most: int = 5) -> str:
    """Name the first few of many things: ``'a', 'b' and 7 more``."""
    names = [str(name) for name in names]
    text = ", ".join(repr(name) for name in names[:most])
    return text if len(names) <= most else f"{text} and {len(names) - most} more"


def listed(names: Iterable[str], most: int = 6) -> str:
    """Name things in a sentence: joined by commas and a last `and`."""
    names = list(names)
    if len(names) > most:
        names = [*names[:most], f"{len(names) - most} more"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
