"""Noise ratios of each scanner and feature: held-out densities on public studies, recovery of a simulated truth, and time.

    BAYESHARM_DATA=folder python benchmarks/noise_ratio.py onharmony [--families thickness …] --out table.md
    BAYESHARM_DATA=folder python benchmarks/noise_ratio.py fcon1000 --out table.md
    python benchmarks/noise_ratio.py recovery [--cases shared …] [--edges 300] [--seeds 0 1 2] --out table.md
    python benchmarks/noise_ratio.py time [--edges 1000] --out table.md

*onharmony*, *fcon1000*: log predictive density of held-out participants and visits (`bayesharm.compare_models`) with noise
ratios of each feature (`scanner-feature`) minus that with ratios that all features share (`scanner`). The runs are
approximate (`preview`): a prediction needs the hyperparameters only, and draws the scales itself. *Omega*: spread of the log
factor of a scanner's noise sd over features.

*recovery*: simulated SRPBS studies with and without noise ratios of each feature. *Ratio, error*: of the log noise variance
ratio of a scanner in a feature, relative to the mean over scanners, which the noise of the feature takes up. *Bias*: error
of the measurement bias relative to the oracle, and coverage of its intervals.

*time*: fits of the simulated study one after the other in one process, the second of each model with compiled programs.
"""

from __future__ import annotations

import argparse
import os
import time
from importlib.metadata import version
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from evaluate import FAMILIES, MODEL
from recovery import SIZES, add_study_options, centered_truth, publish

from bayesharm import compare_models, fetch_onharmony, fit, load_dataset, simulate_srpbs
from bayesharm.cli.demo.onharmony import ONHARMONY_COLUMNS
from bayesharm.data.dataset import Dataset
from bayesharm.datasets.oracle import gaussian_oracle
from bayesharm.results.posterior import Posterior

CHOICES = ("scanner-feature", "scanner")
CASES = {
    "shared": {"noise_ratio_log_sd": 0.35},
    "of each feature": {"noise_ratio_log_sd": 0.35, "feature_noise_log_sd": 0.2},
}
FCON1000_COLUMNS = {"scan_id": "sub_id", "participant_id": "sub_id", "scanner": "site"}
THICKNESS = "?h_[!M]*_thickness"
FOLDS, Z = 5, 1.6449  # Z: half a 90% interval, in sds


def compare(dataset: Dataset, model: str, covariates: tuple[str, ...], seed: int, row: dict) -> list[dict]:
    """Compare both models by their predictions; one row for each type of unit that is left out."""
    settings = {"seed": seed, "covariates": covariates, "preview": True, "hyper_features": 256}
    runs = [fit(dataset, model, noise_ratio=choice, **settings) for choice in CHOICES]
    found = compare_models(*runs, dataset, names=CHOICES, folds=FOLDS, seed=seed)
    low, omega, high = np.quantile(runs[0].hyper["omega"].sel(family="noise_ratio"), [0.05, 0.5, 0.95])
    n_independent = round(runs[1].hyper.attrs["n_independent_features"])
    rows = []
    for unit_type, each in found.predictions.iterrows():
        if unit_type == "scanners":
            continue  # those left out have no ratio of their own
        rows.append({
            **row, "features": found.about["n_features"], "count for": n_independent,
            "omega": f"{omega:.2f} ({low:.2f}–{high:.2f})",
            "held out": unit_type, "n": int(each.n), "difference": each.difference, "se": each.se,
            "Pareto k high": each.khat_high, "reliable": [run.hyper.attrs["reliable"] for run in runs],
        })  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def onharmony(family: str) -> Dataset:
    """Read one family of measures of ON-Harmony."""
    table = pd.read_csv(fetch_onharmony(), encoding="utf-8-sig")
    return load_dataset(table, columns=ONHARMONY_COLUMNS, select=FAMILIES[family], missing="drop-features")


def fcon1000() -> Dataset:
    """Read the cortical thickness of the 1000 Functional Connectomes Project."""
    table = pd.read_csv(Path(os.environ["BAYESHARM_DATA"]) / "fcon1000.csv")
    return load_dataset(table, columns=FCON1000_COLUMNS, select=[THICKNESS])


def noise_of_features(posterior: Posterior) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and sd of the log noise variance ratio of every scanner in every feature, (scanner, feature) both."""
    log_lambda = np.log(posterior.hyper["noise_ratio"].values).reshape(-1, len(posterior.scanners))
    mean, variance = log_lambda.mean(0)[:, None], log_lambda.var(0)[:, None]
    scales = posterior.scales.isel(family=np.flatnonzero(posterior.scales["term"] == "noise_ratio"))
    if not scales.sizes["family"]:
        shape = len(posterior.scanners), len(posterior.features)
        return np.broadcast_to(mean, shape), np.broadcast_to(np.sqrt(variance), shape)
    return mean + 2 * np.log(scales["q50"].values), np.log(scales["q95"].values / scales["q05"].values) / Z


def recovery(case: str, choice: str, edges: int, seed: int) -> dict:
    """Fit one simulated study with one of the models, and compare it with the truth."""
    study = simulate_srpbs(edges, seed, **CASES[case], sizes=SIZES["large"], dtype="float64")
    dataset, true = load_dataset(study.scans, study.features), centered_truth(study)["measurement"]
    oracle = np.sqrt(((gaussian_oracle(study).mean - true).to_numpy() ** 2).mean())
    started = time.perf_counter()
    posterior = fit(dataset, MODEL, seed=seed, feature_scaling="common", noise_ratio=choice)
    seconds, effect = time.perf_counter() - started, posterior.effect("measurement")
    error = effect["mean"].to_numpy() - true.loc[posterior.scanners].to_numpy()
    log_ratio = np.log(study.truth.noise_ratio.loc[posterior.scanners].to_numpy())[:, None] * np.ones(edges)
    if study.truth.feature_noise is not None:
        log_ratio = log_ratio + 2 * np.log(study.truth.feature_noise.loc[posterior.scanners].to_numpy())
    mean, sd = noise_of_features(posterior)
    mean, sd, log_ratio = mean - mean.mean(0), sd, log_ratio - log_ratio.mean(0)  # the rest is the feature's own noise
    row = {
        "case": case, "noise ratio": choice, "seed": seed,
        "ratio, error": np.sqrt(((mean - log_ratio) ** 2).mean()),
        "ratio, coverage": (np.abs(mean - log_ratio) < Z * sd).mean(),
        "bias, to oracle": np.sqrt((error**2).mean()) / oracle,
        "bias, coverage": (np.abs(error) < Z * effect["sd"].to_numpy()).mean(),
        "converged": posterior.scales["converged"].values.mean(), "seconds": seconds,
    }  # fmt: skip
    print(row, flush=True)
    return row


def measure_time(edges: int) -> list[dict]:
    """Fit each model twice, with two seeds, and count the leapfrog steps."""
    study = simulate_srpbs(edges, 7, **CASES["of each feature"])
    dataset, rows = load_dataset(study.scans, study.features), []
    for choice in reversed(CHOICES):
        seconds = []
        for seed in (1, 2):
            started = time.perf_counter()
            posterior = fit(dataset, MODEL, seed=seed, noise_ratio=choice)
            seconds.append(time.perf_counter() - started)
        again = (posterior.scales["n_draws"].values > posterior.scales["n_draws"].values.min()).mean()
        rows.append({
            "noise ratio": choice, "edges": edges, "first fit, s": seconds[0], "second fit, s": seconds[1],
            "leapfrog steps a draw": posterior.run["leapfrog"]["mean"], "features run again": again,
        })  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["onharmony", "fcon1000", "recovery", "time"])
    add_study_options(parser, FAMILIES, CASES)
    options = parser.parse_args()
    made_with, rows = f"bayesharm {version('bayesharm')}", []
    if options.what == "onharmony":
        for family in options.families:
            rows += compare(onharmony(family), "traveling", (), options.seed, {"family": family})
    elif options.what == "fcon1000":
        rows = compare(fcon1000(), "cohort", ("age", "sex"), options.seed, {"family": "thickness"})
    elif options.what == "recovery":
        for choice, case, seed in product(CHOICES, options.cases, options.seeds):  # a model is compiled once
            rows.append(recovery(case, choice, options.edges, seed))
        made_with = f"SRPBS study, sizes large, {options.edges} edges, seeds {options.seeds}, {made_with}"
        rows = pd.DataFrame(rows).drop(columns="seed").groupby(["case", "noise ratio"]).mean().reset_index()
    else:
        rows = measure_time(options.edges)
    publish(pd.DataFrame(rows), made_with, options.out)


if __name__ == "__main__":
    main()
