"""A progress bar on a terminal, plain lines elsewhere: elapsed time, speed, time left, peak memory."""

from __future__ import annotations

import sys
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, TextIO

from bayesharm.errors import InputError

QUIET_SECONDS = 5.0  # between two plain lines about the same stage


class ProgressBar:
    """Receives (stage, done, total, note), as :func:`bayesharm.fit` reports; writes to standard error.

    Parameters
    ----------
    quiet : bool
        Say nothing on standard error.
    log : path, optional
        Plain lines are added to this file, whatever is on the terminal.
    """

    def __init__(self, quiet: bool = False, log: Path | None = None):
        self.quiet, self.log = quiet, log
        self.file: TextIO | None = None
        self.started = self.last_event = self.last_line = monotonic()
        self.stage = ""
        self.first_done = (0, self.started)
        self.bar: Any = None
        self.task: Any = None

    def __enter__(self) -> ProgressBar:
        if self.log is not None:
            try:
                self.file = self.log.open("a", encoding="utf-8")
            except OSError as error:
                raise InputError(
                    f"The log {self.log} cannot be written.",
                    got=str(error),
                    expected="a file in an existing folder",
                    do="choose another --log",
                ) from None
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
                TextColumn("{task.fields[rate]}"),
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
        if self.file is not None:
            self.file.close()

    def say(self, text: str) -> None:
        """A line of its own."""
        if self.bar is not None:
            self.bar.console.print(text, style="dim", highlight=False)
        self._line(text)

    def __call__(self, stage: str, done: int, total: int, note: str) -> None:
        new = stage != self.stage
        if new:
            self._finish()
            self.stage = stage
        self.last_event = monotonic()
        if new or not self.first_done[0]:  # compilation comes before what is done first, and says nothing of the pace
            self.first_done = (done, self.last_event)
        first, at = self.first_done
        pace = (done - first) / (self.last_event - at) if done > first else 0.0
        rate = f"{pace:,.0f}/s" if pace and done < total else ""
        counted = f"{done:,} of {total:,}" if done and total > 1 else ""
        if self.bar is not None:
            if new:
                self.task = self.bar.add_task(stage, total=None, counted="", rate="", note="")
            known = {"total": total if done else None, "completed": done}
            self.bar.update(self.task, **known, counted=counted, rate=rate, note=note)
        if new or not done or (note and done >= total) or self._is_due():
            left = f"about {_clock((total - done) / pace)} left" if rate else ""
            parts = ", ".join(part for part in (f"{stage} {counted}".rstrip(), rate, left, peak_memory()) if part)
            self._line(parts + (f" ({note})" if note else ""))

    def _finish(self) -> None:
        if self.bar is not None and self.task is not None:
            total = self.bar.tasks[self.task].total or 1
            self.bar.update(self.task, total=total, completed=total)

    def _is_due(self) -> bool:
        return monotonic() - self.last_line >= QUIET_SECONDS

    def _line(self, text: str) -> None:
        self.last_line = monotonic()
        line = f"[{_clock(self.last_line - self.started):>6}] {text}"
        if self.bar is None and not self.quiet:
            print(line, file=sys.stderr, flush=True)
        if self.file is not None:
            print(line, file=self.file, flush=True)


def _clock(seconds: float) -> str:
    """Seconds as ``42 s`` or ``3:05``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes else f"{rest} s"


def peak_memory() -> str:
    """The most memory that the process has held, where the system tells."""
    try:
        import resource
    except ImportError:  # Windows
        return ""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return f"{peak / 1e9:.1f} GB"
