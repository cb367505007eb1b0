"""How well scans that are left out are predicted: log densities of units of prediction, and their differences."""

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

GOOD_K, MANY = 0.7, 0.2  # and the share of units and features above it that is worth a sentence


class Scores(NamedTuple):
    """Of units of prediction.

    Attributes
    ----------
    log_density : (unit, feature) array
        log predictive density of the scans of a unit given those that are not in its fold.
    khat : (unit, feature) array
        Pareto-k of the weights that leave out its fold.
    """

    log_density: np.ndarray
    khat: np.ndarray


def score(log_weight: np.ndarray, left: HeldOutDensity, fold_of_unit: np.ndarray) -> Scores:
    """Average predictions over the scales, given the scans that are not in the fold.

    The weight of a node given these is its weight given all scans over the density of the fold: exact but for the number of
    nodes (Bürkner, Gabry & Vehtari, *Computational Statistics* 36, 2021).

    Parameters
    ----------
    log_weight : (node, feature) or (fold, node, feature) array
        Posterior density of each node over that of its proposal, all scans given; with a prior for each fold if need be.
    left : Left
    fold_of_unit : (unit,) int array
    """
    n_units, n_features = left.units.shape[1:]
    found = Scores(np.empty((n_units, n_features)), np.empty((n_units, n_features)))
    for fold in range(left.folds.shape[1]):
        units = np.flatnonzero(fold_of_unit == fold)
        weight = (log_weight[fold] if log_weight.ndim == 3 else log_weight) - left.folds[:, fold]
        total = logsumexp(weight, axis=0)
        found.log_density[units] = logsumexp(weight[:, None] + left.units[:, units], axis=0) - total
        found.khat[units] = pareto_k(weight)
    return found


def average_below(log_weight: np.ndarray, left: HeldOutDensity, folds: np.ndarray) -> np.ndarray:
    """Probability of less than what was measured, (scan, feature), given the scans that are not in its fold.

    Parameters
    ----------
    log_weight : (fold, node, feature) array
    left : Left
        With probabilities of single scans.
    folds : (scan,) int array
    """
    assert left.below is not None
    found = np.full(left.below.shape[1:], np.nan)
    for fold in range(left.folds.shape[1]):
        share = softmax(log_weight[fold] - left.folds[:, fold], axis=0)
        found[folds == fold] = np.einsum("nf,nsf->sf", share, left.below[:, folds == fold])
    return found


def to_elpd(scores: Scores, labels: Sequence[str] | np.ndarray, dim: str, n_nodes: int) -> ELPDData:
    """Summed over features, as ArviZ takes it: a point for each unit, with its median Pareto-k.

    Parameters
    ----------
    scores : Scores
    labels : sequence of str
        Names of the units.
    dim : str
        What they are.
    n_nodes : int
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
        n_samples=n_nodes,
        n_data_points=len(by_unit),
        scale="log",
        warning=bool((scores.khat > GOOD_K).mean() > MANY),
        good_k=GOOD_K,
        elpd_i=xr.DataArray(by_unit, dims=[dim], coords=coords),
        pareto_k=khat,
    )


def difference(one: Scores, other: Scores) -> dict[str, float]:
    """How much better the first predicts, summed over units and features, with the standard error over units."""
    by_unit = (one.log_density - other.log_density).sum(1)
    n = len(by_unit)
    return {
        "difference": float(by_unit.sum()),
        "se": float(np.sqrt(n * by_unit.var(ddof=1))) if n > 1 else np.nan,
        "n": n,
        "n_features": one.log_density.shape[1],
        "khat_high": float(max((each.khat > GOOD_K).mean() for each in (one, other))),
    }


def reliability_warnings(predictions: pd.DataFrame) -> list[str]:
    """A sentence where the nodes of many features miss part of what is known without a fold."""
    many = predictions["khat_high"][predictions["khat_high"] > MANY]
    named = ", ".join(f"{' '.join(np.atleast_1d(name))} {share:.0%}" for name, share in many.items())
    sentence = f"Predictions are rough where Pareto-k is above {GOOD_K}: shares of units and features, {named}."
    return [sentence] if len(many) else []
