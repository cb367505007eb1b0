"""Outlying scans: scans that are far from the other scans of their scanner, over all features.

The distance of a scan is the mean over features of its squared deviation from the median of the other scans of its scanner,
in robust sds of the feature. Each deviation counts as five sds at most, so that a few wild values do not make a scan
outlying. The distance is divided by the typical distance of its scanner. Its limit is the largest of three:

- that of a log-normal variable with the median and the median absolute deviation of the distances, with Student t for the
  error of the latter, for heavy tails and unequal noise;
- that of a sum of squares of Gaussian features which are correlated as these are, for factors that many features share, such
  as a global signal: its moments are those of the eigenvalues (Liu, Tang & Zhang, *Computational Statistics & Data Analysis*
  53, 2009);
- twice the typical distance: smaller differences do not matter.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import stdtrit
from scipy.stats import chi2

from bayesharm.data.features import Features

FALSE_ALARM = 0.05  # probability that a study without outlying scans has any scan named
MIN_DISTANCE = 2.0  # of an outlying scan
MIN_SCANS = 5  # of a scanner whose scans are compared
N_FEATURES = 2000  # evenly spaced features that are looked at
N_SCANS = 1000  # evenly spaced scans from which the correlation of the features is estimated
LARGEST = 5.0  # robust sds that a deviation counts at most
PRIOR_SCANS = 10  # scans that the typical distance over all scanners counts for, beside those of the scanner
TO_SD = 1.4826  # from the median absolute deviation of a Gaussian to its sd
EFFICIENCY = 0.37  # degrees of freedom of the median absolute deviation, per person


def find_outlying(features: Features, scans: pd.DataFrame) -> pd.DataFrame:
    """Find scans that are far from the other scans of their scanner.

    Parameters
    ----------
    features : Features
    scans : DataFrame
        Canonical columns, in the order of the features.

    Returns
    -------
    DataFrame by scan
        `participant_id`, `scanner`, `distance` (1 is typical of the scanner) and `limit`, the distance above which a scan is
        outlying; furthest first, outlying scans only. Scanners with fewer than five scans are not looked at.
    """
    distance, eigenvalues = measure_distances(features, scans.scanner)
    tested = np.isfinite(distance)
    table = scans.loc[tested, ["scan_id", "participant_id", "scanner"]].assign(distance=distance[tested])
    if tested.sum() < 2 * MIN_SCANS:
        return table.iloc[:0].assign(limit=np.nan).set_index("scan_id")
    log, n_people = np.log(distance[tested]), scans.participant_id[tested].nunique()
    spread = TO_SD * np.median(np.abs(log - np.median(log)))
    with np.errstate(over="ignore"):  # of few people no scan is outlying
        limit = np.exp(np.median(log) + stdtrit(EFFICIENCY * n_people, 1 - FALSE_ALARM / len(log)) * spread)
    table["limit"] = max(limit, _limit_of_gaussian(eigenvalues, len(log)), MIN_DISTANCE)
    outlying = table[table.distance > table.limit]
    return outlying.sort_values("distance", ascending=False, kind="stable").set_index("scan_id")


def _limit_of_gaussian(eigenvalues: np.ndarray, n_scans: int) -> float:
    """Limit of the mean square of Gaussian features, over its median; from the eigenvalues of their covariance."""
    share = eigenvalues / eigenvalues.sum()
    second, third = (share**2).sum(), (share**3).sum()
    dof = second**3 / third**2  # a chi-square variable with the same skewness
    median, limit = (
        1 + (chi2.isf(p, dof) - dof) / np.sqrt(2 * dof) * np.sqrt(2 * second) for p in (0.5, FALSE_ALARM / n_scans)
    )
    return float(limit / median)


def measure_distances(features: Features, scanner: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Distances of scans from the others of their scanner, and how far features go together.

    Returns
    -------
    distance : (scan,) array
        1 where it is typical; NaN on scanners with few scans.
    eigenvalues : array
        Of the covariance of the deviations over features, up to a factor; from `N_SCANS` scans at most.
    """
    codes = pd.factorize(scanner.to_numpy(object))[0]
    size = np.bincount(codes)
    groups = [np.flatnonzero(codes == k) for k in np.flatnonzero(size >= MIN_SCANS)]
    total, count = np.zeros(len(codes)), np.zeros(len(codes))
    rows = np.concatenate([*groups, np.empty(0, int)])
    rows = rows[:: max(1, -(-len(rows) // N_SCANS))]
    gram = np.zeros((len(rows), len(rows)))
    step = max(1, features.n_features // N_FEATURES)
    chosen = features if step == 1 else features.take(features.names[::step])
    for start, stop in chosen.blocks():
        block = chosen.read(start, stop)
        block[~np.isfinite(block)] = np.nan
        deviation = _deviations(block, groups)
        total += np.nansum(deviation**2, axis=1)
        count += np.isfinite(deviation).sum(axis=1)
        known = np.nan_to_num(deviation[rows])
        gram += known @ known.T
    eigenvalues = np.maximum(np.linalg.eigvalsh(gram), 0) if len(rows) else np.ones(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        log = np.log(total / count)
    log[~np.isfinite(log)] = np.nan
    if not np.isfinite(log).any() or not eigenvalues.sum():
        return np.full(len(codes), np.nan), np.ones(1)
    overall = np.nanmedian(log)
    for group in groups:
        n_known = int(np.isfinite(log[group]).sum())
        if n_known:
            log[group] -= overall + (np.nanmedian(log[group]) - overall) * n_known / (n_known + PRIOR_SCANS)
    return np.exp(log), eigenvalues


def _deviations(block: np.ndarray, groups: list[np.ndarray]) -> np.ndarray:
    """Deviation of each value from the median of the others of its scanner, in robust sds of the feature."""
    deviation = np.full(block.shape, np.nan)
    for rows in groups:
        values = block[rows]
        known = np.isfinite(values).sum(0)
        expected = np.sqrt(1 + np.pi / 2 / np.maximum(known - 1, 1))  # sd of a value minus the median of the others
        deviation[rows] = np.where(known >= MIN_SCANS, (values - _median_of_others(values)) / expected, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        sd = TO_SD * _nanmedian(np.abs(deviation))
        return np.clip(deviation / np.where(sd > 0, sd, np.nan), -LARGEST, LARGEST)


def _median_of_others(values: np.ndarray) -> np.ndarray:
    """Median of the other values of a column, for each value; NaN counts as absent."""
    ordered = np.sort(values, axis=0)  # NaN last
    known = np.isfinite(values).sum(0)
    rank = np.argsort(np.argsort(values, axis=0, kind="stable"), axis=0, kind="stable")
    others = np.maximum(known - 1, 1)
    middle = [(others - 1) // 2, others // 2]  # ranks of the median among the others
    parts = [np.take_along_axis(ordered, np.where(rank <= at, at + 1, at).clip(0, len(values) - 1), 0) for at in middle]
    return (parts[0] + parts[1]) / 2


def _nanmedian(values: np.ndarray) -> np.ndarray:
    """Median of the finite values of each column; much faster than `numpy.nanmedian`."""
    ordered, known = np.sort(values, axis=0), np.isfinite(values).sum(0)
    last = np.maximum(known - 1, 0)
    low, high = (np.take_along_axis(ordered, at[None], 0)[0] for at in (last // 2, (last + 1) // 2))
    return (low + high) / 2
