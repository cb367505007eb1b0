"""The ``bayesharm`` command. Libraries that take long to load are imported in the commands that use them."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from bayesharm.cli.analyze import compare, populations, sources, summary
from bayesharm.cli.evaluate import evaluate
from bayesharm.cli.fit import fit, models
from bayesharm.cli.harmonize import harmonize
from bayesharm.cli.report import plot, report
from bayesharm.cli.studies import bench, demo, simulate
from bayesharm.errors import BayesharmError

app = typer.Typer(
    name="bayesharm", no_args_is_help=True, add_completion=False, rich_markup_mode="rich",
    pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip


def _command(function: Callable[..., None]) -> None:
    """Register a command: our own errors end with exit code 2 and no traceback, Ctrl-C with 130."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except BayesharmError as error:
            typer.echo(f"Error: {error}", err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            again = " The same command goes on where it stopped." if function.__name__ == "fit" else ""
            typer.echo(f"Stopped.{again}", err=True)
            raise typer.Exit(130) from None

    app.command(no_args_is_help=function.__name__ not in ("models", "demo", "bench"))(run)


def _show_version(wanted: bool) -> None:
    if wanted:
        import bayesharm

        typer.echo(f"bayesharm {bayesharm.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Separate what scanners do to brain images from how the people of each site differ.

    Learns it from traveling subjects, people scanned on several scanners.
    To see it work: [bold]bayesharm demo[/bold]
    For your own study: [bold]bayesharm fit --help[/bold]
    """


# as help lists them
for each in (fit, harmonize, evaluate, summary, sources, populations, compare, plot, report, models, simulate, demo, bench):
    _command(each)


def main() -> None:
    """Run the command; the console script ``bayesharm`` calls this."""
    try:
        app()
    except SystemExit as end:
        if end.code == 130:  # stopped: what still computes in other threads is not waited for
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(130)
        raise
