"""Other harmonization methods for comparison, with a common interface.

>>> fitted = get_method("adjusted_glm").fit(train, ["diagnosis", "age"])
>>> corrected = fitted.apply(test).values
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from bayesharm.baselines.base import Applied, Fitted, Method
from bayesharm.baselines.combat import fit_combat
from bayesharm.baselines.external_process import has_environment, require_environment
from bayesharm.baselines.linear import fit_adjusted_glm, fit_glm, fit_none, fit_yamashita2019
from bayesharm.baselines.long_combat import fit_long_combat
from bayesharm.baselines.reml import fit_reml
from bayesharm.baselines.yamashita import MODEL, RIDGE, Yamashita2019, univariate_effects, yamashita2019
from bayesharm.errors import InputError

__all__ = [
    "METHODS", "MODEL", "RIDGE", "Applied", "Fitted", "Method", "Yamashita2019", "available_methods", "get_method",
    "univariate_effects", "yamashita2019",
]  # fmt: skip

METHODS: dict[str, Callable[..., Fitted]] = {
    "none": fit_none,
    "glm": fit_glm,
    "adjusted_glm": fit_adjusted_glm,
    "neurocombat": partial(fit_combat, library="neuroCombat"),
    "neuroharmonize": partial(fit_combat, library="neuroHarmonize"),
    "combatlearn": partial(fit_combat, library="combatlearn"),
    "longcombat": fit_long_combat,
    "yamashita2019": fit_yamashita2019,
    "reml": fit_reml,
}
"""Name -> fitting function of the training scans, the covariates to be preserved, and the options of the method."""

OTHER_LIBRARIES = ("neurocombat", "neuroharmonize", "combatlearn", "reml")
"""Methods of other libraries; they need the environment created by `make comparators`."""


def available_methods() -> tuple[str, ...]:
    """Return the names of the methods that can run: all of `METHODS` if the environment of the comparators exists."""
    return tuple(name for name in METHODS if name not in OTHER_LIBRARIES or has_environment())


def get_method(name: str, **options: Any) -> Method:
    """Return a method for comparison.

    Parameters
    ----------
    name : str
        One of `METHODS`.
    **options
        Options of this method, such as ``ridge`` of `yamashita2019`.

    Returns
    -------
    Method
        ``fit(train, covariates)`` returns a `Fitted` method; its ``apply(dataset)`` returns an `Applied` correction.

    Raises
    ------
    InputError
        The method or option does not exist, or the environment of the comparators is missing.
    """
    if name not in METHODS:
        raise InputError(
            "Unknown method.",
            got=repr(name),
            expected=f"one of {', '.join(METHODS)}",
            do="choose one of these",
        )
    function = METHODS[name]
    fixed = function.keywords if isinstance(function, partial) else {}
    known = [option for option in list(inspect.signature(function).parameters)[2:] if option not in fixed]
    if unknown := sorted(set(options) - set(known)):
        raise InputError(
            f"Unknown option of {name}.",
            got=", ".join(unknown),
            expected=", ".join(known) or "no options",
            do="omit it",
        )
    if name in OTHER_LIBRARIES:
        require_environment()
    return Method(name, partial(function, **options))
