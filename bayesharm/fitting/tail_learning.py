"""Learning of the tails of the noise, and of the weights with which all other shared parameters are learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from bayesharm.algorithms.random_streams import Stage
from bayesharm.fitting.context import FitContext
from bayesharm.fitting.gibbs import GibbsDraws
from bayesharm.fitting.weighted_blocks import WeightedBlockSampler, pull_in, standardize
from bayesharm.inference.effective_features import count_independent_for_ratios
from bayesharm.inference.hyper_approximation import approximate_hyperparameters
from bayesharm.inference.hyperparameters import MANY_FEATURES, N_COMPONENTS, Hyperparameters, component_indices
from bayesharm.inference.learning import temper_hyperparameters
from bayesharm.inference.placement import prior_at
from bayesharm.inference.predictive_prior import PredictivePrior, make_predictive_prior
from bayesharm.inference.tails import TailDraws, default_tails, draw_tails
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.problem import Gaussian, Problem

N_DRAWS = 250  # of each chain, for the posterior of the tails, as many as of the other hyperparameters
FIRST_SPREAD = 1.0  # prior sd of the log-scales of a feature before anything is learned


class LearnedWeights(NamedTuple):
    """Weights of the scans of some features.

    Attributes
    ----------
    moments : Moments
        With the posterior means of the weights.
    tails : TailDraws
    n_independent_features : float
        Effective number of independent features.
    """

    moments: Moments
    tails: TailDraws
    n_independent_features: float


def learn_weights(context: FitContext, features: np.ndarray, report: Callable[[str], object]) -> LearnedWeights:
    """Learn the tails of the noise from some features, and the weights of their scans.

    Two rounds of Gibbs sampling: one with a wide prior of the scales, and one with the prior and the variance ratios that
    follow from the weights of the first.

    Parameters
    ----------
    context : FitContext
    features : (feature,) int array
    report : callable
        Receives lines of progress.
    """
    problem, rng = context.problem, np.random.default_rng([context.seed, Stage.TAILS])
    prior, ratios = Gaussian(problem.log_medians, np.full(len(problem.log_medians), FIRST_SPREAD)), None
    tails, n_independent = default_tails(problem.priors), 1.0
    for k in range(2):
        sampler = WeightedBlockSampler(
            context,
            problem.equal_ratios if ratios is None else ratios,
            _same_for_all(prior, len(features), context.n_features),
            tails,
        )
        values, draws = _sample(sampler, features)
        pulled = pull_in(values, draws)
        n_independent = count_independent_for_ratios(context.design, context.dataset.scans, pulled)
        squares = draws.state.squares[np.isfinite(draws.state.squares)]
        weight = min(1.0, n_independent / len(features)) / context.settings.chains
        posterior = draw_tails(squares, weight, problem.priors, (context.settings.chains, N_DRAWS), rng)
        tails, moments = posterior.typical, sampler.moments(values, draws.weight)
        report(f"round {k + 1} of weights: share {tails.share:.3f} with heavy tails, {tails.df:.1f} degrees of freedom")
        if k == 0:
            with context.devices.in_use("float64"):
                found = approximate_hyperparameters(problem, moments, n_independent, report)
            prior, ratios = prior_at(problem.hierarchy, found.mode), found.ratios.mean
    return LearnedWeights(moments, posterior, n_independent)


def prior_without_one(problem: Problem, hyper: Hyperparameters) -> PredictivePrior:
    """Make the predictive prior of a feature from the posterior of the hyperparameters, without the feature itself.

    With few features, the hyperparameters are less certain without one: the likelihood has the power (F − 1) / F.
    """
    if hyper.log_evidence is None:
        return make_predictive_prior(hyper, problem.hierarchy.offset_sd)
    power, origin = 1 - 1 / hyper.n_features, problem.half_log_lambda(hyper.ratios.mean)
    log_omega = np.log(hyper.omega)[..., : problem.hierarchy.n_groups]
    eta, log_omega = temper_hyperparameters(problem, hyper.eta + origin, log_omega, power)
    chosen = component_indices(hyper.eta[..., 0].size)
    eta, log_omega = (part.reshape(-1, part.shape[-1])[chosen].T for part in (eta - origin, log_omega))
    return PredictivePrior(eta, log_omega, np.full((len(chosen), hyper.n_features), -np.log(len(chosen))))


def _same_for_all(prior: Gaussian, n_sampled: int, n_features: int) -> PredictivePrior:
    """The same prior for every feature, in the shape of the predictive prior, so that one program serves both."""
    n_components = 1 if n_sampled >= MANY_FEATURES else N_COMPONENTS
    mean, log_sd = (np.repeat(part[:, None], n_components, axis=1) for part in (prior.mean, np.log(prior.sd)))
    return PredictivePrior(mean, log_sd, np.full((n_components, n_features), -np.log(n_components)))


def _sample(sampler: WeightedBlockSampler, features: np.ndarray) -> tuple[np.ndarray, GibbsDraws]:
    """Sample features in blocks; return standardized values and draws of all of them."""
    size, parts = sampler.context.block_size, []
    for start in range(0, len(features), size):
        used = features[start : start + size]
        block = np.pad(used, (0, size - len(used)), mode="edge")
        values = standardize(sampler.context, block, sampler.context.moments(block)[1])
        draws = sampler.draw(block, values)
        parts.append(_take(len(used), (values, draws)))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=-1), *parts)


def _take(n: int, parts: tuple[np.ndarray, GibbsDraws]) -> tuple[np.ndarray, GibbsDraws]:
    """Return the parts of the first features."""
    return jax.tree.map(lambda leaf: leaf[..., :n], parts)
