"""Log predictive densities of held-out scans, their differences between models, and their Pareto-k diagnostic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import logsumexp, softmax

from bayesharm.algorithms.diagnostics import pareto_k
from bayesharm.conditional.leave_group_out import HeldOutDensity

if TYPE_CHECKING:
    from arviz_stats import ELPDData

MAX_KHAT = 0.7  # Pareto-k above which importance weights are unreliable (Vehtari et al., JMLR 25, 2024)
MAX_SHARE_UNRELIABLE = 0.2  # share of (unit, feature) pairs above MAX_KHAT that calls for a warning


class Scores(NamedTuple):
    """Scores of held-out units: participants, visits, scanners or sites.

    Attributes
    ----------
    log_density : (unit, feature) array
        log predictive density of the scans of a unit, given the scans outside its fold.
    khat : (unit, feature) array
        Pareto-k of the importance weights without the unit's fold.
    """

    log_density: np.ndarray
    khat: np.ndarray


def score(log_weight: np.ndarray, held_out: HeldOutDensity, fold_of_unit: np.ndarray) -> Scores:
    """Average predictive densities over the scales, given the scans outside each fold.

    An importance sample has, without a fold, its weight given all scans divided by the density of the fold. This is exact
    up to the number of samples (Bürkner, Gabry & Vehtari, *Computational Statistics* 36, 2021).

    Parameters
    ----------
    log_weight : (sample, feature) or (fold, sample, feature) array
        log posterior density of each importance sample, given all scans, minus that of its proposal; with a leading axis
        where the prior of the scales differs between folds.
    held_out : HeldOutDensity
    fold_of_unit : (unit,) int array
    """
    n_units, n_features = held_out.units.shape[1:]
    scores = Scores(np.empty((n_units, n_features)), np.empty((n_units, n_features)))
    for fold in range(held_out.folds.shape[1]):
        units = np.flatnonzero(fold_of_unit == fold)
        weight = (log_weight[fold] if log_weight.ndim == 3 else log_weight) - held_out.folds[:, fold]
        total = logsumexp(weight, axis=0)
        scores.log_density[units] = logsumexp(weight[:, None] + held_out.units[:, units], axis=0) - total
        scores.khat[units] = pareto_k(weight)
    return scores


def average_pit(log_weight: np.ndarray, held_out: HeldOutDensity, folds: np.ndarray) -> np.ndarray:
    """Average the probability integral transform (PIT) of each held-out scan over the scales.

    The PIT is the predictive probability of a value below the measured one. It is uniform where the model is right.

    Parameters
    ----------
    log_weight : (fold, sample, feature) array
    held_out : HeldOutDensity
        With `below`, the PIT given each sample of the scales.
    folds : (scan,) int array

    Returns
    -------
    (scan, feature) array
        NaN for scans that are never held out.
    """
    assert held_out.below is not None
    pit = np.full(held_out.below.shape[1:], np.nan)
    for fold in range(held_out.folds.shape[1]):
        share = softmax(log_weight[fold] - held_out.folds[:, fold], axis=0)
        pit[folds == fold] = np.einsum("nf,nsf->sf", share, held_out.below[:, folds == fold])
    return pit


def to_elpd(scores: Scores, labels: Sequence[str] | np.ndarray, dim: str, n_samples: int) -> ELPDData:
    """Convert scores, summed over features, to ArviZ's ``ELPDData``: one point a unit, with its median Pareto-k.

    Parameters
    ----------
    scores : Scores
    labels : sequence of str
        Names of the units.
    dim : str
        Type of the units, such as `participants`.
    n_samples : int
        Importance samples of each feature.
    """
    import xarray as xr
    from arviz_stats.utils import ELPDData

    by_unit = scores.log_density.sum(1)
    coords: dict[str, Any] = {dim: np.asarray(labels, dtype=object)}
    khat = xr.DataArray(np.median(scores.khat, axis=1), dims=[dim], coords=coords)
    return ELPDData(
        elpd=float(by_unit.sum()),
        se=float(np.sqrt(len(by_unit) * by_unit.var())),
        p=np.nan,
        n_samples=n_samples,
        n_data_points=len(by_unit),
        scale="log",
        warning=bool((scores.khat > MAX_KHAT).mean() > MAX_SHARE_UNRELIABLE),
        good_k=MAX_KHAT,
        elpd_i=xr.DataArray(by_unit, dims=[dim], coords=coords),
        pareto_k=khat,
    )


def elpd_difference(first: Scores, second: Scores) -> dict[str, float]:
    """Compute the advantage of the first model: the difference of log densities, with its standard error over units."""
    by_unit = (first.log_density - second.log_density).sum(1)
    n = len(by_unit)
    return {
        "difference": float(by_unit.sum()),
        "se": float(np.sqrt(n * by_unit.var(ddof=1))) if n > 1 else np.nan,
        "n": n,
        "n_features": first.log_density.shape[1],
        "khat_high": float(max((scores.khat > MAX_KHAT).mean() for scores in (first, second))),
    }


def reliability_warnings(predictions: pd.DataFrame) -> list[str]:
    """Warn where importance weights are unreliable for many units and features."""
    unreliable = predictions["khat_high"][predictions["khat_high"] > MAX_SHARE_UNRELIABLE]
    if unreliable.empty:
        return []
    shares = ", ".join(f"{' '.join(np.atleast_1d(name))} {share:.0%}" for name, share in unreliable.items())
    return [f"Some predictions are rough. Share of units and features with Pareto-k above {MAX_KHAT}: {shares}."]
