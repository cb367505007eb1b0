"""The command ``bayesharm``. Slow libraries are imported inside the commands that use them."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from bayesharm.cli.bench import bench
from bayesharm.cli.bids_app import bids_app, to_command
from bayesharm.cli.check import check
from bayesharm.cli.compare import compare
from bayesharm.cli.connectivity import connectivity
from bayesharm.cli.demo.command import demo
from bayesharm.cli.evaluate import evaluate
from bayesharm.cli.fit import fit
from bayesharm.cli.harmonize import harmonize
from bayesharm.cli.models import ACTIONS
from bayesharm.cli.option_groups import expand_option_groups
from bayesharm.cli.plot import plot
from bayesharm.cli.populations import populations
from bayesharm.cli.report import report
from bayesharm.cli.scans import scans
from bayesharm.cli.sensitivity import sensitivity
from bayesharm.cli.simulate import simulate
from bayesharm.cli.sources import sources
from bayesharm.cli.summary import summary
from bayesharm.errors import BayesharmError

# in the order of the help page: the main workflow first
COMMANDS = (
    scans, connectivity, check, fit, harmonize, evaluate, summary, sources, populations, sensitivity, compare, plot, report,
    simulate, demo, bench, bids_app,
)  # fmt: skip
RUN_WITHOUT_ARGUMENTS = (ACTIONS["list"], demo, bench)  # the others show their help page if nothing is given
USAGE_ERROR, INTERRUPTED = 2, 130  # exit codes, as in the shell


class _PlainHelp:
    """Show ``--help`` without a type, like the other flags."""

    def get_help_option(self, ctx: Any) -> Any:
        option = super().get_help_option(ctx)  # type: ignore[misc]
        if option is not None:
            option.metavar = ""
        return option


class _Command(_PlainHelp, TyperCommand):
    pass


class _Group(_PlainHelp, TyperGroup):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Recognize the form of a BIDS-App, which has no name of a command."""
        return super().parse_args(ctx, to_command(args, self.commands))


class _Models(_PlainHelp, TyperGroup):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Recognize ``models`` for ``models list``, and ``models NAME`` for ``models show NAME``."""
        if not args:
            args = ["list"]
        elif args[0] not in self.commands and not args[0].startswith("-"):
            args = ["show", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="bayesharm", cls=_Group, no_args_is_help=True, add_completion=False, rich_markup_mode="rich",
    pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip
models = typer.Typer(name="models", cls=_Models, add_completion=False, rich_markup_mode="rich")


def _register(command: Callable[..., None], to: typer.Typer = app, name: str | None = None) -> None:
    """Add a command to the app. Our own errors end it without a traceback and with exit code 2, Ctrl-C with 130."""
    expanded = expand_option_groups(command)

    @functools.wraps(expanded)
    def run(**options: Any) -> None:
        try:
            expanded(**options)
        except BayesharmError as error:
            typer.echo(f"Error: {error}", err=True)
            raise typer.Exit(USAGE_ERROR) from None
        except KeyboardInterrupt:
            advice = " Repeat the command to continue from where it stopped." if command in (fit, bids_app) else ""
            typer.echo(f"Stopped.{advice}", err=True)
            raise typer.Exit(INTERRUPTED) from None

    to.command(name, cls=_Command, no_args_is_help=command not in RUN_WITHOUT_ARGUMENTS)(run)


def _show_version(is_requested: bool) -> None:
    if is_requested:
        import bayesharm

        typer.echo(f"bayesharm {bayesharm.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option("--version", metavar="", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Separate measurement bias (differences between scanners) from sampling bias
    (differences between the people of each site) in multi-scanner brain imaging.

    Traveling subjects, who were scanned on several scanners, make this possible.

    Try it on a simulated study: [bold]bayesharm demo[/bold]
    Fit a model to your own study: [bold]bayesharm fit --help[/bold]
    As a BIDS-App: [bold]bayesharm BIDS_DIR OUT group[/bold]
    """


@models.callback()
def _models() -> None:
    """List the models, show the card of one, make one of your own, and check it.

    Examples:

    $ bayesharm models

    $ bayesharm models traveling_and_cohort

    $ bayesharm models new my_model --from cohort

    $ bayesharm models check my_model/
    """


for each in COMMANDS:
    _register(each)
for action, command in ACTIONS.items():
    _register(command, models, action)
app.add_typer(models)


def main() -> None:
    """Run the command line; the entry point of the console script ``bayesharm``."""
    try:
        app()
    except SystemExit as end:
        if end.code == INTERRUPTED:  # do not wait for threads that are still computing
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(INTERRUPTED)
        raise
