"""Executables of compiled programs in a folder, from which a later process loads them without tracing them again.

JAX's own cache of compilations saves compiling, but not tracing and lowering, which takes some seconds of every fit. The
file name contains a hash of source files, versions, processor, settings, constants and shapes, so that an executable is
loaded only if all of them are the same.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import platform
import shutil
import stat
import tempfile
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from jax.experimental.serialize_executable import deserialize_and_load, serialize

SOURCE = Path(__file__).parents[1]
VERSIONS_OF = ("bayesharm", "jax", "jaxlib", "numpyro", "numpy", "scipy")
MAX_SOURCES, MAX_FILES = 3, 1000  # versions of the source whose folders are kept, and executables in each
CHECKSUM_BYTES = 32  # of the sha256 that each file begins with
_folder: Path | None = None  # of executables of this source
_source = ""


def keep_executables(folder: Path) -> bool:
    """Keep executables in a folder; return whether they are kept.

    Loading an executable runs its code, so that the folder must be the user's own. JAX's own cache is switched off:
    executables that come out of it cannot be kept.

    Parameters
    ----------
    folder : Path
        Made if it is absent.
    """
    global _folder, _source
    _source = _hash_source()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (_source and belongs_to_user(folder)):
            return False
        own = folder / _source[:16]
        own.mkdir(mode=0o700, exist_ok=True)
        if not belongs_to_user(own):  # made under a permissive umask
            return False
        os.utime(own)
    except OSError:
        return False
    _remove_oldest(folder, MAX_SOURCES)
    _remove_oldest(own, MAX_FILES)
    forget_compilations()
    _folder = own
    return True


def forget_compilations() -> None:
    """Switch off JAX's own cache."""
    jax.config.update("jax_compilation_cache_dir", None)
    reset_cache()


def are_kept() -> bool:
    """Whether executables are kept. This needs a folder, and a CPU that is JAX's only device."""
    device = jax.config.jax_default_device
    platforms = {jax.default_backend(), device.platform if device else "cpu"}
    return _folder is not None and platforms == {"cpu"} and jax.local_device_count() == 1


def load_executable(name: str, key: object) -> Any:
    """Return an executable, a `jax.stages.Compiled`, or None if it is not kept.

    Parameters
    ----------
    name : str
        Of the program.
    key : object
        Of all that the executable depends on, beside the environment; equal keys have equal pickles.
    """
    with suppress(Exception):  # absent, or of another JAX
        stored = _read_own(_path(name, key))
        checksum, content = stored[:CHECKSUM_BYTES], stored[CHECKSUM_BYTES:]
        if hashlib.sha256(content).digest() == checksum:  # a damaged one might run, with wrong results
            return deserialize_and_load(*pickle.loads(content))  # noqa: S301, the user's own files only
    return None


def keep_executable(name: str, key: object, executable: Any) -> None:
    """Keep an executable, unless the source files have changed since they were imported."""
    with suppress(Exception):  # a full disk, or an executable that cannot be kept: the next process compiles again
        if _hash_source() != _source:
            return
        path = _path(name, key)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".unfinished-", delete=False) as file:
            content = pickle.dumps(serialize(executable))
            file.write(hashlib.sha256(content).digest() + content)
        os.replace(file.name, path)


def _path(name: str, key: object) -> Path:
    assert _folder is not None
    settings = {name: repr(value) for name, value in jax.config.values.items() if "cache" not in name}
    environment = [version(name) for name in VERSIONS_OF], platform.python_version(), _processor(), sorted(settings.items())
    digest = hashlib.sha256(pickle.dumps((_source, environment, os.environ.get("XLA_FLAGS"), key)))
    return _folder / f"{name}-{digest.hexdigest()[:40]}"


def _hash_source() -> str:
    """Hash all source files of the package; empty if there are none."""
    paths = sorted(SOURCE.rglob("*.py"))
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in paths)).hexdigest() if paths else ""


def _processor() -> list[str]:
    """Return model and instruction sets of the processor."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        return [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    return [platform.processor(), platform.machine()]


def belongs_to_user(folder: Path) -> bool:
    """Whether the user can write to a folder, and nobody else."""
    return _is_own(folder.stat()) and os.access(folder, os.W_OK)


def _is_own(status: os.stat_result) -> bool:
    return not hasattr(os, "getuid") or (status.st_uid == os.getuid() and not status.st_mode & 0o022)


def _read_own(path: Path) -> bytes:
    """Read a plain file that nobody but the user can have written.

    Raises
    ------
    OSError
        There is none, or it is a link.
    PermissionError
        Others can write to it.
    """
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)), "rb") as file:
        status = os.fstat(file.fileno())
        if not (stat.S_ISREG(status.st_mode) and _is_own(status)):
            raise PermissionError(f"{path} is not the user's own file")
        return file.read()


def _remove_oldest(folder: Path, n_kept: int) -> None:
    """Remove all but the newest entries of a folder; another process may be doing the same."""
    with suppress(OSError):
        for old in sorted(folder.iterdir(), key=lambda path: -path.stat().st_mtime)[n_kept:]:
            shutil.rmtree(old) if old.is_dir() else old.unlink()
