"""Least squares of many features on one design, with variances that hold where scans are not alike or not independent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from bayesharm.errors import InputError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

CHUNK = 2**17  # values at a time, so that what is computed of them stays in the processor's cache
TINY = 1e-9  # of a column of length 1: what is left of it is rounding


class FeatureEstimates(NamedTuple):
    """What an analysis says of one draw; each a number or an array by quantity.

    Attributes
    ----------
    estimate : float or (quantity,) array
    variance : optional
        Its squared standard error.
    df : optional
        Degrees of freedom of that.
    scale : {'identity', 'fisher_z'}
        'fisher_z': all of this is about the Fisher z of a correlation, and the correlation is to be reported.
    """

    estimate: Any
    variance: Any = None
    df: Any = None
    scale: Literal["identity", "fisher_z"] = "identity"


@dataclass(frozen=True, eq=False)
class LeastSquares:
    """A plan, made once for a design: estimates ``weights @ y``, variances ``sum((spread @ residual)²)``.

    Attributes
    ----------
    rows : (scan,) bool array
        Which of the scans are used; y is these rows of the values.
    weights : (used,) array
    basis : (used, rank) array
        Orthonormal, of the design.
    spread : (cluster, used) sparse array
    df : float
    """

    rows: np.ndarray
    weights: np.ndarray
    basis: np.ndarray
    spread: csr_array
    df: float

    def __call__(self, values: np.ndarray) -> FeatureEstimates:
        n = values.shape[1]
        estimate, variance = np.empty(n), np.empty(n)
        used: Any = slice(None) if self.rows.all() else np.flatnonzero(self.rows)
        step = max(1, CHUNK // len(values))
        for start in range(0, n, step):
            part = slice(start, start + step)
            y = np.asarray(values[used, part], dtype=np.float64)
            residual = y - self.basis @ (self.basis.T @ y)
            estimate[part] = self.weights @ y
            variance[part] = ((self.spread @ residual) ** 2).sum(0)
        return FeatureEstimates(estimate, variance, np.full(n, self.df))


def on_scans_there(plan: Callable[[np.ndarray], LeastSquares], rows: np.ndarray) -> Callable[[ArrayLike], FeatureEstimates]:
    """Analyse each feature with the scans that it has; the plan for a set of scans is made once.

    Parameters
    ----------
    plan : callable
        (scan,) bool array of the scans to use -> what analyses them.
    rows : (scan,) bool array
        Scans to use where nothing is missing.
    """
    whole = plan(rows)

    @cache
    def plan_for(packed: bytes) -> LeastSquares | None:
        there = np.unpackbits(np.frombuffer(packed, np.uint8), count=len(rows)).astype(bool)
        try:
            return plan(rows & there)
        except InputError:  # too few scans for this feature
            return None

    def analyse(values: ArrayLike) -> FeatureEstimates:
        values = np.asarray(values)
        if values.ndim != 2 or len(values) != len(rows):
            raise InputError(
                "The values are not of the scans of this analysis.",
                got=f"an array of shape {values.shape}",
                expected=f"(scan, feature), {len(rows)} scans",
                do="give the analysis and the draws the same scans, in the same order",
            )
        found = whole(values)
        missing = np.flatnonzero(np.isnan(found.estimate))
        keys = pd.Series([row.tobytes() for row in np.packbits(~np.isnan(values[:, missing]), axis=0).T], dtype=object)
        for key, columns in pd.Series(missing).groupby(keys):
            if (fitting := plan_for(key)) is not None:
                for every, some in zip(found[:3], fitting(values[:, columns])[:3], strict=True):
                    every[columns] = some
        return found

    return analyse


def plan_contrast(
    x: np.ndarray, c: np.ndarray, rows: np.ndarray, robust: bool, participants: np.ndarray | None
) -> LeastSquares:
    """Plan the contrast ``c @ coefficients`` of the design `x`, (scan, column); `participants` are numbers by scan.

    Raises
    ------
    InputError
        The design does not determine it, or there are not more scans than columns.
    """
    from scipy.sparse import csr_array

    length = _lengths(x[rows])
    x, c = x[rows] / length, c / length
    basis, solve = _decompose(x)
    weights = basis @ (solve @ c)
    n, rank = basis.shape
    if not np.allclose(x.T @ weights, c, rtol=0, atol=1e-6 * abs(c).max()):
        raise InputError(
            "The design does not determine this contrast.",
            got=f"{x.shape[1]} columns of rank {rank}",
            expected="a contrast that no combination of the other columns can replace",
            do="leave out columns that say the same as the contrast, such as a covariate that differs between groups only",
        )
    if n <= rank:
        raise InputError(
            "There are too few scans for this analysis.",
            got=f"{n} scans, {rank} columns",
            expected="more scans than columns",
            do="leave out covariates",
        )
    if participants is None and not robust:
        cluster, adjusted = np.arange(n), np.full(n, np.sqrt(weights @ weights / (n - rank)))
    else:
        cluster = np.arange(n) if participants is None else np.unique(participants[rows], return_inverse=True)[1]
        adjusted = _adjust(weights, basis, cluster)
    spread = csr_array((adjusted, (cluster, np.arange(n))))
    return LeastSquares(rows, weights, basis, spread, _degrees_of_freedom(spread, basis))


def plan_correlation(x: np.ndarray, design: np.ndarray, rows: np.ndarray) -> LeastSquares:
    """Plan the correlation with `x`, (scan,), given `design`, (scan, column), a constant first.

    `estimate` over the root of `variance` is the correlation; the variance of its Fisher z is 1 / `df`.

    Raises
    ------
    InputError
        `x` does not vary beside the design, or there are too few scans.
    """
    from scipy.sparse import eye_array

    x, design = x[rows], design[rows]
    basis, _ = _decompose(design / _lengths(design))
    n, rank = basis.shape
    left = x - basis @ (basis.T @ x)
    if n - rank < 3 or np.linalg.norm(left) <= TINY * np.linalg.norm(x):
        raise InputError(
            "There is nothing to correlate with.",
            got=f"{n} scans, {rank - 1} covariates, and a number of which {np.linalg.norm(left):.2g} is left beside these",
            expected="a number that differs between scans, and at least four scans more than covariates",
            do="check the number, or leave out covariates",
        )
    return LeastSquares(rows, left / np.linalg.norm(left), basis, eye_array(n, format="csr"), n - rank - 2)


def _lengths(x: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(x, axis=0)
    return np.where(length > 0, length, 1)


def _decompose(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An orthonormal basis of columns of length 1, (scan, rank), and what leads to it from a contrast, (rank, column)."""
    u, singular, vt = np.linalg.svd(x, full_matrices=False)
    there = singular > TINY * singular.max(initial=0)
    return u[:, there], vt[there] / singular[there, None]


def _adjust(weights: np.ndarray, basis: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """CR2: the weights of each cluster times the inverse root of its block of the residual maker."""
    adjusted = np.empty_like(weights)
    for rows in np.split(np.argsort(cluster), np.cumsum(np.bincount(cluster))[:-1]):
        block = np.eye(len(rows)) - basis[rows] @ basis[rows].T
        values, vectors = np.linalg.eigh(block)
        root = np.where(values > TINY, 1 / np.sqrt(np.maximum(values, TINY)), 0)
        adjusted[rows] = vectors @ (root * (vectors.T @ weights[rows]))
    return adjusted


def _degrees_of_freedom(spread: csr_array, basis: np.ndarray) -> float:
    """Satterthwaite's, for equal and independent noise: of an ordinary variance n - rank, of CR2 Bell & McCaffrey's."""
    own = np.asarray(spread.multiply(spread).sum(1)).ravel()
    along = spread @ basis  # (cluster, rank)
    trace = own.sum() - (along**2).sum()
    squares = (own**2).sum() - 2 * (own @ (along**2).sum(1)) + ((along.T @ along) ** 2).sum()
    return float(trace**2 / squares)
