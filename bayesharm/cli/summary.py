"""The command ``summary``."""

from __future__ import annotations

from bayesharm.cli import options as opt
from bayesharm.cli.output import show_result


def summary(
    run: opt.RunArgument,
    out: opt.TableFolderOption = None,
    format: opt.TableFormatOption = "csv",
) -> None:
    """Summarize a run: the size of each effect, the scanners, convergence and caveats.

    Example:

    $ bayesharm summary run/ --out tables/
    """
    from bayesharm.analysis.summary import summarize
    from bayesharm.results.posterior import load_posterior

    show_result(summarize(load_posterior(run)), out, format)
