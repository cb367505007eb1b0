"""Oracle of a simulated longitudinal study: the exact posterior of effects and slopes given the true variances."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bayesharm.datasets.longitudinal import AGE, COLUMNS, LEVELS, covariate_columns
from bayesharm.datasets.oracle import OraclePosterior
from bayesharm.datasets.simulate import Simulation


def longitudinal_oracle(simulation: Simulation, age: float = AGE) -> dict[str, OraclePosterior]:
    """Compute the exact posterior given the true scales, noise ratios and slope correlation.

    Bayesian linear regression with known variances; the mean of a feature and its covariates have flat priors.

    Parameters
    ----------
    simulation : Simulation
        From :func:`bayesharm.datasets.longitudinal.simulate_longitudinal`.
    age : float
        Age of the scanner effects, in years.

    Returns
    -------
    dict of OraclePosterior
        ``measurement``: scanner effects at that age, and ``measurement_slope``: their change per year of age, both
        minus the mean over scanners. ``participant_slope``: change of each person per year, population and diagnosis
        included. ``covariate``: effects of the covariates. ``disorder_slope``: difference of the change per year from the
        reference diagnosis.
    """
    scans, truth = simulation.scans, simulation.truth
    correlation = truth.slope_correlation or 0.0
    fixed = np.column_stack([np.ones(len(scans)), covariate_columns(scans)])
    blocks, places, stop = [fixed], {"covariate": slice(1, fixed.shape[1])}, fixed.shape[1]
    for family, level in LEVELS.items():
        labels = truth.effects[family].index
        block = (scans[[COLUMNS[level]]].to_numpy() == labels.to_numpy()).astype(float)
        if family == "measurement_slope":
            block *= scans[["age"]].to_numpy() - AGE
        elif family.endswith("_slope"):
            block *= scans[["years"]].to_numpy()
        blocks.append(block)
        places[family], stop = slice(stop, stop + len(labels)), stop + len(labels)
    columns = np.column_stack(blocks)
    weight = 1 / truth.noise_ratio.loc[scans["scanner"]].to_numpy()
    gram, moments = columns.T @ (weight[:, None] * columns), columns.T @ (weight[:, None] * simulation.features)
    wanted = _contrasts(simulation, places, stop, age)
    mean, sd = np.empty((2, len(wanted), len(truth.mean)))
    for f in range(len(truth.mean)):
        # Effects are scales times standard normal variables, so that a scale of 0 causes no division by 0.
        scale = np.eye(stop)
        for family in LEVELS:
            scale[places[family], places[family]] *= truth.scales[family][f]
        scale[places["participant_slope"], places["participant"]] = np.eye(len(truth.effects["participant"])) * (
            truth.scales["participant_slope"][f] * correlation
        )
        scale[places["participant_slope"], places["participant_slope"]] *= np.sqrt(1 - correlation**2)
        noise = truth.scales["noise"][f] ** 2
        prior = np.diag((np.arange(stop) >= fixed.shape[1]).astype(float))
        covariance = scale @ np.linalg.inv(scale.T @ gram @ scale / noise + prior) @ scale.T
        mean[:, f] = wanted @ covariance @ moments[:, f] / noise
        sd[:, f] = np.sqrt(np.einsum("ij,jk,ik->i", wanted, covariance, wanted, optimize=True))
    tables = [pd.DataFrame(values, index=wanted.index, columns=truth.effects["covariate"].columns) for values in (mean, sd)]
    return {
        name: OraclePosterior(*(table.loc[name].rename_axis(index=truth.effects[name].index.name) for table in tables))
        for name in wanted.index.unique(0)
    }


def _contrasts(simulation: Simulation, places: dict[str, slice], n_columns: int, age: float) -> pd.DataFrame:
    """Return the contrasts of the columns that are asked for, a row each, by family and level."""
    effects = simulation.truth.effects
    parts = {}
    for name in ("measurement", "measurement_slope", "covariate", "disorder_slope", "participant_slope"):
        rows = np.zeros((len(effects[name]), n_columns))
        rows[:, places[name]] = np.eye(len(rows)) - (1 / len(rows) if name.startswith("measurement") else 0)
        if name == "measurement":
            rows[:, places["measurement_slope"]] = (age - AGE) * rows[:, places["measurement"]]
        if name == "participant_slope":
            people = simulation.scans.drop_duplicates("participant_id")["diagnosis"].to_numpy()
            rows[:, places["covariate"]] = effects["covariate"].index == "years"
            rows[:, places["disorder_slope"]] = people[:, None] == effects["disorder_slope"].index.to_numpy()
        parts[name] = pd.DataFrame(rows, index=effects[name].index)
    return pd.concat(parts)
