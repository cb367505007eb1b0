"""Other libraries as processes of their own, in the environment that `make comparators` makes, exchanging files."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bayesharm.errors import BayesharmError, InputError

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "run_comparator.py"
ENVIRONMENT = ROOT / ".venv-comparators"
FAILED = 3  # exit code of the script where a library gave up


class ComparatorFailed(Exception):
    """A library could not do it; the message says why, in its own words."""


def has_environment() -> bool:
    """Whether the environment of the comparators is there."""
    return SCRIPT.is_file() and (ENVIRONMENT / "bin" / "python").exists()


def require_environment() -> None:
    """Refuse to go on without it.

    Raises
    ------
    InputError
    """
    if not has_environment():
        raise InputError(
            "This method is another library's, which runs in an environment of its own.",
            got=f"no {ENVIRONMENT.name} in {ROOT}",
            expected="a checkout of bayesharm with the environment of the comparators",
            do="run `make comparators` in the checkout (once; it is optional), or leave the method out",
        )


def start_folder() -> TemporaryDirectory[str]:
    """A folder for the files of one fit, gone with the object."""
    return TemporaryDirectory(prefix="bayesharm-comparator-")


def write_arrays(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Arrays for the other process, nothing pickled."""
    np.savez(file, allow_pickle=False, **arrays)


def run_script(*arguments: str | Path, timeout: float) -> None:
    """Run `scripts/run_comparator.py` in the environment of the comparators.

    Raises
    ------
    ComparatorFailed
        The library raised an error, or took longer than `timeout` seconds.
    InputError
        There is no such environment.
    BayesharmError
        The process failed for another reason.
    """
    require_environment()
    command = [ENVIRONMENT / "bin" / "python", "-E", "-s", SCRIPT, *arguments]
    try:
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise ComparatorFailed(f"stopped after {timeout:g} s, which was its limit") from error
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    if done.returncode == FAILED:
        raise ComparatorFailed(last)
    if done.returncode:
        raise BayesharmError(
            "The process of another library failed.",
            got=last,
            do="run `make comparators` again, which brings its environment up to date",
        )
