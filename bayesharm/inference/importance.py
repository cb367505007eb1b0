"""Each feature's marginal likelihood under any prior of its scales, by importance sampling around its Laplace mode.

Nodes are drawn once from a multivariate Student-t and the collapsed likelihood is computed there once; the marginal
likelihood under a Normal(eta, omega²) prior is then a weighted sum (Geweke, *Econometrica* 57, 1989).
"""

from __future__ import annotations

from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln, logsumexp
from scipy import stats
from scipy.stats import qmc

from bayesharm.inference.laplace import Laplace, fit_laplace
from bayesharm.inference.problem import Gaussian, Problem
from bayesharm.marginal import condense, log_likelihood
from bayesharm.moments import Moments

Array = jax.Array
DEGREES_OF_FREEDOM = 7.0  # tails heavier than any posterior of log-scales, not much waste in the middle


class Nodes(NamedTuple):
    """Importance nodes; the feature axis last.

    Attributes
    ----------
    log_scales : (node, scale, feature) array
    log_proposal : (node, feature) array
        Log density of the proposal.
    """

    log_scales: Array
    log_proposal: Array


@partial(jax.jit, static_argnums=0)
def find_modes(problem: Problem, log_ratio: Array, moments: Moments, prior: Gaussian, start: Array) -> Laplace:
    """Laplace approximation of every feature's log-scales under a common Normal prior."""
    constants, condensed = condense(problem.plan, log_ratio, moments)
    mean, sd = (jnp.asarray(part)[:, None] for part in prior)

    def log_density(log_scales):
        return (log_likelihood(problem.plan, constants, condensed, log_scales)
                - 0.5 * (((log_scales - mean) / sd) ** 2).sum(0))

    return fit_laplace(log_density, start, jnp.broadcast_to(sd, start.shape))


@cache
def _quasi_random(n_nodes: int, n_scales: int) -> tuple[np.ndarray, np.ndarray]:
    """Sobol points, and quantiles of the chi distribution that turns a normal into a Student-t."""
    points = qmc.Sobol(n_scales + 1, scramble=False).random(n_nodes)
    grid = stats.chi2.ppf((np.arange(4096) + 0.5) / 4096, DEGREES_OF_FREEDOM)
    return points, np.sqrt(DEGREES_OF_FREEDOM / grid)


@partial(jax.jit, static_argnums=2)
def draw_nodes(keys: Array, laplace: Laplace, n_nodes: int) -> Nodes:
    """Draw nodes from a Student-t with the mode and covariance factor of each feature's Laplace approximation.

    The points are quasi-random with a random shift for each feature (Cranley & Patterson, *SIAM J. Numer. Anal.* 13,
    1976): unbiased, independent between features, and a few times more accurate than random ones.
    """
    n_scales = laplace.mode.shape[0]
    dof = DEGREES_OF_FREEDOM
    points, radii = _quasi_random(n_nodes, n_scales)

    def standard(key):
        u = (points + jax.random.uniform(key, (n_scales + 1,))) % 1.0
        z = jax.scipy.special.ndtri(jnp.clip(u[:, :-1], 1e-12, 1 - 1e-12))
        return z * jnp.asarray(radii)[(u[:, -1:] * len(radii)).astype(int)]

    z = jnp.moveaxis(jax.vmap(standard)(keys), 0, -1)  # (node, scale, feature)
    log_scales = laplace.mode + jnp.sum(laplace.factor * z[:, None], axis=2)
    diagonal = laplace.factor[np.arange(n_scales), np.arange(n_scales)]
    constant = gammaln((dof + n_scales) / 2) - gammaln(dof / 2) - 0.5 * n_scales * jnp.log(dof * jnp.pi)
    spread = -0.5 * (dof + n_scales) * jnp.log1p((z**2).sum(1) / dof)
    return Nodes(log_scales, constant + spread - jnp.log(diagonal).sum(0))


@partial(jax.jit, static_argnums=0)
def evaluate_nodes(problem: Problem, log_ratio: Array, moments: Moments, nodes: Nodes) -> Array:
    """log likelihood − log proposal at every node, (node, feature)."""
    constants, condensed = condense(problem.plan, log_ratio, moments)

    def evaluate(log_scales):
        return log_likelihood(problem.plan, constants, condensed, log_scales)

    value = jax.lax.map(evaluate, nodes.log_scales) - nodes.log_proposal
    return jnp.where(jnp.isfinite(value), value, -jnp.inf)


def basis_of(log_scales: Array) -> Array:
    """What a Normal log density of the log-scales is linear in, scale axis last: (..., feature, 2 × scale)."""
    return jnp.moveaxis(jnp.concatenate([log_scales**2, log_scales], axis=-2), -2, -1)


def log_prior(basis: Array, mean: Array, log_sd: Array) -> Array:
    """Normal log density of log-scales under many hyperparameters at once, as one matrix product.

    Parameters
    ----------
    basis : (..., feature, 2 × scale) array
        From :func:`basis_of`.
    mean, log_sd : (scale, hyper) arrays

    Returns
    -------
    (..., feature, hyper) array
    """
    precision = jnp.exp(-2 * log_sd)
    coefficients = jnp.concatenate([-0.5 * precision, mean * precision])
    constant = -(0.5 * mean**2 * precision + log_sd + 0.5 * np.log(2 * np.pi)).sum(0)
    return basis @ coefficients + constant


def log_marginal(basis: Array, log_weight: Array, mean: Array, log_sd: Array) -> Array:
    """log p(feature | eta, omega) for every feature and hyperparameter, (feature, hyper).

    Parameters
    ----------
    basis : (node, feature, 2 × scale) array
    log_weight : (node, feature) array
        From :func:`evaluate_nodes`.
    mean, log_sd : (scale, hyper) arrays
    """
    terms = log_weight[..., None] + log_prior(basis, mean, log_sd)
    return logsumexp(terms, axis=0) - jnp.log(log_weight.shape[0])
