"""One page for each command of ``bayesharm``, made from its help: description, examples, arguments and options."""

import re
from pathlib import Path
from typing import Any

import typer

from bayesharm.cli.app import app as command_line


def to_markdown(text: str) -> str:
    """Return a text of the help page as Markdown."""
    text = re.sub(r"\[(/?)(dim|bold)\]", lambda match: {"dim": "", "bold": "`"}[match[2]], " ".join(text.split()))
    text = text.replace("*", r"\*").replace("<", "&lt;")
    text = re.sub(r"'(bayesharm [^']*|bs[^']*|[^' ]*\*)'", r"`\1`", text.replace(r"\*'", "*'"))
    return re.sub(r"(?<![\w`-])(--?[a-z][a-z-]*)", r"`\1`", text)


def describe(parameter: Any, context: Any) -> str:
    """Return an entry of a definition list that describes an argument or an option."""
    values = parameter.metavar
    if values is None:  # one of a few words
        values = parameter.display_type(context).strip("<>")
    names = ", ".join(parameter.opts) if parameter.param_type_name == "option" else ""
    notes = "**Required.** " if parameter.required else ""
    default = getattr(parameter.default, "value", parameter.default)
    is_said = parameter.required or not parameter.show_default or default is None or isinstance(default, bool | tuple | list)
    end = "" if is_said else f" Default: `{default}`."
    return f"`{' '.join(filter(None, [names, values]))}`\n: {notes}{to_markdown(parameter.help or '')}{end}"


def render(name: str, command: Any) -> str:
    """Return the page of a command."""
    parts = [f"# bayesharm {name}"]
    for paragraph in (command.help or "").strip().split("\n\n"):
        is_example = paragraph.startswith("$ ")
        parts.append(f"```console\n{paragraph}\n```" if is_example else to_markdown(paragraph))
    context = command.make_context(name, [], resilient_parsing=True)
    panels: dict[tuple[str, str], list[str]] = {("argument", "Arguments"): [], ("option", "Options"): []}
    for parameter in command.params:
        kind = parameter.param_type_name
        panel = (kind, parameter.rich_help_panel or f"{kind.title()}s")
        panels.setdefault(panel, []).append(describe(parameter, context))
    for (_, title), rows in panels.items():
        parts += [f"## {title}", *rows] if rows else []
    return "\n\n".join(parts) + "\n"


def list_commands() -> dict[str, Any]:
    """Return all commands by their names, in the order of the help page; `models list` stands for a command of a group."""
    commands = typer.main.get_command(command_line).commands  # type: ignore[attr-defined]
    leaves = {}
    for name, command in commands.items():
        for inner, each in getattr(command, "commands", {"": command}).items():
            leaves[f"{name} {inner}".strip()] = each
    return leaves


def write_pages(app: Any) -> None:
    """Write the pages before Sphinx looks for files; a page that has not changed stays as it is."""
    folder = Path(app.srcdir) / "reference" / "generated" / "commands"
    folder.mkdir(parents=True, exist_ok=True)
    pages = {folder / f"{name.replace(' ', '-')}.md": render(name, each) for name, each in list_commands().items()}
    index = "# All commands\n\n```{toctree}\n" + "\n".join(page.stem for page in pages) + "\n```\n"
    pages[folder / "index.md"] = index
    for path in {*folder.glob("*.md")} - {*pages}:
        path.unlink()
    for path, text in pages.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Register the extension with Sphinx."""
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True}
