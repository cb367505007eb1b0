"""The pages agree with the code: links, options, Python names, symbols, and the check of ARCHITECTURE.md itself."""

import importlib
import re
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import typer

import bayesharm
from bayesharm.cli.app import app
from bayesharm.model.spec import Priors

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    *sorted(page for page in ROOT.glob("docs/**/*.md") if "generated" not in page.parts),  # `make docs` generates those
    *sorted(ROOT.glob("models/*/card.md")),
]
FORMER = "| old | new |"  # the table of the changelog whose left column holds names that are gone


@pytest.fixture(scope="module")
def check_architecture():
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        yield importlib.import_module("check_architecture")
    finally:
        sys.path.remove(str(ROOT / "scripts"))


def to_anchor(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\s-]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_a_file_and_a_heading(page):
    for path, anchor in re.findall(r"\]\(((?!https://)[^)#\s]*)(?:#([^)]*))?\)", page.read_text()):
        target = page.parent / path if path else page
        assert target.exists(), path
        if anchor:
            assert anchor in map(to_anchor, re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)), (path, anchor)


def list_commands(group) -> list:
    """All commands of a group, and those of the groups inside it."""
    commands = getattr(group, "commands", {}).values()
    return [*commands, *(each for command in commands for each in list_commands(command))]


def test_options_in_the_text_exist():
    commands = list_commands(typer.main.get_command(app))
    known = {option for command in commands for parameter in command.params for option in parameter.opts}
    text = "\n".join(page.read_text().partition(FORMER)[0] for page in PAGES)
    mentioned = set(re.findall(r"`(--[a-z][a-z-]*)", text)) - {"--known"}  # an option of a script in benchmarks/
    assert len(mentioned) > 30
    assert mentioned <= known | {"--help", "--version"}


def test_python_names_in_the_text_exist():
    text = "\n".join(page.read_text().partition(FORMER)[0] for page in PAGES)
    for dotted in sorted(set(re.findall(r"`bayesharm((?:\.[A-Za-z_]\w*)+)", text))):
        value = importlib.import_module("bayesharm")
        for name in dotted[1:].split("."):
            if not hasattr(value, name):
                importlib.import_module(f"{value.__name__}.{name}")
            value = getattr(value, name)


def test_files_of_the_package_in_the_text_exist():
    text = "\n".join(page.read_text() for page in PAGES)
    for path in sorted(set(re.findall(r"`((?:scripts|benchmarks|tests|models|\w+)/[\w/]+\.py)`", text))):
        assert (ROOT / path).exists() or (ROOT / "bayesharm" / path).exists(), path


def test_the_notation_lists_every_prior():
    text = (ROOT / "docs" / "reference" / "notation.md").read_text()
    for prior in fields(Priors):
        lines = [line for line in text.splitlines() if f"`{prior.name}`" in line]
        assert any(re.search(rf"\b{prior.default:g}\b", line) for line in lines), prior.name


def test_the_reference_has_every_public_name_and_every_model():
    listed = re.findall(r"^   (\w+)$", (ROOT / "docs" / "reference" / "python.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted({*bayesharm.__all__} - {"__version__"})
    pages = {page.stem for page in (ROOT / "docs" / "reference" / "models").glob("*.md")} - {"index"}
    assert pages == {*bayesharm.model_names()}


def test_pictures_of_executed_pages_have_a_caption_and_a_text_alternative():
    n_pictures = 0
    for page in PAGES:
        for cell in re.findall(r"^```\{code-cell\}.*?^```$", page.read_text(), re.MULTILINE | re.DOTALL):
            if re.search(r"^plt\.show\(\)|= plots\.plot_|^\w+ = draw\(", cell, re.MULTILINE):
                words = r"^    caption: \|\n      .+\n(?:.*\n)*?    alt: .{40}"
                assert re.search(words, cell, re.MULTILINE), (page.name, cell)
                n_pictures += 1
    assert n_pictures > 20


def test_the_picture_of_the_readme_is_small():
    (path,) = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", (ROOT / "README.md").read_text())
    assert (ROOT / path).stat().st_size < 200_000


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        ("datasets & propagation", "datasets", "picture in ARCHITECTURE.md lacks propagation"),
        ("    data --> io\n", "    data --> io\n    io --> data\n", "does not point downward"),
        ("    data --> io\n", "    data --> io\n    data --> utils\n", "shows utils"),
        ("| `io` |", "| `storage` |", "describes storage"),
        ("| `io` |", "| `io` | One sentence. |\n| `io` |", "must describe io once"),
        ("| `errors` | Errors in", "| `errors` | Two. Sentences in", "row of errors is not one sentence"),
    ],
)
def test_the_architecture_check_finds_what_is_wrong(check_architecture, old, new, finding):
    page, rows = (ROOT / "ARCHITECTURE.md").read_text(), check_architecture.read_rows(ROOT)
    check = lambda page: check_architecture.check_sentences(page, rows) + check_architecture.check_picture(page, rows)  # noqa: E731
    assert check(page) == [] and old in page
    assert any(finding in text for text in check(page.replace(old, new)))


def test_the_architecture_check_finds_long_and_undocumented_modules(check_architecture, tmp_path):
    (tmp_path / "long.py").write_text('"""A module."""\n' + "x = 1\n" * 350)
    (tmp_path / "silent.py").write_text("x = 1\n")
    (tmp_path / "wordy.py").write_text('"""A summary\nof two lines."""\n')
    (tmp_path / "good.py").write_text('"""A module.\n\nMore of it.\n"""\n')
    findings = check_architecture.check_modules(tmp_path, sorted(tmp_path.glob("*.py")))
    assert [text.split(" ")[0] for text in findings] == ["long.py", "silent.py", "wordy.py"]
    assert all("got:" in text and "expected:" in text and "do this:" in text for text in findings)
