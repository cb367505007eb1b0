"""The noise ratio of each scanner, shared by all features, from their marginal likelihoods together.

All features inform it, so that its posterior is narrow and nearly Gaussian: Newton's mode and curvature are its posterior.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from bayesharm.inference.importance import Nodes, basis_of, log_prior
from bayesharm.inference.laplace import Laplace, fit_laplace
from bayesharm.inference.problem import Gaussian, Problem
from bayesharm.marginal import condense, log_likelihood
from bayesharm.moments import Moments

Array = jax.Array
N_EVALUATIONS = 8192  # nodes × features that enter: enough for a standard error below 0.02 in log lambda


class Ratio(NamedTuple):
    """Gaussian posterior of log lambda, centred over scanners.

    Attributes
    ----------
    mean : (scanner,) array
    covariance : (scanner, scanner) array
    """

    mean: np.ndarray
    covariance: np.ndarray


def fit_ratio(problem: Problem, moments: Moments, nodes: Nodes, prior: Gaussian, start: Ratio) -> Ratio:
    """Maximize the features' summed log marginal likelihood over log lambda.

    Parameters
    ----------
    problem : Problem
    moments : Moments
    nodes : Nodes
        Of the same features.
    prior : Gaussian
        Prior of the log-scales.
    start : Ratio
    """
    n_features = min(moments.squares.shape[1], 256)
    n_nodes = int(np.clip(N_EVALUATIONS // n_features, 16, nodes.log_scales.shape[0]))
    picked = np.linspace(0, moments.squares.shape[1] - 1, n_features).astype(int)  # from all over the sample
    few = Moments(*(part[:, picked] for part in moments))
    chosen = Nodes(*(part[:n_nodes][..., picked] for part in nodes))
    approximation = approximate_ratio(problem, few, chosen, prior, jnp.asarray(start.mean)[:, None])
    factor = np.asarray(approximation.factor)[:, :, 0]
    centring = np.eye(problem.n_scanners) - 1 / problem.n_scanners
    return Ratio(centring @ np.asarray(approximation.mode)[:, 0], centring @ factor @ factor.T @ centring)


@partial(jax.jit, static_argnums=0)
def approximate_ratio(problem: Problem, moments: Moments, nodes: Nodes, prior: Gaussian, start: Array) -> Laplace:
    """Mode and curvature of the log noise ratio, not yet centred."""
    mean, sd = (jnp.asarray(part)[:, None] for part in prior)
    prior_of_nodes = log_prior(basis_of(nodes.log_scales), mean, jnp.log(sd), problem.priors.amplitude_sd)[0]
    base = prior_of_nodes - nodes.log_proposal

    def log_density(raw):
        log_ratio = raw[:, 0] - raw[:, 0].mean()
        constants, condensed = condense(problem.plan, log_ratio, moments)

        def evaluate(log_scales):
            return log_likelihood(problem.plan, constants, condensed, log_scales)

        value = jax.lax.map(evaluate, nodes.log_scales) + base
        total = logsumexp(jnp.where(jnp.isfinite(value), value, -jnp.inf), axis=0).sum()
        return (total - 0.5 * ((raw / problem.priors.noise_ratio_sd) ** 2).sum())[None]

    return fit_laplace(
        log_density, start, jnp.full(start.shape, problem.priors.noise_ratio_sd), n_iterations=15
    )
