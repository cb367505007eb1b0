"""Check that ARCHITECTURE.md describes the code, and that the code keeps the rules stated there.

Run it from anywhere: ``python scripts/check_architecture.py [root]``. Each finding is printed in four parts (what, got,
expected, do this); the exit status is 1 if there is any.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

MAX_LINES = 350  # lines of a module: as long as a reader takes in at one go
SLOW_LIBRARIES = {"arviz", "jax", "matplotlib", "nilearn", "numpyro", "pymc", "sklearn", "xarray"}
TABLE_ROW = re.compile(r"^\| `(\w+)` *\| *(.*?) *\|$", re.MULTILINE)
SENTENCE = re.compile(r"[^.?!]+\.")
ARROW_LINE = re.compile(r"^\s*\w+(?: & \w+)*(?: --> \w+(?: & \w+)*)+\s*$", re.MULTILINE)


def read_rows(root: Path) -> dict[str, int]:
    """Return the row of each package in the import contract, 0 at the top."""
    config = tomllib.loads((root / "pyproject.toml").read_text())
    contracts = config["tool"]["importlinter"]["contracts"]
    (contract,) = (c for c in contracts if c["type"] == "layers" and c["containers"] == ["bayesharm"])
    return {name.strip(): row for row, names in enumerate(contract["layers"]) for name in names.split("|")}


def read_arrows(page: str) -> list[tuple[str, str]]:
    """Return the arrows of the Mermaid picture, from the importing package to the imported one."""
    picture = "".join(re.findall(r"```mermaid\n(.*?)```", page, re.DOTALL))
    arrows = []
    for line in ARROW_LINE.findall(picture):
        groups = [group.split(" & ") for group in line.strip().split(" --> ")]
        for upper, lower in zip(groups, groups[1:], strict=False):
            arrows += [(above, below) for above in upper for below in lower]
    return arrows


def check_sentences(page: str, rows: dict[str, int]) -> list[str]:
    """Check that the table has one row ``| `package` | One sentence. |`` for each package."""
    described = TABLE_ROW.findall(page)
    names = [name for name, _ in described]
    findings = []
    for name in rows:
        if names.count(name) != 1:
            got, do = f"{names.count(name)} rows", f"write one: | `{name}` | One sentence. |"
            findings.append(explain(f"ARCHITECTURE.md must describe {name} once", got, "one row", do))
    for name, text in described:
        if name not in rows:
            do = "remove or rename the row"
            findings.append(explain(f"ARCHITECTURE.md describes {name}", "no such package", "packages only", do))
        if not SENTENCE.fullmatch(text):
            findings.append(explain(f"The row of {name} is not one sentence", repr(text), "one sentence", "shorten it"))
    return findings


def check_picture(page: str, rows: dict[str, int]) -> list[str]:
    """Check that the picture shows every package, and that its arrows point to lower rows of the contract."""
    arrows = read_arrows(page)
    shown = {name for arrow in arrows for name in arrow}
    findings = []
    for name in sorted(rows.keys() - shown):
        do = f"add an arrow, such as: {name} --> a package it imports"
        findings.append(explain(f"The picture in ARCHITECTURE.md lacks {name}", "no arrow", "at least one", do))
    for name in sorted(shown - rows.keys()):
        do = "remove or rename it"
        findings.append(explain(f"The picture in ARCHITECTURE.md shows {name}", "no such package", "packages only", do))
    for above, below in arrows:
        if {above, below} <= rows.keys() and rows[above] >= rows[below]:
            got, expected = f"{above} --> {below}", "arrows to a lower row of the contract in pyproject.toml"
            findings.append(explain("An arrow in ARCHITECTURE.md does not point downward", got, expected, "remove it"))
    return findings


def check_modules(root: Path, paths: list[Path]) -> list[str]:
    """Check the length of each module and the first line of its docstring."""
    findings = []
    for path in paths:
        name, text = path.relative_to(root).as_posix(), path.read_text()
        n_lines = len(text.splitlines())
        if n_lines > MAX_LINES:
            got, expected = f"{n_lines} lines", f"at most {MAX_LINES}"
            findings.append(explain(f"{name} is too long", got, expected, "split it by purpose"))
        summary, *rest = (ast.get_docstring(ast.parse(text)) or "").split("\n")
        if not summary.endswith((".", "?")) or (rest and rest[0]):
            expected = "a first line that is a sentence, and a blank line below it if there is more"
            findings.append(explain(f"{name} has no one-line summary", repr(summary), expected, "write its docstring"))
    return findings


def check_import_time(root: Path) -> list[str]:
    """Check that ``import bayesharm`` loads no library that takes seconds to import."""
    code = "import bayesharm, json, sys; print(json.dumps([name.split('.')[0] for name in sys.modules]))"
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    if run.returncode:
        return [explain("bayesharm cannot be imported", run.stderr.strip(), "no error", "repair it")]
    slow = sorted(SLOW_LIBRARIES & set(json.loads(run.stdout)))
    if not slow:
        return []
    do = "import them where they are used; python -X importtime -c 'import bayesharm' shows which module does not"
    return [explain("import bayesharm is slow", f"it imports {', '.join(slow)}", "none of them", do)]


def explain(what: str, got: str, expected: str, do: str) -> str:
    """Format a finding."""
    return f"{what}\n  got: {got}\n  expected: {expected}\n  do this: {do}"


def main() -> int:
    """Print the findings and return the exit status."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1]).resolve()
    rows, page = read_rows(root), (root / "ARCHITECTURE.md").read_text()
    paths = sorted((root / "bayesharm").rglob("*.py"))
    findings = check_sentences(page, rows) + check_picture(page, rows) + check_modules(root, paths) + check_import_time(root)
    print("\n".join(findings) or f"Architecture: {len(rows)} packages, {len(paths)} modules, all as ARCHITECTURE.md says.")
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main())
