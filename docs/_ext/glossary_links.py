"""Links from the pages to the glossary: each term where it first occurs in the text of a page."""

import re
from pathlib import Path
from typing import Any

from docutils import nodes

GLOSSARY = "reference/glossary"
FOLDERS = ("index", "tutorials/", "how-to/", "explanation/", "reference/models/")
# Everyday words: a link for each would distract.
PLAIN = {
    "adapt", "cohort", "covariate", "edge", "effect", "feature", "finding", "interval", "level", "noise", "participant",
    "scale", "scan", "scanner", "sd", "site", "target", "visit",
}  # fmt: skip
UNTOUCHED = (nodes.title, nodes.reference, nodes.literal, nodes.literal_block, nodes.Admonition, nodes.term, nodes.Invisible)


def read_terms(page: Path) -> dict[str, tuple[str, str]]:
    """Return the anchor and the definition of each term that is linked."""
    terms = {}
    for term, text in re.findall(r"^### (.+)\n\n((?:.+\n)+)", page.read_text(encoding="utf-8"), re.MULTILINE):
        definition = re.sub(r"[*`]|\]\([^)]*\)|\[", "", " ".join(text.split()))
        terms[term.lower()] = (term.lower().replace(" ", "-"), definition)
    return {term: found for term, found in terms.items() if term not in PLAIN}


def link(text: nodes.Text, terms: dict[str, tuple[str, str]], uri: str) -> list[nodes.Node]:
    """Return a text with a link for the first occurrence of each term, and forget these terms."""
    if not terms:
        return [text]
    pattern = "|".join(sorted(map(re.escape, terms), key=len, reverse=True))
    match = re.search(rf"(?<![\w-])({pattern})(?:e?s)?(?![\w-])", str(text), re.IGNORECASE)
    if match is None:
        return [text]
    anchor, definition = terms.pop(match[1].lower())
    reference = nodes.reference("", match[0], internal=True, refuri=f"{uri}#{anchor}", reftitle=definition, classes=["term"])
    before, after = nodes.Text(str(text)[: match.start()]), nodes.Text(str(text)[match.end() :])
    return [before, reference, *link(after, terms, uri)]


def add_links(app: Any, doctree: nodes.document, name: str) -> None:
    """Add the links to a page."""
    if not name.startswith(FOLDERS) or app.builder.format != "html":
        return
    terms = read_terms(Path(app.env.doc2path(GLOSSARY)))
    uri = app.builder.get_relative_uri(name, GLOSSARY)
    for text in [*doctree.findall(nodes.Text)]:
        ancestors, node = [], text.parent
        while node is not None:
            ancestors.append(node)
            node = node.parent
        if not any(isinstance(each, UNTOUCHED) for each in ancestors):
            text.parent.replace(text, link(text, terms, uri))


def setup(app: Any) -> dict[str, bool]:
    """Register the extension with Sphinx."""
    app.connect("doctree-resolved", add_links)
    return {"parallel_read_safe": True}
