"""Small random studies, and the model's likelihood written down a second time from its definition."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.model.catalog import load_model
from bayesharm.model.protocol_factors import name_factors
from bayesharm.model.spec import Family, ModelSpec

DIAGNOSES = ("HC", "MDD", "SCZ")
EXTENDED = ("families", "slopes", "precision", "gain", "feature noise", "everything")


def random_study(seed: int) -> pd.DataFrame:
    """About thirty scans: travelers, people scanned repeatedly on one scanner, people scanned once.

    The last two scanners share a site; odd seeds have somebody marked as traveling, every third has a scanner
    with one scan, every fourth has no diagnosis column.
    """
    rng = np.random.default_rng(seed)
    scanners = [f"s{k}" for k in range(3 + seed % 2)]
    site = dict(zip(scanners, [*scanners[:-1], scanners[-2]], strict=True))
    rows = []

    def scan(person: str, scanner: str, diagnosis: str, marked: bool = False) -> None:
        rows.append((person, scanner, site[scanner], diagnosis, marked))

    for k in range(3):
        diagnosis = str(rng.choice(DIAGNOSES[:2]))
        for scanner in rng.permutation(scanners)[: rng.integers(2, len(scanners) + 1)]:
            for _ in range(rng.integers(1, 3)):
                scan(f"t{k}", scanner, diagnosis)
    for k in range(2):
        scanner, diagnosis = str(rng.choice(scanners)), str(rng.choice(DIAGNOSES))
        for _ in range(2 + k):
            scan(f"r{k}", scanner, diagnosis)
    for k in range(15):
        scan(f"p{k}", str(rng.choice(scanners)), DIAGNOSES[k % 3])
    if seed % 2:
        scan("m0", scanners[0], "HC", marked=True)
    if seed % 3 == 0:
        site["lone"] = "lone"
        scan("l0", "lone", "HC")
    scans = pd.DataFrame(rows, columns=["participant_id", "scanner", "site", "diagnosis", "traveling"])
    scans.insert(0, "scan_id", [f"scan{k}" for k in range(len(scans))])
    scans["age"] = rng.integers(20, 70, len(scans))
    scans["sex"] = rng.permutation(["F", "M"] * len(scans))[: len(scans)]
    for name in ("age", "sex"):
        scans[name] = scans.groupby("participant_id")[name].transform("first")
    numbers = scans.scanner.rank(method="dense").astype(int)
    scans["vendor"] = np.array(["", "GE", "Siemens", "GE", "Philips", "GE"])[numbers]
    scans["field"] = np.array(["", "3", "3", "1.5", "1.5", "7"])[numbers]
    scans["coil"] = rng.permutation(["8ch", "12ch", "32ch"] * len(scans))[: len(scans)]
    if seed % 4 == 3:
        scans = scans.drop(columns="diagnosis")
    more = np.random.default_rng([seed, 1])
    person = scans.participant_id.rank(method="dense").astype(int)
    scans["family_id"] = ("f" + (person // 2).astype(str)).to_numpy()  # siblings
    scans["operator"] = more.choice(["o1", "o2", "o3"], len(scans))
    scans["years"] = more.uniform(0, 6, len(scans)).round(1)
    scans["volumes"] = more.integers(100, 600, len(scans))
    scans["relative_noise"] = 1 / scans.volumes
    return scans.sample(frac=1, random_state=seed).reset_index(drop=True)


def visits_sites(scans: pd.DataFrame) -> np.ndarray:
    """Mask of the scans of travelers between sites, person by person."""
    n_scanners = scans.groupby("participant_id").scanner.nunique()
    settled = {
        (row.scanner, row.site) for row in scans.itertuples() if n_scanners[row.participant_id] == 1 and not marked(row)
    }
    scanners, found = {scanner for scanner, _ in settled}, np.zeros(len(scans), bool)
    for name, rows in scans.groupby("participant_id"):
        people = list(rows.itertuples())
        stays = len({row.site for row in people}) == 1 and all(
            (row.scanner, row.site) in settled or row.scanner not in scanners for row in people
        )
        travels = n_scanners[name] > 1 or any(map(marked, people))
        found[(scans.participant_id == name).to_numpy()] = travels and (any(map(marked, people)) or not stays)
    return found


def marked(row: Any) -> bool:
    return bool(getattr(row, "traveling", False))


def covariance(
    scans: pd.DataFrame,
    spec: ModelSpec,
    scales: dict[str, float],
    ratio: dict[str, float],
    bias: dict[str, float] | None = None,
    gain: dict[str, float] | None = None,
    correlation: dict[str, float] | None = None,
):
    """Covariance of one standardized feature over the scans the model uses, from the definition of the model.

    Parameters
    ----------
    scans : DataFrame
    spec : ModelSpec
    scales : dict
        Scale by name, as in ``Design.scales``.
    ratio : dict
        Noise variance ratio by scanner.
    bias : dict, optional
        Variance ratio of biases by scanner; 1 if it is left out.
    gain : dict, optional
        Gain by scanner; 1 if it is left out.
    correlation : dict, optional
        Correlation of intercepts and slopes by family; 0 if it is left out.

    Returns
    -------
    used : (scan,) bool array
    covariance : (used scan, used scan) array
    """
    n_scanners = scans.groupby("participant_id").scanner.transform("nunique")
    travels = (n_scanners > 1) | scans.get("traveling", pd.Series(False, scans.index))
    used = travels.to_numpy() if spec.participants == "travelers" else np.full(len(scans), True)
    scans, travels = scans[used], travels[used].to_numpy()
    between_sites = visits_sites(scans)
    diagnosis = (scans["diagnosis"] if "diagnosis" in scans else scans.scanner.map(lambda _: "")).to_numpy()

    def same(labels) -> np.ndarray:
        labels = np.asarray(labels)
        return (labels[:, None] == labels).astype(float)

    noise = scales["noise"] ** 2 * scans.scanner.map(ratio).to_numpy(float)
    if spec.noise_weight:
        relative = scans[spec.noise_weight].to_numpy(float)
        relative = relative / np.exp(np.log(relative).mean())
        repeated = scans.participant_id.duplicated(keep=False).to_numpy() | ~scans.participant_id.duplicated().any()
        noise = noise * np.where(repeated, relative, 1.15 ** np.round(np.log(relative) / np.log(1.15)))
    if spec.noise_ratio == "scanner-feature":
        noise = noise * np.array([scales[f"noise_ratio_{name}"] ** 2 for name in scans.scanner])
    total = np.full((len(scans), len(scans)), spec.priors.mean_sd**2) + np.diag(noise)
    shown = (
        set(scans.scanner[travels & scans.participant_id.duplicated(keep=False).to_numpy()])
        if spec.gain == "scanner"
        else set()
    )
    g = np.array([gain[name] if name in shown else 1.0 for name in scans.scanner])
    gains = np.outer(g, g)

    def with_slopes(family, size) -> np.ndarray:
        """Covariance factor of two scans of one level: 1, or that of intercepts and slopes."""
        tau = scales[family.name] * np.sqrt(size)
        if not family.slope:
            return np.outer(tau, tau)
        x = scans[family.slope].to_numpy(float)
        if family.by == "participant":
            x = x - scans.groupby("participant_id")[family.slope].transform("min").to_numpy()
            away = x[scans.participant_id.duplicated(keep=False).to_numpy()]
        else:
            x = away = x - x.mean()
        x = x / np.sqrt((away**2).mean())
        both = np.stack([tau, scales[family.slope_name] * x * np.ones(len(x))])
        rho = 0.0 if correlation is None else correlation[family.name]
        return np.einsum("in,ij,jm->nm", both, [[1, rho], [rho, 1]], both)

    ones = np.ones(len(scans))
    for family in spec.families:
        if family.is_factor:
            total += scales[family.name] ** 2 * same(scans[family.by])
        elif family.columns:
            label = scans[list(family.columns)].astype(str).agg("|".join, axis=1)
            total += with_slopes(family, ones) * same(label) * (gains if family.scaled_by_gain else 1)
        elif family.by == "scanner":
            size = ones if bias is None else scans.scanner.map(bias).to_numpy(float)
            total += with_slopes(family, size) * same(scans.scanner)
        elif family.by == "participant" and scans.participant_id.duplicated().any():
            total += with_slopes(family, ones) * same(scans.participant_id) * gains
        elif family.by == "diagnosis" and "diagnosis" in scans:
            patient = diagnosis != spec.reference
            if patient.any():
                total += with_slopes(family, ones) * same(diagnosis) * np.outer(patient, patient) * gains
        elif family.by == "population":
            for group in np.unique(diagnosis[~between_sites]):
                member = ~between_sites & (diagnosis == group)
                if scans.site[member].nunique() > 1 or group in ("", spec.reference):
                    name = f"{family.name}_{group}" if group and family.split else family.name
                    total += scales[name] ** 2 * same(scans.site) * np.outer(member, member) * gains
    columns = []
    for name in spec.covariates:
        values, number = scans[name].to_numpy(), pd.api.types.is_numeric_dtype(scans[name])
        columns += [values] if number else [values == level for level in np.unique(values)[1:]]
    for column, rest in zip(columns, own_parts(columns), strict=True):
        z = (column - column.mean()) / np.std(rest)
        total += spec.priors.slope_sd**2 * np.outer(z, z) * gains
    return used, total


def own_parts(columns: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Residuals of each column after regression on the mean and all others, (scan,) each."""
    parts = []
    for k, column in enumerate(columns):
        others = np.column_stack([np.ones(len(column)), *columns[:k], *columns[k + 1 :]]).astype(float)
        parts.append(column - others @ np.linalg.lstsq(others, np.asarray(column, float))[0])
    return parts


def sized_scanners(scans: pd.DataFrame, spec: ModelSpec) -> set[str]:
    """Scanners whose biases have a size of their own: where there are populations, those of travelers; of two none."""
    n_scanners = scans.groupby("participant_id").scanner.transform("nunique")
    travels = (n_scanners > 1) | scans.get("traveling", pd.Series(False, scans.index))
    apart = any(family.by == "population" for family in spec.families)
    used = scans[travels] if spec.participants == "travelers" else scans
    if spec.bias_ratio == "homogeneous" or used.scanner.nunique() < 3:
        return set()
    return set(scans.scanner[travels] if apart else used.scanner)


def with_protocol(scans: pd.DataFrame) -> ModelSpec:
    """The model `protocol` with the factors that the random studies have."""
    return name_factors(load_model("protocol"), ["vendor", "field"], scans)


def extend(name: str) -> ModelSpec:
    """A model with some or all of what the models of the package leave out."""
    spec = load_model("traveling_and_cohort")
    families = {family.name: family for family in spec.families}
    if name in ("families", "everything"):
        families["sibling"] = Family("sibling", "family_id", 0.3, scaled_by_gain=True)
        families["operator"] = Family("operator", "operator", 0.2, nested_in="site")
        families["drift"] = Family("drift", "scanner × coil", 0.2)
    if name in ("slopes", "everything"):
        families["participant"] = replace(families["participant"], slope="years")
        families["measurement"] = replace(families["measurement"], slope="age")
        families["disorder"] = replace(families["disorder"], slope="age")
    spec = replace(spec, families=tuple(families.values()))
    if name in ("precision", "everything"):
        spec = replace(spec, noise_weight="relative_noise")
    if name in ("gain", "everything"):
        spec = replace(spec, gain="scanner")
    if name in ("feature noise", "everything"):
        spec = replace(spec, noise_ratio="scanner-feature")
    return spec


def log_normal(y: np.ndarray, covariance: np.ndarray) -> float:
    """Log density of Normal(0, covariance) at y."""
    sign, log_det = np.linalg.slogdet(2 * np.pi * covariance)
    assert sign == 1
    return -0.5 * (log_det + y @ np.linalg.solve(covariance, y))


def two_ratios(vector: Any) -> VarianceRatios:
    """Ratios from log lambda of each scanner, then log kappa of each; gains of 1."""
    half = len(vector) // 2
    return VarianceRatios.of_variances(vector[:half], vector[half:])
