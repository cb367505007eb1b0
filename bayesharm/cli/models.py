"""The command ``models``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from bayesharm.cli import options as opt
from bayesharm.cli.output import show_result

ModelNameArgument = Annotated[str | None, opt.argument("NAME", "Show the card of this model instead of the list.")]


def models(name: ModelNameArgument = None) -> None:
    """List the models, or show the card of one: what it assumes, estimates and cannot identify.

    Example:

    $ bayesharm models traveling_and_cohort
    """
    from bayesharm.model.catalog import load_model, model_card, model_names

    if name is None:
        for each in model_names():
            typer.echo(f"{each}\n    {load_model(each).title}")
        typer.echo("\nShow the card of a model: bayesharm models NAME")
        return
    load_model(name)  # an unknown name is refused with suggestions
    card = model_card(name)
    from rich.markdown import Markdown

    show_result(Markdown(card) if sys.stdout.isatty() else card)
