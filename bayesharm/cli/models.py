"""The commands ``models list``, ``show``, ``new`` and ``check``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from bayesharm.cli import options as opt
from bayesharm.cli.output import show_result

DIFFER = 1  # exit code

ModelArgument = Annotated[str, opt.argument("MODEL", "Name of a model, or folder with a model.toml.")]
NewNameArgument = Annotated[str, opt.argument("NAME", "Name of the new model.")]
SourceOption = Annotated[str, opt.text("--from", "MODEL", "Model to start from: a name, or a folder with a model.toml.")]
NewFolderOption = Annotated[
    Path | None,
    opt.text("--out", "FOLDER", "Folder to make. [dim]Default: NAME, in the current folder.[/dim]", opt.OUTPUT_PANEL),
]


def list_models() -> None:
    """List the models of the package.

    Example:

    $ bayesharm models list
    """
    from bayesharm.model.catalog import load_model, model_names

    for each in model_names():
        typer.echo(f"{each}\n    {load_model(each).title}")
    typer.echo("\nShow the card of a model: bayesharm models show NAME")
    typer.echo("Make a model of your own: bayesharm models new NAME --from MODEL")


def show(model: ModelArgument) -> None:
    """Show the card of a model: what it assumes, estimates and cannot identify.

    Example:

    $ bayesharm models show traveling_and_cohort
    """
    from bayesharm.model.catalog import model_card

    card = model_card(model)
    from rich.markdown import Markdown

    show_result(Markdown(card) if sys.stdout.isatty() else card)


def new(name: NewNameArgument, source: SourceOption, out: NewFolderOption = None) -> None:
    """Make a model of your own from another one: a folder with a commented model.toml, and a card to fill in.

    Example:

    $ bayesharm models new my_model --from cohort
    """
    from bayesharm.model.template import write_model

    folder = out or Path(name)
    write_model(name, source, folder, reserved=tuple(ACTIONS))
    path = shlex.quote(str(folder))
    typer.echo(f"{folder / 'model.toml'}: a copy of {source}, with a comment on every key")
    typer.echo(f"{folder / 'card.md'}: to be filled in\n")
    typer.echo(f"After a change: bayesharm models check {path}")
    typer.echo(f"To fit it: bayesharm fit SCANS FEATURES --model {path} --out run/")


def check(model: ModelArgument, quiet: opt.QuietOption = False) -> None:
    """Check a model: its model.toml, and that fits, the NumPyro model and the PyMC model have the same density.

    Example:

    $ bayesharm models check my_model/

    The densities are compared on a small simulated study with the columns that
    the model needs. Nothing is sampled; it takes about a quarter of a minute.

    Exit code: 0, or 1 if the densities differ.
    """
    from bayesharm.model.catalog import load_model
    from bayesharm.model_check.check import check_model
    from bayesharm.results.console import show as show_page

    spec = load_model(model)
    if not quiet:
        typer.echo("comparing densities …", err=True)
    result = check_model(spec)
    show_page(result)
    if not result.agrees:
        raise typer.Exit(DIFFER)


ACTIONS: dict[str, Callable[..., None]] = {"list": list_models, "show": show, "new": new, "check": check}
