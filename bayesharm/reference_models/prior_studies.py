"""Studies drawn from the prior of a model, with their truth: what simulation-based calibration needs.

A fit centers each feature and divides it by its own sd, so that the standardized data of every study have mean 0 and sd 1.
The studies here are drawn from the model *given* that, exactly: their truth is distributed as the posterior of a fit claims.

The scales of the model form a group. Draw hyperparameters, effects and values, divide a feature by the sd s of its values,
and subtract their mean. With ``a − log s`` in place of the feature offset a, and all scales and effects divided by s, this
is a draw given sd and mean, but under flat priors of the offset and of the mean (the Jacobian is 1). It is kept with a
probability proportional to the proper priors at the new values: rejection sampling.

A covariate has a slope beta with a proper prior. Given the values without it, beta is drawn from its conditional density, on
a grid: of ``Normal(a') Normal(beta') / s``, at ``beta' = beta / s`` and the a' that follows. The study is then kept with a
probability proportional to the integral of this density, which is bounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import jax
import numpy as np
from numpyro.handlers import seed as seeded
from numpyro.handlers import trace, uncondition
from scipy.special import logsumexp

from bayesharm.model.design import FIXED, Design
from bayesharm.model.spec import Priors
from bayesharm.reference_models.numpyro_model import numpyro_model

NAMES = {"etas": "eta", "omega": "omega", "log_ratio": "log_ratio", "log_bias_ratio": "log_bias_ratio", "rho": "rho"}
STEP, MAX_ASINH = 0.05, 15.0  # grid of the inverse hyperbolic sine of a slope, over the sd of the other variation
BOUND = 1.01  # of the integral, over the limit that it approaches where the slope causes nearly all variation


@dataclass(frozen=True, eq=False)
class PriorStudy:
    """The features of a study, of mean 0 and sd 1, and the truth behind them.

    Attributes
    ----------
    features : (scan of the design, feature) array
    hyper : dict of arrays
        ``eta`` and ``omega`` (group,); ``log_ratio`` and ``log_bias_ratio`` (scanner,): log lambda and log kappa; with
        slopes ``rho``.
    offset : (feature,) array
        That all log-scales of a feature share.
    log_scales : (scale, feature) array
    effects : (column, feature) array
        Of all columns of the design.
    residuals : (scan of the design, feature) array
        Noise; for people scanned once, together with their participant effect.
    """

    features: np.ndarray
    hyper: dict[str, np.ndarray]
    offset: np.ndarray
    log_scales: np.ndarray
    effects: np.ndarray
    residuals: np.ndarray


def draw_studies(design: Design, n_features: int, seeds: Iterable[int]) -> Iterator[PriorStudy]:
    """Draw studies of a design from the prior of its model, one for each seed.

    Parameters
    ----------
    design : Design
        Of a model with Gaussian noise, at most one covariate, no gains and no noise ratios of single features, each feature
        divided by its own sd.
    n_features : int
        A third of the draws is kept with 20 features, and one in a hundred with 12 and a covariate.
    seeds : iterable of int
        The same seed gives the same study.
    """
    spec, n_fixed = design.spec, int((design.column_scale == FIXED).sum())
    is_other = spec.has_tails or spec.gain != "none" or spec.noise_ratio == "scanner-feature"
    if is_other or n_fixed > 2 or spec.feature_scaling != "per_feature":
        raise NotImplementedError(
            "only models with Gaussian noise, at most one covariate, feature scaling 'per_feature', no gains and no noise "
            "ratios of single features"
        )
    values = np.broadcast_to(np.arange(design.rows.max() + 1.0)[:, None], (design.rows.max() + 1, n_features))

    @jax.jit
    def draw(key: jax.Array) -> dict[str, jax.Array]:
        sites = trace(seeded(uncondition(numpyro_model), key)).get_trace(design, values)
        return {name: site["value"] for name, site in sites.items()}

    for seed in seeds:
        rng, key, study, k = np.random.default_rng(seed), jax.random.key(seed), None, 0
        while study is None:
            with jax.enable_x64(True):
                sites = {name: np.array(value) for name, value in draw(jax.random.fold_in(key, k)).items()}
            study, k = _standardize(design, sites, rng), k + 1
        yield study


def _standardize(design: Design, sites: dict[str, np.ndarray], rng: np.random.Generator) -> PriorStudy | None:
    """Standardize a draw of the model; None if it is not kept."""
    priors, x, is_fixed = design.spec.priors, design.matrix.toarray(), design.column_scale == FIXED
    is_mean = design.families == "mean"
    y, u, offset, log_probability = sites["y"], sites["effects"], sites["feature_offset"], 0.0
    for column in np.flatnonzero(is_fixed & ~is_mean):
        y -= x[:, [column]] * u[column]
        slope, log_integral = _draw_slope(x[:, column], y / np.exp(offset), priors, rng)
        u[column] = slope * np.exp(offset)
        y += x[:, [column]] * u[column]
        log_probability += log_integral.sum()
    center, sd = y.mean(0), y.std(0)
    u[is_mean] -= center
    y, u, offset, log_scales = (y - center) / sd, u / sd, offset - np.log(sd), sites["log_scales"] - np.log(sd)
    log_probability -= 0.5 * ((u[is_mean] / priors.mean_sd) ** 2).sum()
    if is_fixed.sum() == 1:
        log_probability -= 0.5 * ((offset / priors.feature_offset_sd) ** 2).sum()
    if np.log(rng.random()) > log_probability:
        return None
    hyper = {name: sites[site] for site, name in NAMES.items() if site in sites}
    return PriorStudy(y, hyper, offset, log_scales, u, y - x @ u)


def _draw_slope(x: np.ndarray, y: np.ndarray, priors: Priors, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw slopes given the values without them, for a feature offset of 0; also return the log integrals over their bound.

    With r the correlation of x and y, and ``c² = (1 − r²) var(y)``, the slope is ``(c sinh w − r sd(y)) / sd(x)`` and the sd
    of the whole is ``c cosh w``.
    """
    deviation, sd = y - y.mean(0), y.std(0)
    r = (x - x.mean()) @ deviation / len(x) / x.std() / sd
    c = np.sqrt(1 - r**2) * sd
    w = np.arange(-MAX_ASINH, MAX_ASINH, STEP)[:, None]
    whole = c * np.cosh(w)
    slope = (c * np.sinh(w) - r * sd) / x.std()
    log_density = -0.5 * ((np.log(whole) / priors.feature_offset_sd) ** 2 + (slope / whole / priors.slope_sd) ** 2)
    log_total = logsumexp(log_density, axis=0)
    below = np.cumsum(np.exp(log_density - log_total), axis=0)
    chosen = w[(below < rng.random(len(c))).sum(0).clip(max=len(w) - 1), 0] + STEP * (rng.random(len(c)) - 0.5)
    limit = 2 * np.sqrt(2 * np.pi) * priors.feature_offset_sd  # of the integral, where c is small
    log_integral = log_total + np.log(STEP) - np.log(BOUND * limit)
    assert (log_integral <= 0).all()
    return (c * np.sinh(chosen) - r * sd) / x.std(), log_integral
