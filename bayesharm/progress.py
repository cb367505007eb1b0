"""Progress of long work: a live bar on a terminal, plain lines in a log; elapsed time and time left."""

from __future__ import annotations

import sys
from time import monotonic
from types import TracebackType
from typing import Any

QUIET_SECONDS = 5.0  # between two plain lines about the same stage


class Progress:
    """Receives (stage, done, total, note), as :func:`bayesharm.fit` reports; writes to standard error.

    Parameters
    ----------
    quiet : bool
        Say nothing.
    """

    def __init__(self, quiet: bool = False):
        self.quiet = quiet
        self.started = self.stage_started = self.last_event = self.last_line = monotonic()
        self.stage = ""
        self.bar: Any = None
        self.task: Any = None

    def __enter__(self) -> Progress:
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                SpinnerColumn,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )
            from rich.progress import Progress as Bar
            from rich.table import Column

            one_line = Column(ratio=1, no_wrap=True, overflow="ellipsis")

            self.bar = Bar(
                SpinnerColumn(finished_text="✓"),
                TextColumn("{task.description}"),
                BarColumn(bar_width=12),
                TextColumn("{task.fields[counted]}"),
                TextColumn("time"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[note]}", style="dim", table_column=one_line),
                console=Console(stderr=True),
                expand=True,
            )
            self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar is not None:
            if kind is None:
                self._finish()
            self.bar.stop()

    def say(self, text: str) -> None:
        """A line of its own."""
        if self.bar is not None:
            self.bar.console.print(text, style="dim", highlight=False)
        elif not self.quiet:
            self._line(text)

    def __call__(self, stage: str, done: int, total: int, note: str) -> None:
        new = stage != self.stage
        if new:
            self._finish()
            self.stage = stage
            self.stage_started = self.last_event  # its work began when that of the last stage ended
        self.last_event = monotonic()
        if self.bar is not None:
            counted = f"{done:,} of {total:,}" if done and total > 1 else ""
            if new:
                self.task = self.bar.add_task(stage, total=None, counted="", note="")
            self.bar.update(self.task, total=total if done else None, completed=done, counted=counted, note=note)
        elif not self.quiet and (new or not done or (note and done >= total) or self._is_due()):
            elapsed = monotonic() - self.stage_started
            counted = f" {done:,} of {total:,}" if done and total > 1 else ""
            left = f", about {_clock(elapsed / done * (total - done))} left" if 0 < done < total else ""
            self._line(f"{stage}{counted}{left}" + (f" ({note})" if note else ""))

    def _finish(self) -> None:
        if self.bar is not None and self.task is not None:
            total = self.bar.tasks[self.task].total or 1
            self.bar.update(self.task, total=total, completed=total)

    def _is_due(self) -> bool:
        return monotonic() - self.last_line >= QUIET_SECONDS

    def _line(self, text: str) -> None:
        self.last_line = monotonic()
        print(f"[{_clock(self.last_line - self.started):>6}] {text}", file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    """Seconds as ``42 s`` or ``3:05``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes else f"{rest} s"
