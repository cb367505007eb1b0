"""Plant plausible bugs, one at a time, in a copy of the repository, and see whether the tests notice.

    python scripts/mutation_check.py                 # all bugs of scripts/mutations.toml
    python scripts/mutation_check.py --only ID ...   # some of them

It writes the table ``docs/benchmarks/mutations.md``, or replaces some of its rows. A test that notices a bug must pass
without it. A bug that no test of its list notices has survived: the suite has a gap, to be closed by a new test. Nothing is
changed outside of a temporary folder, but the table.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import multiprocessing
import os
import platform
import re
import shutil
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
LIST, TABLE = ROOT / "scripts" / "mutations.toml", ROOT / "docs" / "benchmarks" / "mutations.md"
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "docs_build")
LIBRARIES = "hypothesis jax matplotlib.figure numpyro pandas pyarrow pytest scipy.stats sklearn xarray zarr".split()
TIMEOUT = 900  # seconds for the tests of one bug
FAILED = re.compile(r"^(?:FAILED|ERROR) tests/(.+?)(?: - .*)?$", re.MULTILINE)
SURVIVED = "**survived**"
# In the copy, JAX's own cache keeps compiled programs: it knows them by their content, the package's by all source files.
KEEP_BY_SOURCE, KEEP_BY_CONTENT = "\n    cache_programs()\n", "\n    assert cache_programs\n"
HEAD = """\
# Planted bugs

<!-- Made by scripts/mutation_check.py (`make mutations`) from scripts/mutations.toml. -->

Do the tests notice a bug? {n} plausible bugs were planted one at a time in a copy of the code, and the
tests that should notice were run. {verdict} Measured on {date}, {machine},
beside other work; the tests of all bugs took {minutes:.0f} min. Seconds are those until the first failure,
compilation included.

| bug | what it does | file | noticed by | s |
|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Mutation:
    """A bug: `old` in `file` becomes `new`; `tests` should notice, the cheapest first."""

    id: str
    bug: str
    file: str
    old: str
    new: str
    tests: list[str]

    def applied_to(self, source: str) -> str:
        """Return a source file with the bug; the result is valid Python, so that no test fails for its syntax."""
        if (count := source.count(self.old)) != 1:
            raise ValueError(f"{self.id}: {self.old!r} must occur once in {self.file}, and does so {count} times")
        changed = source.replace(self.old, self.new)
        compile(changed, self.file, "exec")
        return changed


def read_mutations(path: Path = LIST) -> list[Mutation]:
    """Read the list of bugs."""
    return [Mutation(**each) for each in tomllib.loads(path.read_text())["mutation"]]


class Copy:
    """A copy of the repository, in which tests run.

    Parameters
    ----------
    folder : Path
        Where to make it.
    programs : Path
        Folder of compiled programs.
    """

    def __init__(self, folder: Path, programs: Path) -> None:
        shutil.copytree(ROOT, folder, ignore=LEFT_OUT, symlinks=True)
        settings = folder / "tests" / "conftest.py"
        settings.write_text(settings.read_text().replace(KEEP_BY_SOURCE, KEEP_BY_CONTENT))
        programs.mkdir(parents=True, exist_ok=True)
        os.environ |= {"PYTHONPATH": str(folder), "JAX_COMPILATION_CACHE_DIR": str(programs)}
        os.environ |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}
        self.folder, self.log = folder, folder / "pytest.log"
        self.times = itertools.count(int(time.time()) + 1)
        for name in LIBRARIES:  # before the processes of the tests are forked, which then need not import them
            import_module(name)

    def write(self, file: str, source: str) -> None:
        """Change a file; its time is new too, so that Python compiles it again."""
        (self.folder / file).write_text(source)
        now = next(self.times)
        os.utime(self.folder / file, (now, now))

    def run_tests(self, tests: Sequence[str]) -> tuple[str, float]:
        """Run tests until one fails; return the test that failed, or nothing, and the seconds."""
        process = multiprocessing.get_context("fork").Process(target=self._run, args=(tests,))
        start = time.monotonic()
        process.start()
        process.join(TIMEOUT)
        seconds = time.monotonic() - start
        if process.exitcode is None:
            process.kill()
            raise SystemExit(f"{tests} did not end within {TIMEOUT} s.")
        if process.exitcode == 0:
            return "", seconds
        log = self.log.read_text()
        found = FAILED.search(log)
        if process.exitcode != 1 or found is None:
            raise SystemExit(f"pytest could not run {tests}:\n{log[-3000:]}")
        return found[1], seconds

    def _run(self, tests: Sequence[str]) -> None:
        import pytest

        os.chdir(self.folder)
        sys.path.insert(0, str(self.folder))
        with self.log.open("w") as log, redirect_stdout(log), redirect_stderr(log):
            status = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--durations=0", *tests])
        os._exit(int(status))


def check(mutations: Sequence[Mutation], copy: Copy) -> Iterator[tuple[str, str]]:
    """Plant each bug and run its tests; yield the id of the bug and its row of the table."""
    for each in mutations:
        source = (copy.folder / each.file).read_text()
        copy.write(each.file, each.applied_to(source))
        failed, seconds = "", 0.0
        for test in each.tests:
            if not failed:
                failed, more = copy.run_tests([test])
                seconds += more
        copy.write(each.file, source)
        if failed and copy.run_tests([f"tests/{failed}"])[0]:
            raise SystemExit(f"{failed} fails without the bug {each.id} too.")
        by = f"`{failed}`" if failed else SURVIVED
        print(f"{seconds:5.0f} s  {each.id}: {by}", flush=True)
        yield each.id, f"| `{each.id}` | {each.bug} | `{each.file.removeprefix('bayesharm/')}` | {by} | {seconds:.0f} |"


def write_table(rows: dict[str, str]) -> None:
    """Write the page on all bugs."""
    machine = f"{os.cpu_count()} shared cores, {platform.machine()}"
    minutes = sum(float(row.split("|")[-2]) for row in rows.values()) / 60
    survived = sum(SURVIVED in row for row in rows.values())
    verdict = f"{survived} survived." if survived else "Every one was noticed."
    head = HEAD.format(n=len(rows), verdict=verdict, date=datetime.date.today(), machine=machine, minutes=minutes)
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    TABLE.write_text(head + "\n".join(rows.values()) + "\n")


def read_rows() -> dict[str, str]:
    """Read the rows of an earlier table by the id of the bug."""
    lines = TABLE.read_text().splitlines() if TABLE.exists() else []
    return {line.split("`")[1]: line for line in lines if line.startswith("| `")}


def main() -> int:
    """Run the check; the exit status is 1 if a bug has survived."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="ID", help="check these bugs only")
    parser.add_argument("--programs", type=Path, help="folder of compiled programs; by default one in .pytest_cache")
    chosen = parser.parse_args()
    mutations = read_mutations()
    wanted = chosen.only or [each.id for each in mutations]
    if unknown := {*wanted} - {each.id for each in mutations}:
        parser.error(f"no bug {', '.join(sorted(unknown))}")
    found: dict[str, str] = {}
    with TemporaryDirectory() as folder:
        copy = Copy(Path(folder) / "copy", (chosen.programs or ROOT / ".pytest_cache" / "mutations").resolve())
        for name, row in check([each for each in mutations if each.id in wanted], copy):
            found[name] = row
            rows = read_rows() | found
            write_table({each.id: rows[each.id] for each in mutations if each.id in rows})
    survivors = [name for name, row in found.items() if SURVIVED in row]
    print(f"{len(found) - len(survivors)} of {len(found)} bugs were noticed.", *(f"{each} survived." for each in survivors))
    return bool(survivors)


if __name__ == "__main__":
    sys.exit(main())
