"""Running other libraries in separate processes, in the environment created by `make comparators`; data go through files."""

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
FAILED = 3  # exit code of the script if the library raised an error


class ComparatorError(Exception):
    """Failure of a library; the message is the library's own."""


def has_environment() -> bool:
    """Whether the environment of the comparators exists."""
    return SCRIPT.is_file() and (ENVIRONMENT / "bin" / "python").exists()


def require_environment() -> None:
    """Check for the environment of the comparators.

    Raises
    ------
    InputError
        The environment does not exist.
    """
    if not has_environment():
        raise InputError(
            "This method belongs to another library, which needs a separate environment.",
            got=f"no {ENVIRONMENT.name} in {ROOT}",
            expected="a checkout of bayesharm with the environment of the comparators",
            do="run `make comparators` in the checkout (once; it is optional), or omit the method",
        )


def start_folder() -> TemporaryDirectory[str]:
    """Create a folder for the files of one fit; it is deleted with the returned object."""
    return TemporaryDirectory(prefix="bayesharm-comparator-")


def write_arrays(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays for the other process, without pickled objects."""
    np.savez(file, allow_pickle=False, **arrays)


def run_script(*arguments: str | Path, timeout: float) -> None:
    """Run `scripts/run_comparator.py` in the environment of the comparators.

    Raises
    ------
    ComparatorError
        The library raised an error, or took longer than `timeout` seconds.
    InputError
        The environment does not exist.
    BayesharmError
        The process failed for another reason.
    """
    require_environment()
    command = [ENVIRONMENT / "bin" / "python", "-E", "-s", SCRIPT, *arguments]
    try:
        process = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise ComparatorError(f"stopped at its time limit of {timeout:g} s") from error
    last_line = (process.stderr.strip().splitlines() or ["no message"])[-1]
    if process.returncode == FAILED:
        raise ComparatorError(last_line)
    if process.returncode:
        raise BayesharmError(
            "The process of another library failed.",
            got=last_line,
            expected="exit code 0",
            do="run `make comparators` again to update its environment",
        )
