"""Equal noise on all scanners: what a scan is away from what is expected of it shrinks or grows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayesharm.errors import InputError, shorten
from bayesharm.harmonization.corrections import find_populations
from bayesharm.model.covariates import Covariate, covariate_values
from bayesharm.results.nodes import NODE, read_populations
from bayesharm.results.posterior import Posterior

if TYPE_CHECKING:
    import xarray as xr


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
        if family.grouping == "participant" and family.name in scales["family"]:
            person = scales.sel(family=family.name).values ** 2
    ratio = np.exp(log_ratio)[..., None]
    wanted = ratio[..., [target], :] if target >= 0 else 1.0  # so that the target's factor is exactly 1
    return np.sqrt((person + noise * wanted) / (person + noise * ratio))


class Expectation:
    """What is expected of each scan, whoever it is of: the mean, its diagnosis, covariates and population.

    It is the mean of all scans that the posterior knows, where effects are other than their mean over these.

    Parameters
    ----------
    posterior : Posterior
    scans : DataFrame
    families : tuple of str
        Effects that are taken out of the scans.
    at : (feature,) int array
    target : str, optional
        The scanner that scans are brought to.

    Raises
    ------
    InputError
        A covariate of the fit is absent or has no values.
    """

    def __init__(
        self, posterior: Posterior, scans: pd.DataFrame, families: tuple[str, ...], at: np.ndarray, target: str | None
    ) -> None:
        scales, known = posterior.tree["scales"].to_dataset(), posterior.tree[NODE].to_dataset()
        n_scans = known["size"].values.sum()
        away = known["dense"].values[known["dense_column"].values == 0].sum(0) / n_scans  # the column of ones; of new scans
        self.mean = (scales["center"].values + scales["unit"].values * away)[at]
        self.terms: list[tuple[np.ndarray, np.ndarray]] = []  # weights of levels in each scan, and their effects
        for name in posterior.tree["effects"].children:
            if name in posterior.spec.components and name != posterior.spec.removed_effect:
                continue  # the sum of the parts is there too
            effect = posterior.effect(name)
            dim, values = str(effect["n_scans"].dims[0]), effect["mean"].values[:, at]
            if dim == "covariate":
                self.terms.append((_away_from_mean(posterior, scans), values))
                continue
            self.mean -= effect["n_scans"].values @ values / n_scans
            if name == families[0] and target is not None:
                self.mean += effect["mean"].sel(scanner=target).values[at]
            if name not in families and (levels := _levels(posterior, scans, effect, dim)) is not None:
                self.terms.append(((levels[:, None] == np.arange(len(values))).astype(float), values))

    def __call__(self, part: slice, rows: slice) -> np.ndarray:
        """Of some features and scans, (scan, feature)."""
        return self.mean[part] + sum(weights[rows] @ values[:, part] for weights, values in self.terms)


def _levels(posterior: Posterior, scans: pd.DataFrame, effect: xr.Dataset, dim: str) -> np.ndarray | None:
    """Population or diagnosis of each scan, (scan,) int array; -1 for none. None for other effects."""
    if dim == "population":
        place = {population: k for k, population in enumerate(read_populations(effect))}
        return np.array([-1 if each is None else place.get(each, -1) for each in find_populations(posterior, scans)])
    if dim == "diagnosis" and "diagnosis" in scans:
        return pd.Index(effect[dim].values).get_indexer(pd.Index(scans["diagnosis"]))
    return None


def _away_from_mean(posterior: Posterior, scans: pd.DataFrame) -> np.ndarray:
    """Columns of covariates, from their means over the scans of the fit, (scan, covariate)."""
    covariates = [Covariate(**each) for each in posterior.tree[NODE].attrs["covariates"]]
    if absent := [each.name for each in covariates if each.name not in scans]:
        raise InputError(
            "Noise cannot be equalized without the covariates of the fit.",
            got=f"no column {shorten(absent)}",
            expected="covariates that are columns, since deviations from what is expected are scaled",
            do="add them, or leave match_noise out",
        )
    return np.stack([covariate_values(scans, each) - each.mean for each in covariates], axis=1)
