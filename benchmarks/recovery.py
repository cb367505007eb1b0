"""Recovery of simulated effects: error relative to the Gaussian oracle, and coverage of 90% intervals.

    python benchmarks/recovery.py [--features 1000] [--seeds 0 1 2] [--case base …] [--sizes large]
        [--feature-scaling common]

The oracle is the exact posterior mean under the true scales and variance ratios: no method that must learn the scales can
do better on average. The script prints one row for each case, the mean over seeds.

With --known the hyperparameters and the variance ratios are the true ones, and only the scales of each feature must be
learned. No method without the true scales can reach an error below that one on average.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import time
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd

import bayesharm.fitting.scheduler
from bayesharm import load_dataset
from bayesharm.data.dataset import Dataset
from bayesharm.datasets.oracle import gaussian_oracle
from bayesharm.datasets.simulate import Simulation, simulate_srpbs
from bayesharm.fitting.fit import fit
from bayesharm.inference.hyperparameters import Hyperparameters
from bayesharm.inference.variance_ratios import RatioPosterior
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.model.catalog import load_model
from bayesharm.model.design import build_design

CASES: dict[str, dict] = {
    "base": {},
    "scales differ": {"scale_log_sd": 0.9},
    "unequal noise": {"noise_ratio_log_sd": 0.35},
    "unequal biases": {"bias_ratio_log_sd": 0.7},
    "hub and spoke": {"travelers": "hub-and-spoke"},
    "scanner without travelers": {"without_travelers": "KUT"},
    "all at once": {
        "scale_log_sd": 0.9,
        "noise_ratio_log_sd": 0.35,
        "travelers": "hub-and-spoke",
        "without_travelers": "KUT",
        "tail_df": 4.0,
    },
    "no sampling bias": {"sampling_bias": False},
}
ASKED = {
    "base": 1.02,
    "scales differ": 1.05,
    "unequal noise": 1.05,
    "hub and spoke": 1.045,
    "scanner without travelers": 1.02,
    "all at once": 1.08,
}
SIZES: dict[str, dict[str, float] | None] = {
    "published": None,
    "large": {
        "measurement": 0.084,
        "participant": 0.10,
        "disorder": 0.08,
        "sampling_HC": 0.08,
        "sampling_MDD": 0.08,
        "sampling_SCZ": 0.08,
    },
}


def centered_truth(study: Simulation) -> dict[str, pd.DataFrame]:
    """Return the true effects as the contrasts that a fit reports."""
    effects = dict(study.truth.effects)
    effects["measurement"] = effects["measurement"] - effects["measurement"].mean()
    diagnosis = effects["sampling"].index.str.split("/").str[1]
    effects["sampling"] = effects["sampling"] - effects["sampling"].groupby(diagnosis).transform("mean")
    return effects


def true_hyper(study: Simulation, dataset: Dataset) -> Hyperparameters:
    """Return the hyperparameters of a fit with a common feature scaling that has learned them without error."""
    design = build_design(dataset.scans, load_model("traveling_and_cohort"))
    unit = np.sqrt(study.features.var(axis=0).mean())
    log_scales = np.log([study.truth.scales[family] / unit for family in design.scale_labels])
    eta, omega = log_scales.mean(axis=1), log_scales.std(axis=1)
    truth = study.truth
    log_ratios = [np.log(part.loc[list(design.scanners)].to_numpy()) for part in (truth.noise_ratio, truth.bias_ratio)]
    ratios = VarianceRatios.of_variances(*log_ratios)
    ratio = RatioPosterior(ratios, np.zeros((ratios.to_vector().size,) * 2), float(study.features.shape[1]))
    every = np.ones((4, 8, 1))
    return Hyperparameters(eta * every, omega * every, ratio, None, study.features.shape[1], 0)


def measure(study: Simulation, seed: int, feature_scaling: str, known: bool) -> dict[str, float]:
    """Fit one study and compare it with its truth."""
    started = time.perf_counter()
    dataset = load_dataset(study.scans, study.features)
    known_hyper = true_hyper(study, dataset) if known else None
    patched = patch.object(bayesharm.fitting.scheduler, "_learn", lambda *args: (known_hyper, None))
    with patched if known else nullcontext():
        posterior = fit(dataset, "traveling_and_cohort", seed=seed, feature_scaling=feature_scaling)
    seconds = time.perf_counter() - started
    truth, row = centered_truth(study), {}
    for name in ("measurement", "sampling", "disorder"):
        effect = posterior.effect(name)
        true = truth[name].loc[[str(level) for level in effect[effect["mean"].dims[0]].values]].to_numpy()
        error = effect["mean"].values - true
        inside = np.abs(error) < 1.6448536 * effect["sd"].values
        row[f"{name} coverage"] = inside.mean()
        if name == "measurement":
            oracle = gaussian_oracle(study).mean.loc[[str(s) for s in effect.scanner.values]].to_numpy()
            row["RMSE"] = np.sqrt((error**2).mean())
            row["ratio"] = row["RMSE"] / np.sqrt(((oracle - true) ** 2).mean())
            row["worst scanner"] = inside.mean(axis=1).min()
            order = np.argsort(study.truth.scales["measurement"])
            row["worst third"] = min(inside[:, third].mean() for third in np.array_split(order, 3))
    row |= hyper_recovery(posterior, study)
    row["converged"] = posterior.run["n_converged"] / len(posterior.features)
    return row | {"seconds": seconds}


def hyper_recovery(posterior, study: Simulation) -> dict[str, float]:
    """Check whether eta and omega are inside their 99% intervals; omega is the spread beside the feature offset."""
    hyper, unit = posterior.tree["hyper"], posterior.tree["scales"]["feature_scale"].values
    outside, names = 0, []
    for k, family in enumerate(str(name) for name in hyper["family"].values):
        true = study.truth.scales[family]
        if not true.all():
            continue
        for parameter, value in (("eta", np.log(true / unit).mean()), ("omega", np.log(true).std())):
            low, high = np.quantile(hyper[parameter].values[..., k], [0.005, 0.995])
            if not low <= value <= high:
                outside, names = outside + 1, [*names, f"{parameter} {family}"]
    null = [f for f in study.truth.scales if not study.truth.scales[f].any()]
    row = {"hyper outside 99%": outside, "which": ", ".join(names)}
    if null:
        row["tau of absent sampling bias / noise"] = float(
            posterior.tree["scales"]["mean"].sel(family=null).mean()
            / posterior.tree["scales"]["mean"].sel(family="noise").mean()
        )
    return row


def publish(table: pd.DataFrame, made_with: str, out: Path | None) -> None:
    """Print a table as Markdown, with date and machine, and write it to a file if one is given."""
    rows = [list(table.columns), ["---"] * table.shape[1], *table.to_numpy(object).tolist()]
    cells = [[f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    text = "\n".join("| " + " | ".join(row) + " |" for row in cells)
    text += f"\n\n{made_with}; {datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores\n"
    print(text)
    if out:
        out.write_text(text, encoding="utf-8")


def add_study_options(parser: argparse.ArgumentParser, families: Iterable[str], cases: Iterable[str]) -> None:
    """Add the options of benchmarks on families of real features and on cases of the simulated study."""
    parser.add_argument("--families", nargs="+", default=list(families), choices=list(families))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", nargs="+", default=list(cases), choices=list(cases))
    parser.add_argument("--edges", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--case", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--sizes", default="published", choices=list(SIZES))
    parser.add_argument("--feature-scaling", default="common", choices=["per_feature", "common"])
    parser.add_argument(
        "--known", action="store_true", help="use the true hyperparameters; only with --feature-scaling common"
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    for case in options.case:
        for seed in options.seeds:
            study = simulate_srpbs(options.features, seed=seed, sizes=SIZES[options.sizes], **CASES[case])
            rows.append({"case": case, "seed": seed} | measure(study, seed, options.feature_scaling, options.known))
            print({k: round(v, 4) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
    table = pd.DataFrame(rows)
    means = table.drop(columns=["seed", "which"]).groupby("case", sort=False).mean().round(4)
    means.insert(0, "asked", pd.Series(ASKED))
    scaling = f"feature scaling {options.feature_scaling!r}"
    made_with = f"{options.features} features, seeds {options.seeds}, sizes {options.sizes!r}, {scaling}"
    publish(means.reset_index(), made_with + ", known hyperparameters" * options.known, options.out)


if __name__ == "__main__":
    main()
