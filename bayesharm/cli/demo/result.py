"""The printed result of a demo, and the parts that both demos share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayesharm.analysis.summary import Summary, effect_size_table, hyper_table, scanners_table
from bayesharm.errors import BayesharmError
from bayesharm.results.console import as_text, bullets
from bayesharm.results.posterior import Posterior

if TYPE_CHECKING:
    from rich.console import Group

REPORT = "report.html"


@dataclass(frozen=True)
class DemoResult:
    """Tables and sentences to print at the end of a demo.

    Attributes
    ----------
    parts : tuple
        Rich renderables, from top to bottom.
    """

    parts: tuple[Any, ...]

    def __rich__(self) -> Group:
        from rich.console import Group

        return Group(*self.parts)

    def __str__(self) -> str:
        return as_text(self)


def render_summary(summary: Summary) -> tuple[Any, ...]:
    """Return the tables and sentences of a summary, without its heading."""
    return (
        hyper_table(summary),
        effect_size_table(summary),
        scanners_table(summary),
        bullets("Convergence", summary.diagnostics),
        bullets("Caveats", summary.notes),
    )


def write_demo_report(posterior: Posterior, run: Path, file: Path) -> str:
    """Write the HTML report if the libraries for figures are installed; return a sentence on the outcome."""
    try:
        from bayesharm.reporting.html import write_report
        from bayesharm.reporting.run_view import RunView

        return f"{write_report(RunView(posterior, folder=str(run)), file)}: report, to open in a browser"
    except BayesharmError as error:
        return f"no report. {error.what} {error.do}"
