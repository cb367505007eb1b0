"""Settings of the inference, checked when they are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from math import ceil
from typing import Any, NamedTuple

from bayesharm.errors import InputError, shorten

# With Student-t noise a draw costs several times as much; these are enough for means and sds of effects.
WITH_TAILS = {"target_ess": 100, "max_rhat": 1.05}
DRAWS_WITH_TAILS = 1.6  # of all chains together, over the target of the effective sample size


class Allowed(NamedTuple):
    """Values that a setting may take: whole numbers from a least one, words, or both."""

    least: int | None = None
    words: tuple[object, ...] = ()

    def __contains__(self, value: object) -> bool:
        is_number = isinstance(value, int) and not isinstance(value, bool)
        return value in self.words or (self.least is not None and is_number and value >= self.least)  # type: ignore[operator]

    def __str__(self) -> str:
        parts = [repr(word) for word in self.words]
        return " or ".join(parts if self.least is None else [*parts, f"a whole number, {self.least} or more"])


ALLOWED = {
    "chains": Allowed(2),
    "draws": Allowed(8, (None,)),
    "target_ess": Allowed(8),
    "hyper_features": Allowed(1),
    "block_size": Allowed(1, (None,)),
    "effect_draws": Allowed(10),
    "keep_draws": Allowed(0, ("none", "thin", "all")),
    "dtype": Allowed(words=("float32", "float64")),
    "preview": Allowed(words=(False, True)),
}


@dataclass(frozen=True)
class Settings:
    """Settings of the inference; the defaults suit every study.

    Attributes
    ----------
    chains : int
        NUTS chains for each feature.
    draws : int, optional
        Draws of each chain; by default 1.25 × `target_ess` in all chains together, and 1.6 × with Student-t noise. Features
        that are sampled together with the hyperparameters take as many again until they have converged.
    target_ess : int
        Bulk effective sample size that each scale of a feature needs to count as converged. Default: 400, and 100 with
        Student-t noise.
    max_rhat : float
        Largest bulk R-hat of a converged scale. Default: 1.01, and 1.05 with Student-t noise.
    hyper_features : int
        Features, at most and chosen at random, from which the hyperparameters and the variance ratios are learned. A study
        with no more features samples all of them together with the hyperparameters.
    block_size : int, optional
        Features that a device samples together. Results depend on it by rounding only, or by Monte-Carlo error where
        rounding turns a step of NUTS. Default: 64 on a processor, whose caches they fit (128 in a preview), 4,096 on an
        accelerator.
    effect_draws : int
        Draws of the scales over which the effects are averaged; with Student-t noise, always half of all draws.
    keep_draws : {'none', 'thin', 'all'} or int
        Draws of the scales kept in ``/draws``, of all chains together: none, 100, as many as a feature has after one run
        (out of more for features that are run again), or a number.
    dtype : {'float32', 'float64'}
        Precision in which features are sampled. Hyperparameters are always learned in double precision.
    device : str, optional
        Platform to work on, such as `cpu` or `gpu`: all devices of it. Default: JAX's own choice.
    preview : bool
        Approximate every posterior (Laplace and importance sampling) and sample nothing.

    Raises
    ------
    InputError
        A value is not possible.
    """

    chains: int = 4
    draws: int | None = None
    target_ess: int = 400
    max_rhat: float = 1.01
    hyper_features: int = 128
    block_size: int | None = None
    effect_draws: int = 100
    keep_draws: int | str = "none"
    dtype: str = "float32"
    device: str | None = None
    preview: bool = False

    def __post_init__(self) -> None:
        for name, allowed in ALLOWED.items():
            if (value := getattr(self, name)) not in allowed:
                raise InputError(
                    f"The setting {name!r} is impossible.",
                    got=repr(value),
                    expected=str(allowed),
                    do="leave it out to use the default",
                )
        if not self.max_rhat > 1:
            raise InputError(
                "The setting 'max_rhat' is impossible.",
                got=repr(self.max_rhat),
                expected="a number above 1",
                do="leave it out to use the default",
            )
        if self.preview and self.n_kept:
            raise InputError(
                "A preview has no draws to keep.",
                got=f"keep_draws={self.keep_draws!r} with preview",
                expected="one of the two",
                do="leave one of them out",
            )

    @classmethod
    def from_options(cls, options: Mapping[str, Any], has_tails: bool = False) -> Settings:
        """Make settings from keyword arguments of a user; those that are None keep their default.

        Parameters
        ----------
        options : mapping
        has_tails : bool
            Whether the noise is Student-t.

        Raises
        ------
        InputError
            A name is unknown, or a value is not possible.
        """
        names = [field.name for field in fields(cls)]
        if unknown := sorted(options.keys() - set(names)):
            raise InputError(
                "Unknown settings.",
                got=shorten(unknown),
                expected=f"some of {', '.join(names)}",
                do="correct the name, or leave it out",
            )
        given = {name: value for name, value in options.items() if value is not None}
        if not has_tails:
            return cls(**given)
        chosen = cls(**WITH_TAILS | given)
        if chosen.preview:
            raise InputError(
                "A preview approximates Gaussian noise only.",
                got="a preview with the likelihood 'student-t'",
                expected="one of the two",
                do="leave one of them out",
            )
        n_draws = max(8, ceil(DRAWS_WITH_TAILS * chosen.target_ess / chosen.chains))
        return chosen if chosen.draws else replace(chosen, draws=n_draws)

    @property
    def n_draws(self) -> int:
        """Draws of each chain."""
        return self.draws or max(8, -(-5 * self.target_ess // (4 * self.chains)))

    @property
    def n_kept(self) -> int:
        """Draws of each feature that are kept."""
        words: dict[int | str, int] = {"none": 0, "thin": 100, "all": self.chains * self.n_draws}
        return int(words.get(self.keep_draws, self.keep_draws))

    def to_dict(self) -> dict[str, Any]:
        """Settings on which results depend, as written into ``run.json``; the record of devices stands for `device`."""
        return {name: value for name, value in asdict(self).items() if name != "device"}
