"""Equal noise on all scanners: what a scan is away from what is expected of it shrinks or grows."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bayesharm.columns import Covariate, covariate_values
from bayesharm.posterior import Posterior
from bayesharm.statistics import NODE


def noise_factors(posterior: Posterior, log_ratio: np.ndarray, target: int, at: np.ndarray) -> np.ndarray:
    """What deviations on each scanner are multiplied by, (scanner, feature).

    People scanned once deviate by their own effect and by noise, of variance ``tau_p² + sigma² lambda``; so multiplied it is
    the same everywhere, with the lambda of the target, or 1.

    Parameters
    ----------
    posterior : Posterior
    log_ratio : (…, scanner) array
        log lambda.
    target : int
        Place of the target scanner, or -1.
    at : (feature,) int array
    """
    spec, scales = posterior.spec, posterior.tree["scales"].to_dataset()["q50"][:, at]
    noise = scales.sel(family="noise").values ** 2
    person = np.zeros_like(noise)
    for family in spec.families:
        if family.by == "participant" and family.name in scales["family"]:
            person = scales.sel(family=family.name).values ** 2
    ratio = np.exp(log_ratio)[..., None]
    wanted = np.exp(log_ratio[..., target])[..., None, None] if target >= 0 else 1.0
    return np.sqrt((person + noise * wanted) / (person + noise * ratio))


class Expectation:
    """What is expected of each scan, whoever it is of: the mean, its diagnosis, covariates and population.

    Parameters
    ----------
    posterior : Posterior
    scans : DataFrame
    families : tuple of str
        Effects that are taken out of the scans.
    at : (feature,) int array
    target : str, optional
        The scanner that scans are brought to.
    """

    def __init__(
        self, posterior: Posterior, scans: pd.DataFrame, families: tuple[str, ...], at: np.ndarray, target: str | None
    ) -> None:
        spec = posterior.spec
        scales = posterior.tree["scales"].to_dataset()
        self.mean = scales["centre"].values[at].copy()
        self.terms: list[tuple[np.ndarray, np.ndarray]] = []  # weights of levels in each scan, and their effects
        n_scans = int(posterior.tree["design"].attrs["n_scans"])
        for name in posterior.tree["effects"].children:
            if name in spec.parts and spec.removes != name:
                continue  # the sum of the parts is there too
            effect = posterior.effect(name)
            dim = next(str(dim) for dim in effect["mean"].dims if dim != "feature")
            values = effect["mean"].values[:, at]
            if dim == "covariate":
                continue
            self.mean -= effect["n_scans"].values @ values / n_scans
            if name == families[0] and target is not None:
                self.mean += effect["mean"].sel(scanner=target).values[at]
            if name in families or dim not in ("diagnosis", "population"):
                continue
            label = scans.get("diagnosis")
            if dim == "population":
                label = scans["site"] if label is None else scans["site"] + "/" + label.astype(str)
            if label is not None:
                levels = pd.Index(effect[dim].values).get_indexer(pd.Index(label))
                self.terms.append(((levels[:, None] == np.arange(len(values))).astype(float), values))
        if "covariate" in posterior.tree["effects"].children:
            effect = posterior.effect("covariate")
            known = [Covariate(**each) for each in posterior.tree[NODE].attrs["covariates"]]
            numbers = np.stack([covariate_values(scans, each) - each.mean for each in known], axis=1)
            self.terms.append((numbers, effect["mean"].values[:, at]))

    def __call__(self, part: slice) -> np.ndarray:
        """(scan, feature)."""
        return self.mean[part] + sum(weights @ values[:, part] for weights, values in self.terms)
