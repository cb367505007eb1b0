"""The small fixed studies behind the reference posterior summaries of every model (``models/<name>/reference.json``)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from bayesharm.datasets.simulate import Simulation, scan_levels, simulate_srpbs

N_FEATURES = 40
SCANNERS = ("ATT", "COI", "KUT", "SWA", "UTO")
SIZES = {  # root mean square of each family's scale, in Fisher z; sampling bias is larger than by default, to be detectable
    "measurement": 0.08,
    "participant": 0.10,
    "disorder": 0.08,
    "sampling_HC": 0.06,
    "sampling_MDD": 0.06,
    "sampling_SCZ": 0.06,
}
SLOPES = {"everybody": 0.03, "diagnosis": 0.04, "participant_id": 0.05}  # median sizes, in Fisher z per year
SLOPE_CORRELATION = -0.5  # of a person's slope with the intercept


def reference_study(n_features: int = N_FEATURES) -> tuple[pd.DataFrame, np.ndarray]:
    """Return a subset of the simulated SRPBS study: five scanners, two scans per visit, at most ten people per population.

    Parameters
    ----------
    n_features : int
        The first of the `N_FEATURES` features.

    Returns
    -------
    scans : DataFrame
        As from :func:`bayesharm.datasets.simulate.simulate_srpbs`.
    features : (scan, feature) float64 array
    """
    study = _simulate(SIZES)
    scans = _choose_scans(study, n_scans=2, n_people=10)
    return scans.reset_index(drop=True), study.features[scans.index, :n_features]


def reference_study_over_years(n_features: int = N_FEATURES) -> tuple[pd.DataFrame, np.ndarray]:
    """Return a study with visits at irregular times: nine travelers on five scanners, and 36 people with up to four visits.

    One visit in eight, first visits excepted, is on another scanner than the first. Everybody's feature changes over the
    years, by a slope of the feature, of the diagnosis and of the person.

    Parameters
    ----------
    n_features : int
        The first of the `N_FEATURES` features.

    Returns
    -------
    scans : DataFrame
        `scan_id`, `participant_id`, `scanner`, `site`, `diagnosis`, and `time`, the years since a person's first scan.
    features : (scan, feature) float64 array
    """
    rng, study = np.random.default_rng(20201207), _simulate(SIZES | {"noise": 0.08})
    chosen = _choose_scans(study, n_scans=1, n_people=2)[["participant_id", "scanner", "site", "diagnosis"]]
    travels = chosen.participant_id.duplicated(keep=False)
    scans = chosen.loc[chosen.index.repeat(np.where(travels, 1, rng.integers(1, 5, len(chosen))))]
    is_visit = ~travels[scans.index].to_numpy()
    scans = scans.reset_index(drop=True)
    number = scans.groupby("participant_id").cumcount()
    scans.insert(0, "scan_id", scans.participant_id + "_" + (number + 1).astype(str))
    interval = np.where(is_visit, rng.uniform(0.4, 1.8, len(scans)), rng.uniform(0.0, 0.2, len(scans)))
    scans["time"] = pd.Series(np.where(number > 0, interval, 0.0)).groupby(scans.participant_id).cumsum().round(2)
    moves = is_visit & (number > 0) & (rng.random(len(scans)) < 1 / 8)
    scans["scanner"] = scans.scanner.mask(moves, rng.choice(SCANNERS, len(scans)))

    truth, time = study.truth, scans.time.to_numpy()[:, None]
    features = truth.mean + np.zeros((len(scans), 1))
    for group in ("measurement", "sampling", "disorder"):
        features = features + truth.effects[group].reindex(scan_levels(scans, group)).fillna(0.0).to_numpy()
    sizes = {name: size * np.exp(0.3 * rng.normal(size=N_FEATURES)) for name, size in SLOPES.items()}
    person = pd.factorize(scans.participant_id)[0]
    intercept, slope = rng.normal(size=(2, person.max() + 1, N_FEATURES))
    slope = SLOPE_CORRELATION * intercept + np.sqrt(1 - SLOPE_CORRELATION**2) * slope
    features += truth.scales["participant"] * intercept[person] + sizes["participant_id"] * slope[person] * time
    features += sizes["everybody"] * rng.normal(size=N_FEATURES) * time
    diagnosis, names = pd.factorize(scans.diagnosis, sort=True)
    slopes = sizes["diagnosis"] * rng.normal(size=(len(names), N_FEATURES)) * (names != "HC")[:, None]
    features += slopes[diagnosis] * time
    noise_sd = np.sqrt(truth.noise_ratio.loc[scans.scanner].to_numpy())[:, None] * truth.scales["noise"]
    features += noise_sd * rng.normal(size=features.shape)
    return scans, features[:, :n_features]


def _simulate(sizes: Mapping[str, float]) -> Simulation:
    return simulate_srpbs(N_FEATURES, seed=20190418, noise_ratio_log_sd=0.3, sizes=sizes, dtype="float64")


def _choose_scans(study: Simulation, n_scans: int, n_people: int) -> pd.DataFrame:
    """Choose scans of travelers on each scanner, and of people of each population, with their rows as the index."""
    scans = study.scans[study.scans.scanner.isin(SCANNERS)]
    counts = scans.groupby("participant_id").scanner.transform("size")
    visits = scans[counts > 1].groupby(["participant_id", "scanner"], sort=False).head(n_scans)
    people = scans[counts == 1].groupby(["site", "diagnosis"], sort=False).head(n_people)
    return pd.concat([visits, people]).sort_index()
