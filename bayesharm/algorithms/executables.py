"""Executables of compiled programs in a folder, from which a later process loads them without tracing them again.

JAX's own cache of compilations saves compiling, but not tracing and lowering, which is half of the time of a small fit. An
executable here is that of exactly the same source files, versions, processor, settings, constants and shapes; anything else
has another name.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import platform
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from jax.experimental.serialize_executable import deserialize_and_load, serialize

VERSIONS_OF = ("jax", "jaxlib", "numpyro", "numpy")
FLAGS = ("XLA_FLAGS", "JAX_ENABLE_X64", "JAX_PLATFORMS")
_folder: Path | None = None


def keep_executables(folder: Path) -> None:
    """Keep executables in this folder, the user's own: loading a file runs code."""
    global _folder
    _folder = folder


def are_kept() -> bool:
    """Whether executables are kept: in a folder, on a single processor."""
    return _folder is not None and jax.default_backend() == "cpu" and jax.local_device_count() == 1


def load_or_compile(name: str, key: object, compile_it: Callable[[], Any]) -> Any:
    """Load an executable, or compile and keep it.

    Parameters
    ----------
    name : str
        Of the program.
    key : object
        Of all that the executable depends on, beside the environment; equal keys have equal pickles.
    compile_it : callable
        Returns a `jax.stages.Compiled`.
    """
    assert _folder is not None
    digest = hashlib.sha256(pickle.dumps((_environment(), key)))
    path = _folder / f"{name}-{digest.hexdigest()[:40]}"
    with suppress(Exception):  # absent or damaged
        return deserialize_and_load(*pickle.loads(path.read_bytes()))
    compiled = compile_it()
    with suppress(Exception):  # a full disk, or an executable that cannot be kept: the next process compiles again
        _write(path, pickle.dumps(serialize(compiled)))
    return compiled


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".unfinished-", delete=False) as file:
        file.write(content)
    os.replace(file.name, path)


@cache
def _environment() -> tuple[object, ...]:
    """Everything outside the program's arguments that an executable depends on."""
    source = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        source.update(path.read_bytes())
    versions = [version(name) for name in VERSIONS_OF]
    return source.hexdigest(), versions, platform.python_version(), _processor(), [os.environ.get(name) for name in FLAGS]


def _processor() -> list[str]:
    """Model and instruction sets of the processor."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        return [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    return [platform.processor(), platform.machine()]
