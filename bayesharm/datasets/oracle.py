"""Oracle estimate of measurement bias in a simulated study: the exact posterior given the true variances."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from bayesharm.datasets.simulate import Simulation, scan_levels
from bayesharm.datasets.srpbs import population_diagnoses


@dataclass(frozen=True, eq=False)
class OraclePosterior:
    """Posterior of the centered measurement bias given the true variances.

    Attributes
    ----------
    mean, sd : DataFrame, scanner × feature
        Posterior mean and standard deviation, in the units of the features.
    """

    mean: pd.DataFrame
    sd: pd.DataFrame


def gaussian_oracle(simulation: Simulation, block: int = 500) -> OraclePosterior:
    """Compute the exact posterior of the centered measurement bias given the true scales and the true ratios of scanners.

    Bayesian linear regression with known variances. The mean of a feature has a flat prior. The participant effect of a
    person scanned once is part of the noise of that scan: variance ``sigma² lambda + g² tau_p²``. With Student-t noise the
    estimate is the best linear one.

    Parameters
    ----------
    simulation : Simulation
        Study with its ground truth.
    block : int
        Features solved at a time; affects speed and memory only.

    Returns
    -------
    OraclePosterior
    """
    scans, truth = simulation.scans, simulation.truth
    traveling = scans["participant_id"].isin(truth.effects["participant"].index).to_numpy()
    columns, scales = _design(simulation)
    # All scans of travelers on one scanner have the same noise variance, and so do those of the cohort (single scans):
    # X'X and X'y of each such class suffice.
    classes = [
        (scanner, single, np.flatnonzero((scans["scanner"] == scanner).to_numpy() & (traveling != single)))
        for scanner in truth.noise_ratio.index
        for single in (False, True)
    ]
    gram = np.stack([columns[rows].T @ columns[rows] for _, _, rows in classes])

    n_columns, n_features = columns.shape[1], len(truth.mean)
    n_scanners = len(truth.noise_ratio)
    scanner_columns = slice(1, 1 + n_scanners)
    center = np.eye(n_scanners) - 1 / n_scanners
    prior = np.eye(n_columns)
    prior[0, 0] = 0
    mean, sd = np.empty((2, n_scanners, n_features))
    for start in range(0, n_features, block):
        part = slice(start, min(start + block, n_features))
        sigma2, tau2 = truth.scales["noise"][part] ** 2, truth.scales["participant"][part] ** 2
        feature_noise = 1.0 if truth.feature_noise is None else truth.feature_noise.iloc[:, part].to_numpy() ** 2
        of_scanner = dict(zip(truth.noise_ratio.index, sigma2 * np.ones((n_scanners, 1)) * feature_noise, strict=True))
        weight = np.stack([
            1 / (of_scanner[scanner] * truth.noise_ratio[scanner] + tau2 * truth.gain[scanner] ** 2 * single)
            for scanner, single, _ in classes
        ])  # fmt: skip
        y = simulation.features[:, part].astype(float)
        moment = sum(columns[rows].T @ y[rows] * w for w, (_, _, rows) in zip(weight, classes, strict=True)).T
        # Effects are parametrized as scale times a standard normal variable, so that a scale of 0 causes no division by 0.
        scale = scales[part]
        precision = np.einsum("cf,cij->fij", weight, gram, optimize=True) * scale[:, :, None] * scale[:, None, :] + prior
        covariance = np.linalg.inv(precision)
        effects = (covariance @ (scale * moment)[:, :, None])[:, :, 0] * scale
        covariance *= scale[:, :, None] * scale[:, None, :]
        mean[:, part] = center @ effects[:, scanner_columns].T
        contrast = center @ covariance[:, scanner_columns, scanner_columns] @ center
        sd[:, part] = np.sqrt(np.diagonal(contrast, axis1=1, axis2=2)).T
    labels = truth.effects["measurement"]
    return OraclePosterior(*(pd.DataFrame(values, index=labels.index, columns=labels.columns) for values in (mean, sd)))


def _design(simulation: Simulation) -> tuple[np.ndarray, np.ndarray]:
    """Return the design matrix (scan, column), mean first, then scanners, and the prior sds (feature, column)."""
    truth, diagnoses = simulation.truth, population_diagnoses()
    columns, scales = [np.ones(len(simulation.scans))], [np.ones_like(truth.mean)]
    gain = truth.gain.loc[simulation.scans["scanner"]].to_numpy()
    for group, table in truth.effects.items():
        level = scan_levels(simulation.scans, group).to_numpy()
        for label in table.index:
            family = f"sampling_{diagnoses[label]}" if group == "sampling" else group
            columns.append((level == label) * (1.0 if group == "measurement" else gain))
            ratio = truth.bias_ratio[label] if group == "measurement" else 1.0
            scales.append(truth.scales[family] * np.sqrt(ratio))
    return np.column_stack(columns), np.column_stack(scales)
