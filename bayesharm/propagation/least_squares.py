"""Mass-univariate least squares with heteroscedasticity-consistent and cluster-robust variances."""

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

CHUNK = 2**17  # values analyzed at a time, so that intermediate results fit into the processor's cache
TINY = 1e-9  # relative to a column of length 1: smaller values are rounding errors


class FeatureEstimates(NamedTuple):
    """Estimates of one analysis; each attribute is a number or an array by quantity, such as by feature.

    Attributes
    ----------
    estimate : float or (quantity,) array
        Point estimate.
    variance : float or (quantity,) array, optional
        Squared standard error.
    df : float or (quantity,) array, optional
        Degrees of freedom of the variance.
    scale : {'identity', 'fisher_z'}
        'fisher_z': estimates are Fisher z of correlations, which are reported as correlations.
    """

    estimate: Any
    variance: Any = None
    df: Any = None
    scale: Literal["identity", "fisher_z"] = "identity"


@dataclass(frozen=True, eq=False)
class LeastSquares:
    """Precomputed matrices of a least-squares analysis: estimates ``weights @ y``, variances ``sum((spread @ residual)²)``.

    Attributes
    ----------
    rows : (scan,) bool array
        Scans in the analysis; y is these rows of the values.
    weights : (used scan,) array
        Weights of the estimate.
    basis : (used scan, rank) array
        Orthonormal basis of the design.
    spread : (cluster, used scan) sparse array
        Weights of the residuals, adjusted for leverage, by cluster.
    df : float
        Degrees of freedom of the variance.
    """

    rows: np.ndarray
    weights: np.ndarray
    basis: np.ndarray
    spread: csr_array
    df: float

    def __call__(self, values: np.ndarray) -> FeatureEstimates:
        """Analyze (scan, feature) values."""
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


def analyze_available_scans(
    prepare: Callable[[np.ndarray], LeastSquares], rows: np.ndarray
) -> Callable[[ArrayLike], FeatureEstimates]:
    """Analyze each feature in the scans with a value; the matrices for a set of scans are prepared once.

    Parameters
    ----------
    prepare : callable
        Maps the (scan,) bool mask of the scans in the analysis to its :class:`LeastSquares`.
    rows : (scan,) bool array
        Scans in the analysis of a complete feature.

    Returns
    -------
    callable
        Maps (scan, feature) values to :class:`FeatureEstimates`; NaN for features with too few scans.
    """
    complete = prepare(rows)

    @cache
    def prepare_for(packed_mask: bytes) -> LeastSquares | None:
        is_present = np.unpackbits(np.frombuffer(packed_mask, np.uint8), count=len(rows)).astype(bool)
        try:
            return prepare(rows & is_present)
        except InputError:  # too few scans for this feature
            return None

    def analyze(values: ArrayLike) -> FeatureEstimates:
        values = np.asarray(values)
        if values.ndim != 2 or len(values) != len(rows):
            raise InputError(
                "The values do not match the scans of this analysis.",
                got=f"an array of shape {values.shape}",
                expected=f"(scan, feature), {len(rows)} scans",
                do="use the same scans, in the same order, for the analysis and the draws",
            )
        estimates = complete(values)
        missing = np.flatnonzero(np.isnan(estimates.estimate))
        keys = pd.Series([row.tobytes() for row in np.packbits(~np.isnan(values[:, missing]), axis=0).T], dtype=object)
        for key, columns in pd.Series(missing).groupby(keys):
            if (least_squares := prepare_for(key)) is not None:
                for array, part in zip(estimates[:3], least_squares(values[:, columns])[:3], strict=True):
                    array[columns] = part
        return estimates

    return analyze


def prepare_contrast(
    x: np.ndarray, c: np.ndarray, rows: np.ndarray, robust: bool, participants: np.ndarray | None
) -> LeastSquares:
    """Prepare the contrast ``c @ coefficients`` of a design.

    Parameters
    ----------
    x : (scan, column) array
        Design.
    c : (column,) array
        Contrast weights.
    rows : (scan,) bool array
        Scans in the analysis.
    robust : bool
        HC2 variances, otherwise ordinary ones; ignored with `participants`.
    participants : (scan,) int array or None
        Participant numbers, for CR2 variances.

    Raises
    ------
    InputError
        The contrast is not estimable, or there are not more scans than columns.
    """
    from scipy.sparse import csr_array

    length = _lengths(x[rows])
    x, c = x[rows] / length, c / length
    basis, solve = _decompose(x)
    weights = basis @ (solve @ c)
    n, rank = basis.shape
    if not np.allclose(x.T @ weights, c, rtol=0, atol=1e-6 * abs(c).max()):
        raise InputError(
            "The contrast is not estimable.",
            got=f"{x.shape[1]} columns of rank {rank}",
            expected="a contrast that is not collinear with other columns",
            do="omit collinear columns, such as a covariate that differs between the groups only",
        )
    if n <= rank:
        raise InputError(
            "There are too few scans for this analysis.",
            got=f"{n} scans, {rank} columns",
            expected="more scans than columns",
            do="omit covariates",
        )
    if participants is None and not robust:
        cluster, adjusted = np.arange(n), np.full(n, np.sqrt(weights @ weights / (n - rank)))
    else:
        cluster = np.arange(n) if participants is None else np.unique(participants[rows], return_inverse=True)[1]
        adjusted = _adjust(weights, basis, cluster)
    spread = csr_array((adjusted, (cluster, np.arange(n))))
    return LeastSquares(rows, weights, basis, spread, _degrees_of_freedom(spread, basis))


def prepare_correlation(x: np.ndarray, design: np.ndarray, rows: np.ndarray) -> LeastSquares:
    """Prepare the partial correlation with `x`, (scan,), given `design`, (scan, column), which includes a constant.

    In the result, ``estimate / sqrt(variance)`` is the correlation and ``1 / df`` the variance of its Fisher z.

    Raises
    ------
    InputError
        `x` is constant or a linear combination of the design, or there are too few scans.
    """
    from scipy.sparse import eye_array

    x, design = x[rows], design[rows]
    basis, _ = _decompose(design / _lengths(design))
    n, rank = basis.shape
    residual = x - basis @ (basis.T @ x)
    if n - rank < 3 or np.linalg.norm(residual) <= TINY * np.linalg.norm(x):
        raise InputError(
            "The correlation cannot be computed.",
            got=f"{n} scans, {rank - 1} covariates, variable with residual norm {np.linalg.norm(residual):.2g} given these",
            expected="a variable that varies given the covariates, and at least four more scans than covariates",
            do="check the variable, or omit covariates",
        )
    return LeastSquares(rows, residual / np.linalg.norm(residual), basis, eye_array(n, format="csr"), n - rank - 2)


def _lengths(x: np.ndarray) -> np.ndarray:
    """Return the norm of each column, 1 for zero columns."""
    length = np.linalg.norm(x, axis=0)
    return np.where(length > 0, length, 1)


def _decompose(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return an orthonormal basis of `x`, (scan, rank), and the map from contrasts to it, (rank, column).

    From the singular value decomposition ``x = U S V'``: the basis U and the map ``S⁻¹ V'``. Columns must have length 1.
    """
    u, singular, vt = np.linalg.svd(x, full_matrices=False)
    is_nonzero = singular > TINY * singular.max(initial=0)
    return u[:, is_nonzero], vt[is_nonzero] / singular[is_nonzero, None]


def _adjust(weights: np.ndarray, basis: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """Apply the CR2 adjustment: multiply the weights of each cluster by the inverse square root of its block of I - H.

    H is the hat matrix, ``basis @ basis.T``.
    """
    adjusted = np.empty_like(weights)
    for rows in np.split(np.argsort(cluster), np.cumsum(np.bincount(cluster))[:-1]):
        block = np.eye(len(rows)) - basis[rows] @ basis[rows].T
        values, vectors = np.linalg.eigh(block)
        root = np.where(values > TINY, 1 / np.sqrt(np.maximum(values, TINY)), 0)
        adjusted[rows] = vectors @ (root * (vectors.T @ weights[rows]))
    return adjusted


def _degrees_of_freedom(spread: csr_array, basis: np.ndarray) -> float:
    """Compute Satterthwaite degrees of freedom for independent noise of equal variance.

    For ordinary variances they are n - rank, for CR2 those of Bell & McCaffrey.
    """
    cluster_sums = np.asarray(spread.multiply(spread).sum(1)).ravel()
    projected = spread @ basis  # (cluster, rank)
    trace = cluster_sums.sum() - (projected**2).sum()
    squares = (cluster_sums**2).sum() - 2 * (cluster_sums @ (projected**2).sum(1)) + ((projected.T @ projected) ** 2).sum()
    return float(trace**2 / squares)
