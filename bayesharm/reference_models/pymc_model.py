"""The same model, written independently in PyMC, non-centered: a second opinion on small studies."""

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
    """Write the model down in PyMC.

    Scales and effects are products of their prior sd and a standard normal variable (`z_scale`, `z_effect`).
    In the user's units: `scale`, and for each of ``design.effects`` its contrasts, `effect_measurement` ….

    Parameters
    ----------
    design : Design
    features : (scan, feature) array or DataFrame
        All rows of the scans table, in the user's units, complete. A DataFrame's columns name the features.

    Returns
    -------
    pymc.Model

    Raises
    ------
    BayesharmError
        PyMC is not installed.
    InputError
        A feature has missing values or is constant.
    """
    _require("pymc")
    import pymc as pm
    import pytensor.tensor as pt

    priors = design.spec.priors
    table = pd.DataFrame(features).iloc[design.rows].astype(float)
    unfit = table.columns[table.isna().any() | (table.nunique() < 2)]
    if len(unfit):
        raise InputError(
            "The PyMC model takes complete features that vary.",
            got=f"missing values or a constant in {shorten(unfit)}",
            expected="a number for every scan, not all equal",
            do="leave those features out",
        )
    unit = table.std(ddof=0)
    if design.spec.feature_scaling == "common":
        unit[:] = np.sqrt((unit**2).mean())
    standardized = (table - table.mean()) / unit

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

    # Prior sds as arrays: PyTensor takes the logarithm of a plain 0.5 in single precision.
    omega_sd = np.full(len(design.scales), priors.omega_sd)
    ratio_sd = np.full(len(design.scanners), priors.noise_ratio_sd)

    with pm.Model(coords=coords) as model:
        eta = pm.Normal("eta", np.log(design.scale_medians), priors.eta_sd, dims="family")
        excess = pm.HalfNormal("excess", omega_sd, dims="family")
        omega = pm.Deterministic("omega", pt.sqrt(excess**2 + priors.omega_floor**2), dims="family")
        z_scale = pm.Normal("z_scale", dims=("family", "feature"))
        log_scale = eta[:, None] + omega[:, None] * z_scale
        if design.spec.feature_scaling == "per_feature":
            amplitude = pm.Normal("amplitude", 0, np.full(table.shape[1], priors.feature_offset_sd), dims="feature")
            log_scale += amplitude
        pm.Deterministic("log_scale", log_scale, dims=("family", "feature"))
        scale = pt.exp(log_scale)

        if design.spec.noise_ratio == "scanner":
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
            own = np.flatnonzero(design.bias_ratio_of >= 0)
            prior_sd = prior_sd[own].set(prior_sd[own] * bias[design.bias_ratio_of[own]][:, None])
        z_effect = pm.Normal("z_effect", dims=("column", "feature"))
        u = pm.Deterministic("u", prior_sd * z_effect, dims=("column", "feature"))

        noise = scale[0] ** 2 * pt.exp(log_ratio)[scanner_of_scan][:, None]
        person = scanned_once * scale[design.single_scan_scale] ** 2
        mean = design.matrix.toarray() @ u
        pm.Normal("y", mean, pt.sqrt(noise + person), observed=standardized, dims=("scan", "feature"))

        pm.Deterministic("scale", scale * unit.to_numpy(), dims=("family", "feature"))
        for group in design.effects:
            effect = (group.contrasts @ u) * unit.to_numpy()
            pm.Deterministic(f"effect_{group.name}", effect, dims=(group.dim, "feature"))
    return model


def log_joint(design: Design, features: np.ndarray | pd.DataFrame, point: Mapping[str, np.ndarray]) -> float:
    """Log joint density of the PyMC model, in terms of scales and effects, not of `z_scale` and `z_effect`.

    It is a density with respect to Lebesgue measure on eta, excess (not its logarithm, in which PyMC samples),
    raw, log_scale and u, and on the standardized features; priors and all constants are included.

    Parameters
    ----------
    design : Design
    features : (scan, feature) array or DataFrame
    point : mapping of arrays
        ``eta`` (scale,), ``excess`` (scale,) > 0, ``log_scale`` (scale, feature), ``u`` (column, feature),
        with a unit for each feature ``amplitude`` (feature,), and if they are by scanner ``raw`` (scanner,) of the noise
        and ``raw_bias`` of biases;
        in standard deviations of a feature.
    """
    model = build_pymc(design, features)
    eta, excess, log_scale, u = (np.asarray(point[name], float) for name in ("eta", "excess", "log_scale", "u"))
    omega = np.hypot(excess, design.spec.priors.omega_floor)
    amplitude = np.asarray(point.get("amplitude", 0.0), float)
    effect_sd = np.empty_like(u)
    for column, scale in enumerate(design.column_scale):
        effect_sd[column] = design.column_sd[column] if scale == FIXED else np.exp(log_scale[scale])
    if design.spec.bias_ratio == "scanner":
        raw_bias = np.asarray(point["raw_bias"], float)
        own = np.flatnonzero(design.bias_ratio_of >= 0)
        effect_sd[own] *= np.exp((raw_bias - raw_bias.mean()) / 2)[design.bias_ratio_of[own], None]
    values = {
        "eta": eta,
        "excess_log__": np.log(excess),
        "z_scale": (log_scale - eta[:, None] - amplitude) / omega[:, None],
        "z_effect": u / effect_sd,
    }
    if design.spec.feature_scaling == "per_feature":
        values["amplitude"] = amplitude
    if design.spec.noise_ratio == "scanner":
        values["raw"] = np.asarray(point["raw"], float)
    if design.spec.bias_ratio == "scanner":
        values["raw_bias"] = raw_bias
    # Evaluated once, so that compiling would take longer than computing.
    joint = model.compile_logp(jacobian=False, mode="FAST_COMPILE")(values)
    # d(log_scale)/d(z_scale) = omega and du/d(z_effect) = prior sd.
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
    """Sample the posterior.

    Parameters
    ----------
    design : Design
    features : (scan, feature) array or DataFrame
    seed : int
    draws, chains, tune : int
        Draws kept in each chain, chains, and iterations thrown away first.
    sampler : {'nutpie', 'pymc', 'numpyro'}

    Returns
    -------
    xarray.DataTree
        As PyMC returns it; see :func:`build_pymc` for the names under ``posterior``.

    Raises
    ------
    BayesharmError
        PyMC or the sampler is not installed.
    """
    _require("pymc", *([sampler] if sampler != "pymc" else []))
    import pymc as pm

    double = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)  # for all threads: nutpie samples in its own
    try:
        with build_pymc(design, features):
            # JAX compiles this model in seconds, C and Numba in up to a minute.
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
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise BayesharmError(
            f"Not installed: {', '.join(missing)}.",
            expected="what the PyMC reference model needs, an optional part of bayesharm",
            do="pip install 'bayesharm[pymc]'",
        )
