"""Simulation of a longitudinal study with known ground truth: trajectories of people, and scanners that are upgraded.

In units like those of cortical thickness in mm::

    y = mean + covariates + sampling[site] + disorder[diagnosis] + disorder_slope[diagnosis] years
        + participant + participant_slope years + measurement[scanner] + measurement_slope[scanner] (age - AGE) + noise

with the covariates ``baseline_age - AGE``, ``sex`` (men) and ``years`` since the first scan.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd

from bayesharm.datasets.ground_truth import Truth
from bayesharm.datasets.longitudinal_design import PATIENTS, SITES, longitudinal_scans
from bayesharm.datasets.option_checks import Check, common_checks, refuse_impossible
from bayesharm.datasets.simulate import Simulation
from bayesharm.errors import shorten

AGE = 65.0  # years; the mean of a feature, and the scanner effects `measurement`, are those at this age

LONGITUDINAL_RMS = {
    "noise": 0.05, "participant": 0.14, "participant_slope": 0.02, "measurement": 0.05, "measurement_slope": 0.0,
    "sampling": 0.0, "disorder": 0.06, "disorder_slope": 0.02,
}  # fmt: skip
"""Root mean square over features of each scale; slopes per year. Sizes are plausible for thickness in mm; our choice."""

COVARIATES = {"baseline_age": (-0.004, 0.002), "sex": (0.0, 0.03), "years": (-0.015, 0.005)}
"""Covariate -> mean and sd over features of its effect: per year of age, of men, and per year since the first scan."""

# Each quantity has its own random stream, so that an option changes only the quantity that it is about.
STREAMS = ("people", "mean", "scales", "noise_ratio", "covariate", *LONGITUDINAL_RMS)
LEVELS = {
    "participant": "participant", "participant_slope": "participant", "measurement": "scanner",
    "measurement_slope": "scanner", "sampling": "site", "disorder": "diagnosis", "disorder_slope": "diagnosis",
}  # fmt: skip
COLUMNS = {"participant": "participant_id", "scanner": "scanner", "site": "site", "diagnosis": "diagnosis"}


def simulate_longitudinal(
    n_features: int = 100,
    seed: int = 0,
    *,
    n_people: int = 160,
    min_visits: int = 2,
    crossing: float = 0.6,
    simultaneous: bool = False,
    moving: float = 0.05,
    patients: float = 0.4,
    n_travelers: int = 0,
    sizes: Mapping[str, float] | None = None,
    slope_correlation: float = -0.3,
    scale_log_sd: float = 0.3,
    noise_ratio_log_sd: float = 0.0,
    dtype: Literal["float32", "float64"] = "float64",
) -> Simulation:
    """Simulate a longitudinal study at four sites, three of which upgrade their scanner: seven scanners.

    The same arguments give the same values. A simulation of fewer features equals the first features of a larger one.

    Parameters
    ----------
    n_features : int
        Number of features.
    seed : int
        Seed of all random streams.
    n_people : int
        Number of people, with visits at irregular times, 0.6 to 1.6 years apart.
    min_visits : int
        Smallest number of visits of a person, 1 to 5; the largest is 5.
    crossing : float
        Share of the people whose visits begin before the upgrade of their site and end after it; the others are scanned
        before or after it only. A small share is a weak overlap of scanners.
    simultaneous : bool
        Upgrade all sites between everybody's first and second visit: eight scanners, confounded with time.
    moving : float
        Share of the people who move to another site after one of their visits.
    patients : float
        Share of the people with the diagnosis ``MCI``; the others are ``HC``.
    n_travelers : int
        Number of people who tour all sites within weeks, once before the upgrades and, four years later, once after them.
    sizes : mapping, optional
        Family -> root mean square over features of its scale, in place of that in `LONGITUDINAL_RMS`; 0 for no effects.
    slope_correlation : float
        Correlation of people's intercepts, at their first scan, with their slopes.
    scale_log_sd : float
        Spread of the log-scales over features, as for :func:`bayesharm.simulate_srpbs`.
    noise_ratio_log_sd : float
        Sd over scanners of the log noise-variance ratio.
    dtype : {"float32", "float64"}
        Type of the features.

    Returns
    -------
    Simulation
        `truth.effects` has the families of `LONGITUDINAL_RMS` by their level, and ``covariate``.

    Raises
    ------
    InputError
        An option is not valid.
    """
    rms = {**LONGITUDINAL_RMS, **(sizes or {})}
    shares = {"crossing": crossing, "moving": moving, "patients": patients}
    spreads = {"scale_log_sd": scale_log_sd, "noise_ratio_log_sd": noise_ratio_log_sd}
    refuse_impossible(
        [
            *common_checks(n_features, seed, dtype, spreads),
            *_check_options(n_people, min_visits, n_travelers, rms, slope_correlation, shares),
        ]
    )
    streams = {name: np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(i,))) for i, name in enumerate(STREAMS)}
    scans = longitudinal_scans(
        streams["people"], n_people, min_visits=min_visits, crossing=crossing, simultaneous=simultaneous, moving=moving,
        patients=patients, n_travelers=n_travelers,
    )  # fmt: skip
    truth = _draw_truth(streams, n_features, scans, rms, slope_correlation, scale_log_sd, noise_ratio_log_sd)
    expected = truth.mean + scanner_bias(scans, truth)
    for family, level in LEVELS.items():
        if not family.startswith("measurement"):
            time = scans[["years"]].to_numpy() if family.endswith("_slope") else 1.0
            expected += time * _by_scan(scans, truth.effects[family], level)
    expected += covariate_columns(scans).to_numpy() @ truth.effects["covariate"].to_numpy()
    noise_sd = np.sqrt(truth.noise_ratio.loc[scans["scanner"]].to_numpy())[:, None] * truth.scales["noise"]
    values = expected + noise_sd * streams["noise"].standard_normal((n_features, len(scans))).T
    return Simulation(scans, values.astype(dtype), truth.effects["measurement"].columns.to_numpy(dtype=str), truth)


def covariate_columns(scans: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of the covariates, (scan, covariate)."""
    columns = {"baseline_age": scans["baseline_age"] - AGE, "sex": 1.0 * (scans["sex"] == "M"), "years": scans["years"]}
    return pd.DataFrame(columns)


def scanner_bias(scans: pd.DataFrame, truth: Truth) -> np.ndarray:
    """Return the contribution of the scanner to each scan, (scan, feature)."""
    age = scans[["age"]].to_numpy() - AGE
    constant, slope = (_by_scan(scans, truth.effects[name], "scanner") for name in ("measurement", "measurement_slope"))
    return constant + age * slope


def participant_slopes(simulation: Simulation) -> pd.DataFrame:
    """Return the true change of each person per year, population and diagnosis included, (participant, feature)."""
    scans, effects = simulation.scans.drop_duplicates("participant_id"), simulation.truth.effects
    slopes = _by_scan(scans, effects["participant_slope"], "participant") + effects["covariate"].loc["years"].to_numpy()
    slopes = slopes + _by_scan(scans, effects["disorder_slope"], "diagnosis")
    index = pd.Index(scans["participant_id"], name="participant")
    return pd.DataFrame(slopes, index=index, columns=effects["measurement"].columns)


def _by_scan(scans: pd.DataFrame, effects: pd.DataFrame, level: str) -> np.ndarray:
    """Return the effect of each scan's level; the reference diagnosis has none."""
    return effects.reindex(scans[COLUMNS[level]]).fillna(0.0).to_numpy()


def _draw_truth(
    streams: dict[str, np.random.Generator],
    n_features: int,
    scans: pd.DataFrame,
    rms: Mapping[str, float],
    slope_correlation: float,
    scale_log_sd: float,
    noise_ratio_log_sd: float,
) -> Truth:
    """Draw all quantities, feature by feature."""
    names = pd.Index([f"feature_{i:05d}" for i in range(1, n_features + 1)], name="feature")
    with np.errstate(divide="ignore"):
        eta = np.log(list(rms.values())) - scale_log_sd**2
    hyper = pd.DataFrame({"eta": eta, "omega": float(scale_log_sd)}, index=pd.Index(list(rms), name="family"))
    draws = streams["scales"].standard_normal((n_features, len(rms)))
    scales = dict(zip(rms, np.exp(eta + scale_log_sd * draws).T.copy(), strict=True))
    levels = {
        "participant": list(scans["participant_id"].unique()), "scanner": sorted(scans["scanner"].unique()),
        "site": list(SITES), "diagnosis": [PATIENTS],
    }  # fmt: skip
    units = {family: streams[family].standard_normal((n_features, len(levels[level]))).T for family, level in LEVELS.items()}
    rest = np.sqrt(1 - slope_correlation**2)
    units["participant_slope"] = slope_correlation * units["participant"] + rest * units["participant_slope"]
    effects = {
        family: pd.DataFrame(units[family] * scales[family], index=pd.Index(levels[level], name=level), columns=names)
        for family, level in LEVELS.items()
    }
    mean, sd = np.array(list(COVARIATES.values())).T[:, :, None]
    slopes = mean + sd * streams["covariate"].standard_normal((n_features, len(COVARIATES))).T
    effects["covariate"] = pd.DataFrame(slopes, index=pd.Index(list(COVARIATES), name="covariate"), columns=names)
    log_ratio = noise_ratio_log_sd * streams["noise_ratio"].standard_normal(len(levels["scanner"]))
    index = pd.Index(levels["scanner"], name="scanner")
    return Truth(
        mean=streams["mean"].normal(2.5, 0.2, n_features),
        scales=scales,
        effects=effects,
        noise_ratio=pd.Series(np.exp(log_ratio - log_ratio.mean()), index=index, name="noise_ratio"),
        bias_ratio=pd.Series(1.0, index=index, name="bias_ratio"),
        gain=pd.Series(1.0, index=index, name="gain"),
        hyper=hyper[np.isfinite(hyper["eta"])],
        slope_correlation=slope_correlation,
    )


def _check_options(
    n_people: int,
    min_visits: int,
    n_travelers: int,
    rms: Mapping[str, float],
    slope_correlation: float,
    shares: Mapping[str, float],
) -> list[Check]:
    """Check the options of this simulation alone."""
    known = shorten(LONGITUDINAL_RMS, len(LONGITUDINAL_RMS))
    unusable = {name: size for name, size in rms.items() if name not in LONGITUDINAL_RMS or not 0 <= size < np.inf}
    if not rms["noise"] > 0:
        unusable["noise"] = rms["noise"]
    return [
        Check(n_people >= len(SITES), "n_people", n_people, f"at least {len(SITES)}, one for each site"),
        Check(1 <= min_visits <= 5, "min_visits", min_visits, "1 to 5"),
        Check(n_travelers >= 0, "n_travelers", n_travelers, "at least 0"),
        *(Check(0 <= share <= 1, name, share, "a share, 0 to 1") for name, share in shares.items()),
        Check(not unusable, "sizes", unusable, f"numbers of at least 0 (noise: above 0) for any of {known}"),
        Check(-1 <= slope_correlation <= 1, "slope_correlation", slope_correlation, "a correlation, -1 to 1"),
    ]
