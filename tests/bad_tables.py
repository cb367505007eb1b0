"""Clean studies of several designs, and the ways in which tables of studies go wrong."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from bayesharm.data.dataset import Dataset, load_dataset
from bayesharm.data.finding import Finding
from bayesharm.data.screening.screen import screen


class Study(NamedTuple):
    """A scans table and features with the index ``scan_id``."""

    scans: pd.DataFrame
    features: pd.DataFrame

    def dataset(self, **options) -> Dataset:
        return load_dataset(self.scans, self.features, **options)

    def screen(self, *covariates: str, factors=(), accept=()) -> list[Finding]:
        return screen(self.dataset(), covariates=covariates, factors=factors, accept=accept)

    def codes(self, *covariates: str, **options) -> dict[str, str]:
        """Severity of each finding by its code."""
        return {finding.code: finding.severity for finding in self.screen(*covariates, **options)}

    def with_scans(self, **columns) -> "Study":
        return self._replace(scans=self.scans.assign(**columns))

    def with_values(self, values) -> "Study":
        return self._replace(features=pd.DataFrame(values, self.features.index, self.features.columns))


def make_study(
    seed=0, n_scanners=4, n_travelers=12, n_cohort=80, n_features=40, bias=0.5, icc=0.7, kind="thickness", rank=8
) -> Study:
    """Travelers on two or more scanners, some twice; people scanned once; features correlated by `rank` factors."""
    rng = np.random.default_rng(seed)
    names = [f"scanner{k}" for k in range(n_scanners)]
    rows = []
    for person in range(n_travelers):
        for scanner in rng.permutation(names)[: rng.integers(2, n_scanners + 1)]:
            rows += [(f"t{person:02d}", scanner, visit) for visit in range(1 + (rng.random() < 0.2))]
    rows += [(f"c{person:03d}", names[person % n_scanners], 0) for person in range(n_cohort)]
    scans = pd.DataFrame(rows, columns=["participant_id", "scanner", "session"])
    scans.insert(0, "scan_id", [f"scan{k:04d}" for k in range(len(scans))])
    people = pd.DataFrame(index=scans.participant_id.unique())
    people["age"], people["icv"] = rng.uniform(18, 80, len(people)), rng.normal(1500, 120, len(people))
    people["sex"] = rng.choice(["F", "M"], len(people))
    of = people.loc[scans.participant_id].reset_index(drop=True)
    scans["age"], scans["sex"] = (of.age + scans.session).round(1), of.sex
    scans["motion"], scans["icv"] = (
        rng.lognormal(-2, 0.6, len(scans)).round(4),
        (of.icv + rng.normal(0, 10, len(scans))).round(1),
    )
    factors = rng.normal(size=(rank, n_features))

    def draw(n: int) -> np.ndarray:
        values = rng.normal(size=(n, rank)) @ factors + rng.normal(size=(n, n_features))
        return values / np.sqrt(rank + 1)

    person = pd.DataFrame(draw(len(people)), people.index).loc[scans.participant_id].to_numpy()
    scanner = pd.DataFrame(draw(n_scanners), names).loc[scans.scanner].to_numpy()
    y = np.sqrt(icc) * person + bias * scanner + np.sqrt(1 - icc) * draw(len(scans))
    if kind == "thickness":  # mm
        y = 2.5 + 0.2 * y
    elif kind == "volumes":  # mm³
        y = np.exp(7 + 0.15 * y)
    elif kind == "counts":
        y = rng.poisson(np.exp(1 + 0.5 * y)).astype(float)
    elif kind == "z":  # connectivity
        y = rng.normal(0.2, 0.5, n_features) + 0.15 * y
    features = pd.DataFrame(y, pd.Index(scans.scan_id, name="scan_id"), [f"region{k:03d}" for k in range(n_features)])
    return Study(scans, features)


def least_squares_bias(scans: pd.DataFrame, values: np.ndarray, covariates: np.ndarray | None = None) -> np.ndarray:
    """Scanner effects of ``y = person + scanner (+ covariates) + error``, centered, (scanner, feature)."""
    scanner, person = (pd.get_dummies(scans[name], dtype=float).to_numpy() for name in ("scanner", "participant_id"))
    columns = [scanner, person] if covariates is None else [scanner, person, covariates]
    effects = np.linalg.lstsq(np.hstack(columns), values, rcond=None)[0][: scanner.shape[1]]
    return effects - effects.mean(0)


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def cases_of(data_dir: Path) -> Path:
    """The folder of tables that were accepted once and gave wrong results, beside the real data."""
    return data_dir.parent / "cases"
