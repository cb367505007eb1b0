"""Pages of the site whose text is a file outside docs/, such as a model card or ARCHITECTURE.md.

A page that begins with the front matter ``from: ../../ARCHITECTURE.md`` shows that file. Links are written for the place of
each file in the repository, where GitHub follows them; here they are changed so that they lead to the page on the site.
"""

import os
import re
from pathlib import Path
from typing import Any

FRONT_MATTER = re.compile(r"\A---\nfrom: (\S+)\n---\n")
LINK = re.compile(r"\]\((?![a-z]+:)([^)#\s]+)(#[^)\s]*)?\)")


def find_outside_pages(docs: Path) -> dict[Path, Path]:
    """Return the page that shows each file outside docs/."""
    pages = {page: FRONT_MATTER.match(page.read_text(encoding="utf-8")) for page in docs.rglob("*.md")}
    return {(page.parent / match[1]).resolve(): page for page, match in pages.items() if match}


def move_links(text: str, origin: Path, to: Path, pages: dict[Path, Path]) -> str:
    """Return a text with links that are valid in the folder `to` instead of the folder `origin`."""

    def move(match: re.Match[str]) -> str:
        target = (origin / match[1]).resolve()
        target = pages.get(target, target)
        if target.is_dir() and (target / "index.md").exists():
            target /= "index.md"
        return f"]({Path(os.path.relpath(target, to)).as_posix()}{match[2] or ''})"

    return LINK.sub(move, text)


def read_source(app: Any, name: str, source: list[str]) -> None:
    """Replace the text of a page by that of its file, with its links moved."""
    page = Path(app.env.doc2path(name)).resolve()
    match = FRONT_MATTER.match(source[0])
    origin = (page.parent / match[1]).resolve() if match else page
    if match:
        app.env.note_dependency(str(origin))
    text = origin.read_text(encoding="utf-8") if match else source[0]
    source[0] = move_links(text, origin.parent, page.parent, find_outside_pages(Path(app.srcdir)))


def setup(app: Any) -> dict[str, bool]:
    """Register the extension with Sphinx."""
    app.connect("source-read", read_source)
    return {"parallel_read_safe": True}
