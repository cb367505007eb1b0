"""Agreement of the three densities of a model: collapsed for the inference, explicit in NumPyro, and in PyMC.

The collapsed density has all effects integrated out. It must equal the integral of the explicit density over effects and
feature offsets, which is exact too (:mod:`bayesharm.reference_models.marginal`). The PyMC density must equal the explicit
one at every point, effects included; it is sampled in other coordinates, and so compared after the change of variables.
With Student-t noise, effects are integrated out given the weights of the scans: the collapsed density is compared at weights
of 1, where the noise is Gaussian.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pandas as pd

from bayesharm.model.design import Design

LIMIT = 1e-10  # largest difference of log densities, relative where these are above 1
TAILS = ("tail_share", "inverse_df")
COLLAPSED, PYMC = "collapsed = explicit", "PyMC = explicit"
Point = Mapping[str, np.ndarray]


def random_point(design: Design, n_features: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draw a value of every unknown, as :func:`bayesharm.reference_models.numpyro_model.log_joint` takes them."""
    spec, n_scanners = design.spec, len(design.scanners)
    shapes: dict[str, tuple[int, ...]] = {
        "eta": (design.n_eta,),
        "log_scale": (len(design.scales), n_features),
        "u": (len(design.columns), n_features),
    }
    if spec.noise_ratio != "homogeneous":
        shapes["raw"] = (n_scanners,)
    if spec.bias_ratio == "scanner":
        shapes["raw_bias"] = (n_scanners,)
    if spec.gain == "scanner":
        shapes["raw_gain"] = (n_scanners,)
    if design.correlations:
        shapes["slope_correlation"] = (len(design.correlations),)
    if spec.feature_scaling == "per_feature":
        shapes["feature_offset"] = (n_features,)
    point = {"omega_excess": rng.exponential(size=len(design.hyper_groups))}
    point |= {name: rng.normal(size=shape) for name, shape in shapes.items()}
    return point | {name: rng.uniform(size=()) for name in TAILS} if spec.has_tails else point


def compare_densities(design: Design, features: np.ndarray, points: Sequence[Point]) -> pd.DataFrame:
    """Compare the densities of a model at some points.

    Parameters
    ----------
    design : Design
    features : (scan, feature) array
        All rows of the scans table; NaN where a feature lacks a scan.
    points : sequence of mappings
        As from :func:`random_point`.

    Returns
    -------
    DataFrame by densities
        `points`, and the largest `difference` of the log densities, relative where these are above 1. PyMC is left out if
        it is not installed.
    """
    from bayesharm.reference_models.marginal import explicit_densities

    gaussian, without_tails = design, points
    if design.spec.has_tails:
        gaussian = replace(design, spec=replace(design.spec, likelihood="gaussian"))
        without_tails = [{name: value for name, value in point.items() if name not in TAILS} for point in points]
    marginal = explicit_densities(gaussian, features, without_tails).marginal
    pairs = {COLLAPSED: (collapsed_densities(gaussian, features, without_tails), marginal)}
    if find_spec("pymc") is not None:
        from bayesharm.reference_models.pymc_model import log_joint

        joint = explicit_densities(design, features, points).joint
        pairs[PYMC] = np.array([log_joint(design, features, point) for point in points]), joint
    rows = {
        name: {"points": len(points), "difference": np.max(np.abs(one - other) / np.maximum(1, np.abs(other)))}
        for name, (one, other) in pairs.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("densities")


def collapsed_densities(design: Design, features: np.ndarray, points: Sequence[Point]) -> np.ndarray:
    """Compute the log density that the inference samples, with all constants, at some points; (point,)."""
    import jax
    import jax.numpy as jnp

    from bayesharm.inference.joint_density import Parameters, log_density
    from bayesharm.likelihood.moments import compute_moments
    from bayesharm.likelihood.problem import make_problem

    used = features[design.rows]
    unit = float(np.sqrt(np.nanvar(used, axis=0).mean())) if design.spec.feature_scaling == "common" else None
    evaluate = jax.jit(log_density, static_argnums=0)
    with jax.enable_x64(True):
        problem = make_problem(design, has_missing=bool(np.isnan(used).any()))
        moments = jax.tree.map(jnp.asarray, compute_moments(design, features, unit)[0])
        densities = [
            evaluate(problem, moments, Parameters(*map(jnp.asarray, _parameters(design, point)))) for point in points
        ]
        constants = [_constants(design, used, point) for point in points]
        return np.array(densities) + constants


def _parameters(design: Design, point: Point) -> tuple[np.ndarray, ...]:
    """Return a point as the inference holds it: with noise ratios of each feature, lambda is in them."""
    sizes = dict.fromkeys(("raw", "raw_bias", "raw_gain"), len(design.scanners))
    sizes |= {"slope_correlation": len(design.correlations)}
    raw = {name: point.get(name, np.zeros(size)) for name, size in sizes.items()}
    eta, log_scale = point["eta"], np.array(point["log_scale"])
    if design.n_eta < len(log_scale):
        eta = np.concatenate([eta, raw["raw"] / 2])
        log_scale[design.n_eta :] += (raw["raw"] - raw["raw"].mean())[:, None] / 2
        raw["raw"] = np.zeros(len(design.scanners))
    return eta, point["omega_excess"], np.concatenate(list(raw.values())), log_scale


def _constants(design: Design, values: np.ndarray, point: Point) -> float:
    """Return the constants that the inference leaves out: of the hyperpriors, and of the known precision of scans."""
    priors = design.spec.priors
    of_scans = 0.5 * (np.log(design.scan_weight)[:, None] * ~np.isnan(values)).sum()
    sds = {
        "eta": priors.eta_sd,
        "omega_excess": priors.omega_sd / 2,  # half-normal
        "raw": priors.noise_ratio_sd,
        "raw_bias": priors.bias_ratio_sd,
        "raw_gain": priors.gain_sd,
        "slope_correlation": priors.correlation_sd,
    }
    return of_scans - sum(point[name].size * np.log(sd * np.sqrt(2 * np.pi)) for name, sd in sds.items() if name in point)
