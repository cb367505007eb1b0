"""Joint sampling of hyperparameters, variance ratios and scales of a few features, over the collapsed likelihood.

With few features the hyperparameters are hardly known, and each feature's marginal likelihood is needed over a range that
importance samples cannot cover. There is then also little to sample: one NUTS of NumPyro takes all parameters together.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.handlers import reparam
from numpyro.infer import MCMC, NUTS, init_to_median
from numpyro.infer.reparam import LocScaleReparam

from bayesharm.algorithms.random_streams import Stage, stage_key
from bayesharm.inference.hyperparameters import Hyperparameters
from bayesharm.inference.hyperposterior import predictive_moments
from bayesharm.inference.scales import N_SAMPLES, ScaleDraws
from bayesharm.inference.variance_ratios import RatioPosterior
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.problem import Problem
from bayesharm.likelihood.ratios import VarianceRatios

FEW_FEATURES = 32  # features up to which all are sampled together
LEAST_DRAWS = 1000  # draws of a chain: they are less independent than draws of single features
MOST_DIVERGENT = 0.01  # share of divergent draws above which all features count as divergent


class Joint(NamedTuple):
    """Draws of the hyperparameters and of the scales; the effects are integrated out."""

    hyper: Hyperparameters
    scales: ScaleDraws


def collapsed_model(problem: Problem, moments: Moments) -> None:
    """Define the model with all effects integrated out, as a NumPyro model.

    Its priors are written separately from those of :mod:`bayesharm.reference_models`, which check it. `amplitude` is the
    feature offset and `excess` is omega_excess. NumPyro orders parameters by the names of their sites, so these names are
    part of the random stream: other names give other draws.
    """
    priors, n_features = problem.priors, moments.squares.shape[1]
    log_medians = jnp.asarray(problem.log_medians)
    eta = numpyro.sample("eta", dist.Normal(log_medians, priors.eta_sd))
    omega_excess = numpyro.sample("excess", dist.HalfNormal(jnp.full(len(log_medians), priors.omega_sd)))
    omega = numpyro.deterministic("omega", jnp.hypot(omega_excess, priors.omega_floor))
    mean, sd = (jnp.repeat(value[:, None], n_features, axis=1) for value in (eta, omega))
    total_sd = jnp.sqrt(sd[0] ** 2 + priors.feature_offset_sd**2)
    log_noise = numpyro.sample("log_noise", dist.Normal(mean[0], total_sd))
    if priors.feature_offset_sd:  # the data determine the noise well, so the offset is sampled given the noise
        share = (priors.feature_offset_sd / total_sd) ** 2
        given_noise = dist.Normal(share * (log_noise - mean[0]), jnp.sqrt(share) * sd[0])
        mean += numpyro.sample("amplitude", given_noise)
    other = numpyro.sample("log_scale", dist.Normal(mean[1:], sd[1:]))
    log_scales = numpyro.deterministic("log_scales", jnp.concatenate([log_noise[None], other]))
    equal = jnp.zeros(problem.n_scanners)
    noise = numpyro.sample("raw", dist.Normal(equal, priors.noise_ratio_sd)) if problem.noise_ratio else equal
    bias = numpyro.sample("raw_bias", dist.Normal(equal, priors.bias_ratio_sd)) if problem.bias_ratio else equal
    ratios = VarianceRatios(noise - noise.mean(), bias - bias.mean())
    numpyro.deterministic("log_ratio", ratios.to_vector())
    statistics = problem.likelihood.weighted(ratios, moments)
    numpyro.factor("features", problem.likelihood.log_likelihood(statistics, log_scales).sum())


def sample_joint(
    problem: Problem,
    moments: Moments,
    n_independent_features: float,
    *,
    seed: int,
    n_chains: int = 4,
    n_warmup: int = 500,
    n_draws: int = LEAST_DRAWS,
) -> Joint:
    """Sample hyperparameters, variance ratios and scales of a few features together, in double precision.

    Parameters
    ----------
    problem : Problem
    moments : Moments
        Of all features.
    n_independent_features : float
        Effective number of independent features; only reported, since here every feature counts fully.
    seed, n_chains, n_warmup, n_draws : int
    """
    non_centered = ["log_scale", *(["amplitude"] if problem.priors.feature_offset_sd else [])]
    model = reparam(partial(collapsed_model, problem), config=dict.fromkeys(non_centered, LocScaleReparam(0)))
    mcmc = MCMC(
        NUTS(model, init_strategy=init_to_median, target_accept_prob=0.9),
        num_warmup=n_warmup,
        num_samples=n_draws,
        num_chains=n_chains,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(stage_key(seed, Stage.JOINT), jax.tree.map(jnp.asarray, moments), extra_fields=("diverging", "num_steps"))
    draws = jax.tree.map(np.asarray, mcmc.get_samples(group_by_chain=True))
    counts = jax.tree.map(np.asarray, mcmc.get_extra_fields(group_by_chain=True))
    hyper = _hyperparameters(problem, draws, moments.squares.shape[1], n_independent_features)
    return Joint(hyper._replace(diverging=int(counts["diverging"].sum())), _scale_draws(draws, counts))


def _hyperparameters(
    problem: Problem, draws: dict[str, np.ndarray], n_features: int, n_independent_features: float
) -> Hyperparameters:
    """Collect the draws of the parameters that all features share."""
    log_ratio = draws["log_ratio"].reshape(-1, problem.n_ratios)
    mean = VarianceRatios.from_vector(log_ratio.mean(0))
    return Hyperparameters(
        eta=draws["eta"],
        omega=draws["omega"],
        ratios=RatioPosterior(mean, np.atleast_2d(np.cov(log_ratio.T)), n_independent_features),
        predictive=predictive_moments(draws["eta"], draws["omega"], problem.priors.feature_offset_sd),
        log_marginal=None,
        diverging=0,
        importance=np.full(2, np.nan),
        khat=np.full(n_features, np.nan),
    )


def _scale_draws(draws: dict[str, np.ndarray], counts: dict[str, np.ndarray]) -> ScaleDraws:
    """Collect the draws of the log-scales; a divergence counts for every feature, if there are many."""
    log_scales, diverging = draws["log_scales"], counts["diverging"]
    n_features = log_scales.shape[-1]
    diverging = diverging & (diverging.mean() > MOST_DIVERGENT)
    return ScaleDraws(
        log_scales=jnp.asarray(log_scales),
        diverging=jnp.repeat(diverging[..., None], n_features, axis=2),
        n_steps=jnp.repeat(counts["num_steps"][..., None], n_features, axis=2),
        log_weights=jnp.full((N_SAMPLES, n_features), jnp.nan),
        last=jnp.asarray(log_scales[:, -1]),
    )
