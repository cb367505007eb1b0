"""Posterior of the hyperparameters (eta, omega) and of the variance ratios, learned from a sample of features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from bayesharm.inference.tails import TailDraws
from bayesharm.inference.variance_ratios import RatioPosterior
from bayesharm.likelihood.ratios import VarianceRatios

N_COMPONENTS = 256  # draws of the hyperparameters in the predictive prior of a feature
MANY_FEATURES = 128  # sampled features from which the hyperparameters are so well known that one Normal is enough


SIMPLE = ("eta", "omega", "n_features", "diverging", "ratio_rhat", "is_reliable")


class Hyperparameters(NamedTuple):
    """Posterior of the parameters that all features share.

    Attributes
    ----------
    eta, omega : (chain, draw, scale) arrays
        Mean and sd over features of the log-scales of standardized features. Those of noise ratios are counted from the mean
        lambda of `ratios`.
    ratios : RatioPosterior
        Variance ratios of the scanners.
    log_evidence : (feature, component) array, or None
        Log marginal likelihood of each sampled feature at those draws, :func:`component_indices`, that make up the
        predictive prior; 0 if the draws are of joint sampling, None from `MANY_FEATURES` features on.
    n_features : int
        Sampled features.
    diverging : int
    ratio_rhat : float
        Largest R-hat of the log ratios; 1 where they are not sampled.
    is_reliable : bool
        False if the importance samples that they, or the tails, were learned from are not reliable.
    tails : TailDraws or None
        Of the noise, where it has heavy tails.
    """

    eta: np.ndarray
    omega: np.ndarray
    ratios: RatioPosterior
    log_evidence: np.ndarray | None
    n_features: int
    diverging: int
    ratio_rhat: float = 1.0
    is_reliable: bool = True
    tails: TailDraws | None = None

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return plain arrays, for a checkpoint."""
        arrays = {name: np.asarray(getattr(self, name)) for name in SIMPLE}
        arrays |= {
            "ratio_mean": self.ratios.mean.to_vector(),
            "ratio_covariance": self.ratios.covariance,
            "n_scanners": np.asarray(len(self.ratios.mean.log_noise)),
            "n_independent_features": np.asarray(self.ratios.n_independent_features),
        }
        if self.tails is not None:
            arrays |= {"tail_share": self.tails.share, "tail_df": self.tails.df}
        return arrays if self.log_evidence is None else arrays | {"log_evidence": self.log_evidence}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Hyperparameters:
        """Restore from the arrays of :meth:`to_arrays`."""
        return cls(
            arrays["eta"],
            arrays["omega"],
            RatioPosterior(
                VarianceRatios.from_vector(arrays["ratio_mean"], int(arrays["n_scanners"])),
                arrays["ratio_covariance"],
                float(arrays["n_independent_features"]),
            ),
            arrays.get("log_evidence"),
            int(arrays["n_features"]),
            int(arrays["diverging"]),
            float(arrays["ratio_rhat"]),
            bool(arrays["is_reliable"]),
            TailDraws(arrays["tail_share"], arrays["tail_df"]) if "tail_share" in arrays else None,
        )


def component_indices(n_draws: int) -> np.ndarray:
    """Return the indices, among the draws of all chains, of the components of the predictive prior."""
    return np.unique(np.linspace(0, n_draws - 1, N_COMPONENTS).astype(int))
