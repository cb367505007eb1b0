"""Known precision of scans: held-out scans of unequal length with and without noise weights, and the effect of rounding.

    BAYESHARM_DATA=folder python benchmarks/precision.py rpn [--edges 300] --out table.md
    python benchmarks/precision.py rounding [--edges 200] --out table.md

*rpn*: connectivity of 117 people from 155 to 290 volumes. *Whole*: the scans as they are, people held out. *Parts*: each
person's series is cut at random into two scans of 50 volumes or more, one of which is held out. Differences are those of the
log predictive density with weights 1 / (volumes − 3) minus that without. *Inside*: share of the held-out values of the
shortest and the longest third of the scans that are inside of their 90% intervals.

*rounding*: simulated SRPBS studies with 100 to 600 volumes a scan. The noise variances of people scanned once are rounded to
powers of 1.15, or hardly (1.001). Difference of the posterior mean of the measurement bias, root mean square in posterior
sds, and the ratio of sds, both given the true scales; and the error of the mean relative to that without rounding.
"""

from __future__ import annotations

import argparse
import os
from importlib.metadata import version
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
from evaluate import MODEL
from recovery import SIZES, publish

import bayesharm.model.noise_classes as noise_classes
from bayesharm import connectivity, fit, load_dataset, simulate_srpbs
from bayesharm.analysis.held_out_prediction import HeldOutPredictor
from bayesharm.analysis.predictive_scores import elpd_difference
from bayesharm.analysis.validation_schemes import Scheme
from bayesharm.data.dataset import Dataset
from bayesharm.fitting.context import load_fit_context
from bayesharm.likelihood.definition import condition
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.model.catalog import load_model
from bayesharm.model.configure import configure_model
from bayesharm.model.design import build_design

COPIES = ("essen-004", "essen-005")  # two scans with the same values
LEAST, FOLDS, INTERVAL = 50, 5, (0.05, 0.95)
STEPS = {"exact": 1.001, "1.05": 1.05, "1.15": 1.15, "1.3": 1.3}


def read_rpn(edges: int, seed: int, in_parts: bool) -> Dataset:
    """Compute the connectivity of the whole series, or of two parts of each."""
    folder, rng = Path(os.environ["BAYESHARM_DATA"]), np.random.default_rng(seed)
    scans = pd.read_csv(folder / "rpn_scans.csv").query("scan_id not in @COPIES").reset_index(drop=True)
    series: dict[str, pd.DataFrame] = {}
    with np.load(folder / "rpn_timeseries.npz") as archive:
        for name in scans["scan_id"]:
            table = pd.DataFrame(archive[name], columns=archive["regions"])
            cut = int(rng.integers(LEAST, len(table) - LEAST + 1))
            parts = {f"{name}-1": table[:cut], f"{name}-2": table[cut:]} if in_parts else {name: table}
            series |= parts
    if in_parts:
        scans = scans.loc[scans.index.repeat(2)].assign(scan_id=list(series)).reset_index(drop=True)
    found = connectivity(series)
    scans = scans.merge(found.scans[["scan_id", "relative_noise"]], on="scan_id")
    complete = np.flatnonzero(np.isfinite(found.values).all(0))
    chosen = complete[np.linspace(0, len(complete) - 1, edges).astype(int)]
    features = found.to_frame().iloc[:, chosen].reset_index()
    return load_dataset(scans, features, columns={"scanner": "site"}, transform="fisher-z")


def hold_out(dataset: Dataset, in_parts: bool, seed: int) -> Scheme:
    """Hold out all people, or one of the two parts of each, in folds."""
    people, unit = np.unique(dataset.scans["participant_id"].astype(str), return_inverse=True)
    rng = np.random.default_rng(seed)
    fold = rng.permutation(np.arange(len(people)) % FOLDS)[unit]
    if in_parts:
        part = dataset.scans["scan_id"].str.endswith("-2").to_numpy()
        is_kept = part == rng.integers(0, 2, len(people)).astype(bool)[unit]
        fold, unit = np.where(is_kept, -1, fold), np.where(is_kept, -1, unit)
    return Scheme(fold, unit, people)


def rpn(edges: int, seed: int, in_parts: bool) -> dict:
    """Compare the predictions of held-out scans with and without weights."""
    dataset = read_rpn(edges, seed, in_parts).transformed("fisher-z").sorted()
    scheme, features = hold_out(dataset, in_parts, seed), np.arange(edges)
    scores, row = {}, {"scans": "parts" if in_parts else "whole", "edges": edges}
    volumes = 1 / dataset.scans["relative_noise"].to_numpy() + 3
    held_out = scheme.folds >= 0
    short, long = (volumes <= np.quantile(volumes[held_out], 1 / 3)), (volumes >= np.quantile(volumes[held_out], 2 / 3))
    for name, weight in (("without", None), ("with", "relative_noise")):
        posterior = fit(dataset, "cohort", seed=seed, feature_scaling="common", noise_weight=weight, preview=True)
        predictor = HeldOutPredictor.from_posterior(posterior, load_fit_context(posterior, dataset), features)
        scores[name], pit = predictor.predict(scheme, with_pit=True)
        inside = (pit > INTERVAL[0]) & (pit < INTERVAL[1])
        row |= {f"inside, short, {name}": inside[short & held_out].mean()}
        row |= {f"inside, long, {name}": inside[long & held_out].mean()}
        typical = np.exp(posterior.hyper["eta"].mean(("chain", "draw"))).to_series()
        ratio = posterior.hyper["noise_ratio"].mean(("chain", "draw")).to_series()
        print(name, typical.round(3).to_dict(), ratio.round(2).to_dict(), flush=True)
    difference = elpd_difference(scores["with"], scores["without"])
    return row | {name: difference[name] for name in ("n", "difference", "se", "khat_high")}


def rounding(edges: int, seed: int) -> list[dict]:
    """Compute the posterior given the true scales with noise variances rounded to powers of several steps."""
    study = simulate_srpbs(edges, seed, noise_ratio_log_sd=0.35, sizes=SIZES["large"], dtype="float64")
    volumes = np.random.default_rng(seed).integers(100, 601, len(study.scans))
    scans = study.scans.assign(relative_noise=1 / volumes)
    truth, relative = study.truth, np.exp(np.log(1 / volumes) - np.log(1 / volumes).mean())
    noiseless = simulate_srpbs(edges, seed, sizes=SIZES["large"] | {"noise": 1e-12}, dtype="float64").features
    values = noiseless + (study.features - noiseless) * np.sqrt(relative)[:, None]
    unit, y = float(np.sqrt(values.var(0).mean())), (values - values.mean(0)) / np.sqrt(values.var(0).mean())
    spec, found = configure_model(load_model(MODEL), scans, noise_weight="relative_noise"), {}
    for name, step in STEPS.items():
        with patch.object(noise_classes, "STEP", step):
            design = build_design(scans, spec)
        log_noise = np.log(truth.noise_ratio.loc[list(design.scanners)].to_numpy())
        ratios = VarianceRatios.of_variances(log_noise, 0 * log_noise)
        columns = [design.column_labels.index(f"measurement:{scanner}") for scanner in design.scanners]
        center, mean, sd = np.eye(len(columns)) - 1 / len(columns), *np.empty((2, len(columns), edges))
        for k in range(edges):
            log_scales = np.log([truth.scales[label][k] / unit for label in design.scale_labels])
            effects, covariance = condition(design, y[design.rows, k], log_scales, ratios)
            mean[:, k] = center @ effects[columns]
            sd[:, k] = np.sqrt(np.diag(center @ covariance[np.ix_(columns, columns)] @ center))
        found[name] = mean, sd
    true = truth.effects["measurement"].loc[list(design.scanners)].to_numpy() / unit
    true = true - true.mean(0)
    exact, exact_sd = found["exact"]
    return [
        {"step": name, "seed": seed, "difference of means": np.sqrt((((mean - exact) / exact_sd) ** 2).mean()),
         "ratio of sds": (sd / exact_sd).mean(), "largest change of an sd": np.abs(sd / exact_sd - 1).max(),
         "error to exact": np.sqrt(((mean - true) ** 2).mean() / ((exact - true) ** 2).mean())}
        for name, (mean, sd) in found.items()
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["rpn", "rounding"])
    parser.add_argument("--edges", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    made_with = f"{options.edges} edges, seeds {options.seeds}, bayesharm {version('bayesharm')}"
    if options.what == "rpn":
        rows = [rpn(options.edges, options.seeds[0], False)]
        rows += [{**rpn(options.edges, seed, True), "seed": seed} for seed in options.seeds]
        publish(pd.DataFrame(rows), made_with, options.out)
    else:
        rows = [row for seed in options.seeds for row in rounding(options.edges, seed)]
        means = pd.DataFrame(rows).drop(columns="seed").groupby("step", sort=False).mean()
        publish(means.reset_index(), made_with, options.out)


if __name__ == "__main__":
    main()
