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

    n_eta = design.n_eta
    has_delta = len(design.scales) > n_eta  # noise ratios by scanner and feature
    coords: dict[str, Any] = {
        "scan": design.rows,
        "feature": table.columns,
        "family": list(design.scale_labels),
        "scanner": list(design.scanners),
        "column": list(design.column_labels),
    }
    coords |= {group.dim: list(group.levels) for group in design.effects}
    groups = None if has_delta else "family"  # omega[-1] is that of all delta
    scanner_of_scan = design.class_scanner[design.scan_class]
    scanned_once = design.class_single_scan[design.scan_class].astype(float)[:, None]
    relative_noise = (design.class_variance[design.scan_class] / design.scan_weight)[:, None]
    free = np.flatnonzero(design.column_scale != FIXED)
    fixed = np.flatnonzero(design.column_scale == FIXED)

    with pm.Model(coords=coords) as model:
        # Prior sds are arrays, because PyTensor computes the logarithm of a plain 0.5 in single precision.
        omega_sd, ratio_sd = np.full(n_eta + has_delta, priors.omega_sd), np.ones(len(design.scanners))

        def ratios(name: str, raw_name: str, sd: float, is_known: np.ndarray | int = 1) -> Any:
            """Log ratios of the scanners, centered over them."""
            raw = pm.Normal(raw_name, 0, sd * ratio_sd, dims="scanner")
            return pm.Deterministic(name, (raw - raw.mean()) * is_known, dims="scanner")

        eta = pm.Normal("eta", np.log(design.scale_medians[:n_eta]), priors.eta_sd, dims=groups)
        omega_excess = pm.HalfNormal("omega_excess", omega_sd, dims=groups)
        omega = pm.Deterministic("omega", pt.sqrt(omega_excess**2 + priors.omega_floor**2), dims=groups)
        z_scale = pm.Normal("z_scale", dims=("family", "feature"))
        log_scale = eta[:, None] + omega[:n_eta, None] * z_scale[:n_eta]
        if design.spec.feature_scaling == "per_feature":
            offset_sd = np.full(table.shape[1], priors.feature_offset_sd)
            log_scale += pm.Normal("feature_offset", 0, offset_sd, dims="feature")
        if has_delta:
            log_scale = pt.concatenate([log_scale, omega[-1] * z_scale[n_eta:]])
        pm.Deterministic("log_scale", log_scale, dims=("family", "feature"))
        scale = pt.exp(log_scale)

        prior_sd = pt.zeros((len(design.columns), table.shape[1]))
        prior_sd = prior_sd[free].set(scale[design.column_scale[free]])
        prior_sd = prior_sd[fixed].set(design.column_sd[fixed][:, None])
        if design.spec.bias_ratio == "scanner":
            bias = pt.exp(ratios("log_bias_ratio", "raw_bias", priors.bias_ratio_sd) / 2)
            columns = np.flatnonzero(design.bias_ratio_of >= 0)
            prior_sd = prior_sd[columns].set(prior_sd[columns] * bias[design.bias_ratio_of[columns]][:, None])
        z_effect = z = pm.Normal("z_effect", dims=("column", "feature"))
        if design.correlations:
            correlation_sd = np.full(len(design.correlations), priors.correlation_sd)
            rho = pt.tanh(pm.Normal("slope_correlation", 0, correlation_sd))
            slopes = _slopes(design)
            rho = rho[design.correlation_of[slopes]][:, None]
            z = z[slopes].set(rho * z_effect[design.partner[slopes]] + pt.sqrt(1 - rho**2) * z_effect[slopes])
        u = pm.Deterministic("u", prior_sd * z, dims=("column", "feature"))

        noise_sd = scale[0] * np.sqrt(relative_noise)
        if design.spec.noise_ratio != "homogeneous":
            noise_sd *= pt.exp(ratios("log_ratio", "raw", priors.noise_ratio_sd) / 2)[scanner_of_scan][:, None]
        if has_delta:
            noise_sd *= scale[design.class_noise_scale[design.scan_class]]
        person_sd, x = scanned_once * scale[design.single_scan_scale], pt.as_tensor(design.matrix.toarray())
        if design.spec.gain == "scanner":
            gain = pt.exp(ratios("log_gain", "raw_gain", priors.gain_sd, design.gain_is_known))
            gain, of_people = gain[scanner_of_scan][:, None], np.flatnonzero(design.has_gain)
            x, person_sd = x[:, of_people].set(x[:, of_people] * gain), person_sd * gain
        mean = x @ u
        sd, y = pt.sqrt(noise_sd**2 + person_sd**2), standardized.to_numpy()
        dims: Any = ("scan", "feature")
        if np.isnan(y).any():
            seen, dims = np.nonzero(~np.isnan(y)), None
            mean, sd, y = mean[seen], sd[seen], y[seen]
        if design.spec.has_tails:
            share = pm.Beta("tail_share", 1.0, np.float64(1 / priors.tail_share - 1))
            inverse_df = pm.Uniform("inverse_df", np.float64(0), np.float64(1))
            kinds = [pm.Normal.dist(mean, sd), pm.StudentT.dist(nu=1 / inverse_df, mu=mean, sigma=sd)]
            pm.Mixture("y", pt.stack([1 - share, share]), kinds, observed=y, dims=dims)
        else:
            pm.Normal("y", mean, sd, observed=y, dims=dims)

        unit = np.where(np.arange(len(design.scales))[:, None] < n_eta, feature_scale.to_numpy(), 1.0)
        pm.Deterministic("scale", scale * unit, dims=("family", "feature"))
        for group in design.effects:
            effect = (group.contrasts @ u) * feature_scale.to_numpy()
            pm.Deterministic(f"effect_{group.name}", effect, dims=(group.dim, "feature"))
    return model


def _slopes(design: Design) -> np.ndarray:
    """Return the columns that are slopes of other columns."""
    return np.flatnonzero([name in {family.slope_name for family in design.spec.slopes} for name in design.families])


def log_joint(design: Design, features: np.ndarray | pd.DataFrame, point: Mapping[str, np.ndarray]) -> float:
    """Compute the log joint density of the PyMC model as a function of scales and effects, not of `z_scale` and `z_effect`.

    The density is with respect to Lebesgue measure on eta, omega_excess (PyMC itself samples its logarithm), raw ratios,
    log_scale and u, and on the standardized features. It includes priors and all constants.

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
    eta, omega_excess, log_scale, u = (np.asarray(point[name], float) for name in ("eta", "omega_excess", "log_scale", "u"))
    omega = np.hypot(omega_excess, design.spec.priors.omega_floor)[design.scale_group]
    center = np.zeros_like(log_scale)
    center[: design.n_eta] = eta[:, None] + point.get("feature_offset", 0.0)
    effect_sd = np.empty_like(u)
    for column, scale in enumerate(design.column_scale):
        effect_sd[column] = design.column_sd[column] if scale == FIXED else np.exp(log_scale[scale])
    if design.spec.bias_ratio == "scanner":
        raw_bias = np.asarray(point["raw_bias"], float)
        columns = np.flatnonzero(design.bias_ratio_of >= 0)
        effect_sd[columns] *= np.exp((raw_bias - raw_bias.mean()) / 2)[design.bias_ratio_of[columns], None]
    z_effect = u / effect_sd
    if design.correlations:
        slopes = _slopes(design)
        rho = np.tanh(point["slope_correlation"])[design.correlation_of[slopes], None]
        z_effect[slopes] = (z_effect[slopes] - rho * z_effect[design.partner[slopes]]) / np.sqrt(1 - rho**2)
        effect_sd[slopes] *= np.sqrt(1 - rho**2)
    values = {name: np.asarray(value, float) for name, value in point.items() if name in model.named_vars}
    del values["omega_excess"], values["log_scale"], values["u"]
    values |= {
        "omega_excess_log__": np.log(omega_excess),
        "z_scale": (log_scale - center) / omega[:, None],
        "z_effect": z_effect,
    }
    for name, transform in (("tail_share", "logodds"), ("inverse_df", "interval")):
        if name in values:
            share = values.pop(name)
            values[f"{name}_{transform}__"] = np.log(share / (1 - share))
    # Minimal compilation, because the function is evaluated only once.
    joint = model.compile_logp(jacobian=False, mode="FAST_COMPILE")(values)
    # Change of variables: d(log_scale)/d(z_scale) = omega and du/d(z_effect) = prior sd, of slopes given the intercept.
    return float(joint - log_scale.shape[1] * np.log(omega).sum() - np.log(effect_sd).sum())


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
