"""Multivariate Student-t proposals for importance sampling: one in NumPy, batches and mixtures of them in JAX.

Seven degrees of freedom give tails heavier than those of a posterior of log-scales, and waste few points in the middle.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln, logsumexp
from scipy import linalg, special

from bayesharm.algorithms.laplace import Laplace
from bayesharm.algorithms.linalg import cholesky, matvec, solve_lower
from bayesharm.algorithms.programs import program

Array = jax.Array
DEGREES_OF_FREEDOM = 7.0


def draw_one(n_points: int, mean: np.ndarray, factor: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw points, (point, dimension), from the Student-t with a mean and a Cholesky factor of its scale matrix."""
    radius = np.sqrt(DEGREES_OF_FREEDOM / rng.chisquare(DEGREES_OF_FREEDOM, n_points))
    return mean + (rng.normal(size=(n_points, len(mean))) * radius[:, None]) @ factor.T


def log_density_of_one(points: np.ndarray, mean: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Log density of the Student-t of :func:`draw_one`, (point,); in double precision, whatever JAX is set to."""
    z = linalg.solve_triangular(factor, (points - mean).T, lower=True)
    return _log_density((z**2).sum(0), np.log(np.diag(factor)).sum(), len(mean), special.gammaln, np.log1p)


@program("n_samples")
def draw_student_t(keys: Array, proposals: tuple[Laplace, ...], n_samples: int) -> tuple[Array, Array]:
    """Draw from Student-t proposals with the modes and factors of Laplace approximations, for every entry of a batch.

    The points are quasi-random with a random shift for each entry (Cranley & Patterson, *SIAM J. Numer. Anal.* 13,
    1976): unbiased, independent between entries, and a few times more accurate than random ones. Several proposals
    share the samples, and the proposal density is their mixture (Veach & Guibas, *SIGGRAPH* 1995, balance heuristic).

    Parameters
    ----------
    keys : (batch,) PRNG keys
    proposals : tuple of Laplace
    n_samples : int
        Total number; each proposal gives an equal share.

    Returns
    -------
    samples : (sample, dimension, batch) array
    log_density : (sample, batch) array
        Of the mixture of all proposals.
    """
    dimension, dtype = proposals[0].mode.shape[0], proposals[0].mode.dtype
    points, radii = (part.astype(dtype) for part in _quasi_random(n_samples, dimension))

    def standard(key):
        u = (points + jax.random.uniform(key, (dimension + 1,), dtype)) % 1.0
        edge = jnp.finfo(dtype).eps
        z = jax.scipy.special.ndtri(jnp.clip(u[:, :-1], edge, 1 - edge))
        return z * jnp.asarray(radii)[(u[:, -1:] * len(radii)).astype(int)]

    z = jnp.moveaxis(jax.vmap(standard)(keys), 0, -1)  # (sample, dimension, batch)
    # Neighbors in a Sobol sequence fill the space, and every fourth point does not: each proposal gets neighbors.
    # The proposals alternate in the result, so that its first few samples come from all of them too.
    by_proposal = [
        p.mode + jax.vmap(matvec, (None, 0))(p.factor, share)
        for p, share in zip(proposals, jnp.split(z, len(proposals)), strict=True)
    ]
    samples = jnp.stack(by_proposal, axis=1).reshape(z.shape)
    return samples, log_mixture_density(proposals, samples)


@cache
def _quasi_random(n_points: int, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """Sobol points, and quantiles of the factor that turns a normal into a Student-t, √(dof / χ²)."""
    from scipy.stats import qmc  # takes most of a second to import

    points = qmc.Sobol(dimension + 1, scramble=False).random(n_points)
    grid = 2 * special.gammaincinv(DEGREES_OF_FREEDOM / 2, (np.arange(4096) + 0.5) / 4096)  # quantiles of χ²
    return points, np.sqrt(DEGREES_OF_FREEDOM / grid)


def log_mixture_density(proposals: tuple[Laplace, ...], points: Array, keep: Array | np.ndarray | None = None) -> Array:
    """Log density of an equal mixture of Student-t proposals, (point, batch).

    Parameters
    ----------
    proposals : tuple of Laplace
    points : (point, dimension, batch) array
    keep : (dimension,) array, optional
        1 for dimensions of the marginal density that is wanted, 0 for the others; by default all dimensions.
    """
    log_densities = jnp.stack([_log_density_of_batch(proposal, points, keep) for proposal in proposals])
    return logsumexp(log_densities, axis=0) - np.log(len(proposals))


def _log_density_of_batch(proposal: Laplace, points: Array, keep: Array | np.ndarray | None) -> Array:
    """Log density of one proposal, (point, batch)."""
    dimension, factor, away = len(proposal.mode), proposal.factor, points - proposal.mode
    n: Array | int = dimension
    if keep is not None:  # a marginal is of the same family; a dimension that is left out becomes a unit axis, at 0
        covariance = jnp.einsum("suf,tuf->stf", factor, factor) * (keep[:, None] * keep)[..., None]
        factor, away, n = cholesky(covariance + jnp.diag(1 - keep)[..., None]), away * keep[:, None], keep.sum()
    z = solve_lower(factor, away)
    log_det = jnp.log(factor[np.arange(dimension), np.arange(dimension)]).sum(0)
    return _log_density((z**2).sum(1), log_det, n, gammaln, jnp.log1p)


def _log_density(squared_distance: Any, log_det: Any, n: Any, gammaln: Callable[..., Any], log1p: Callable[..., Any]) -> Any:
    """Log density of an n-dimensional Student-t at a squared Mahalanobis distance; `log_det` is log|factor|."""
    dof = DEGREES_OF_FREEDOM
    constant = gammaln((dof + n) / 2) - gammaln(dof / 2) - 0.5 * n * np.log(dof * np.pi)
    return constant - 0.5 * (dof + n) * log1p(squared_distance / dof) - log_det
