"""Compiled programs: JAX functions that are compiled once for each shape of their arguments, and can be dropped together.

JAX keeps every executable that it compiles for the life of the process. After some twenty fits of different designs they
fill the memory, so the package lists its programs here and drops them when the design changes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import update_wrapper
from typing import Any

import jax

_PROGRAMS: list[Program[Any]] = []


class Program[R]:
    """A function compiled by JAX; it takes arrays of NumPy as well as of JAX.

    Attributes
    ----------
    n_compiled : int
        Executables in memory, one for each combination of static arguments, shapes and precision.
    """

    def __init__(self, function: Callable[..., R], static: tuple[str, ...]) -> None:
        self._compiled: Any = jax.jit(function, static_argnames=static)
        update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> R:
        return self._compiled(*args, **kwargs)

    @property
    def n_compiled(self) -> int:
        return self._compiled._cache_size()

    def clear(self) -> None:
        """Drop the executables of this program."""
        self._compiled.clear_cache()


def program[R](*static: str) -> Callable[[Callable[..., R]], Program[R]]:
    """Compile a function with JAX and add it to the programs that :func:`clear_programs` drops.

    Parameters
    ----------
    *static : str
        Names of hashable arguments that are constants of the program; each value is compiled for itself.
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
    jax.clear_caches()


def cache_programs() -> None:
    """Keep compiled programs in the user's cache folder, if it is writable, so that a second run need not compile them."""
    import pooch

    folder = pooch.os_cache("bayesharm") / "programs"
    if jax.config.jax_compilation_cache_dir is None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            return
        if os.access(folder, os.W_OK):
            jax.config.update("jax_compilation_cache_dir", str(folder))
