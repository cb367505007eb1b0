"""Scans table of a longitudinal study: visits at irregular times, scanner upgrades, people who move, travelers."""

from __future__ import annotations

import numpy as np
import pandas as pd

REFERENCE, PATIENTS = "HC", "MCI"
SITES = {"A": 2.0, "B": 3.0, "C": 4.0, "D": None}
"""Site -> year of the study in which its scanner is upgraded, from ``A1`` to ``A2``; None for a site without an upgrade."""

MAX_VISITS = 5
GAP = (0.6, 1.6)  # years between visits
TOUR = 0.03  # years between the scans of a traveler on one tour of all sites
BETWEEN_TOURS = 4.0  # years


def longitudinal_scans(
    rng: np.random.Generator,
    n_people: int,
    *,
    min_visits: int,
    crossing: float,
    simultaneous: bool,
    moving: float,
    patients: float,
    n_travelers: int,
) -> pd.DataFrame:
    """Return one row per scan, people in turn and their visits in order of time.

    Parameters
    ----------
    rng : Generator
        Source of all that is random.
    n_people, min_visits, crossing, simultaneous, moving, patients, n_travelers
        As for :func:`bayesharm.datasets.longitudinal.simulate_longitudinal`.

    Returns
    -------
    DataFrame
        Columns `scan_id`, `participant_id`, `scanner`, `site`, `diagnosis`, `sex`, `baseline_age`, `years` (since the first
        scan) and `age` (at the scan).
    """
    upgrades = {site: 3.0 if simultaneous else year for site, year in SITES.items()}
    rows = []
    for i in range(n_people):
        site = list(SITES)[i % len(SITES)]
        person = (f"P{i + 1:03d}", site, PATIENTS if rng.random() < patients else REFERENCE, *_age_and_sex(rng))
        n_visits = int(rng.integers(min_visits, MAX_VISITS + 1))
        years = np.r_[0.0, rng.uniform(*GAP, MAX_VISITS - 1).cumsum()][:n_visits].round(3)
        start = (upgrades[site] or 3.0) + _start(rng, years, crossing, simultaneous)
        sites = np.full(n_visits, site, dtype=object)
        if rng.random() < moving and n_visits > 1:
            sites[rng.integers(1, n_visits) :] = rng.choice([name for name in SITES if name != site])
        rows += [(*person, _scanner(upgrades, there, start + time), time) for there, time in zip(sites, years, strict=True)]
    for i in range(n_travelers):
        person = (f"T{i + 1:02d}", list(SITES)[i % len(SITES)], REFERENCE, *_age_and_sex(rng))
        for tour, after in enumerate((0.0, BETWEEN_TOURS)):
            for k, site in enumerate(rng.permutation(list(SITES))):
                rows.append((*person, f"{site}{tour + 1 if upgrades[site] else 1}", round(after + TOUR * k, 3)))
    columns = ["participant_id", "site", "diagnosis", "baseline_age", "sex", "scanner", "years"]
    scans = pd.DataFrame(rows, columns=columns)
    visit = scans.groupby("participant_id", sort=False).cumcount() + 1
    scans["scan_id"] = scans["participant_id"] + "_" + visit.map("{:02d}".format)
    scans["age"] = (scans["baseline_age"] + scans["years"]).round(3)
    return scans[["scan_id", "participant_id", "scanner", "site", "diagnosis", "sex", "baseline_age", "years", "age"]]


def _age_and_sex(rng: np.random.Generator) -> tuple[float, str]:
    return round(float(np.clip(rng.normal(65, 8), 50, 85)), 2), "M" if rng.random() < 0.5 else "F"


def _start(rng: np.random.Generator, years: np.ndarray, crossing: float, simultaneous: bool) -> float:
    """Return the time of the first visit, in years after the upgrade of the site."""
    if simultaneous:
        return -float(years[min(1, len(years) - 1)]) / 2
    if rng.random() < crossing:
        return -float(rng.uniform(0, years[-1]))
    away = rng.uniform(0.05, 1.5)
    return float(away if rng.random() < 0.5 else -years[-1] - away)


def _scanner(upgrades: dict[str, float | None], site: str, date: float) -> str:
    """Return the scanner of a site on a date of the study."""
    upgrade = upgrades[site]
    return f"{site}{1 if upgrade is None or date <= upgrade else 2}"
