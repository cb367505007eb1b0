"""Studies whose posterior is fitted to some of the scans; the others are new."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from dense import travels
from formula_columns import FORMULA, columns_of
from posteriors import make_learned
from studies import own_parts, random_study, with_protocol

from bayesharm.data.dataset import Dataset, load_dataset
from bayesharm.model.catalog import load_model
from bayesharm.model.spec import ModelSpec
from bayesharm.results.posterior import Posterior


class Case(NamedTuple):
    """A study with new scans: the scans, which of them are new, (scan, feature) values, and a model."""

    scans: pd.DataFrame
    is_new: np.ndarray
    values: np.ndarray
    spec: ModelSpec

    def part(self, which: np.ndarray, check: str = "apply") -> Dataset:
        return load_dataset(self.scans[which], self.values[which], check=check)

    @property
    def fitted(self) -> Posterior:
        return make_learned(self.part(~self.is_new, "fit"), self.spec)


def make_case(scans: pd.DataFrame, is_new, model: str | ModelSpec = "traveling_and_cohort", covariates=()) -> Case:
    spec = load_model(model) if isinstance(model, str) else model
    rng = np.random.default_rng(3)
    values = 5 + rng.normal(0, 2, (len(scans), 3)) + 3 * np.outer(scans.scanner == "s1", [1, 0, -1])
    return Case(scans.reset_index(drop=True), np.asarray(is_new), values, replace(spec, covariates=tuple(covariates)))


def on(scans: pd.DataFrame, scanner: str) -> pd.Series:
    return scans.scanner == scanner


def travelers_and_cohort() -> Case:
    scans = random_study(1)
    return make_case(scans, on(scans, "s1"), covariates=["age", "sex"])


def by_formula() -> Case:
    case = travelers_and_cohort()
    return case._replace(spec=replace(case.spec, covariates=(), formula=FORMULA))


def cohort_only() -> Case:
    scans = random_study(2)
    scans = scans[~on(scans, "s1") | scans.participant_id.str.startswith("p")]
    return make_case(scans, on(scans, "s1"))


def new_travelers_site_and_diagnosis() -> Case:
    scans = random_study(5)
    is_cohort = on(scans, "s1") & scans.participant_id.str.startswith("p")
    scans.loc[is_cohort, "site"] = "elsewhere"
    scans.loc[is_cohort & (scans.diagnosis == "SCZ"), "diagnosis"] = "ASD"
    return make_case(scans, on(scans, "s1") | (scans.participant_id == "t1"))


def of_protocol() -> Case:
    scans = random_study(1)
    return make_case(scans, on(scans, "s3"), with_protocol(scans))


def of_travelers() -> Case:
    scans = random_study(5)
    return make_case(scans, on(scans, "s1"), "traveling")


def of_cohort() -> Case:
    scans = random_study(6)
    return make_case(scans, on(scans, "s1"), "cohort")


def known_scanners() -> Case:
    scans = random_study(8)
    return make_case(scans, scans.participant_id.isin(["t1", "p1", "p2", "p5", "r1"]))


def repeated_who_travel() -> Case:
    """Two people are scanned repeatedly on one scanner of the fit, then travel; one of them is a whole population."""
    scans = random_study(4)
    repeated = scans.participant_id.isin(["r0", "r1"])
    scans.loc[scans.participant_id == "r1", ["site", "diagnosis"]] = "alone", "HC"
    scans.loc[scans.participant_id == "r0", "diagnosis"] = "MDD"
    scans.loc[repeated & on(scans, "s1"), "scanner"] = "s2"
    more = scans[repeated & ~scans.participant_id.duplicated()].assign(scanner="s1", scan_id=["more0", "more1"])
    scans = pd.concat([scans, more], ignore_index=True)
    return make_case(scans, on(scans, "s1"), covariates=["age"])


def two_new_scanners() -> Case:
    scans = random_study(3)
    return make_case(scans, on(scans, "s1") | on(scans, "lone"))


def everybody(case: Case) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Return the scans that the model uses, their values, and which of them were in the fit."""
    scans = rename_once(case.scans, ~case.is_new)
    used = travels(scans) if case.spec.participants == "travelers" else np.full(len(scans), True)
    return scans[used].reset_index(drop=True), case.values[used], ~case.is_new[used]


def rename_once(scans: pd.DataFrame, selected: np.ndarray) -> pd.DataFrame:
    """Rename people with a single scan among the selected ones: a posterior does not keep their names."""
    scans, subset = scans.copy(), scans[np.asarray(selected)]
    once = subset.index[~subset.participant_id.duplicated(keep=False)]
    scans.loc[once, "participant_id"] = "once " + scans.loc[once, "participant_id"]
    return scans


def standardize(case: Case, scans: pd.DataFrame, first: np.ndarray) -> dict[str, np.ndarray]:
    """Divide covariates, minus their mean, by the sd of their own parts over the scans of the fit."""
    numbers = {}
    for name in case.spec.covariates:
        values = (scans[name] if name == "age" else scans[name] == "M").to_numpy(float)
        numbers[name if name == "age" else f"{name}_M"] = values
    numbers |= columns_of(scans, first) if case.spec.formula else {}
    parts = own_parts([values[first] for values in numbers.values()])
    return {
        level: (values - values[first].mean()) / part.std()
        for (level, values), part in zip(numbers.items(), parts, strict=True)
    }


def with_missing(case: Case, where: str) -> Case:
    """Remove an eighth of the values, of the first two features only, in ``old scans``, ``new scans`` or ``both``."""
    chosen = {"old scans": ~case.is_new, "new scans": case.is_new, "both": np.full(len(case.scans), True)}[where]
    missing = np.random.default_rng(5).random(case.values.shape) < 1 / 8
    missing[:, 2:] = False
    missing[np.flatnonzero(chosen)[0], 0] = True
    return case._replace(values=np.where(missing & chosen[:, None], np.nan, case.values))
