"""The command ``sensitivity``."""

from __future__ import annotations

from bayesharm.cli import options as opt
from bayesharm.cli.output import check_table_folder, show_result


def sensitivity(run: opt.RunArgument, out: opt.TableFolderOption = None, format: opt.TableFormatOption = "csv") -> None:
    """Show how far the main results depend on the priors, without another fit.

    Example:

    $ bayesharm sensitivity run/ --out tables/
    """
    check_table_folder(out, format)
    from bayesharm.analysis.prior_sensitivity import prior_sensitivity
    from bayesharm.results.posterior import load_posterior

    show_result(prior_sensitivity(load_posterior(run)), out, format)
