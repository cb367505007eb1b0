"""The command ``sources``."""

from __future__ import annotations

from bayesharm.cli import options as opt
from bayesharm.cli.output import check_table_folder, show_result


def sources(
    run: opt.RunArgument,
    edge_table: opt.EdgeTableOption = None,
    networks: opt.NetworksOption = None,
    out: opt.TableFolderOption = None,
    format: opt.TableFormatOption = "csv",
) -> None:
    """Compare the sources of variation: the size of each, and the probability that one is larger than another.

    Examples:

    $ bayesharm sources run/ --out tables/

    $ bayesharm sources run/ --edge-table edges.csv --networks networks.csv
    """
    check_table_folder(out, format)
    from bayesharm.analysis.variance_components import variance_components
    from bayesharm.results.posterior import load_posterior

    show_result(variance_components(load_posterior(run), edge_table, networks), out, format)
