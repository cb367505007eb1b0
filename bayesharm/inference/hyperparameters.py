"""Hyperparameters (eta, omega) of the scales, each feature entering by its marginal likelihood.

The effects and scales of each feature are integrated out: some ten numbers and no funnel are left.
Laplace approximations, importance nodes, noise ratio and hyperparameters depend on one another: they are found in
turns until they agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayesharm.algorithms.diagnostics import pareto_k
from bayesharm.algorithms.laplace import Laplace
from bayesharm.algorithms.random_streams import Stage, feature_keys
from bayesharm.algorithms.student_t import log_proposals
from bayesharm.inference.hyperposterior import (
    ENOUGH_FEATURES,
    HyperDraws,
    approximate,
    draw_approximation,
    predict,
    sample_hyperposterior,
)
from bayesharm.inference.importance import (
    ImportanceSample,
    draw_importance_sample,
    find_modes,
    log_importance_weights,
    log_marginals,
    log_prior,
    quadratic_features,
)
from bayesharm.inference.variance_ratios import RatioPosterior, fit_variance_ratios, variance_ratio_covariance
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.problem import Gaussian, Problem, to_coordinates
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.model.spec import Priors

Array = jax.Array
N_TURNS = 10  # at most; four or five are usual
TURNS_OF_RATIO = 4  # of them find the noise ratio as well
TURNS_OF_FEW = 3  # nodes: with few, a scale that the data hardly tell from 0 can go to and fro
EVALUATIONS, EVALUATIONS_OF_PREVIEW = (2**18, 2**20), (2**17, 2**17)  # nodes × features of these turns, and after them
AT_ONCE = 2**16  # nodes × features that are drawn
N_COMPONENTS = 256  # of the predictive prior while there are few features
MOST_SETS = 3  # of nodes that are kept, once the noise ratio is known: those of the last turns
GOOD_KHAT = 0.5  # of nine features in ten, where nodes see well
LONGEST_TURN = 0.8  # in eta and log excess: further away the nodes do not see


class Hyperparameters(NamedTuple):
    """Posterior of what features share.

    Attributes
    ----------
    eta, omega : (chain, draw, scale) arrays
        Mean and sd over features of the log-scales of standardized features.
    ratios : RatioPosterior
        Of the variance ratios of the scanners.
    predictive : Gaussian
        Mean and sd of the predictive prior of a feature's log-scales, their amplitude apart.
    log_marginal : (feature, component) array, or None
        Of the features that the hyperparameters were learned from, for some of the draws, the :func:`components` of their
        predictive prior; not from `ENOUGH_FEATURES` on.
    diverging : int
    importance : (2,) array
        Pareto-k and effective points, if the draws are by importance sampling; else NaN.
    khat : (feature,) array
        Pareto-k of the weights of each feature's nodes at the center of the posterior.
    """

    eta: np.ndarray
    omega: np.ndarray
    ratios: RatioPosterior
    predictive: Gaussian
    log_marginal: np.ndarray | None
    diverging: int
    importance: np.ndarray
    khat: np.ndarray

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Plain arrays; :meth:`from_arrays` is the inverse."""
        arrays = {name: np.asarray(getattr(self, name)) for name in ("eta", "omega", "diverging", "importance", "khat")}
        arrays |= {
            "ratio_mean": self.ratios.mean.to_vector(),
            "ratio_covariance": self.ratios.covariance,
            "n_independent_features": np.asarray(self.ratios.n_independent_features),
        }
        arrays |= {f"predictive_{name}": np.asarray(part) for name, part in self.predictive._asdict().items()}
        return arrays if self.log_marginal is None else arrays | {"log_marginal": self.log_marginal}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Hyperparameters:
        """What :meth:`to_arrays` gave."""
        return cls(
            arrays["eta"],
            arrays["omega"],
            RatioPosterior(
                VarianceRatios.from_vector(arrays["ratio_mean"]),
                arrays["ratio_covariance"],
                float(arrays["n_independent_features"]),
            ),
            Gaussian(*(arrays[f"predictive_{name}"] for name in Gaussian._fields)),
            arrays.get("log_marginal"),
            int(arrays["diverging"]),
            arrays["importance"],
            arrays["khat"],
        )


class Placed(NamedTuple):
    """A set of nodes, what they were drawn from, and log likelihood − log proposal at each, (node, feature)."""

    nodes: ImportanceSample
    modes: tuple[Laplace, ...]
    weight: Array


def fit_hyperparameters(
    problem: Problem,
    moments: Moments,
    features: np.ndarray,
    n_effective: float,
    *,
    seed: int,
    n_chains: int = 4,
    n_draws: int = 100,
    preview: bool = False,
    on_iteration=lambda text: None,
) -> Hyperparameters | None:
    """Learn the hyperparameters and the noise ratio from a sample of features.

    Parameters
    ----------
    problem : Problem
    moments : Moments
        Of the sampled features.
    features : (feature,) int array
        Their indices in the study, from which their random numbers derive.
    n_effective : float
        As how many independent features they count for the ratios of scanners.
    seed, n_chains, n_draws : int
        Where NUTS is needed, draws of each chain come in parts of `n_draws`, as many as they need.
    preview : bool
        Draw from the Laplace approximation, whether turns have settled or not.
    on_iteration : callable
        Receives a line of progress after each turn.

    Returns
    -------
    Hyper, or None
        None where turns do not settle or chains do not mix: a scale that is 0 as far as the data tell has an eta that they
        do not bound below, and nodes cannot be everywhere.
    """
    keys = feature_keys(seed, Stage.NODES, features)
    few, many = (_count_nodes(n, len(features)) for n in (EVALUATIONS_OF_PREVIEW if preview else EVALUATIONS))
    ratios = VarianceRatios.equal(problem.n_scanners)
    log_medians = problem.log_medians
    center = np.concatenate([log_medians, np.full(len(log_medians), np.log(0.4))])
    start = jnp.broadcast_to(jnp.asarray(log_medians)[:, None], (len(log_medians), len(features)))
    starts: tuple[Array, ...] = (to_coordinates(problem.pair, start),)
    eta_sd = np.zeros(len(log_medians))
    kept: list[Placed] = []
    for turn in range(N_TURNS):
        n_nodes = few if turn < TURNS_OF_FEW else many
        nodes, modes = place_importance_samples(
            problem, moments, center, eta_sd, ratios, _turn_keys(keys, turn), n_nodes, starts
        )
        starts = tuple(mode.mode for mode in modes)
        before = ratios
        if (problem.noise_ratio or problem.bias_ratio) and turn < TURNS_OF_RATIO:
            ratios = fit_variance_ratios(
                problem, moments, nodes, _prior_of(center, problem.priors.omega_floor), n_effective, ratios
            )
        kept = kept[1 - MOST_SETS :] if turn > TURNS_OF_RATIO else []  # of the same noise ratios
        kept.append(Placed(nodes, modes, log_importance_weights(problem, ratios, moments, nodes)))
        log_scales, weight = _together(kept)
        basis = quadratic_features(log_scales)
        approximation = approximate(problem.priors, log_medians, basis, weight, jnp.asarray(center)[:, None])
        eta_sd = np.sqrt((np.asarray(approximation.factor)[: len(log_medians), :, 0] ** 2).sum(1)).clip(
            0, problem.priors.eta_sd
        )
        old, target = _prior_of(center, problem.priors.omega_floor), np.asarray(approximation.mode)[:, 0]
        center = center + np.clip(target - center, -LONGEST_TURN, LONGEST_TURN)
        new = _prior_of(target, problem.priors.omega_floor)
        far = np.maximum(np.abs(new.mean - old.mean), np.abs(new.sd - old.sd))
        moved = np.max(far / np.maximum(old.sd, 0.05))
        moved_ratio = np.max(np.abs(ratios.to_vector() - before.to_vector()))
        on_iteration(f"turn {turn + 1}: scales moved by {moved:.2f} of their spread, noise ratio by {moved_ratio:.3f}")
        # near enough for the nodes, or where they see it well; the posterior itself comes below
        if moved_ratio < 0.01 and (moved < 0.25 or (turn > TURNS_OF_RATIO and _see(weight, basis, new, problem.priors))):
            break
    else:
        if not preview:
            return None

    nodes, modes = place_importance_samples(problem, moments, center, eta_sd, ratios, keys, many, starts)
    prior, uncertain = _prior_of(center, problem.priors.omega_floor), np.zeros((problem.n_ratios, problem.n_ratios))
    if (problem.noise_ratio or problem.bias_ratio) and turn >= TURNS_OF_RATIO:
        ratios = fit_variance_ratios(problem, moments, nodes, prior, n_effective, ratios)
        kept = [each._replace(weight=log_importance_weights(problem, ratios, moments, each.nodes)) for each in kept]
    last = Placed(nodes, modes, log_importance_weights(problem, ratios, moments, nodes))
    log_scales, weight = _together([*kept[1 - MOST_SETS :], last] if turn > TURNS_OF_RATIO else [last])
    drawn: HyperDraws | None
    if preview:
        basis = quadratic_features(log_scales)
        approximation = approximate(problem.priors, log_medians, basis, weight, jnp.asarray(center)[:, None])
        drawn = draw_approximation(problem.priors, approximation, seed, n_chains, n_draws)
    else:
        drawn = sample_hyperposterior(
            problem.priors, log_medians, log_scales, weight, approximation, seed, n_chains, n_draws
        )
    if drawn is None:
        return None
    eta, log_omega, diverging, importance = drawn
    omega = np.exp(log_omega)
    flat = (eta.reshape(-1, len(log_medians)).T, log_omega.reshape(-1, len(log_medians)).T)
    predictive = predict(eta, omega, problem.priors.feature_offset_sd)
    eta_mean, log_omega_mean = (jnp.asarray(part.mean(1)[:, None]) for part in flat)
    if problem.noise_ratio or problem.bias_ratio:
        uncertain = variance_ratio_covariance(problem, moments, nodes, prior, n_effective, ratios)
    shared, basis = RatioPosterior(ratios, uncertain, n_effective), quadratic_features(log_scales)
    khat = pareto_k(np.asarray(weight + log_prior(basis, eta_mean, log_omega_mean, problem.priors.feature_offset_sd)[0]))
    if len(features) >= ENOUGH_FEATURES:
        return Hyperparameters(eta, omega, shared, predictive, None, diverging, np.array(importance), khat)
    some = (part[:, components(flat[0].shape[1])] for part in flat)
    marginal = log_marginals(basis, weight, *some, problem.priors.feature_offset_sd)
    return Hyperparameters(eta, omega, shared, predictive, np.asarray(marginal), diverging, np.array(importance), khat)


def _turn_keys(keys: Array, turn: int) -> Array:
    """Keys of a turn; the first ones share theirs, so that turns differ by where nodes are and not by chance."""
    return keys if turn <= TURNS_OF_RATIO else jax.vmap(jax.random.fold_in, (0, None))(keys, turn)


def _together(sets: list[Placed]) -> tuple[Array, Array]:
    """Log-scales (node, scale, feature) and weights (node, feature) of all nodes, as of one mixture of all proposals."""
    if len(sets) == 1:
        return sets[0].nodes.log_scales, sets[0].weight
    proposals = tuple(mode for each in sets for mode in each.modes)
    weights = [each.weight + each.nodes.log_proposal - log_proposals(proposals, each.nodes.coordinates) for each in sets]
    return jnp.concatenate([each.nodes.log_scales for each in sets]), jnp.concatenate(weights)


def _see(weight: Array, basis: Array, prior: Gaussian, priors: Priors) -> bool:
    """Whether nodes see the features' posteriors under a prior: Pareto-k of nearly all features is good."""
    mean, log_sd = jnp.asarray(prior.mean)[:, None], jnp.log(jnp.asarray(prior.sd))[:, None]
    khat = pareto_k(np.asarray(weight + log_prior(basis, mean, log_sd, priors.feature_offset_sd)[0]))
    return bool(np.quantile(khat, 0.9) < GOOD_KHAT)


def _count_nodes(n_evaluations: int, n_features: int) -> int:
    """Of each feature, a power of 2: then quasi-random points are balanced."""
    return int(np.clip(2 ** int(np.log2(n_evaluations / n_features)), 256, 2048))


def components(n_draws: int) -> np.ndarray:
    """Which draws of all chains together the predictive prior is a mixture over."""
    return np.unique(np.linspace(0, n_draws - 1, N_COMPONENTS).astype(int))


def _prior_of(center: np.ndarray, omega_floor: float) -> Gaussian:
    eta, log_excess = np.split(center, 2)
    return Gaussian(eta, np.hypot(np.exp(log_excess), omega_floor))


def place_importance_samples(
    problem: Problem,
    moments: Moments,
    center: np.ndarray,
    eta_sd: np.ndarray,
    ratios: VarianceRatios,
    keys: Array,
    n_nodes: int,
    starts: tuple[Array, ...],
) -> tuple[ImportanceSample, tuple[Laplace, ...]]:
    """Nodes around the features' modes under the prior as it is, narrower, wider, and hardly pooled at all; and these modes.

    One proposal would only see an omega like its own: from nodes of a narrow prior a larger one cannot be told from a
    smaller one, and few nodes of a wide prior lie where a narrow one puts its mass.

    Parameters
    ----------
    problem, moments
        Of the features.
    center : (2 × scale,) array
        eta and log excess.
    eta_sd : (scale,) array
        How well eta is known.
    ratios : VarianceRatios
    keys : (feature,) PRNG keys
    n_nodes : int
    starts : tuple of (scale, feature) arrays
        Coordinates where the modes are looked for; each begins at the one before where there is none for it.
    """
    eta, omega = _prior_of(center, problem.priors.omega_floor)
    spreads = (0.5 * omega, omega, 2 * omega, np.hypot(np.maximum(2 * omega, 0.5), 1.5 * eta_sd))
    modes: list[Laplace] = []
    for k, spread in enumerate(spreads):
        start = starts[k] if k < len(starts) else modes[-1].mode
        modes.append(find_modes(problem, ratios, moments, Gaussian(eta, spread), start))
    # some features at a time: what is needed on the way takes ten times the room of the nodes
    size = max(1, AT_ONCE // n_nodes)
    parts = [
        draw_importance_sample(
            keys[some], tuple(Laplace(*(part[..., some] for part in mode)) for mode in modes), n_nodes, problem.pair
        )
        for some in (slice(start, start + size) for start in range(0, len(keys), size))
    ]
    nodes = ImportanceSample(*(jnp.concatenate(part, axis=-1) for part in zip(*parts, strict=True)))
    return nodes, tuple(modes)
