"""All scales of a few features and what they share, in one NUTS over the collapsed likelihood.

With few features the hyperparameters are hardly known, and each feature's marginal likelihood is needed over a range that
importance nodes cannot cover. Then there is also little to sample: NumPyro's NUTS takes everything, the noise ratio too.
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
from bayesharm.inference.hyperposterior import predict
from bayesharm.inference.scales import ScaleDraws
from bayesharm.inference.variance_ratios import RatioPosterior
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.problem import Problem
from bayesharm.likelihood.ratios import VarianceRatios

FEW_FEATURES = 32  # up to so many are sampled together
LEAST_DRAWS = 1000  # of a chain: these draws are less independent than those of single features
MOST_DIVERGENT = 0.01  # so many divergences of all together count as divergences of each feature


class Joint(NamedTuple):
    """Draws of everything but the effects."""

    hyper: Hyperparameters
    scales: ScaleDraws


def collapsed_model(problem: Problem, moments: Moments) -> None:
    """The model with all effects integrated out; priors are those of the explicit model, written apart from it."""
    priors, n_features = problem.priors, moments.squares.shape[1]
    log_medians = jnp.asarray(problem.log_medians)
    eta = numpyro.sample("eta", dist.Normal(log_medians, priors.eta_sd))
    excess = numpyro.sample("excess", dist.HalfNormal(jnp.full(len(log_medians), priors.omega_sd)))
    omega = numpyro.deterministic("omega", jnp.hypot(excess, priors.omega_floor))
    center, spread = (jnp.repeat(value[:, None], n_features, axis=1) for value in (eta, omega))
    total_sd = jnp.sqrt(spread[0] ** 2 + priors.feature_offset_sd**2)
    log_noise = numpyro.sample("log_noise", dist.Normal(center[0], total_sd))
    if priors.feature_offset_sd:
        share = (priors.feature_offset_sd / total_sd) ** 2
        given_noise = dist.Normal(share * (log_noise - center[0]), jnp.sqrt(share) * spread[0])
        center += numpyro.sample("amplitude", given_noise)
    other = numpyro.sample("log_scale", dist.Normal(center[1:], spread[1:]))
    log_scales = numpyro.deterministic("log_scales", jnp.concatenate([log_noise[None], other]))
    no_ratio = jnp.zeros(problem.n_scanners)
    noise = numpyro.sample("raw", dist.Normal(no_ratio, priors.noise_ratio_sd)) if problem.noise_ratio else no_ratio
    bias = numpyro.sample("raw_bias", dist.Normal(no_ratio, priors.bias_ratio_sd)) if problem.bias_ratio else no_ratio
    ratios = VarianceRatios(noise - noise.mean(), bias - bias.mean())
    numpyro.deterministic("log_ratio", ratios.to_vector())
    statistics = problem.likelihood.weighted(ratios, moments)
    numpyro.factor("features", problem.likelihood.log_likelihood(statistics, log_scales).sum())


def sample_joint(
    problem: Problem,
    moments: Moments,
    n_effective: float,
    *,
    seed: int,
    n_chains: int = 4,
    n_warmup: int = 500,
    n_draws: int = LEAST_DRAWS,
) -> Joint:
    """Sample hyperparameters, noise ratio and scales of a few features together, in double precision.

    Parameters
    ----------
    problem : Problem
    moments : Moments
        Of all features.
    n_effective : float
        As how many independent features they count; only told on, since here all count.
    seed, n_chains, n_warmup, n_draws : int
    """
    non_centered = ["log_scale", *(["amplitude"] if problem.priors.feature_offset_sd else [])]  # noise is known well
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
    n_features = moments.squares.shape[1]

    ratio = draws["log_ratio"].reshape(-1, problem.n_ratios)
    hyper = Hyperparameters(
        eta=draws["eta"],
        omega=draws["omega"],
        ratios=RatioPosterior(VarianceRatios.from_vector(ratio.mean(0)), np.atleast_2d(np.cov(ratio.T)), n_effective),
        predictive=predict(draws["eta"], draws["omega"], problem.priors.feature_offset_sd),
        log_marginal=None,
        diverging=int(counts["diverging"].sum()),
        importance=np.full(2, np.nan),
        khat=np.full(n_features, np.nan),
    )
    log_scales, failed = draws["log_scales"], counts["diverging"]
    failed = failed & (failed.mean() > MOST_DIVERGENT)
    scales = ScaleDraws(
        log_scales=jnp.asarray(log_scales),
        diverging=jnp.repeat(failed[..., None], n_features, axis=2),
        n_steps=jnp.repeat(counts["num_steps"][..., None], n_features, axis=2),
        log_weights=jnp.full((128, n_features), jnp.nan),
        last=jnp.asarray(log_scales[:, -1]),
    )
    return Joint(hyper, scales)
