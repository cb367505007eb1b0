"""The same model, written independently in PyMC: non-centred, dims named. A second opinion on small studies."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd

from bayesharm.design import FIXED, Design
from bayesharm.errors import BayesharmError, InputError, shorten


def build_pymc(design: Design, features: np.ndarray | pd.DataFrame) -> Any:
    """Write the model down in PyMC.

    Scales and effects are products of their prior sd and a standard normal variable (`z_scale`, `z_effect`). In the
    user's units: `scale`, and for each of ``design.effects`` its contrasts, `effect_measurement` and so on.

    Parameters
    ----------
    design : Design
    features : (scan, feature) array or DataFrame
        All rows of the scans table, in the user's units, complete. The columns of a DataFrame name the features.

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

    priors = design.spec.priors
    table = pd.DataFrame(features).iloc[design.rows].astype(float)
    unfit = table.columns[table.isna().any() | (table.nunique() < 2)]
    if len(unfit):
        raise InputError("The PyMC model takes complete features that vary.",
                         got=f"missing values or a constant in {shorten(unfit)}",
                         expected="a number for every scan, not all equal", do="leave those features out")
    unit = table.std(ddof=0)
    standardized = (table - table.mean()) / unit

    coords: dict[str, Any] = {
        "scan": design.rows, "feature": table.columns, "family": list(design.scales),
        "scanner": list(design.scanners), "column": list(design.columns),
    }
    coords |= {group.dim: list(group.levels) for group in design.effects}
    scanner_of_scan = design.class_scanner[design.scan_class]
    scanned_once = design.class_once[design.scan_class].astype(float)[:, None]
    free = np.flatnonzero(design.column_scale != FIXED)
    fixed = np.flatnonzero(design.column_scale == FIXED)

    with pm.Model(coords=coords) as model:
        eta = pm.Normal("eta", np.log(design.scale_medians), priors.eta_sd, dims="family")
        omega = pm.HalfNormal("omega", priors.omega_sd, dims="family")
        z_scale = pm.Normal("z_scale", dims=("family", "feature"))
        log_scale = pm.Deterministic("log_scale", eta[:, None] + omega[:, None] * z_scale, dims=("family", "feature"))
        scale = pm.math.exp(log_scale)

        if design.spec.noise_ratio == "scanner":
            raw = pm.Normal("raw", 0, priors.noise_ratio_sd, dims="scanner")
            log_ratio = pm.Deterministic("log_ratio", raw - raw.mean(), dims="scanner")
        else:
            log_ratio = pm.math.zeros_like(np.zeros(len(design.scanners)))

        prior_sd = pm.math.zeros_like(np.zeros((len(design.columns), table.shape[1])))
        prior_sd = prior_sd[free].set(scale[design.column_scale[free]])
        prior_sd = prior_sd[fixed].set(design.column_sd[fixed][:, None])
        z_effect = pm.Normal("z_effect", dims=("column", "feature"))
        u = pm.Deterministic("u", prior_sd * z_effect, dims=("column", "feature"))

        noise = scale[0] ** 2 * pm.math.exp(log_ratio)[scanner_of_scan][:, None]
        person = scanned_once * scale[design.once_scale] ** 2
        pm.Normal("y", design.matrix.toarray() @ u, pm.math.sqrt(noise + person), observed=standardized,
                  dims=("scan", "feature"))

        pm.Deterministic("scale", scale * unit.to_numpy(), dims=("family", "feature"))
        for group in design.effects:
            pm.Deterministic(f"effect_{group.name}", (group.contrasts @ u) * unit.to_numpy(),
                             dims=(group.dim, "feature"))
    return model
