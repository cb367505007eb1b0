"""Reference implementation: the full model in NumPyro, with every effect sampled. For small studies and tests.

For scan n, feature f (centered, and divided by its own sd over the scans of the model or by a common one), scale c,
scanner k, effect column j::

    eta[c] ~ Normal(log median[c], eta_sd)
    omega_excess[c] ~ HalfNormal(omega_sd)       omega[c]² = omega_excess[c]² + omega_floor²
    feature_offset[f] ~ Normal(0, feature_offset_sd)  0 with a common feature scaling
    log_scale[c,f] ~ Normal(eta[c] + feature_offset[f], omega[c])
    log delta[k,f] ~ Normal(0, omega_delta)      noise ratios by scanner and feature, the last of the log_scale
    raw[k] ~ Normal(0, noise_ratio_sd)           log lambda = raw - mean(raw)
    raw_bias[k] ~ Normal(0, bias_ratio_sd)       log kappa = raw_bias - mean(raw_bias)
    raw_gain[k] ~ Normal(0, gain_sd)             log g = raw_gain - mean(raw_gain); 0 where travelers do not show it
    slope_correlation[c] ~ Normal(0, correlation_sd)  rho = tanh(slope_correlation)
    u[j,f] ~ Normal(0, tau[scale of j, f])       mean and covariates: Normal(0, fixed sd);
                                                 effects of scanner k: sd times sqrt(kappa[k])
    slope ~ Normal(rho tau_slope / tau u, sqrt(1 - rho²) tau_slope)  given the intercept u of its level
    y[n,f] ~ Normal((X u)[n,f], sqrt(sigma[f]² lambda delta² v[n] + single_scan[n] g² tau_p[f]²))

X is multiplied by the g of the scanner where an effect is a difference between people; v is the relative noise variance.
Only the participant effects of people scanned once are integrated out: they are part of the noise of their scan.

With the likelihood `student-t`, ``tail_share ~ Beta(1, 1 / mean − 1)``, ``inverse_df ~ Uniform(0, 1)``, and y is a mixture:
with probability `tail_share` Student-t with ``1 / inverse_df`` degrees of freedom, with the same mean and scale.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import xarray as xr
from numpyro.handlers import reparam
from numpyro.infer import MCMC, NUTS, init_to_uniform
from numpyro.infer.reparam import LocScaleReparam
from numpyro.infer.util import log_density

from bayesharm.errors import InputError, shorten
from bayesharm.model.design import FIXED, Design
from bayesharm.model.labels import NOISE_RATIO


@dataclass(frozen=True, eq=False)
class ExplicitPosterior:
    """Labeled posterior draws of all parameters, with dimensions (chain, draw, …).

    Attributes
    ----------
    hyper : Dataset
        ``eta`` and ``omega`` (…, family), for scales in standard deviations of a feature, eta 0 and one omega for all noise
        ratios by scanner and feature; ``log_ratio``, ``log_bias_ratio`` and ``log_gain`` (…, scanner): log lambda, log kappa
        and log g; ``slope_correlation`` (…, slopes): rho of each family with slopes; with
        Student-t noise ``tail_share`` and ``inverse_df``.
    scales : (chain, draw, family, feature) DataArray
        Scales in the units of the features; noise ratios by scanner and feature have none.
    effects : dict of DataArray
        Contrasts of each of ``design.effects``, (chain, draw, level, feature) in the units of the features; the level
        dimension is named `scanner`, `population`, ….
    sampler : Dataset
        ``diverging`` and ``n_steps`` (chain, draw), the diagnostics of NUTS.
    """

    hyper: xr.Dataset
    scales: xr.DataArray
    effects: dict[str, xr.DataArray]
    sampler: xr.Dataset


def numpyro_model(design: Design, features: np.ndarray | pd.DataFrame) -> None:
    """Define the generative model as a NumPyro program in the centered parametrization: each site is the quantity itself.

    The noise scale of a feature is well determined by the data. Therefore its marginal prior comes first, ``log_noise ~
    Normal(eta, omega² + feature_offset_sd²)``, followed by the feature offset given the noise scale. The joint density is
    the same as in the opposite order.

    Parameters
    ----------
    design : Design
        Design of the scans.
    features : (scan, feature) array or DataFrame
        All rows of the scans table, in the user's units; NaN where a feature lacks a scan, which then has no density.
    """
    y = _standardize(design, features)[0]
    priors, n_features, n_scanners = design.spec.priors, y.shape[1], len(design.scanners)

    medians, group = design.scale_medians[: design.n_eta], design.scale_group
    eta = numpyro.sample("eta", dist.Normal(jnp.log(medians), priors.eta_sd))
    eta = numpyro.deterministic("etas", jnp.pad(eta, (0, group.max() + 1 - len(medians))))
    omega_excess = numpyro.sample("omega_excess", dist.HalfNormal(jnp.full(len(eta), priors.omega_sd)))
    omega = numpyro.deterministic("omega", jnp.hypot(omega_excess, priors.omega_floor))
    center, spread = (jnp.repeat(value[group, None], n_features, axis=1) for value in (eta, omega))
    feature_offset_sd = design.spec.feature_offset_sd
    total_sd = jnp.sqrt(spread[0] ** 2 + feature_offset_sd**2)
    log_noise = numpyro.sample("log_noise", dist.Normal(center[0], total_sd))
    if feature_offset_sd:
        share = (feature_offset_sd / total_sd) ** 2
        given_noise = dist.Normal(share * (log_noise - center[0]), jnp.sqrt(share) * spread[0])
        feature_offset = numpyro.sample("feature_offset", given_noise)
        center += (group < design.n_eta)[:, None] * feature_offset
    other = numpyro.sample("log_scale", dist.Normal(center[1:], spread[1:]))
    log_scale = numpyro.deterministic("log_scales", jnp.concatenate([log_noise[None], other]))
    scale = jnp.exp(log_scale)

    def sample_centered(name: str, sd: float, is_free: bool) -> jax.Array:
        """Sample the log ratios of the scanners, and center them."""
        raw = numpyro.sample(name, dist.Normal(jnp.zeros(n_scanners), sd)) if is_free else jnp.zeros(n_scanners)
        return raw - raw.mean()

    log_ratio = sample_centered("raw", priors.noise_ratio_sd, design.spec.noise_ratio != "homogeneous")
    log_bias = sample_centered("raw_bias", priors.bias_ratio_sd, design.spec.bias_ratio == "scanner")
    log_gain = sample_centered("raw_gain", priors.gain_sd, design.spec.gain == "scanner") * design.gain_is_known
    for name, ratio in (("log_ratio", log_ratio), ("log_bias_ratio", log_bias), ("log_gain", log_gain)):
        numpyro.deterministic(name, ratio)

    prior_sd = jnp.where((design.column_scale == FIXED)[:, None], design.column_sd[:, None], scale[design.column_scale])
    prior_sd *= jnp.where(design.bias_ratio_of >= 0, jnp.exp(0.5 * log_bias[design.bias_ratio_of]), 1.0)[:, None]
    first, second = _order_partners(design)
    u = jnp.zeros(prior_sd.shape).at[first].set(numpyro.sample("u", dist.Normal(0.0, prior_sd[first])))
    if len(second):
        no_correlation = jnp.zeros(len(design.correlations))
        rho = jnp.tanh(numpyro.sample("slope_correlation", dist.Normal(no_correlation, priors.correlation_sd)))
        numpyro.deterministic("rho", rho)
        partner, rho = design.partner[second], rho[design.correlation_of[second], None]
        given_intercept = dist.Normal(
            rho * prior_sd[second] / prior_sd[partner] * u[partner], jnp.sqrt(1 - rho**2) * prior_sd[second]
        )
        u = u.at[second].set(numpyro.sample("slope", given_intercept))
    numpyro.deterministic("effects", u)

    scanner = design.class_scanner[design.scan_class]
    gain, has_own_ratio = jnp.exp(log_gain)[scanner, None], design.class_noise_scale[design.scan_class] >= 0
    relative_noise = design.class_variance[design.scan_class] / design.scan_weight
    variance = scale[0] ** 2 * (jnp.exp(log_ratio)[scanner] * relative_noise)[:, None]
    variance *= jnp.where(has_own_ratio[:, None], scale[design.class_noise_scale[design.scan_class]] ** 2, 1.0)
    single_scan = design.class_single_scan[design.scan_class]
    variance += single_scan[:, None] * (gain * scale[design.single_scan_scale]) ** 2
    x = design.matrix.toarray() * jnp.where(design.has_gain, gain, 1.0)
    observed = ~np.isnan(y)
    noise = dist.Normal(x @ u, jnp.sqrt(variance))
    if design.spec.has_tails:
        share = numpyro.sample("tail_share", dist.Beta(1.0, 1 / priors.tail_share - 1))
        inverse_df = numpyro.sample("inverse_df", dist.Uniform(0.0, 1.0))
        kind = dist.Categorical(probs=jnp.broadcast_to(jnp.stack([1 - share, share]), (*y.shape, 2)))
        noise = dist.MixtureGeneral(kind, [noise, dist.StudentT(1 / inverse_df, noise.loc, noise.scale)])
    with numpyro.handlers.mask(mask=observed):
        numpyro.sample("y", noise, obs=np.where(observed, y, 0.0))


def log_joint(design: Design, features: np.ndarray | pd.DataFrame, point: Mapping[str, np.ndarray]) -> float:
    """Compute the log joint density of the NumPyro model, including priors and all constants.

    The density is with respect to Lebesgue measure on the coordinates of `point` (``omega_excess`` itself, not its
    logarithm: no Jacobian is added) and on the standardized features.

    Parameters
    ----------
    design : Design
        Design of the scans.
    features : (scan, feature) array or DataFrame
        All rows of the scans table, in the user's units.
    point : mapping of arrays
        In standard deviations of a feature: ``eta`` (group,) and ``omega_excess`` (group,) > 0, groups as in
        ``design.scale_group``, those of noise ratios without eta; ``log_scale`` (scale, feature), ``u`` (column, feature);
        with ``feature_scaling='per_feature'`` also ``feature_offset`` (feature,); with ratios by scanner also ``raw``
        (scanner,) for the noise, ``raw_bias`` for the biases and ``raw_gain`` for the gains; with slopes
        ``slope_correlation``, one for each of ``design.correlations``; with Student-t noise
        ``tail_share`` and ``inverse_df``, numbers between 0 and 1.
    """
    _standardize(design, features)  # raises for invalid features
    with jax.enable_x64(True):
        values = {name: jnp.asarray(value, float) for name, value in point.items()}
        return float(jax.jit(partial(traced_log_joint, design, features))(values))  # quicker than one operation at a time


def traced_log_joint(design: Design, features: np.ndarray | pd.DataFrame, point: Mapping[str, jax.Array]) -> jax.Array:
    """Compute :func:`log_joint` of a point that JAX may trace, such as to differentiate."""
    first, second = _order_partners(design)
    sites = {**point, "log_noise": point["log_scale"][0], "log_scale": point["log_scale"][1:]}
    sites |= {"u": point["u"][first], "slope": point["u"][second]}
    return log_density(numpyro_model, (design, features), {}, sites)[0]


def sample_explicit(
    design: Design,
    features: np.ndarray | pd.DataFrame,
    *,
    seed: int,
    n_chains: int = 4,
    n_warmup: int = 1000,
    n_draws: int = 1000,
) -> ExplicitPosterior:
    """Sample the posterior with NUTS, in float64 regardless of the JAX settings.

    Parameters
    ----------
    design : Design
        Design of the scans.
    features : (scan, feature) array or DataFrame
        All rows of the scans table, in the user's units. The columns of a DataFrame are the feature names; features of an
        array are numbered.
    seed : int
        The same seed gives the same draws on the same machine with the same library versions.
    n_chains, n_warmup, n_draws : int
        Number of chains, of discarded warm-up iterations, and of draws per chain. The chains run as one vectorized program.

    Returns
    -------
    ExplicitPosterior

    Raises
    ------
    InputError
        The features do not match the design, have infinite values or are constant.
    """
    sd = _standardize(design, features)[1]
    with jax.enable_x64(True):
        model = reparam(partial(numpyro_model, design, features), config=_parametrization(design))
        kernel = NUTS(model, init_strategy=init_to_uniform(radius=0.5), target_accept_prob=0.9)
        mcmc = MCMC(
            kernel,
            num_warmup=n_warmup,
            num_samples=n_draws,
            num_chains=n_chains,
            chain_method="vectorized",
            progress_bar=False,
        )
        mcmc.run(jax.random.key(seed), extra_fields=("diverging", "num_steps"))
        sites = jax.tree.map(np.asarray, mcmc.get_samples(group_by_chain=True))
        counts = jax.tree.map(np.asarray, mcmc.get_extra_fields(group_by_chain=True))

    draws = {"chain": np.arange(n_chains), "draw": np.arange(n_draws)}
    groups = [*design.scale_labels[: design.n_eta], NOISE_RATIO][: design.scale_group.max() + 1]
    feature = {"feature": pd.DataFrame(features).columns.to_numpy()}
    arrays = partial(_labeled, draws)
    hyper = {name: arrays(sites[site], {"family": groups}) for name, site in (("eta", "etas"), ("omega", "omega"))}
    for name in ("log_ratio", "log_bias_ratio", *(["log_gain"] if design.spec.gain == "scanner" else [])):
        hyper[name] = arrays(sites[name], {"scanner": list(design.scanners)})
    if design.correlations:
        hyper["slope_correlation"] = arrays(sites["rho"], {"slopes": list(design.correlations)})
    hyper |= {name: arrays(sites[name], {}) for name in ("tail_share", "inverse_df") if name in sites}
    effects = {
        group.name: arrays((group.contrasts @ sites["effects"]) * sd, {group.dim: list(group.levels), **feature})
        for group in design.effects
    }
    unit = np.where(design.scale_group[:, None] < design.n_eta, sd, 1.0)
    return ExplicitPosterior(
        hyper=xr.Dataset(hyper),
        scales=arrays(np.exp(sites["log_scales"]) * unit, {"family": list(design.scale_labels), **feature}),
        effects=effects,
        sampler=xr.Dataset({"diverging": arrays(counts["diverging"], {}), "n_steps": arrays(counts["num_steps"], {})}),
    )


def _order_partners(design: Design) -> tuple[np.ndarray, np.ndarray]:
    """Divide the columns into those sampled first, and the slopes, sampled given the intercept of their level."""
    is_second = (design.partner >= 0) & (design.partner < np.arange(len(design.partner)))
    return np.flatnonzero(~is_second), np.flatnonzero(is_second)


def _labeled(draws: Mapping[str, Any], values: np.ndarray, labels: Mapping[str, Any]) -> xr.DataArray:
    """Label an array (chain, draw, …)."""
    return xr.DataArray(values, {**draws, **labels}, [*draws, *labels])


def _standardize(design: Design, features: np.ndarray | pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return the centered features of the scans in the model, divided by `sd`, and `sd` in the user's units."""
    values = np.asarray(features, float)
    if values.ndim != 2 or len(values) <= design.rows.max():
        raise InputError(
            "The features do not match the scans.",
            got=f"an array of shape {values.shape}",
            expected=f"(scan, feature), row {design.rows.max()} among the scans",
            do="pass the features of all rows of the scans table",
        )
    y = values[design.rows]
    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of features without any value, which are refused below
        mean, sd, low, high = np.nanmean(y, 0), np.nanstd(y, 0), np.nanmin(y, 0), np.nanmax(y, 0)
    unfit = np.flatnonzero(~(np.isfinite(sd) & (high > low)))
    if len(unfit):
        raise InputError(
            "The reference model needs features that vary.",
            got=f"a constant, infinite values or none in the feature columns {shorten(unfit)}",
            expected="finite numbers, not all equal",
            do="omit these features",
        )
    if design.spec.feature_scaling == "common":
        sd = np.full_like(sd, np.sqrt((sd**2).mean()))
    return (y - mean) / sd, sd


def _parametrization(design: Design) -> dict[str, LocScaleReparam]:
    """Choose the parametrization of each quantity for NUTS, between centered (1) and non-centered (0).

    The better the data determine an effect, the more centered it should be (Gorinova, Moore and Hoffman 2020, *Automatic
    reparameterisation of probabilistic programs*). The value is the share of the data in the posterior precision of the
    effect, computed at half the prior median of its scale, because centered effects are a problem at small scales. For
    components of a scanner effect the share is from the joint precision matrix: data cannot separate what they have in
    common. Log-scales are non-centered, because few features determine omega poorly. With feature offsets the noise scale
    is the exception: its marginal prior is always wide.
    """
    fixed = design.column_scale == FIXED
    sums_of_squares = (design.matrix.toarray() ** 2).sum(axis=0)
    signal = sums_of_squares * (design.scale_medians[design.column_scale] / 2) ** 2
    share = np.where(fixed, 1.0, signal / (signal + design.scale_medians[0] ** 2))
    if design.of_scanner.shape[1] > 1:
        prior = np.where(fixed, design.column_sd, design.scale_medians[design.column_scale] / 2)
        scaled_columns = design.matrix.toarray() * prior / design.scale_medians[0]
        is_component = np.isin(np.arange(len(prior)), design.of_scanner)
        posterior = np.linalg.inv(np.eye(len(prior)) + scaled_columns.T @ scaled_columns)  # in units of the prior variance
        share = np.where(is_component, 1 - np.diag(posterior), share)
    first, second = _order_partners(design)
    effects = {"u": LocScaleReparam(share[first, None])}
    if len(second):
        effects["slope"] = LocScaleReparam(share[second, None])
    return effects | dict.fromkeys(
        ["log_scale", "feature_offset" if design.spec.feature_offset_sd else "log_noise"], LocScaleReparam(0)
    )
