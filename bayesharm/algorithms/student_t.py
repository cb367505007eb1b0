"""Multivariate Student-t proposals around Laplace approximations."""

from __future__ import annotations

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln, logsumexp
from scipy import stats
from scipy.stats import qmc

from bayesharm.algorithms.laplace import Laplace
from bayesharm.algorithms.linalg import cholesky, matvec, solve_lower

Array = jax.Array
DEGREES_OF_FREEDOM = 7.0  # tails heavier than any posterior of log-scales, not much waste in the middle


@cache
def _quasi_random(n_nodes: int, n_scales: int) -> tuple[np.ndarray, np.ndarray]:
    """Sobol points, and quantiles of the chi distribution that turns a normal into a Student-t."""
    points = qmc.Sobol(n_scales + 1, scramble=False).random(n_nodes)
    grid = stats.chi2.ppf((np.arange(4096) + 0.5) / 4096, DEGREES_OF_FREEDOM)
    return points, np.sqrt(DEGREES_OF_FREEDOM / grid)


@partial(jax.jit, static_argnums=2)
def draw_student_t(keys: Array, proposals: tuple[Laplace, ...], n_nodes: int) -> tuple[Array, Array]:
    """Draw nodes from Student-t proposals with the modes and covariance factors of Laplace approximations.

    The points are quasi-random with a random shift for each feature (Cranley & Patterson, *SIAM J. Numer. Anal.* 13,
    1976): unbiased, independent between features, and a few times more accurate than random ones. Several proposals
    share the nodes, and the proposal density is their mixture (Veach & Guibas, *SIGGRAPH* 1995, balance heuristic).

    Parameters
    ----------
    keys : (feature,) PRNG keys
    proposals : tuple of Laplace
    n_nodes : int
        In all; each proposal gives an equal share.

    Returns
    -------
    coordinates : (node, scale, feature) array
    log_density : (node, feature) array
        Of the mixture of all proposals.
    """
    n_scales, dtype = proposals[0].mode.shape[0], proposals[0].mode.dtype
    points, radii = (part.astype(dtype) for part in _quasi_random(n_nodes, n_scales))

    def standard(key):
        u = (points + jax.random.uniform(key, (n_scales + 1,), dtype)) % 1.0
        edge = jnp.finfo(dtype).eps
        z = jax.scipy.special.ndtri(jnp.clip(u[:, :-1], edge, 1 - edge))
        return z * jnp.asarray(radii)[(u[:, -1:] * len(radii)).astype(int)]

    z = jnp.moveaxis(jax.vmap(standard)(keys), 0, -1)  # (node, scale, feature)
    # Neighbors in a Sobol sequence fill the space, and every fourth point does not: each proposal gets neighbors.
    # The proposals take turns in the result, so that its first few nodes are of all of them too.
    by_proposal = [
        p.mode + jax.vmap(matvec, (None, 0))(p.factor, share)
        for p, share in zip(proposals, jnp.split(z, len(proposals)), strict=True)
    ]
    coordinates = jnp.stack(by_proposal, axis=1).reshape(z.shape)
    return coordinates, log_proposals(proposals, coordinates)


def log_proposals(proposals: tuple[Laplace, ...], coordinates: Array, keep: Array | np.ndarray | None = None) -> Array:
    """Log density of a mixture of Student-t, (node, feature); of its marginal in the coordinates that are kept."""
    log_densities = jnp.stack([_log_student(proposal, coordinates, keep) for proposal in proposals])
    return logsumexp(log_densities, axis=0) - np.log(len(proposals))


def _log_student(proposal: Laplace, coordinates: Array, keep: Array | np.ndarray | None) -> Array:
    """Log density of the Student-t with a Laplace approximation's mode and factor, (node, feature)."""
    size, dof, factor, away = len(proposal.mode), DEGREES_OF_FREEDOM, proposal.factor, coordinates - proposal.mode
    n: Array | int = size
    if keep is not None:  # a marginal is of the same family; what is not kept becomes a direction of its own, at 0
        covariance = jnp.einsum("suf,tuf->stf", factor, factor) * (keep[:, None] * keep)[..., None]
        factor, away, n = cholesky(covariance + jnp.diag(1 - keep)[..., None]), away * keep[:, None], keep.sum()
    z = solve_lower(factor, away)
    log_det = jnp.log(factor[np.arange(size), np.arange(size)]).sum(0)
    constant = gammaln((dof + n) / 2) - gammaln(dof / 2) - 0.5 * n * np.log(dof * np.pi)
    return constant - 0.5 * (dof + n) * jnp.log1p((z**2).sum(1) / dof) - log_det
