"""Fail when ARCHITECTURE.md and the code no longer agree, or the code breaks a rule that is stated there.

Run from anywhere: ``python scripts/check_architecture.py [root]``. Prints each finding as what, got,
expected, do this; the exit status is 1 if there is one.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

MOST_LINES = 350
SLOW_IMPORTS = {"arviz", "jax", "matplotlib", "nilearn", "numpyro", "pymc", "sklearn", "xarray"}
MODULE_ROW = re.compile(r"^\| `(bayesharm/\S+\.py)` *\| *(.*?) *\|$", re.MULTILINE)


def list_modules(root: Path) -> dict[str, int]:
    """Return the line count of every file of the package, by its path below ``root``."""
    files = sorted((root / "bayesharm").rglob("*.py"))
    return {file.relative_to(root).as_posix(): len(file.read_text().splitlines()) for file in files}


def check_list(root: Path, modules: dict[str, int]) -> list[str]:
    """Compare the table rows ``| `bayesharm/x.py` | what it does |`` of ARCHITECTURE.md with the files."""
    rows = MODULE_ROW.findall((root / "ARCHITECTURE.md").read_text())
    listed = Counter(path for path, _ in rows)
    found = []
    for path in sorted(modules.keys() - listed.keys()):
        do = f"add: | `{path}` | what it does |"
        found.append(explain(f"{path} is not in ARCHITECTURE.md", "no row", "one row", do))
    for path in sorted(listed.keys() - modules.keys()):
        do = "remove or rename the row"
        found.append(explain(f"{path} does not exist", "a row in ARCHITECTURE.md", "none", do))
    for path in sorted(path for path, times in listed.items() if times > 1):
        found.append(explain(f"{path} is listed twice", f"{listed[path]} rows", "one", "remove the others"))
    for path in sorted(path for path, text in rows if not text):
        found.append(explain(f"{path} is not described", "an empty cell", "one line", "say what it does"))
    return found


def check_lengths(modules: dict[str, int]) -> list[str]:
    """Find modules too long to be read at one go."""
    return [
        explain(f"{path} is too long", f"{lines} lines", f"at most {MOST_LINES}", "split it by purpose")
        for path, lines in modules.items()
        if lines > MOST_LINES
    ]


def check_import(root: Path) -> list[str]:
    """Find libraries that ``import bayesharm`` pulls in and that take seconds to import."""
    code = "import bayesharm, json, sys; print(json.dumps([name.split('.')[0] for name in sys.modules]))"
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    if run.returncode:
        return [explain("bayesharm cannot be imported", run.stderr.strip(), "no error", "mend it")]
    slow = sorted(SLOW_IMPORTS & set(json.loads(run.stdout)))
    if not slow:
        return []
    do = "import them where they are used; python -X importtime -c 'import bayesharm' shows who does not"
    return [explain("import bayesharm is slow", f"it imports {', '.join(slow)}", "none of them", do)]


def explain(what: str, got: str, expected: str, do: str) -> str:
    return f"{what}\n  got: {got}\n  expected: {expected}\n  do this: {do}"


def main() -> int:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1]).resolve()
    modules = list_modules(root)
    found = check_list(root, modules) + check_lengths(modules) + check_import(root)
    print("\n".join(found) or f"Architecture: {len(modules)} modules, all as ARCHITECTURE.md says.")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
