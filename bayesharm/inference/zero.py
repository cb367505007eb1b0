"""Whether some scales are 0, in no feature, in some of them or in all: marginal likelihoods with and without them.

A scale that is 0 is left out: what is left of the importance nodes of a feature is distributed as a marginal of their
Student-t, which is one too. Which features have it is a mixture with a component at 0 (George & McCulloch, *JASA* 88, 1993),
whose share, like all hyperparameters, is integrated out.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import log_sigmoid
from jax.scipy.special import logsumexp

from bayesharm.inference.devices import map_some, working_on
from bayesharm.inference.importance import Nodes, basis_of, evaluate_nodes, log_prior, log_proposals
from bayesharm.inference.laplace import Laplace, cholesky, fit_laplace
from bayesharm.inference.problem import Problem
from bayesharm.inference.weighing import weigh_points
from bayesharm.marginal import condense, log_likelihood
from bayesharm.moments import Moments
from bayesharm.spec import Priors

Array = jax.Array
LOG_ZERO = -8.0  # of a scale in sds of a feature: with a thousand people its effects add 1e-4 to a log likelihood
BATCH = 512  # of hyperparameters at once
N_DRAWS = 64  # of the hyperparameters
MAX_KHAT = 0.7  # an evidence needs no more
Sets = tuple[tuple[int, ...], ...]


class Side(NamedTuple):
    """Importance nodes of features under one hypothesis, with the scales that it has.

    Attributes
    ----------
    log_scales : (node, scale, feature) array
    weight : (node, feature) array
        log likelihood − log proposal.
    """

    log_scales: Array
    weight: Array


class Evidence(NamedTuple):
    """What one hypothesis about all features is worth.

    Attributes
    ----------
    log_evidence : float
        log marginal likelihood, all hyperparameters integrated out.
    khat, n_effective : float
        Pareto-k and effective points of that integral.
    eta, omega : (draw, scale) arrays
    share : (draw,) array
        Of features that are of the first kind; 1 if there is one kind only.
    """

    log_evidence: float
    khat: float
    n_effective: float
    eta: np.ndarray
    omega: np.ndarray
    share: np.ndarray


def rest_of(n_scales: int, zero: tuple[int, ...]) -> np.ndarray:
    """Scales that are not 0."""
    return np.setdiff1d(np.arange(n_scales), zero).astype(np.int32)


@partial(jax.jit, static_argnums=(0, 5))
def both_sides(
    problem: Problem, log_ratio: Array, moments: Moments, nodes: Nodes, proposals: tuple[Laplace, ...], zeros: Sets
) -> tuple[Side, tuple[Side, ...]]:
    """Nodes of the whole model, and without each of some sets of scales.

    Parameters
    ----------
    problem, log_ratio, moments
    nodes : Nodes
    proposals : tuple of Laplace
        What the nodes were drawn from.
    zeros : tuple of tuple of int
        Sets of scales that are 0: not of noise, nor of participants.
    """
    constants, condensed = condense(problem.plan, log_ratio, moments)

    def without(zero: tuple[int, ...]) -> Side:
        rest = rest_of(nodes.log_scales.shape[1], zero)

        def evaluate(log_scales):
            return log_likelihood(problem.plan, constants, condensed, log_scales.at[np.array(zero)].set(LOG_ZERO))

        def marginal(proposal):
            factor = proposal.factor[rest]
            return proposal._replace(mode=proposal.mode[rest], factor=cholesky(jnp.einsum("suf,tuf->stf", factor, factor)))

        log_proposal = log_proposals(tuple(map(marginal, proposals)), nodes.coordinates[:, rest])
        value = map_some(evaluate, nodes.log_scales) - log_proposal
        return Side(nodes.log_scales[:, rest], jnp.where(jnp.isfinite(value), value, -jnp.inf))

    return Side(nodes.log_scales, evaluate_nodes(problem, log_ratio, moments, nodes)), tuple(map(without, zeros))


def find_evidence(
    priors: Priors,
    log_medians: np.ndarray,
    sides: tuple[Side, ...],
    rest: np.ndarray,
    power: float,
    start: np.ndarray,
    rng: np.random.Generator,
) -> Evidence:
    """Marginal likelihood of all features together under one hypothesis, the hyperparameters integrated out.

    Parameters
    ----------
    priors : Priors
    log_medians : (scale,) array
        Of the scales of the first side.
    sides : tuple of Side
        One: all features are of this kind. Two: a share of them is of the first kind, the others of the second, which has
        the scales `rest` only; the share is uniform between 0 and 1.
    rest : int array
    power : float
        To which the features' likelihoods are taken: their effective number over their number.
    start : (2, scale) array
        eta and log excess, to begin with.
    rng : numpy.random.Generator
    """
    n, device = len(log_medians), jax.config.jax_default_device
    start = np.r_[start.reshape(-1), [0.0] * (len(sides) - 1)]
    found = _find_mode(priors, log_medians, sides, rest, power, start[:, None])
    mode, factor = (np.array(part)[..., 0] for part in (found.mode, found.factor))
    # the excess is sampled as it is: where the data hardly tell it from 0, it is nearer to a Gaussian than its logarithm
    mode[n : 2 * n] = np.exp(mode[n : 2 * n])
    factor[n : 2 * n] *= mode[n : 2 * n, None]

    # in single precision, for exponentials take the time: log-scales are counted from the mode of eta, and what a feature
    # adds there is taken from it, so that neither squares nor sums over features suffer
    zero = mode[:n].copy()
    mode[:n] = 0.0
    near = [
        Side(side.log_scales - zero[of_side][:, None], side.weight)
        for side, of_side in zip(sides, (np.arange(n, dtype=np.int32), rest), strict=False)
    ]
    offset = np.asarray(_of_features(priors, tuple(near), rest, jnp.asarray(mode)[:, None]))[0]
    with working_on(device, "float32"):
        known = tuple(
            (
                jnp.asarray(np.moveaxis(np.asarray(basis_of(side.log_scales)), 2, 0), np.float32),
                jnp.asarray(np.asarray((side.weight - offset).T), np.float32),
            )
            for side in near
        )

    def log_density(points: np.ndarray) -> np.ndarray:
        batches = np.split(points, range(BATCH, points.shape[1], BATCH), axis=1)
        with working_on(device, "float32"):
            values = [
                np.asarray(_log_densities(priors, np.float32(log_medians - zero), known, rest, np.float32(power),
                                          jnp.asarray(batch, np.float32)))
                for batch in batches
            ]  # fmt: skip
        return np.concatenate(values)

    weighed = weigh_points(log_density, mode, factor, rng, MAX_KHAT)
    draws = weighed.draw(N_DRAWS, rng)
    omega = np.hypot(draws[:, n : 2 * n], priors.least_omega)
    share = 1 / (1 + np.exp(-draws[:, 2 * n])) if len(sides) == 2 else np.ones(N_DRAWS)
    evidence = weighed.log_mean + power * float(offset.sum())
    return Evidence(evidence, weighed.khat, weighed.n_effective, draws[:, :n] + zero, omega, share)


@partial(jax.jit, static_argnums=0)
def _find_mode(
    priors: Priors, log_medians: Array, sides: tuple[Side, ...], rest: Array, power: Array, start: Array
) -> Laplace:
    """Of eta, log excess and the logit of the share."""
    n = len(log_medians)

    def log_density(position):
        log_excess = position[n : 2 * n]
        moved = jnp.concatenate([position[:n], jnp.exp(log_excess), position[2 * n :]])
        told = _of_features(priors, sides, rest, moved).sum(1)
        return power * told + _log_hyperprior(priors, log_medians, moved) + log_excess.sum(0)

    return fit_laplace(log_density, start, jnp.full(start.shape, 0.5))


def _of_features(priors: Priors, sides: tuple[Side, ...], rest: Array | np.ndarray, position: Array) -> Array:
    """log marginal likelihood of every feature, (hyper, feature)."""
    bases = [(basis_of(side.log_scales), side.weight) for side in sides]
    return _mix(priors, bases, rest, position)


def _mix(priors: Priors, sides, rest: Array | np.ndarray, position: Array) -> Array:
    """Log sums over the nodes of one or two sides, (2 × scale, node, …) and (node, …), of their share; (hyper, …)."""
    n = sides[0][0].shape[0] // 2
    eta, log_sd = position[:n], 0.5 * jnp.log(position[n : 2 * n] ** 2 + priors.least_omega**2)
    found = []
    for (basis, weight), of_side in zip(sides, (np.arange(n, dtype=np.int32), rest), strict=False):
        value = weight + log_prior(basis, eta[of_side], log_sd[of_side], priors.amplitude_sd)
        found.append(logsumexp(value, axis=1) - np.log(len(weight)))
    if len(found) == 1:
        return found[0]
    logit = position[2 * n].reshape(-1, *[1] * (found[0].ndim - 1))
    return jnp.logaddexp(log_sigmoid(logit) + found[0], log_sigmoid(-logit) + found[1])


@partial(jax.jit, static_argnums=0)
def _log_densities(priors: Priors, log_medians: Array, sides, rest: Array, power: Array, positions: Array) -> Array:
    """Log posterior of many hyperparameters at once, feature by feature; nothing for an excess below 0."""

    def add(total, feature):
        return total + _mix(priors, feature, rest, positions), None

    total, _ = jax.lax.scan(add, jnp.zeros_like(positions[0]), sides)
    n = len(log_medians)
    fine = (positions[n : 2 * n] > 0).all(0)
    return jnp.where(fine, power * total + _log_hyperprior(priors, log_medians, positions), -jnp.inf)


def _log_hyperprior(priors: Priors, log_medians: Array, position: Array) -> Array:
    """Log density of eta, excess and the logit of a uniform share."""
    n = len(log_medians)
    eta, excess = (position[:n] - log_medians[:, None]) / priors.eta_sd, position[n : 2 * n] / priors.omega_sd
    logit = position[2 * n :]
    constant = n * (np.log(2) - np.log(2 * np.pi) - np.log(priors.eta_sd) - np.log(priors.omega_sd))
    return constant - 0.5 * (eta**2 + excess**2).sum(0) + (log_sigmoid(logit) + log_sigmoid(-logit)).sum(0)


def log_bayes_factors(priors: Priors, sides: tuple[Side, Side], rest: np.ndarray, evidence: Evidence) -> tuple[Array, Array]:
    """log marginal likelihood of each feature with the scales and without them, for each draw, (draw, feature) each."""
    eta, log_omega = jnp.asarray(evidence.eta.T), jnp.log(jnp.asarray(evidence.omega.T))
    return tuple(
        logsumexp(side.weight + log_prior(basis_of(side.log_scales), mean, log_sd, priors.amplitude_sd), axis=1)
        - np.log(len(side.weight))
        for side, mean, log_sd in zip(sides, (eta, eta[rest]), (log_omega, log_omega[rest]), strict=True)
    )
