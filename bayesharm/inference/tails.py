"""Heavy tails of the noise: most values are Gaussian, a share of them has Student-t noise.

With z the noise of a value over its standard deviation,

    z ~ (1 − share) Normal(0, 1) + share Student-t(df),

which is a Gaussian whose variance is 1 / weight: the weight is 1 with probability ``1 − share``, and otherwise
``weight ~ Gamma(df / 2, rate df / 2)``. With a share of 1 this is the Student-t likelihood, with a share of 0 the Gaussian
one.
Share and df are the same for all features:

    share ~ Beta(1, 1 / tail_share − 1),   1 / df ~ Uniform(0, 1).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln
from scipy import optimize, special, stats

from bayesharm.algorithms.adaptive_importance import ImportanceSettings, adaptive_importance_sampling
from bayesharm.model.spec import Priors

Array = jax.Array
N_BINS = 1024  # of log z² in the likelihood of share and df
RANGE = (-12.0, 12.0)  # of log z²; a smaller or larger value says no more
LIMIT = 12.0  # of the logits of share and 1 / df
START = np.array([-2.0, -1.0, 0.0])
SETTINGS = ImportanceSettings(max_khat=0.7)


class Tails(NamedTuple):
    """Heavy tails of the noise (a JAX pytree).

    Attributes
    ----------
    share : float
        Share of the values with Student-t noise.
    df : float
        Its degrees of freedom, above 1.
    """

    share: Array | float
    df: Array | float


def log_densities(squares: Array, tails: Tails) -> tuple[Array, Array]:
    """Log densities of Gaussian and of Student-t noise, each times its share, at squares of z."""
    share, df = tails
    power = 0.5 * (df + 1)
    gaussian = jnp.log1p(-share) - 0.5 * squares - 0.5 * np.log(2 * np.pi)
    constant = jnp.log(share) + gammaln(power) - gammaln(0.5 * df) - 0.5 * jnp.log(np.pi * df)
    return gaussian, constant - power * jnp.log1p(squares / df)


def expected_weight(squares: Array, tails: Tails) -> Array:
    """Expected weights of values, given squares of z."""
    gaussian, student = log_densities(squares, tails)
    return 1 + jax.nn.sigmoid(student - gaussian) * ((tails.df + 1) / (tails.df + squares) - 1)


def draw_weights(keys: Array, squares: Array, tails: Tails, previous: Array) -> Array:
    """Draw the weight of each value from its posterior, given squares of z.

    Whether a value is heavy-tailed is a Bernoulli draw. The Gamma distribution of heavy-tailed values has one shape for all:
    Marsaglia and Tsang (*ACM Trans. Math. Softw.* 26, 2000) accept 95% and more of their proposals. Whether a proposal is
    accepted depends neither on the previous weight nor on z, so that keeping the previous weight otherwise leaves the
    posterior invariant, and no loop is needed.

    Parameters
    ----------
    keys : (feature,) PRNG keys
    squares, previous : (scan, feature) arrays
    tails : Tails
    """

    def of_feature(key: Array) -> tuple[Array, Array]:
        first, second = jax.random.split(key)
        n = len(squares)
        return jax.random.normal(first, (n,), squares.dtype), jax.random.uniform(second, (n,), squares.dtype)

    normal, uniform = jax.vmap(of_feature, out_axes=1)(keys)
    gaussian, student = log_densities(squares, tails)
    p_heavy = jax.nn.sigmoid(student - gaussian)
    is_heavy = uniform < p_heavy
    again = jnp.where(is_heavy, uniform / p_heavy, (uniform - p_heavy) / (1 - p_heavy))  # uniform, whatever is_heavy is
    d = 0.5 * (tails.df + 1) - 1 / 3
    cube = (1 + normal / jnp.sqrt(9 * d)) ** 3
    is_accepted = (cube > 0) & (jnp.log(again) < 0.5 * normal**2 + d - d * cube + d * jnp.log(jnp.maximum(cube, 1e-30)))
    return jnp.where(is_accepted, jnp.where(is_heavy, 2 * d * cube / (tails.df + squares), 1.0), previous)


class TailDraws(NamedTuple):
    """Posterior draws of the tails.

    Attributes
    ----------
    share, df : (chain, draw) arrays
    is_reliable : bool
        False if the importance sample that they come from is not reliable.
    """

    share: np.ndarray
    df: np.ndarray
    is_reliable: bool = True

    def resample(self, shape: tuple[int, int], rng: np.random.Generator) -> TailDraws:
        """Return another number of draws."""
        chosen = rng.choice(self.share.size, shape)
        return self._replace(share=self.share.ravel()[chosen], df=self.df.ravel()[chosen])

    @property
    def typical(self) -> Tails:
        """One value of share and df that stands for all draws.

        Where hardly any value is heavy-tailed, df may be anything, and where df is large, the share: the mean of 1 / df
        counts each draw by its share.
        """
        share = self.share.mean()
        return Tails(float(share), float(1 / max(np.mean(self.share / self.df) / share, np.exp(-LIMIT))))


def scale_information(tails: Tails) -> float:
    """Information of a value on the log of the noise sd, over that of a Gaussian value, whose weight is known.

    Of Student-t noise alone it is df / (df + 3).
    """
    power = np.linspace(-25, 25, 20_001)  # log z: the integrand is smooth there, and vanishes at both ends
    z = np.exp(power)
    density = (1 - tails.share) * stats.norm.pdf(z) + tails.share * stats.t.pdf(z, tails.df)
    with jax.enable_x64(True):
        slope = z * np.asarray(expected_weight(jnp.asarray(z**2), tails))
    squares = (z * slope - 1) ** 2 * density * z
    return float(np.trapezoid(squares, power))  # both signs of z, over 2


def default_tails(priors: Priors) -> Tails:
    """Share and df before any data."""
    return Tails(priors.tail_share, 4.0)


def draw_tails(
    squares: np.ndarray, weight: float, priors: Priors, shape: tuple[int, int], rng: np.random.Generator
) -> TailDraws:
    """Draw share and df from their posterior given squares of z, by adaptive importance sampling.

    The scale of z is unknown too, and integrated out: the noise sds with which z was computed are those that other tails
    call for. With the scale fixed, tails learned in rounds would creep toward their final values (Liu, Rubin & Wu,
    *Biometrika* 85, 1998, for EM).

    Parameters
    ----------
    squares : array
        Of all observed values, in any shape.
    weight : float
        Power of the likelihood of each.
    priors : Priors
    shape : (chain, draw)
    rng : numpy.random.Generator
    """
    edges = np.linspace(*RANGE, N_BINS + 1)
    logs = np.log(np.maximum(squares, np.exp(RANGE[0]))).clip(*RANGE)
    counts, _ = np.histogram(logs, edges)
    middle = np.exp(0.5 * (edges[1:] + edges[:-1]))[counts > 0, None]
    counts = weight * counts[counts > 0]

    def log_density(position: np.ndarray) -> np.ndarray:
        logit_share, logit_inverse, log_scale = position
        scaled = middle * np.exp(-2 * log_scale)
        share, df = special.expit(logit_share), 1 + np.exp(-logit_inverse)
        power = 0.5 * (df + 1)
        gaussian = np.log1p(-share) - 0.5 * scaled - 0.5 * np.log(2 * np.pi)
        constant = np.log(share) + special.gammaln(power) - special.gammaln(0.5 * df) - 0.5 * np.log(np.pi * df)
        likelihood = counts @ (np.logaddexp(gaussian, constant - power * np.log1p(scaled / df)) - log_scale)
        log_prior = (1 / priors.tail_share - 2) * np.log1p(-share) - 0.5 * log_scale**2
        jacobian = np.log(share) + np.log1p(-share) + special.log_expit(logit_inverse) + special.log_expit(-logit_inverse)
        return np.where((np.abs(position) < LIMIT).all(0), likelihood + log_prior + jacobian, -np.inf)

    found = optimize.minimize(lambda x: -float(log_density(x[:, None])[0]), START, method="Nelder-Mead")
    sample = adaptive_importance_sampling(log_density, found.x, 0.3 * np.eye(3), rng, SETTINGS)
    logit_share, logit_inverse, _ = sample.draw(shape[0] * shape[1], rng).T.reshape(3, *shape)
    return TailDraws(special.expit(logit_share), 1 + np.exp(-logit_inverse), sample.is_reliable)
