"""Differences between scanners before and after harmonization: in each feature, and in the scans of travelers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bayesharm.analysis.variance_shares import noise_variances
from bayesharm.reporting.people import PeopleMeans, people_means
from bayesharm.results.posterior import Posterior

CHUNK = 4096  # features at a time, to bound memory
LITTLE = 1.0  # size of the estimated biases over their uncertainty, below which little is detected


@dataclass(frozen=True, eq=False)
class BeforeAfter:
    """Spread between scanners, in sd of each feature.

    Attributes
    ----------
    bias, sd : (scanner, feature) arrays
        Posterior mean and sd of the effect that harmonizing removes.
    correlation : (scanner, scanner) array
        Posterior correlation of the effects.
    noise : (scanner, feature) array
        Noise variance of a scan of weight 1.
    people : PeopleMeans or None
        Means of travelers on each scanner.
    """

    bias: np.ndarray
    sd: np.ndarray
    correlation: np.ndarray
    noise: np.ndarray
    people: PeopleMeans | None

    @classmethod
    def of(cls, posterior: Posterior) -> BeforeAfter:
        """Read biases and means of people from a run."""
        effect, unit = posterior.effect(posterior.spec.removed_effect), posterior.scales["feature_scale"].values
        mean, sd, correlation = (effect[name].values for name in ("mean", "sd", "correlation"))
        return cls(mean / unit, sd / unit, correlation, noise_variances(posterior), people_means(posterior))

    @property
    def before(self) -> np.ndarray:
        """Expected root mean square over scanners of the true bias of each feature."""
        return np.sqrt(np.mean(self.bias**2 + self.sd**2, axis=0))

    @property
    def after(self) -> np.ndarray:
        """Expected root mean square of the bias that remains: the error of the estimate."""
        return np.sqrt(np.mean(self.sd**2, axis=0))

    @property
    def share_removed(self) -> float:
        """Share of the variance between scanners that harmonizing removes, over all features."""
        return float(1 - np.nansum(self.after**2) / np.nansum(self.before**2))

    @property
    def is_little(self) -> bool:
        """Whether the estimated biases are smaller than their uncertainty."""
        return bool(np.nanmean(self.bias**2) < LITTLE**2 * np.nanmean(self.sd**2))

    @cached_property
    def of_travelers(self) -> np.ndarray:
        """Squared deviations of the means of a traveler on a scanner from their mean over scanners; (4, cell).

        Sums over features: before harmonization, after it, what noise leaves of it, and the degrees of freedom. The biases
        were estimated from these scans too: of the noise, the posterior variance of the same differences between biases is
        missing (the residuals y - X u of a linear model with effects u have the variance of the noise less that of X u).
        """
        people = self.people
        assert people is not None
        found = np.zeros((4, len(people.person)))
        for cells in (np.flatnonzero(people.person == k) for k in range(len(people.people))):
            scanner = people.scanner[cells]
            for start in range(0, self.bias.shape[1], CHUNK):
                part = slice(start, start + CHUNK)
                y, bias, sd = people.values[cells, part], self.bias[scanner, part], self.sd[scanner, part]
                known = np.isfinite(y) & np.isfinite(bias)
                n = known.sum(0)
                is_compared, n = known & (n > 1), np.maximum(n, 1)
                weight = people.weight[cells, part] if people.weight.shape[1] > 1 else people.weight[cells]
                noise = np.where(known, self.noise[scanner, part] / np.where(known, weight, 1.0), 0.0)
                sd = np.where(known, sd, 0.0)
                covariances = sd * (self.correlation[np.ix_(scanner, scanner)] @ sd)  # of each bias with the sum
                left = (noise - 2 * noise / n + noise.sum(0) / n**2) - (
                    sd**2 - 2 * covariances / n + covariances.sum(0) / n**2
                )
                squares = [(each - np.where(known, each, 0.0).sum(0) / n) ** 2 for each in (y, y - bias)]
                for k, values in enumerate((*squares, left, 1 - 1 / n)):
                    found[k, cells] += np.sum(np.where(is_compared, values, 0.0), axis=1)
        return found

    def observed(self) -> tuple[float, float, float] | None:
        """Compute the sd between the scanners of a traveler, root mean square over travelers and features.

        Returns
        -------
        tuple of float
            Before and after harmonization, and what noise alone leaves after it; None without travelers.
        """
        if self.people is None or not self.people.has_travelers:
            return None
        before, after, noise, n = self.of_travelers.sum(axis=1)
        if n == 0:
            return None
        return float(np.sqrt(before / n)), float(np.sqrt(after / n)), float(np.sqrt(max(0.0, noise) / n))
