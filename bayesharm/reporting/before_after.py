"""Differences between scanners before and after harmonization: in each feature, and in the scans of travelers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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
    noise : (scanner, feature) array
        Noise variance of a scan.
    people : PeopleMeans or None
        Means of travelers on each scanner.
    """

    bias: np.ndarray
    sd: np.ndarray
    noise: np.ndarray
    people: PeopleMeans | None

    @classmethod
    def of(cls, posterior: Posterior) -> BeforeAfter:
        """Read biases and means of people from a run."""
        effect, unit = posterior.effect(posterior.spec.removed_effect), posterior.scales["feature_scale"].values
        sigma = posterior.scales.sel(family="noise")["mean"].values / unit
        ratio = posterior.hyper["noise_ratio"].values.reshape(-1, len(posterior.scanners)).mean(axis=0)
        noise = ratio[:, None] * sigma**2
        return cls(effect["mean"].values / unit, effect["sd"].values / unit, noise, people_means(posterior))

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

    @property
    def n_estimated(self) -> float:
        """Degrees of freedom of the estimated differences between the scanners of travelers, which the prior shrinks."""
        return 0.0 if self.people is None else (len(set(self.people.scanner)) - 1) * self.share_removed

    def observed(self) -> tuple[float, float, float] | None:
        """Compute the sd between the scanners of a traveler, root mean square over travelers and features.

        Returns
        -------
        tuple of float
            Before and after harmonization, and what noise alone leaves, less the degrees of freedom of the estimated
            differences between scanners; None without travelers.
        """
        if self.people is None or not self.people.has_travelers:
            return None
        people, squares, weights = self.people, np.zeros(3), 0.0
        who = np.arange(len(people.people))[:, None] == people.person
        for start in range(0, self.bias.shape[1], CHUNK):
            part = slice(start, start + CHUNK)
            values = people.values[:, part]
            known = np.isfinite(values)
            for k, y in enumerate((values, values - self.bias[people.scanner, part])):
                y = np.where(known, y, 0.0)
                n = who @ known.astype(float)
                sums = (who @ y) ** 2 / np.maximum(n, 1)
                squares[k] += np.sum(who @ y**2 - sums)
            n = who @ known.astype(float)
            variance = np.where(known, self.noise[people.scanner, part] / people.n_scans[:, None], 0.0)
            squares[2] += np.sum(np.maximum(n - 1, 0) * (who @ variance) / np.maximum(n, 1))
            weights += float(np.sum(np.maximum(n - 1, 0)))
        if weights == 0:
            return None
        per_feature = weights / self.bias.shape[1]
        squares[2] *= max(0.0, 1 - self.n_estimated / per_feature)
        before, after, noise = map(float, np.sqrt(squares / weights))
        return before, after, noise
