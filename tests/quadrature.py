"""Posteriors of a small study by brute force: dense covariances on a grid of log-scales, no code of the package."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import logsumexp, ndtr
from scipy.stats import norm
from studies import covariance

from bayesharm.model.spec import ModelSpec


class Quadrature:
    """Likelihood of standardized features on a grid of their log-scales, from the definition of the model.

    Between grid points the likelihood is taken as linear, outside of the grid as constant, and Normal priors are
    integrated exactly, so that they may be narrower than a step.

    Attributes
    ----------
    axes : list of (grid point,) arrays
        One for each scale.
    log_likelihood : (grid point, …, grid point, feature) array
    """

    def __init__(
        self,
        scans: pd.DataFrame,
        spec: ModelSpec,
        names: Sequence[str],
        axes: Sequence[np.ndarray],
        features: np.ndarray,
        log_ratio: Sequence[float] | None = None,
    ) -> None:
        scanners = sorted(scans.scanner.unique())
        both = np.exp(np.zeros(2 * len(scanners)) if log_ratio is None else log_ratio)
        ratio, bias = (dict(zip(scanners, part, strict=True)) for part in np.split(both, 2))
        zero = dict.fromkeys(names, 0.0)
        used, fixed = covariance(scans, spec, zero, ratio, bias)
        parts = [covariance(scans, spec, zero | {name: 1.0}, ratio, bias)[1] - fixed for name in names]
        y = features[used]
        y = (y - y.mean(0)) / y.std(0)
        variances = np.exp(2 * np.stack(np.meshgrid(*axes, indexing="ij"), -1)).reshape(-1, len(names))
        values = []
        for chunk in np.array_split(variances, 1 + len(variances) // 2000):
            total = fixed + np.einsum("gs,sij->gij", chunk, np.array(parts))
            factor = np.linalg.cholesky(total)
            log_det = 2 * np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(1)
            quadratic = np.einsum("if,gif->gf", y, np.linalg.solve(total, np.broadcast_to(y, (len(chunk), *y.shape))))
            values.append(-0.5 * (log_det[:, None] + quadratic + len(y) * np.log(2 * np.pi)))
        self.axes = list(axes)
        self.log_likelihood = np.concatenate(values).reshape(*(len(axis) for axis in axes), y.shape[1])

    def log_marginal(self, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
        """Log likelihood of each feature under Normal priors of the log-scales.

        Parameters
        ----------
        mean, sd : (hyper, scale) arrays

        Returns
        -------
        (hyper, feature) array
        """
        top = self.log_likelihood.reshape(-1, self.log_likelihood.shape[-1]).max(0)
        sizes, values = self.log_likelihood.shape[1:], np.exp(self.log_likelihood - top)
        first, *others = (_weights(axis, mean[:, k], sd[:, k]) for k, axis in enumerate(self.axes))
        total = (first @ values.reshape(values.shape[0], -1)).reshape(-1, *sizes)
        for weights in others:
            total = np.einsum("hg,hg...->h...", weights, total)
        return np.log(np.maximum(total, 1e-300)) + top

    def posterior(self, mean: np.ndarray, sd: np.ndarray, log_weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and sd of each feature's log-scales, (scale, feature), under a mixture of Normal priors.

        Parameters
        ----------
        mean, sd : (component, scale) arrays
        log_weight : (component, feature) array
        """
        weights = [_weights(axis, mean[:, k], sd[:, k]) for k, axis in enumerate(self.axes)]
        share = np.exp(log_weight - logsumexp(log_weight, axis=0))
        prior = np.einsum("ha,hb,hc,hf->abcf", *weights, share, optimize=True)
        top = self.log_likelihood.max((0, 1, 2))
        posterior = prior * np.exp(self.log_likelihood - top)
        posterior /= posterior.sum((0, 1, 2))
        margins = [posterior.sum(tuple({0, 1, 2} - {k})) for k in range(3)]
        moments = [[axis @ margin, axis**2 @ margin] for axis, margin in zip(self.axes, margins, strict=True)]
        first, second = np.array(moments).transpose(1, 0, 2)
        return first, np.sqrt(second - first**2)


def _weights(grid: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """(prior, grid point) weights that integrate a piecewise linear function over Normal(mean, sd²)."""
    z = (grid - mean[:, None]) / sd[:, None]
    below = sd[:, None] * (z * ndtr(z) + norm.pdf(z))  # E max(grid - x, 0)
    slopes = np.diff(below, axis=1) / np.diff(grid)
    return np.maximum(np.diff(slopes, axis=1, prepend=0.0, append=1.0), 0.0)
