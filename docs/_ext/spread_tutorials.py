"""Tutorials, which run while they are read, spread over the processes of a parallel build."""

from typing import Any

FOLDER = "tutorials/"


def spread(_app: Any, _env: Any, names: list[str]) -> None:
    """Put the same number of other pages before each tutorial: processes take pages in chunks of neighbors."""
    tutorials = [name for name in names if name.startswith(FOLDER)]
    others = [name for name in names if not name.startswith(FOLDER)]
    for k, name in enumerate(tutorials):
        others.insert(k * len(names) // len(tutorials), name)
    names[:] = others


def setup(app: Any) -> dict[str, bool]:
    """Register the extension with Sphinx."""
    app.connect("env-before-read-docs", spread)
    return {"parallel_read_safe": True}
