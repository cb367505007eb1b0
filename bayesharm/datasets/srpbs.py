"""The SRPBS study of Yamashita et al. 2019 (doi 10.1371/journal.pbio.3000042) as a scans table, without data.

Nine men traveled to twelve scanners (411 scans) and 805 people were scanned once. For Hiroshima and ATR the number of people
is published by site; how they are divided among the scanners of the site is our choice.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd


class Scanner(NamedTuple):
    """A scanner: its site, its protocol (fields named as in BIDS), and its number of scans of each traveling subject."""

    site: str
    Manufacturer: str
    ManufacturersModelName: str
    ReceiveCoilName: str
    PhaseEncodingDirection: str
    repeats: int


# Families of the model `protocol`, and their columns in the scans table.
FACTORS = {
    "phase_encoding": "PhaseEncodingDirection",
    "manufacturer": "Manufacturer",
    "coil": "ReceiveCoilName",
    "scanner_model": "ManufacturersModelName",
}
PA, AP = "j", "j-"  # BIDS phase-encoding directions: j points from posterior to anterior
SCANNERS: Mapping[str, Scanner] = {
    "ATT": Scanner("ATR", "Siemens", "Trio", "12ch", PA, 15),
    "ATV": Scanner("ATR", "Siemens", "Verio", "12ch", PA, 3),
    "COI": Scanner("Hiroshima", "Siemens", "Verio", "12ch", AP, 3),
    "HUH": Scanner("Hiroshima", "GE", "Signa HDxt", "8ch", PA, 2),
    "HKH": Scanner("Hiroshima", "Siemens", "Spectra", "12ch", PA, 2),
    "KPM": Scanner("KPM", "Philips", "Achieva", "8ch", AP, 3),
    "KUS": Scanner("KUS", "Siemens", "Skyra", "32ch", AP, 3),
    "KUT": Scanner("KUT", "Siemens", "Tim Trio", "32ch", PA, 3),
    "UTO": Scanner("UTO", "GE", "MR750W", "24ch", PA, 3),
    "SWA": Scanner("SWA", "Siemens", "Verio", "12ch", PA, 3),
    "YC1": Scanner("YCU", "Philips", "Achieva", "8ch", AP, 3),
    "YC2": Scanner("YCU", "Philips", "Achieva", "8ch", AP, 3),
}

# Scanner -> diagnosis -> number of people scanned once.
COHORT: Mapping[str, Mapping[str, int]] = {
    "UTO": {"HC": 142, "MDD": 34, "SCZ": 14},
    "SWA": {"HC": 40, "SCZ": 12, "ASD": 49},
    "KUT": {"HC": 35, "MDD": 9, "SCZ": 22},
    "COI": {"HC": 53, "MDD": 59},
    "HKH": {"HC": 21, "MDD": 24},
    "HUH": {"HC": 31, "MDD": 35},
    "ATT": {"HC": 65},
    "ATV": {"HC": 43},
    "KPM": {"HC": 52, "OCD": 65},
}
REFERENCE = "HC"
DIAGNOSES = ("MDD", "SCZ", "ASD", "OCD")

# Diagnosis -> sites: one population per site and diagnosis, for diagnoses recruited at two or more sites. For other
# diagnoses sampling bias cannot be distinguished from the disorder effect.
POPULATIONS: Mapping[str, tuple[str, ...]] = {
    "HC": ("UTO", "SWA", "KUT", "Hiroshima", "ATR", "KPM"),
    "MDD": ("UTO", "KUT", "Hiroshima"),
    "SCZ": ("UTO", "SWA", "KUT"),
}
FEWER_SCANS = ("T06", "ATT", 12)  # subject 6 has 12 scans on ATT, not 15
N_HUB_AND_SPOKE = 30

# Diagnosis -> mean age and its sd in years, share of men; plausible values, not published ones.
AgeAndSex = Mapping[str, tuple[float, float, float]]
COHORT_PEOPLE: AgeAndSex = {
    "HC": (36, 12, 0.55),
    "MDD": (42, 12, 0.5),
    "SCZ": (37, 9, 0.55),
    "ASD": (32, 8, 0.9),
    "OCD": (33, 10, 0.45),
}
PUBLISHED_TRAVELERS: AgeAndSex = {"HC": (27, 3, 1.0)}
HUB_AND_SPOKE_TRAVELERS: AgeAndSex = {"HC": (30, 8, 0.5)}


def population_diagnoses() -> dict[str, str]:
    """Return the diagnosis of each population, by its label ``site/diagnosis``: the levels of sampling bias."""
    return {f"{site}/{diagnosis}": diagnosis for diagnosis, sites in POPULATIONS.items() for site in sites}


def factor_levels(factor: str) -> list[str]:
    """Return the level of a protocol factor for each scanner; for any other name, the scanners themselves."""
    return [getattr(protocol, FACTORS[factor]) if factor in FACTORS else name for name, protocol in SCANNERS.items()]


def travelers_published(rng: np.random.Generator) -> pd.DataFrame:
    """Return the 411 scans of the nine men: 46 each, but 43 of subject 6."""
    visits = []
    for person in [f"T{i:02d}" for i in range(1, 10)]:
        for name, scanner in SCANNERS.items():
            repeats = FEWER_SCANS[2] if (person, name) == FEWER_SCANS[:2] else scanner.repeats
            visits += [(person, name, REFERENCE)] * repeats
    return _table(visits, PUBLISHED_TRAVELERS, rng)


def travelers_hub_and_spoke(rng: np.random.Generator, left_out: Collection[str] = ()) -> pd.DataFrame:
    """Return the scans of thirty travelers who visit the hub and two spokes once each.

    The hub is ATT, or the first remaining scanner if ATT is left out. Pairs of spokes are assigned in turn, at a growing
    distance in the list of spokes, so that visitors and pairs are balanced.
    """
    hub, *spokes = [name for name in SCANNERS if name not in left_out]
    visits = []
    for i in range(N_HUB_AND_SPOKE):
        distance = 1 + (i // len(spokes)) % (len(spokes) - 1)
        for name in (hub, spokes[i % len(spokes)], spokes[(i + distance) % len(spokes)]):
            visits.append((f"T{i + 1:02d}", name, REFERENCE))
    return _table(visits, HUB_AND_SPOKE_TRAVELERS, rng)


def cohort(rng: np.random.Generator) -> pd.DataFrame:
    """Return the scans of the 805 people scanned once."""
    people = [(name, diagnosis) for name, counts in COHORT.items() for diagnosis, n in counts.items() for _ in range(n)]
    return _table([(f"P{i:04d}", *person) for i, person in enumerate(people, 1)], COHORT_PEOPLE, rng)


def _table(visits: list[tuple[str, str, str]], age_and_sex: AgeAndSex, rng: np.random.Generator) -> pd.DataFrame:
    """Return the scans table of (participant, scanner, diagnosis) visits, with attributes of scanners and people."""
    table = pd.DataFrame(visits, columns=["participant_id", "scanner", "diagnosis"])
    run = table.groupby(["participant_id", "scanner"], sort=False).cumcount() + 1
    table.insert(0, "scan_id", table["participant_id"] + "_" + table["scanner"] + "_" + run.map("{:02d}".format))
    table.insert(3, "site", [SCANNERS[name].site for name in table["scanner"]])

    people = table.drop_duplicates("participant_id").set_index("participant_id")["diagnosis"]
    mean, sd, men = np.array([age_and_sex[diagnosis] for diagnosis in people]).T
    age = np.clip(np.rint(rng.normal(mean, sd)), 18, 75).astype(int)
    sex = np.where(rng.random(len(people)) < men, "M", "F")
    row = people.index.get_indexer(table["participant_id"])
    table["age"], table["sex"] = age[row], sex[row]
    for field in Scanner._fields[1:-1]:
        table[field] = [getattr(SCANNERS[name], field) for name in table["scanner"]]
    return table
