"""Settings of the inference."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """How the inference works; the defaults are meant for everybody.

    Attributes
    ----------
    chains : int
        NUTS chains of each feature's scales.
    draws : int, optional
        Of each chain; by default a quarter more in all than `target_ess`. Up to 32 features, which are sampled together,
        have at least 1,000.
    target_ess : int
        Bulk effective draws that each scale of a feature must have to count as converged.
    hyper_features : int
        At most so many features, chosen at random, teach the hyperparameters and the noise ratio.
    block_size : int, optional
        Features that a device samples together; results do not depend on it beyond rounding, or beyond Monte-Carlo error
        where rounding turns a step of NUTS. Default: 64 on a processor, whose caches they fit (128 in a preview), 4,096 on
        an accelerator.
    effect_draws : int
        Draws of the scales over which effects are averaged.
    keep_draws : {'none', 'thin', 'all'} or int
        Draws of the scales kept in ``/draws``, chains together: none, 100, as many as a feature has that is not run again
        (of features that are, as many out of more), or a number.
    dtype : {'float32', 'float64'}
        Precision in which features are sampled. What features share is always learned in double precision.
    device : str, optional
        Kind of device to work on, such as `cpu` or `gpu`: all there are of it. By default what JAX takes by itself.
    preview : bool
        Sample nothing: importance sampling around the Laplace approximation of every feature, and Laplace's for what they
        share.
    """

    chains: int = 4
    draws: int | None = None
    target_ess: int = 400
    hyper_features: int = 512
    block_size: int | None = None
    effect_draws: int = 100
    keep_draws: int | str = "none"
    dtype: str = "float32"
    device: str | None = None
    preview: bool = False

    @property
    def n_draws(self) -> int:
        """Draws of each chain."""
        return self.draws or max(8, -(-5 * self.target_ess // (4 * self.chains)))

    @property
    def n_kept(self) -> int:
        """Draws of each feature that are kept."""
        words: dict[int | str, int] = {"none": 0, "thin": 100, "all": self.chains * self.n_draws}
        return int(words.get(self.keep_draws, self.keep_draws))
