"""Progress of long work: a bar on a terminal, plain lines elsewhere, with elapsed time, rate, time left and peak memory."""

from __future__ import annotations

import sys
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, TextIO

from bayesharm.errors import InputError

LINE_INTERVAL = 5.0  # seconds between two plain lines about the same stage


class ProgressBar:
    """Shows progress (see :class:`bayesharm.progress.Progress`) on standard error, as a context manager.

    Parameters
    ----------
    quiet : bool
        Write nothing to standard error.
    log : path, optional
        Also append plain lines to this file, whether or not standard error is a terminal.

    Raises
    ------
    InputError
        The log cannot be written.
    """

    def __init__(self, quiet: bool = False, log: Path | None = None):
        self.quiet, self.log = quiet, log
        self.file: TextIO | None = None
        self.started = self.last_event = self.last_line = monotonic()
        self.stage = ""
        self.first_report = (0, self.started)  # first report of a stage with something done: number done, time
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
            self.bar = _make_bar()
            self.bar.start()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            if error_type is None:
                self._finish_task()
            self.bar.stop()
        if self.file is not None:
            self.file.close()

    def say(self, text: str) -> None:
        """Write a line of text."""
        if self.bar is not None:
            self.bar.console.print(text, style="dim", highlight=False)
        self._write_line(text)

    def __call__(self, stage: str, done: int, total: int, note: str) -> None:
        """Show that `done` of `total` parts of a stage are done."""
        is_new = stage != self.stage
        if is_new:
            self._finish_task()
            self.stage = stage
        self.last_event = monotonic()
        if is_new or not self.first_report[0]:  # the first parts include compilation and would bias the rate
            self.first_report = (done, self.last_event)
        first_done, first_time = self.first_report
        per_second = (done - first_done) / (self.last_event - first_time) if done > first_done else 0.0
        rate = f"{per_second:,.0f}/s" if per_second and done < total else ""
        count = f"{done:,} of {total:,}" if done and total > 1 else ""
        if self.bar is not None:
            if is_new:
                self.task = self.bar.add_task(stage, total=None, count="", rate="", note="")
            self.bar.update(self.task, total=total if done else None, completed=done, count=count, rate=rate, note=note)
        if is_new or not done or (note and done >= total) or self._is_line_due():
            left = f"about {_clock((total - done) / per_second)} left" if rate else ""
            parts = ", ".join(part for part in (f"{stage} {count}".rstrip(), rate, left, peak_memory()) if part)
            self._write_line(parts + (f" ({note})" if note else ""))

    def _finish_task(self) -> None:
        if self.bar is not None and self.task is not None:
            total = self.bar.tasks[self.task].total or 1
            self.bar.update(self.task, total=total, completed=total)

    def _is_line_due(self) -> bool:
        return monotonic() - self.last_line >= LINE_INTERVAL

    def _write_line(self, text: str) -> None:
        self.last_line = monotonic()
        line = f"[{_clock(self.last_line - self.started):>6}] {text}"
        if self.bar is None and not self.quiet:
            print(line, file=sys.stderr, flush=True)
        if self.file is not None:
            print(line, file=self.file, flush=True)


def peak_memory() -> str:
    """Return the peak memory of the process, such as ``1.2 GB``, or an empty string where it is not available."""
    try:
        import resource
    except ImportError:  # Windows
        return ""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes in one unit of ru_maxrss
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9:.1f} GB"


def _clock(seconds: float) -> str:
    """Format seconds as ``42 s`` or ``3:05``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes else f"{rest} s"


def _make_bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.table import Column

    return Progress(
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        TextColumn("{task.fields[count]}"),
        TextColumn("elapsed"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[note]}", style="dim", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
        console=Console(stderr=True),
        expand=True,
    )
