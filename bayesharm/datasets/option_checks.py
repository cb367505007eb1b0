"""Checks of the options of a simulation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bayesharm.errors import InputError


class Check(NamedTuple):
    """Whether the value of an option is possible, and which values are."""

    is_valid: bool
    option: str
    got: Any
    expected: str


def common_checks(n_features: int, seed: int, dtype: str, spreads: Mapping[str, float]) -> list[Check]:
    """Check the options of every simulation; `spreads` are standard deviations by the names of their options."""
    return [
        Check(n_features >= 1, "n_features", n_features, "at least 1"),
        Check(seed >= 0, "seed", seed, "a whole number of at least 0"),
        *(Check(0 <= sd < np.inf, name, sd, "a number of at least 0") for name, sd in spreads.items()),
        Check(str(dtype) in ("float32", "float64"), "dtype", dtype, "'float32' or 'float64'"),
    ]


def refuse_impossible(checks: Sequence[Check]) -> None:
    """Raise an `InputError` for the first option whose value is not possible."""
    for is_valid, option, got, expected in checks:
        if not is_valid:
            raise InputError(
                f"The value of {option!r} is not possible.", got=str(got), expected=expected, do="change it, or omit it"
            )
