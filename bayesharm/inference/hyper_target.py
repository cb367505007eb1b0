"""Posterior density of the hyperparameters, each feature entering by its marginal likelihood.

The hyperparameters are eta and omega, mean and sd over features of the log-scales. Omega is
``sqrt(omega_excess² + omega_floor²)``, and omega_excess has a half-normal prior. A *position* holds eta, then omega_excess
(:class:`~bayesharm.likelihood.hierarchy.Hierarchy`). Features may be of two components, with and without some scales
(:mod:`bayesharm.inference.spike_and_slab`); the position then ends with the logit of the share of the first.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import log_sigmoid
from jax.scipy.special import logsumexp

from bayesharm.algorithms.adaptive_importance import ImportanceSettings, WeightedSample, adaptive_importance_sampling
from bayesharm.algorithms.devices import working_on
from bayesharm.algorithms.laplace import Laplace, fit_laplace
from bayesharm.algorithms.programs import program
from bayesharm.inference.importance import log_prior
from bayesharm.likelihood.hierarchy import Hierarchy

Array = jax.Array
MANY_FEATURES = 128  # features from which the hyperposterior is narrow and nearly Gaussian
BATCH = 512  # positions whose densities are computed at once
START_SD = 0.5  # fallback sd of every coordinate in the search for the mode


class HyperTarget(NamedTuple):
    """Data of the posterior density of the hyperparameters.

    Attributes
    ----------
    log_medians : (scale,) array
        Prior means of eta.
    basis : (2 × scale, sample, feature) array
        Squares and values of the log-scales of importance samples.
    log_weights : (component, sample, feature) array
        Log likelihood − log proposal, under each component.
    masks : (component, scale) array, or None
        1 for scales of a component, 0 for those that are 0 in it; None if features have all scales.
    power : float
        Exponent of the features' likelihoods: their effective number over their number.
    log_constant : float
        Normalizing constant of the prior, where an evidence is wanted.
    log_n_samples : float
        Subtracted from the log sum over samples: its logarithm makes the sum a mean.
    """

    log_medians: Array | np.ndarray
    basis: Array | np.ndarray
    log_weights: Array | np.ndarray
    masks: Array | np.ndarray | None
    power: float
    log_constant: float
    log_n_samples: float


class CenteredTarget(NamedTuple):
    """A target in coordinates that suit single precision.

    Attributes
    ----------
    target : HyperTarget
    origin : (scale,) array
        Mode of eta, centered, from which log-scales and eta are counted.
    mode : (dimension,) array
    factor : (dimension, dimension) array
        Lower Cholesky factor of the covariance of a position, from the curvature at the mode.
    offset : (feature,) array
        Log marginal likelihood of each feature at the mode, which is subtracted from its log weights.
    """

    target: HyperTarget
    origin: np.ndarray
    mode: np.ndarray
    factor: np.ndarray
    offset: np.ndarray


def plain_target(log_medians: np.ndarray, basis: Array | np.ndarray, log_weights: Array) -> HyperTarget:
    """Return the target of features that all have all scales, up to a constant; `log_weights` is (sample, feature).

    Features count as independent for eta and omega (power 1); docs/explanation/method.md discusses it.
    """
    return HyperTarget(log_medians, basis, log_weights[None], None, 1.0, 0.0, np.log(len(log_weights)))


def mixture_target(
    hierarchy: Hierarchy,
    log_medians: np.ndarray,
    basis: Array | np.ndarray,
    log_weights: Array,
    masks: np.ndarray,
    power: float,
) -> HyperTarget:
    """Return the normalized target of features of one or two components; arrays as in :class:`HyperTarget`."""
    constant = hierarchy.n_groups * (0.5 * np.log(2 / np.pi) - np.log(hierarchy.priors.omega_sd))
    constant -= (0.5 * np.log(2 * np.pi) + np.log(hierarchy.eta_sd)).sum()
    return HyperTarget(
        log_medians, basis, log_weights, np.asarray(masks, float), power, constant, np.log(log_weights.shape[1])
    )


def eta_and_log_omega(hierarchy: Hierarchy, position: Array) -> tuple[Array, Array]:
    """Convert positions to the eta and log omega of every scale, (scale, …) both, for omega_excess of either sign."""
    eta, omega_excess, _ = hierarchy.split(position)
    return hierarchy.center(eta), hierarchy.of_scales(hierarchy.log_omega(omega_excess))


def log_marginals(hierarchy: Hierarchy, target: HyperTarget, position: Array) -> Array:
    """Compute the log marginal likelihood of every feature at every position, (position, feature).

    If the arrays of the target are of one feature, without that axis, the result is (position,).
    """

    def of_component(log_weights: Array, keep: Array | float) -> Array:
        eta, log_omega = eta_and_log_omega(hierarchy, position)
        log_terms = log_weights + log_prior(target.basis, eta, log_omega, hierarchy.offset_sd, keep)
        return logsumexp(log_terms, axis=1) - target.log_n_samples

    logit = hierarchy.split(position)[2]
    if target.masks is None:
        return of_component(target.log_weights[0], 1.0)
    by_component = [
        of_component(log_weights, mask[:, None]) for log_weights, mask in zip(target.log_weights, target.masks, strict=True)
    ]
    if len(by_component) == 1:
        return by_component[0]
    with_scales, without = by_component
    logit = logit[0].reshape(-1, *[1] * (with_scales.ndim - 1))
    return jnp.logaddexp(log_sigmoid(logit) + with_scales, log_sigmoid(-logit) + without)


def log_density(hierarchy: Hierarchy, target: HyperTarget, position: Array) -> Array:
    """Compute the log posterior density at positions, (dimension, position) -> (position,); omega_excess of either sign."""
    return target.power * log_marginals(hierarchy, target, position).sum(1) + _log_hyperprior(hierarchy, target, position)


@program("hierarchy")
def log_densities(hierarchy: Hierarchy, target: HyperTarget, positions: Array) -> Array:
    """Compute :func:`log_density` at many positions, feature by feature to save memory; -inf at an omega_excess below 0.

    Arrays of the target have the feature axis first, as :func:`_by_feature` returns them.
    """

    def add(total, feature):
        basis, log_weights = feature
        return total + log_marginals(hierarchy, target._replace(basis=basis, log_weights=log_weights), positions), None

    total, _ = jax.lax.scan(add, jnp.zeros_like(positions[0]), (target.basis, target.log_weights))
    is_valid = (hierarchy.split(positions)[1] > 0).all(0)
    return jnp.where(is_valid, target.power * total + _log_hyperprior(hierarchy, target, positions), -jnp.inf)


def _log_hyperprior(hierarchy: Hierarchy, target: HyperTarget, position: Array) -> Array:
    """Log prior density of eta, omega_excess and the logit of a share that is uniform between 0 and 1."""
    eta, omega_excess, logit = hierarchy.split(position)
    squares = (((eta - target.log_medians[:, None]) / hierarchy.eta_sd.astype(eta.dtype)[:, None]) ** 2).sum(0)
    squares += ((omega_excess / hierarchy.priors.omega_sd) ** 2).sum(0)
    return target.log_constant - 0.5 * squares + (log_sigmoid(logit) + log_sigmoid(-logit)).sum(0)


@program("hierarchy")
def find_mode(hierarchy: Hierarchy, target: HyperTarget, start: Array) -> Laplace:
    """Compute the Laplace approximation in eta, log omega_excess and, with two components, the logit of the share.

    In the logarithm the mode of omega_excess is not at 0, and importance samples placed around it are wide enough.
    """

    def log_density_of_logarithm(position):
        eta, log_omega_excess, logit = hierarchy.split(position)
        natural = jnp.concatenate([eta, jnp.exp(log_omega_excess), logit])
        return log_density(hierarchy, target, natural) + log_omega_excess.sum(0)

    return fit_laplace(log_density_of_logarithm, start, jnp.full(start.shape, START_SD))


@program("hierarchy")
def _log_marginals_at(hierarchy: Hierarchy, target: HyperTarget, position: Array | np.ndarray) -> Array:
    return log_marginals(hierarchy, target, jnp.asarray(position))


def center_target(hierarchy: Hierarchy, target: HyperTarget, approximation: Laplace, dtype: type) -> CenteredTarget:
    """Move the origin of log-scales to the mode of eta, and subtract each feature's log marginal likelihood there.

    Exponentials take most of the time, so densities are computed in single precision; squares and sums over features
    then stay small. From here on omega_excess itself is sampled, not its logarithm: where the data hardly distinguish it
    from 0, its posterior is nearer to a Gaussian.

    Parameters
    ----------
    hierarchy : Hierarchy
    target : HyperTarget
    approximation : Laplace
        From :func:`find_mode`.
    dtype : type
        Precision of log-scales and log weights from their shift on.
    """
    n = hierarchy.n_scales
    mode, factor = (np.array(part)[..., 0] for part in (approximation.mode, approximation.factor))
    eta, omega_excess, _ = hierarchy.split(mode)  # views
    omega_excess[:] = np.exp(omega_excess)
    hierarchy.split(factor)[1][:] *= omega_excess[:, None]
    origin = hierarchy.center(eta).copy()
    eta -= origin
    log_scales = (np.asarray(target.basis[n:]) - origin[:, None, None]).astype(dtype)
    basis = np.concatenate([log_scales**2, log_scales])
    centered = target._replace(log_medians=target.log_medians - origin, basis=basis)
    offset = np.asarray(_log_marginals_at(hierarchy, centered, mode[:, None]))[0]
    centered = centered._replace(log_weights=(np.asarray(target.log_weights) - offset).astype(dtype))
    return CenteredTarget(centered, origin, mode, factor, offset)


def sample_by_importance(
    hierarchy: Hierarchy, centered: CenteredTarget, rng: np.random.Generator, settings: ImportanceSettings
) -> WeightedSample:
    """Sample a centered target by adaptive importance sampling; densities are computed in single precision."""
    device = jax.config.jax_default_device
    with working_on(device, "float32"):
        single = jax.tree.map(lambda part: jnp.asarray(part, np.float32), _by_feature(centered.target))

    def log_density_of_points(points: np.ndarray) -> np.ndarray:
        batches = np.split(points.astype(np.float32), range(BATCH, points.shape[1], BATCH), axis=1)
        with working_on(device, "float32"):
            return np.concatenate([np.asarray(log_densities(hierarchy, single, batch)) for batch in batches])

    return adaptive_importance_sampling(log_density_of_points, centered.mode, centered.factor, rng, settings)


def _by_feature(target: HyperTarget) -> HyperTarget:
    """Move the feature axis of a target's arrays to the front, contiguous in memory."""
    basis, log_weights = (np.moveaxis(np.asarray(part), 2, 0) for part in (target.basis, target.log_weights))
    return target._replace(basis=basis, log_weights=log_weights)
