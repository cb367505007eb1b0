"""Features that were harmonized or scaled before: scanners differ less than noise alone makes them differ.

In a feature without any scanner effect, the sum of squares between scanners has an expectation that follows from the noise
and from the differences between people. Its ratio R to that expectation is 1 on average; scanner effects make it larger.
Over features, the mean of R is compared with a gamma distribution, whose variance comes from the correlation of the
features (Satterthwaite): for Gaussian features the variance of a mean of squares is the mean of the squared correlations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from bayesharm.data.finding import Finding
from bayesharm.data.screening.covariates import covariate_matrix
from bayesharm.data.screening.doubles import independent_features, standardize
from bayesharm.data.screening.sweep import Sweep
from bayesharm.errors import shorten

FALSE_ALARMS = 0.001
MOST_LEFT = 0.5  # mean R below which it matters
MOST_SCANS = 3000
EXACT = 1e-6  # sds: means and sds of scanners that agree so well are set


def screen_harmonized(scans: pd.DataFrame, sweep: Sweep, covariates: Sequence[str] = ()) -> Iterator[Finding]:
    """Find features that were scaled, residualized or harmonized by scanner."""
    complete = np.isfinite(sweep.sample).all(0)
    sample, scanner = sweep.sample[:MOST_SCANS, complete], scans["scanner"].astype(str)[:MOST_SCANS]
    varies = sample.std(0) > 1e-9 * np.abs(sample).max(0, initial=0) if sample.size else np.zeros(sample.shape[1], bool)
    sample = sample[:, varies] / np.abs(sample[:, varies]).max(0, initial=0)
    code, names = pd.factorize(scanner, sort=True)
    if not sample.size or len(names) < 2 or len(code) - len(names) < 5:
        return
    exact = list(_scaled(sample, code, names))
    yield from exact
    if not exact:
        yield from _no_differences(sample, scans[:MOST_SCANS], covariates)


def _scaled(sample: np.ndarray, code: np.ndarray, names: pd.Index) -> Iterator[Finding]:
    """Means, and perhaps sds, that are the same on all scanners up to rounding."""
    indicators, count = np.eye(len(names))[code], np.bincount(code)
    means = indicators.T @ sample / count[:, None]
    sds = np.sqrt(indicators.T @ (sample - means[code]) ** 2 / count[:, None])[count > 2]
    total = sample.std(0)
    same_mean = np.ptp(means[count > 1], axis=0) < EXACT * total if (count > 1).sum() > 1 else np.zeros(len(total), bool)
    same_sd = np.ptp(sds, axis=0) < EXACT * total if len(sds) > 1 else np.zeros(len(total), bool)
    for same, what in ((same_mean & same_sd, "mean and sd"), (same_mean, "mean"), (same_sd, "sd")):
        if same.mean() >= 0.5:
            yield Finding(
                "scaled-by-scanner",
                "error",
                f"The features have the same {what} on every scanner: they were standardized or residualized by scanner.",
                got=f"{same.sum()} of {len(same)} features (of a sample) with the same {what} on {shorten(names, 3)}",
                expected="features as they were measured",
                do="give the features before this step; real differences between the people of scanners are gone with it",
            )
            return


def _no_differences(sample: np.ndarray, scans: pd.DataFrame, covariates: Sequence[str]) -> Iterator[Finding]:
    """Scanners that differ less than noise alone makes them differ."""
    ratio, dof = ratios(sample, scans, covariates)
    if ratio is None:
        return
    z = standardize(sample, scans["scanner"])
    effective = independent_features(z @ z.T / z.shape[1]) if z.shape[1] else 1.0
    effective = min(max(effective, 1.0), sample.shape[1])
    nu = dof * effective
    mean = float(np.mean(ratio))
    p = float(stats.chi2.cdf(mean * nu, nu))
    if p < FALSE_ALARMS and mean < MOST_LEFT:
        yield Finding(
            "already-harmonized",
            "caveat",
            "Scanners differ less than noise alone makes them differ: the features seem to be harmonized already.",
            got=f"{mean:.0%} of the differences between scanners that noise alone gives (p = {p:.1g}; false alarms in "
            f"{FALSE_ALARMS:.1%} of studies)",
            expected="features as they were measured, 100% or more",
            do="give the features before harmonization (ComBat, regression on the site); a second harmonization of such "
            "data estimates biases of about zero and too small uncertainties",
        )


def ratios(sample: np.ndarray, scans: pd.DataFrame, covariates: Sequence[str] = ()) -> tuple[np.ndarray | None, float]:
    """Compute the sum of squares between scanners over its expectation without scanner effects.

    Parameters
    ----------
    sample : (scan, feature) array
        Finite values.
    scans : DataFrame
    covariates : sequence of str
        Columns that are removed first.

    Returns
    -------
    ratio : (feature,) array, optional
        None if the scanners cannot be compared.
    dof : float
        Degrees of freedom of one ratio.
    """
    person = pd.factorize(scans["participant_id"])[0]
    scanner = np.eye(scans["scanner"].nunique())[pd.factorize(scans["scanner"])[0]]
    fixed = covariate_matrix(scans, [*covariates, *(["diagnosis"] if "diagnosis" in scans else [])])
    base = _basis(fixed)
    between = _basis(scanner - base @ (base.T @ scanner))
    if not between.shape[1]:
        return None, 0.0
    y = sample - base @ (base.T @ sample)
    squares = np.sum((between.T @ y) ** 2, axis=0)
    full = np.hstack([base, between])
    n_rest = len(y) - full.shape[1]
    if n_rest < 5:
        return None, 0.0
    rest = np.sum((y - between @ (between.T @ y)) ** 2, axis=0)
    sums = pd.DataFrame(between).groupby(person).sum().to_numpy()
    of_people = float(np.sum(sums**2))  # trace of P Z Z'
    noise, people = _components(y, rest, full, person)
    expected = noise * between.shape[1] + people * of_people
    share = float(np.mean(people / np.maximum(people + noise, 1e-300)))
    kernel = (1 - share) * np.eye(between.shape[1]) + share * sums.T @ sums
    dof = float(np.trace(kernel) ** 2 / np.sum(kernel**2))
    return squares / np.maximum(expected, 1e-300), dof


def _basis(columns: np.ndarray) -> np.ndarray:
    """Return orthonormal columns with the same span."""
    norm = np.sqrt(np.sum(columns**2, axis=0))
    used = norm > 1e-9 * max(1.0, norm.max(initial=0))
    unit = columns[:, used] / norm[used]
    squares, vectors = np.linalg.eigh(unit.T @ unit)
    kept = squares > 1e-9
    return unit @ vectors[:, kept] / np.sqrt(squares[kept])


def _components(y: np.ndarray, rest: np.ndarray, full: np.ndarray, person: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the variances of noise and of people without scanner effects, (feature,) arrays, by their sums of squares."""
    n = len(y)
    n_rest = n - full.shape[1]
    count = np.bincount(person)
    if not (count > 1).any():
        return rest / n_rest, np.zeros(y.shape[1])
    repeated = count[person] > 1
    groups = person[repeated]
    _, groups = np.unique(groups, return_inverse=True)

    def within(x: np.ndarray) -> np.ndarray:
        sums = np.zeros((groups.max() + 1, x.shape[1]))
        np.add.at(sums, groups, x)
        return x - (sums / np.bincount(groups)[:, None])[groups]

    x, r = _basis(within(full[repeated])), within(y[repeated])
    dof = len(groups) - (groups.max() + 1) - x.shape[1]
    if dof < 3:
        return rest / n_rest, np.zeros(y.shape[1])
    noise = np.sum((r - x @ (x.T @ r)) ** 2, axis=0) / dof
    # E[rest] = noise * n_rest + people * trace(M Z Z'), with M the projection off the fixed effects and scanners
    sums = pd.DataFrame(full).groupby(person).sum().to_numpy()
    trace = n - float(np.sum(sums**2))
    people = np.maximum((rest - noise * n_rest) / max(trace, 1e-9), 0.0)
    return noise, people
