"""What others compute, on the same scans: methods to compare with, all under one interface.

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
    "yamashita2019": fit_yamashita2019,
    "reml": fit_reml,
}
"""Name -> function of the training scans, of covariates to be preserved and of the method's own options, which fits it."""

OTHER_LIBRARIES = ("neurocombat", "neuroharmonize", "combatlearn", "reml")
"""Methods that need the environment that `make comparators` makes."""


def available_methods() -> tuple[str, ...]:
    """Names of the methods that work here: all of `METHODS` where the environment of the comparators is there."""
    return tuple(name for name in METHODS if name not in OTHER_LIBRARIES or has_environment())


def get_method(name: str, **options: Any) -> Method:
    """A method to compare with.

    Parameters
    ----------
    name : str
        One of `METHODS`.
    **options
        Of this method, such as ``ridge`` of `yamashita2019`.

    Returns
    -------
    Method
        ``fit(train, covariates)`` gives a `Fitted`, whose ``apply(dataset)`` gives `Applied`.

    Raises
    ------
    InputError
        There is no such method or option, or it needs the environment of the comparators, which is not there.
    """
    if name not in METHODS:
        raise InputError(
            "There is no such method.",
            got=repr(name),
            expected=f"one of {', '.join(METHODS)}",
            do="choose one of these",
        )
    function = METHODS[name]
    fixed = function.keywords if isinstance(function, partial) else {}
    known = [one for one in list(inspect.signature(function).parameters)[2:] if one not in fixed]
    if unknown := sorted(set(options) - set(known)):
        raise InputError(
            f"{name} has no such option.",
            got=", ".join(unknown),
            expected=", ".join(known) or "no options",
            do="leave it out",
        )
    if name in OTHER_LIBRARIES:
        require_environment()
    return Method(name, partial(function, **options))
