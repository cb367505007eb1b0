"""Problems of a dataset, reported together."""

from __future__ import annotations

from collections.abc import Sequence

from bayesharm.errors import InputError

MOST = 10  # problems to describe


def refuse(problems: Sequence[InputError]) -> None:
    """Raise one error about all problems, if there are any.

    Raises
    ------
    InputError
    """
    if len(problems) == 1:
        raise problems[0]
    if problems:
        some = f" These are the first {MOST}:" if len(problems) > MOST else ""
        shown = "\n".join(f"{k}. {problem}" for k, problem in enumerate(problems[:MOST], 1))
        raise InputError(
            f"The dataset has {len(problems)} problems.{some}\n{shown}",
            do="correct all of them, then run the command again",
        )
