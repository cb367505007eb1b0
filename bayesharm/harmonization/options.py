"""Options of a correction: the effects to remove, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from bayesharm.errors import InputError

NewScanners = Literal["error", "prior"]


@dataclass(frozen=True)
class CorrectionOptions:
    """Options of a correction, checked when they are made; :func:`bayesharm.harmonize` describes their effect.

    Attributes
    ----------
    remove : str or sequence of str, optional
        Families of effects to remove.
    target : str, optional
        The scanner whose measurements all scans are to resemble; by default the average scanner.
    match_gain : bool
        Whether to divide differences between people by the gain of the scanner.
    match_noise : bool
        Whether to give all scanners the same noise variance.
    inverse : bool
        Whether to add the effects instead of subtracting them.
    new_scanners : {'error', 'prior'}
        How to treat scanners and populations that are not in the posterior.

    Raises
    ------
    InputError
        An option has an impossible value. Names of families and scanners are checked later, against the posterior.
    """

    remove: str | Sequence[str] | None = None
    target: str | None = None
    match_gain: bool = False
    match_noise: bool = False
    inverse: bool = False
    new_scanners: NewScanners = "error"

    def __post_init__(self) -> None:
        for name in ("match_gain", "match_noise", "inverse"):
            value = getattr(self, name)
            if not isinstance(value, bool | np.bool_):
                raise InputError(
                    f"{name} must be True or False.",
                    got=f"{name}={value!r}",
                    expected="True or False",
                    do="choose one of these",
                )
        if self.new_scanners not in get_args(NewScanners):
            adapt = str(self.new_scanners) == "adapt"
            raise InputError(
                "Harmonization does not adapt a posterior to new scanners."
                if adapt
                else "This treatment of new scanners does not exist.",
                got=f"new_scanners={self.new_scanners!r}",
                expected=" or ".join(map(repr, get_args(NewScanners))),
                do="adapt first: posterior = bayesharm.adapt(posterior, scans_on_new_scanners); then harmonize with it"
                if adapt
                else "choose one of these; BayesHarmonizer and the command also accept 'adapt'",
            )
