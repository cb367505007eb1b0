"""Longitudinal studies: scanner effects, harmonized data and trajectories by bayesharm, longitudinal ComBat and others.

    python benchmarks/longitudinal.py --out folder [--features 60] [--people 160] [--seeds 0 1 …] [--cases …] [--model NAME]

Simulated studies (`bayesharm.simulate_longitudinal`) with known truth; all methods get the same covariates. Unless a method
estimates slopes itself, they come from a mixed model of its harmonized data, taken as exact: fixed effects of covariates,
correlated random intercepts and slopes of people. *Scanners as covariates* is that mixed model of the unharmonized data with
the scanners as fixed effects; *oracle* is the exact posterior given the true variances. Each study is written as soon as it
is there, and not computed again; the folder also gets a table for each case. *Bayesharm, bias by age* has a slope on age in
the measurement bias, in place of a constant one.

Measures are root mean square errors over features, in thousandths of the units; slopes per year. Coverage is that of 90%
intervals. *data*: harmonized values minus those without scanner bias, apart from a constant for each feature.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from recovery import publish
from scipy import sparse

from bayesharm import fit, harmonize, load_dataset, simulate_longitudinal
from bayesharm.algorithms.devices import find_devices
from bayesharm.baselines import available_methods, get_method
from bayesharm.baselines.mixed_model import MixedModel, fit_mixed_model, predict_random_effects
from bayesharm.conditional.gaussian import condition_effects
from bayesharm.data.dataset import Dataset
from bayesharm.datasets.longitudinal import AGE, participant_slopes, scanner_bias
from bayesharm.datasets.longitudinal_oracle import longitudinal_oracle
from bayesharm.datasets.simulate import Simulation
from bayesharm.likelihood.problem import make_problem
from bayesharm.model.catalog import load_model
from bayesharm.model.spec import ModelSpec
from bayesharm.results.nodes import read_statistics
from bayesharm.results.posterior import Posterior

CASES: dict[str, dict] = {
    "staggered upgrades": {},
    "five travelers": {"n_travelers": 5},
    "unequal noise": {"noise_ratio_log_sd": 0.7},
    "sites recruit differently": {"sizes": {"sampling": 0.08}},
    "bias depends on age": {"sizes": {"measurement_slope": 0.002}},
    "weak overlap": {"crossing": 0.05, "moving": 0.02},
    "confounded with time": {"simultaneous": True},
}
COVARIATES = ["diagnosis", "baseline_age", "sex", "years", "years_of_patients"]
METHODS: dict[str, tuple[str, dict]] = {
    "no correction": ("none", {}),
    "adjusted GLM": ("adjusted_glm", {}),
    "ComBat": ("neuroharmonize", {}),
    "ridge of 2019": ("yamashita2019", {}),
    "REML, random scanners": ("reml", {}),
    "longitudinal ComBat": ("longcombat", {}),
    "longitudinal ComBat, slopes": ("longcombat", {"slope": "years"}),
}
Z90 = 1.6448536
POPULATION = ""  # the row of the healthy population beside those of people


@dataclass(frozen=True)
class Result:
    """Result of a method for a study; None for what the method does not estimate.

    Attributes
    ----------
    harmonized : (scan, feature) array
        Data without scanner bias; a constant for each feature does not matter.
    bias, bias_sd : (scanner, feature) DataFrame
        Scanner effects at the mean age of the scans, minus their mean over scanners, and their sd.
    slopes, slopes_sd : (participant, feature) DataFrame
        Change of each person per year, population and diagnosis included, and its sd.
    population, population_sd, difference, difference_sd : (feature,) array
        Change per year of the reference group; how much more that of patients is; their sds.
    """

    harmonized: np.ndarray
    bias: pd.DataFrame | None = None
    bias_sd: pd.DataFrame | None = None
    slopes: pd.DataFrame | None = None
    slopes_sd: pd.DataFrame | None = None
    population: np.ndarray | None = None
    population_sd: np.ndarray | None = None
    difference: np.ndarray | None = None
    difference_sd: np.ndarray | None = None


def with_bias_by_age(spec: ModelSpec) -> ModelSpec:
    """Give the measurement bias a slope on age."""
    families = [replace(family, slope="age") if family.by == "scanner" else family for family in spec.families]
    return replace(spec, families=tuple(families))


def fit_bayesharm(dataset: Dataset, seed: int, spec: ModelSpec) -> Result:
    """Return the result of bayesharm.

    Without trajectories in the model, slopes are those of the mixed model of the harmonized data.
    """
    has_slopes = any(family.by == "participant" for family in spec.slopes)
    left_out = {"diagnosis", *(["years_of_patients"] if has_slopes else [])}
    if any(family.slope == "age" for family in spec.slopes):
        left_out.add("baseline_age")  # age, which is added, less years
    covariates = [name for name in COVARIATES if name not in left_out]
    time = "years" if has_slopes else None
    posterior = fit(dataset, spec, covariates=covariates, time=time, seed=seed, feature_scaling="common")
    effect = posterior.effect("measurement")
    bias, sd = (effect[name].to_pandas() for name in ("mean", "sd"))
    harmonized = harmonize(posterior, dataset).mean
    if not has_slopes:
        return Result(harmonized, bias, sd)
    mean, uncertainty = trajectories(posterior, dataset)
    population = [table.loc[POPULATION].to_numpy() for table in (mean, uncertainty)]
    difference = [posterior.effect("disorder_years").sel(diagnosis="MCI")[name].values for name in ("mean", "sd")]
    return Result(harmonized, bias, sd, mean.drop(POPULATION), uncertainty.drop(POPULATION), *population, *difference)


def trajectories(posterior: Posterior, dataset: Dataset) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return mean and sd of the slopes of the population and of each person with several scans.

    They are given the posterior medians of the scales. Where age is a covariate beside the years, both pass with time.
    """
    statistics = read_statistics(posterior.sufficient_statistics, posterior.spec)
    design, scales = statistics.design, posterior.scales
    unit = scales["feature_scale"].values
    per_year = {each.family: 1 / each.sd for each in design.standards.slopes}
    passing = {each.name: 1 / each.sd for each in design.covariates if each.name in ("years", "age")}
    place = {(column.family, column.level): k for k, column in enumerate(design.columns)}
    diagnosis = dataset.scans.drop_duplicates("participant_id").set_index("participant_id")["diagnosis"]
    people = [level for family, level in place if family == "participant_years"]
    combinations = np.zeros((1 + len(people), len(design.columns)))
    for name, step in passing.items():
        combinations[:, place["covariate", name]] = step
    for row, person in zip(combinations[1:], people, strict=True):
        row[place["participant_years", person]] = per_year["participant"]
        if ("disorder_years", diagnosis[person]) in place:
            row[place["disorder_years", diagnosis[person]]] = per_year["disorder"]
    with find_devices().in_use("float64"):
        problem = make_problem(design, statistics.likelihood)
        log_scales = np.log(scales["q50"].values / unit)[None]
        ratios = posterior.variance_ratios(design.scanners)
        given = condition_effects(problem, ratios, statistics.moments, log_scales)
        parts = given.mean(sparse.csr_array(combinations))[0], given.variance(sparse.csr_array(combinations))[0]
    index = pd.Index([POPULATION, *people], name="participant")
    return pd.DataFrame(parts[0].T * unit, index), pd.DataFrame(np.sqrt(parts[1].T) * unit, index)


def compute_results(
    study: Simulation, dataset: Dataset, seed: int, model: str, by_age: bool
) -> Iterator[tuple[str, Result]]:
    """Yield the name and the result of each method."""
    values = dataset.features.read(0, dataset.features.n_features)
    for name, (method, options) in METHODS.items():
        if method in available_methods():
            fitted = get_method(method, **options).fit(dataset, COVARIATES)
            if fitted.scanners:
                yield name, Result(fitted.apply(dataset).values, fitted.bias, getattr(fitted, "sd", None))
    yield "scanners as covariates", adjust(values, study.scans)
    yield "bayesharm", fit_bayesharm(dataset, seed, load_model(model))
    if by_age:
        yield "bayesharm, bias by age", fit_bayesharm(dataset, seed, with_bias_by_age(load_model(model)))
    age = study.scans["age"].mean()
    best = {name: (part.mean, part.sd) for name, part in longitudinal_oracle(study, age).items()}
    bias, slope = (best[name][0].loc[study.scans["scanner"]].to_numpy() for name in ("measurement", "measurement_slope"))
    harmonized = values - bias - slope * (study.scans[["age"]].to_numpy() - age)
    years, more = ([table.iloc[-1].to_numpy() for table in best[name]] for name in ("covariate", "disorder_slope"))
    yield "oracle", Result(harmonized, *best["measurement"], *best["participant_slope"], *years, *more)


def analyze(values: np.ndarray, scans: pd.DataFrame, scanners: pd.DataFrame) -> tuple[MixedModel, pd.DataFrame]:
    """Fit the mixed model of trajectories with these columns of scanners; also return the slopes of the participants."""
    covariates = scans[["years", "years_of_patients", "baseline_age"]].to_numpy()
    groups = np.column_stack([scans["diagnosis"] == "MCI", scans["sex"] == "M"]).astype(float)
    fixed = np.column_stack([covariates, groups, scanners])
    random = np.column_stack([np.ones(len(scans)), scans["years"]])
    people, names = pd.factorize(scans["participant_id"])
    model = fit_mixed_model(values, fixed, random, people)
    effects = predict_random_effects(values - fixed @ model.coefficients, random, people, model.factor)[:, :, 1]
    patient = scans.drop_duplicates("participant_id")[["diagnosis"]].to_numpy() == "MCI"
    slopes = effects + model.coefficients[0] + patient * model.coefficients[1]
    return model, pd.DataFrame(slopes, index=pd.Index(names, name="participant"))


def adjust(values: np.ndarray, scans: pd.DataFrame) -> Result:
    """Return the result of the mixed model that has the scanners as fixed effects."""
    scanners = pd.get_dummies(scans["scanner"], dtype=float)
    model, slopes = analyze(values, scans, scanners)
    center = np.eye(scanners.shape[1]) - 1 / scanners.shape[1]
    start = len(model.coefficients) - len(center)
    bias = pd.DataFrame(center @ model.coefficients[start:], index=scanners.columns)
    variance = np.einsum("ij,fjk,ik->if", center, model.covariance[:, start:, start:], center)
    sd = np.sqrt(np.einsum("fjj->jf", model.covariance)[:2])
    return Result(
        values - bias.loc[scans["scanner"]].to_numpy(), bias, pd.DataFrame(np.sqrt(variance), index=scanners.columns),
        slopes, None, model.coefficients[0], sd[0], model.coefficients[1], sd[1],
    )  # fmt: skip


def measure(study: Simulation, result: Result) -> dict[str, float]:
    """Compare the result of a method with the truth."""
    scans, truth = study.scans, study.truth
    effects = {name: table.to_numpy() for name, table in truth.effects.items()}
    bias = truth.effects["measurement"] + (scans["age"].mean() - AGE) * effects["measurement_slope"]
    error = result.harmonized - (study.features - scanner_bias(scans, truth))
    row = {"data": rms(error - error.mean(axis=0))}
    if result.bias is not None:
        row["scanner"], row["scanner, coverage"] = compare(bias - bias.mean(), result.bias, result.bias_sd)
    if result.population is None:
        model, slopes = analyze(result.harmonized, scans, pd.DataFrame({"constant": np.ones(len(scans))}))
        sd = np.sqrt(np.einsum("fjj->jf", model.covariance))
        result = Result(
            result.harmonized, slopes=slopes if result.slopes is None else result.slopes, slopes_sd=result.slopes_sd,
            population=model.coefficients[0], population_sd=sd[0], difference=model.coefficients[1], difference_sd=sd[1],
        )  # fmt: skip
    row["person"], row["person, coverage"] = compare(participant_slopes(study), result.slopes, result.slopes_sd)
    for name, true, mean, sd in (
        ("population", effects["covariate"][-1], result.population, result.population_sd),
        ("difference", effects["disorder_slope"][0], result.difference, result.difference_sd),
    ):
        row[name], row[f"{name}, coverage"] = rms(mean - true), (np.abs(mean - true) < Z90 * sd).mean()
    return row


def compare(true: pd.DataFrame, mean: pd.DataFrame, sd: pd.DataFrame | None) -> tuple[float, float]:
    """Return the root mean square error and the coverage of tables by level."""
    error = mean.loc[true.index].to_numpy() - true.to_numpy()
    return rms(error), np.nan if sd is None else float((np.abs(error) < Z90 * sd.loc[true.index].to_numpy()).mean())


def rms(error: np.ndarray) -> float:
    return float(np.sqrt((error**2).mean()))


def study_table(case: str, seed: int, n_features: int, n_people: int, model: str) -> pd.DataFrame:
    """Simulate a study and return one row of measures for each method."""
    study = simulate_longitudinal(n_features, seed, n_people=n_people, **CASES[case])
    study.scans["years_of_patients"] = study.scans["years"] * (study.scans["diagnosis"] == "MCI")
    dataset = load_dataset(study.scans, study.features)
    return pd.DataFrame([
        {"case": case, "method": name, "seed": seed} | measure(study, result)
        for name, result in compute_results(study, dataset, seed, model, "measurement_slope" in CASES[case].get("sizes", {}))
    ])  # fmt: skip


def summarize(table: pd.DataFrame) -> pd.DataFrame:
    """Return means over studies with their standard errors, errors in thousandths and coverage in percent."""
    rows = []
    for method, part in table.groupby("method", sort=False):
        row = {"method": method}
        for name in ("scanner", "data", "person", "population", "difference"):
            values = 1000 * part[name].dropna()
            row[name] = f"{values.mean():.2f}" + (f" ± {values.sem():.2f}" if len(values) > 1 else "") if len(values) else ""
        for name in ("scanner", "person", "population", "difference"):
            values = part[f"{name}, coverage"].dropna()
            row[f"{name}, 90%"] = f"{values.mean():.0%}" if len(values) else ""
        rows.append(row)
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=60)
    parser.add_argument("--people", type=int, default=160)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--model", default="longitudinal", help="model of bayesharm")
    parser.add_argument("--out", type=Path, required=True, help="folder for tables")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for case in options.cases:
        tables, name = [], case.replace(" ", "_")
        for seed in options.seeds:
            file = options.out / f"{name}_{options.features}_{options.people}_{options.model}_{seed}.csv"
            if not file.exists():
                study_table(case, seed, options.features, options.people, options.model).to_csv(file, index=False)
                print(file.name, flush=True)
            tables.append(pd.read_csv(file))
        made_with = f"{case}: {options.features} features, {options.people} people, {len(options.seeds)} studies"
        publish(summarize(pd.concat(tables)), made_with, options.out / f"{name}.md")


if __name__ == "__main__":
    main()
