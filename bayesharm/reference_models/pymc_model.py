"""Second reference implementation: the full model in PyMC, non-centered, written independently. For small studies."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import jax
import numpy as np
import pandas as pd

from bayesharm.errors import BayesharmError, InputError, shorten
from bayesharm.model.design import FIXED, Design


def build_pymc(design: Design, features: np.ndarray | pd.DataFrame) -> Any:
    """Build the PyMC model.

    Scales and effects are transformed standard normal variables (`z_scale`, `z_effect`). In the user's units: `scale`, and
    the contrasts of each of ``design.effects``, `effect_measurement` ….

    Parameters
    ----------
    design : Design
        Design of the scans.
    features : (scan, feature) array or DataFrame
        All rows of the scans table, in the user's units; NaN where a feature lacks a scan. The columns of a DataFrame are
        the feature names.

    Returns
    -------
    pymc.Model

    Raises
    ------
    BayesharmError
        PyMC is not installed.
    InputError
        A feature is constant or has infinite values.
    """
    _require("pymc")
    import pymc as pm
    import pytensor.tensor as pt

    priors = design.spec.priors
    table = pd.DataFrame(features).iloc[design.rows].astype(float)
    unfit = table.columns[np.isinf(table).any() | (table.nunique() < 2)]
    if len(unfit):
        raise InputError(
            "The PyMC model needs features that vary.",
            got=f"a constant, infinite values or none in {shorten(unfit)}",
            expected="finite numbers, not all equal",
            do="omit these features",
        )
    feature_scale = table.std(ddof=0)
    if design.spec.feature_scaling == "common":
        feature_scale[:] = np.sqrt((feature_scale**2).mean())
    standardized = (table - table.mean()) / feature_scale

    coords: dict[str, Any] = {
        "scan": design.rows,
        "feature": table.columns,
        "family": list(design.scale_labels),
        "scanner": list(design.scanners),
        "column": list(design.column_labels),
    }
    coords |= {group.dim: list(group.levels) for group in design.effects}
    scanner_of_scan = design.class_scanner[design.scan_class]
    scanned_once = design.class_single_scan[design.scan_class].astype(float)[:, None]
    free = np.flatnonzero(design.column_scale != FIXED)
    fixed = np.flatnonzero(design.column_scale == FIXED)

    # Prior sds are arrays, because PyTensor computes the logarithm of a plain 0.5 in single precision.
    omega_sd = np.full(len(design.scales), priors.omega_sd)
    ratio_sd = np.full(len(design.scanners), priors.noise_ratio_sd)

    with pm.Model(coords=coords) as model:
        eta = pm.Normal("eta", np.log(design.scale_medians), priors.eta_sd, dims="family")
        omega_excess = pm.HalfNormal("omega_excess", omega_sd, dims="family")
        omega = pm.Deterministic("omega", pt.sqrt(omega_excess**2 + priors.omega_floor**2), dims="family")
        z_scale = pm.Normal("z_scale", dims=("family", "feature"))
        log_scale = eta[:, None] + omega[:, None] * z_scale
        if design.spec.feature_scaling == "per_feature":
            offset_sd = np.full(table.shape[1], priors.feature_offset_sd)
            log_scale += pm.Normal("feature_offset", 0, offset_sd, dims="feature")
        pm.Deterministic("log_scale", log_scale, dims=("family", "feature"))
        scale = pt.exp(log_scale)

        if design.spec.noise_ratio != "homogeneous":
            raw = pm.Normal("raw", 0, ratio_sd, dims="scanner")
            log_ratio = pm.Deterministic("log_ratio", raw - raw.mean(), dims="scanner")
        else:
            log_ratio = pt.zeros(len(design.scanners))

        prior_sd = pt.zeros((len(design.columns), table.shape[1]))
        prior_sd = prior_sd[free].set(scale[design.column_scale[free]])
        prior_sd = prior_sd[fixed].set(design.column_sd[fixed][:, None])
        if design.spec.bias_ratio == "scanner":
            raw_bias = pm.Normal("raw_bias", 0, np.full(len(design.scanners), priors.bias_ratio_sd), dims="scanner")
            log_bias = pm.Deterministic("log_bias_ratio", raw_bias - raw_bias.mean(), dims="scanner")
            bias = pt.exp(log_bias / 2)
            columns = np.flatnonzero(design.bias_ratio_of >= 0)
            prior_sd = prior_sd[columns].set(prior_sd[columns] * bias[design.bias_ratio_of[columns]][:, None])
        z_effect = pm.Normal("z_effect", dims=("column", "feature"))
        standardized_effect = z_effect
        if design.correlations:
            correlation = pm.Normal("correlation", 0, np.full(len(design.correlations), priors.correlation_sd))
            slope, intercept, family = _slopes(design)
            rho = pt.tanh(correlation)[family][:, None]
            correlated = rho * z_effect[intercept] + pt.sqrt(1 - rho**2) * z_effect[slope]
            standardized_effect = z_effect[slope].set(correlated)
        u = pm.Deterministic("u", prior_sd * standardized_effect, dims=("column", "feature"))

        x = design.matrix.toarray()
        gain = pt.ones(len(design.rows))
        if design.spec.gain == "scanner":
            raw_gain = pm.Normal("raw_gain", 0, np.full(len(design.scanners), priors.gain_sd), dims="scanner")
            log_gain = pm.Deterministic("log_gain", raw_gain - raw_gain.mean(), dims="scanner")
            gain = pt.exp(log_gain * design.gain_is_known.astype(float))[scanner_of_scan]
            x = pt.as_tensor(x * ~design.has_gain) + gain[:, None] * (x * design.has_gain)
        noise_variance = scale[0] ** 2 * pt.exp(log_ratio)[scanner_of_scan][:, None]
        noise_variance *= (design.class_variance[design.scan_class] / design.scan_weight)[:, None]
        noise_scale = design.class_noise_scale[design.scan_class]
        own = np.flatnonzero(noise_scale >= 0)
        if len(own):
            noise_variance = noise_variance[own].set(noise_variance[own] * scale[noise_scale[own]] ** 2)
        participant_variance = scanned_once * (gain[:, None] * scale[design.single_scan_scale]) ** 2
        mean = x @ u
        sd, y = pt.sqrt(noise_variance + participant_variance), standardized.to_numpy()
        if np.isnan(y).any():
            seen = np.nonzero(~np.isnan(y))
            pm.Normal("y", mean[seen], sd[seen], observed=y[seen])
        else:
            pm.Normal("y", mean, sd, observed=y, dims=("scan", "feature"))

        pm.Deterministic("scale", scale * feature_scale.to_numpy(), dims=("family", "feature"))
        for group in design.effects:
            effect = (group.contrasts @ u) * feature_scale.to_numpy()
            pm.Deterministic(f"effect_{group.name}", effect, dims=(group.dim, "feature"))
    return model


def log_joint(design: Design, features: np.ndarray | pd.DataFrame, point: Mapping[str, np.ndarray]) -> float:
    """Compute the log joint density of the PyMC model as a function of scales and effects, not of `z_scale` and `z_effect`.

    The density is with respect to Lebesgue measure on eta, omega_excess (PyMC itself samples its logarithm), raw, log_scale
    and u, and on the standardized features. It includes priors and all constants.

    Parameters
    ----------
    design : Design
        Design of the scans.
    features : (scan, feature) array or DataFrame
        All rows of the scans table, in the user's units.
    point : mapping of arrays
        As for :func:`bayesharm.reference_models.numpyro_model.log_joint`.
    """
    model = build_pymc(design, features)
    names = ("eta", "omega_excess", "log_scale", "u")
    eta, omega_excess, log_scale, u = (np.asarray(point[name], float) for name in names)
    omega = np.hypot(omega_excess, design.spec.priors.omega_floor)
    feature_offset = np.asarray(point.get("feature_offset", 0.0), float)
    effect_sd = np.empty_like(u)
    for column, scale in enumerate(design.column_scale):
        effect_sd[column] = design.column_sd[column] if scale == FIXED else np.exp(log_scale[scale])
    if design.spec.bias_ratio == "scanner":
        raw_bias = np.asarray(point["raw_bias"], float)
        columns = np.flatnonzero(design.bias_ratio_of >= 0)
        effect_sd[columns] *= np.exp((raw_bias - raw_bias.mean()) / 2)[design.bias_ratio_of[columns], None]
    z_effect, log_volume = u / effect_sd, np.log(effect_sd).sum()
    if design.correlations:
        slope, intercept, family = _slopes(design)
        rho = np.tanh(np.asarray(point["correlation"], float))[family][:, None]
        z_effect[slope] = (z_effect[slope] - rho * z_effect[intercept]) / np.sqrt(1 - rho**2)
        log_volume += 0.5 * u.shape[1] * np.log(1 - rho**2).sum()
    values = {
        "eta": eta,
        "omega_excess_log__": np.log(omega_excess),
        "z_scale": (log_scale - eta[:, None] - feature_offset) / omega[:, None],
        "z_effect": z_effect,
    }
    if design.spec.feature_scaling == "per_feature":
        values["feature_offset"] = feature_offset
    values |= {name: np.asarray(point[name], float) for name in ("raw", "raw_gain", "correlation") if name in point}
    if design.spec.bias_ratio == "scanner":
        values["raw_bias"] = raw_bias
    # Minimal compilation, because the function is evaluated only once.
    joint = model.compile_logp(jacobian=False, mode="FAST_COMPILE")(values)
    # Change of variables: d(log_scale)/d(z_scale) = omega; du/d(z_effect) = prior sd, for slopes times sqrt(1 - rho²).
    return float(joint - log_scale.shape[1] * np.log(omega).sum() - log_volume)


def _slopes(design: Design) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns of slopes, those of their intercepts, and the correlation that each pair has; (slope,) int arrays."""
    names = {family.slope_name for family in design.spec.slopes}
    slope = np.array([j for j, column in enumerate(design.columns) if column.family in names], int)
    return slope, design.partner[slope], design.correlation_of[slope]


def sample_pymc(
    design: Design,
    features: np.ndarray | pd.DataFrame,
    *,
    seed: int,
    draws: int = 1000,
    chains: int = 4,
    tune: int = 1000,
    sampler: str = "nutpie",
) -> Any:
    """Sample the posterior with NUTS.

    Parameters
    ----------
    design : Design
        Design of the scans.
    features : (scan, feature) array or DataFrame
        As for :func:`build_pymc`.
    seed : int
        Seed of the sampler.
    draws, chains, tune : int
        Number of draws per chain, of chains, and of discarded tuning iterations.
    sampler : {'nutpie', 'pymc', 'numpyro'}
        Implementation of NUTS.

    Returns
    -------
    xarray.DataTree
        The result of PyMC; see :func:`build_pymc` for the names in the group ``posterior``.

    Raises
    ------
    BayesharmError
        PyMC or the sampler is not installed.
    """
    _require("pymc", *([sampler] if sampler != "pymc" else []))
    import pymc as pm

    double = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)  # for all threads, because nutpie samples in its own
    try:
        with build_pymc(design, features):
            # JAX compiles this model in seconds; C and Numba need up to a minute.
            return pm.sample(
                draws=draws,
                tune=tune,
                chains=chains,
                random_seed=seed,
                nuts_sampler=sampler,
                backend="jax",
                nuts={"target_accept": 0.9},
                progressbar=False,
            )
    finally:
        jax.config.update("jax_enable_x64", double)


def _require(*packages: str) -> None:
    """Raise a `BayesharmError` unless all packages are installed."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise BayesharmError(
            f"Not installed: {', '.join(missing)}.",
            expected="the optional dependencies of the PyMC reference model",
            do="pip install 'bayesharm[pymc]'",
        )
