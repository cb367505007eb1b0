"""Progress of long work, as functions report it to whoever called them."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives a report of progress; :class:`bayesharm.cli.progress_bar.ProgressBar` shows it on a terminal.

    Parameters
    ----------
    stage : str
        The work at hand, such as `hyperparameters`, `features` or `harmonizing`.
    done, total : int
        Parts of the stage that are done, and all of them.
    note : str
        A remark for the user; may be empty.
    """

    def __call__(self, stage: str, done: int, total: int, note: str, /) -> object: ...


def no_progress(stage: str, done: int, total: int, note: str, /) -> None:
    """Report progress to nobody."""
