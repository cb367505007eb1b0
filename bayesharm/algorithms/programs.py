"""Compiled programs: JAX functions that are compiled once for each shape of their arguments, and can be dropped together.

JAX keeps every executable that it compiles for the life of the process. After some twenty fits of different designs they
fill the memory, so the package lists its programs here and drops them when the design changes. The commands keep executables
on disk too (:func:`cache_programs`).
"""

from __future__ import annotations

import hashlib
import inspect
import pickle
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property, update_wrapper
from pathlib import Path
from threading import Lock
from typing import Any

import jax

from bayesharm.algorithms.executables import (
    are_kept,
    belongs_to_user,
    forget_compilations,
    keep_executable,
    keep_executables,
    load_executable,
)

# Compilation takes a fifth less time, and programs run as fast.
FASTER_COMPILATION = {"xla_backend_optimization_level": 1}

_PROGRAMS: list[Program[Any]] = []


class Program[R]:
    """A function compiled by JAX; it takes arrays of NumPy as well as of JAX.

    Attributes
    ----------
    n_compiled : int
        Executables in memory, one for each combination of static arguments, shapes and precision.
    """

    __name__: str  # of the function, by `update_wrapper`

    def __init__(self, function: Callable[..., R], static: tuple[str, ...]) -> None:
        self._function = function
        self._static, self._signature = static, inspect.signature(function)
        self._executables: dict[Any, Any] = {}
        self._lock = Lock()
        update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> R:
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arrays = dict(bound.arguments)
        constants = {name: arrays.pop(name) for name in self._static}
        leaves, structure = jax.tree.flatten(arrays)
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):  # part of another program
            return self._part(*args, **kwargs)
        if not are_kept():
            return self._compiled(*args, **kwargs)
        shapes = tuple(map(_describe, leaves))
        config = jax.config.jax_enable_x64, jax.config.jax_default_matmul_precision
        key = tuple(constants.values()), structure, shapes, config
        with self._lock:
            if (executable := self._executables.get(key)) is None:
                content = self.__module__, [_digest(value) for value in constants.values()], str(structure), shapes, config
                if (executable := load_executable(self.__name__, content)) is not None:
                    with suppress(Exception):  # it does not run: compile it again
                        result = jax.block_until_ready(executable(**arrays))
                        self._executables[key] = executable
                        return result
                executable = self._compiled.lower(**constants, **arrays).compile()
                keep_executable(self.__name__, content, executable)
                self._executables[key] = executable
        return executable(**arrays)

    @cached_property
    def _part(self) -> Any:
        """The function as a part of another program, which may not have options of its own."""
        return jax.jit(self._function, static_argnames=self._static)

    @cached_property
    def _compiled(self) -> Any:
        options = FASTER_COMPILATION if jax.default_backend() == "cpu" else None
        return jax.jit(self._function, static_argnames=self._static, compiler_options=options)

    @property
    def n_compiled(self) -> int:
        return self._compiled._cache_size() + len(self._executables)

    def clear(self) -> None:
        """Drop the executables of this program from memory."""
        self._compiled.clear_cache()
        self._part.clear_cache()
        self._executables.clear()


def _describe(leaf: Any) -> tuple[Any, ...]:
    """Describe an argument as far as an executable depends on it."""
    if isinstance(leaf, (bool, int, float)):
        return (type(leaf).__name__,)
    return tuple(leaf.shape), str(leaf.dtype), bool(getattr(leaf, "weak_type", False))


def _digest(constant: Any) -> bytes:
    """Identify a constant by its content; a :class:`~bayesharm.likelihood.problem.Problem` has a digest of its own."""
    return getattr(constant, "digest", None) or hashlib.sha256(pickle.dumps(constant)).digest()


def program[R](*static: str) -> Callable[[Callable[..., R]], Program[R]]:
    """Compile a function with JAX and add it to the programs that :func:`clear_programs` drops.

    Parameters
    ----------
    *static : str
        Names of hashable arguments that are constants of the program; the function is compiled once for each value.
    """

    def compile_and_register(function: Callable[..., R]) -> Program[R]:
        compiled = Program(function, static)
        _PROGRAMS.append(compiled)
        return compiled

    return compile_and_register


def clear_programs() -> None:
    """Drop the executables of all programs; each is compiled again, or read from the cache folder, at its next call."""
    for each in _PROGRAMS:
        each.clear()


def clear_all() -> None:
    """Drop everything that JAX has compiled: all programs, and single operations outside of them."""
    clear_programs()
    jax.clear_caches()


def cache_programs() -> None:
    """Keep compiled programs in a folder, so that a second run need neither trace nor compile them.

    The folder is that of JAX's setting ``jax_compilation_cache_dir``, or the user's cache folder. On accelerators and on
    several devices, JAX keeps compilations there instead of executables.

    Warns
    -----
    UserWarning
        The folder cannot be used, or others can write to it. Nothing is kept then.
    """
    import pooch

    if are_kept():
        return
    chosen = jax.config.jax_compilation_cache_dir
    if chosen and "://" in chosen:  # storage that JAX reaches by itself
        return
    folder = Path(chosen) if chosen else pooch.os_cache("bayesharm") / "programs"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not chosen:  # made with another mode by an earlier version
            folder.chmod(0o700)
        is_usable = belongs_to_user(folder)
        reason = "others can write to it, or you cannot"
    except OSError as error:
        is_usable, reason = False, str(error)
    if not is_usable:
        forget_compilations()
        warnings.warn(
            f"Compiled programs are not kept in {folder}: {reason}. To keep them, choose a folder of your own with "
            "JAX_COMPILATION_CACHE_DIR.",
            stacklevel=2,
        )
    elif not (jax.default_backend() == "cpu" and jax.local_device_count() == 1 and keep_executables(folder / "executables")):
        jax.config.update("jax_compilation_cache_dir", str(folder))
