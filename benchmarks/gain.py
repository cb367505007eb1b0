"""Gains of scanners: held-out densities on ON-Harmony with and without them, and recovery of a simulated truth.

    BAYESHARM_DATA=folder python benchmarks/gain.py onharmony [--families thickness …] --out table.md
    python benchmarks/gain.py recovery [--cases gains …] [--edges 300] [--seeds 0 1 2] --out table.md

*onharmony*: log predictive density of held-out participants and visits under a model with gains minus that without. *All*:
`bayesharm.compare_models`, whose ratios of scanners (noise, size of biases, gains) are those of all scans, held-out ones
too. *Without*: the ratios are learned again without the scans of each fold; nothing that is predicted has entered them.

*recovery*: simulated SRPBS studies whose scanners have gains (or none), fitted with gains, without, and by neuroCombat where
`make comparators` has installed it. *Scans*: harmonized scans against those of a scanner without bias and gain, with the
same noise relative to the person. *Unequal slopes*: sd over scanners of the log slope of harmonized scans on the true levels
of people; with perfectly matched gains it is 0.
"""

from __future__ import annotations

import argparse
from importlib.metadata import version

import numpy as np
import pandas as pd
import xarray as xr
from evaluate import FAMILIES, MODEL
from recovery import SIZES, add_study_options, centered_truth, publish

from bayesharm import compare_models, fetch_onharmony, fit, harmonize, load_dataset, simulate_srpbs, summarize
from bayesharm.algorithms.random_streams import Stage
from bayesharm.analysis.held_out_prediction import HeldOutPredictor
from bayesharm.analysis.predictive_scores import Scores, elpd_difference
from bayesharm.analysis.validation_schemes import Scheme, arrange_schemes
from bayesharm.baselines import available_methods, get_method
from bayesharm.cli.demo.onharmony import ONHARMONY_COLUMNS
from bayesharm.datasets.oracle import gaussian_oracle
from bayesharm.datasets.simulate import Simulation
from bayesharm.fitting.context import FitContext, load_fit_context
from bayesharm.inference.learning import learn_by_importance
from bayesharm.likelihood.moments import compute_moments
from bayesharm.likelihood.problem import make_problem
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.results.posterior import Posterior

SCHEMES = ("participants", "visits")
FOLDS = 5
CASES = {
    "no gains": {},
    "gains": {"gain_log_sd": 0.2},
    "gains, hub and spoke": {"gain_log_sd": 0.2, "travelers": "hub-and-spoke"},
}
COMBAT = "neurocombat"
Z = 1.6449  # half a 90% interval, in sds


def with_ratios(posterior: Posterior, ratios: VarianceRatios) -> Posterior:
    """Return a posterior whose ratios of scanners are known."""
    tree = posterior.tree.copy()
    hyper = tree["hyper"].to_dataset()
    for name, values in (("noise_ratio", ratios.noise), ("bias_ratio", ratios.bias), ("gain", ratios.gain)):
        hyper[name] = hyper[name] * 0 + xr.DataArray(values, dims="scanner", coords={"scanner": hyper["scanner"]})
    tree["hyper"] = xr.DataTree(hyper)
    return Posterior(tree, posterior.run)


def learn_ratios(posterior: Posterior, context: FitContext, features: np.ndarray, held_out: np.ndarray) -> VarianceRatios:
    """Learn the ratios of the scanners without some scans of the design, (scan,) bool."""
    design = context.design
    values = np.full((len(context.dataset.scans), len(features)), np.nan)
    values[design.rows] = np.where(held_out[:, None], np.nan, context.values(features))
    n_independent = posterior.hyper.attrs["n_independent_features"]
    with context.devices.in_use("float64"):
        problem = make_problem(design, has_missing=True)
        moments = compute_moments(design, values)[0]
        hyper, _ = learn_by_importance(problem, moments, features, n_independent, seed=context.seed)
    return hyper.ratios.mean


def score_without(posterior: Posterior, context: FitContext, features: np.ndarray, scheme: Scheme) -> Scores:
    """Score the units of a scheme with ratios that were learned without the scans of their folds."""
    parts = []
    for fold in range(scheme.folds.max() + 1):
        held_out = scheme.folds == fold
        known = with_ratios(posterior, learn_ratios(posterior, context, features, held_out[context.design.rows]))
        labels, units = np.unique(scheme.units[held_out], return_inverse=True)
        alone = Scheme(np.where(held_out, 0, -1), np.full(len(held_out), -1), scheme.labels[labels])
        alone.units[held_out] = units
        parts.append(HeldOutPredictor.from_posterior(known, context, features).predict(alone, with_pit=False)[0])
        print(f"fold {fold + 1}", flush=True)
    return Scores(*map(np.concatenate, zip(*parts, strict=True)))  # units in the order of the folds, for either model


def onharmony(family: str, seed: int, rows: list[dict], gains: list[pd.DataFrame]) -> None:
    """Fit one family of measures with and without gains, and compare their predictions."""
    table = pd.read_csv(fetch_onharmony(), encoding="utf-8-sig")
    dataset = load_dataset(table, columns=ONHARMONY_COLUMNS, select=FAMILIES[family], missing="drop-features")
    runs = {gain: fit(dataset, "traveling", seed=seed, gain=gain) for gain in ("scanner", "none")}
    contexts = {gain: load_fit_context(posterior, dataset) for gain, posterior in runs.items()}
    found = summarize(runs["scanner"]).scanners[["gain", "gain_q05", "gain_q95"]]
    gains.append(found.assign(family=family).reset_index())
    print(found.round(3), flush=True)
    features = np.arange(dataset.features.n_features)
    schemes, _ = arrange_schemes(tuple(contexts.values()), FOLDS, np.random.default_rng([seed, Stage.SAMPLE]))
    compared = compare_models(runs["scanner"], runs["none"], dataset, names=("scanner", "none"), folds=FOLDS, seed=seed)
    n_independent = runs["none"].hyper.attrs["n_independent_features"]
    for unit_type in SCHEMES:
        scores = {g: score_without(runs[g], contexts[g], features, schemes[unit_type]) for g in runs}
        honest, plain = elpd_difference(scores["scanner"], scores["none"]), compared.predictions.loc[unit_type]
        rows.append({
            "family": family, "features": len(features), "count for": round(n_independent), "held out": unit_type,
            "n": honest["n"], "without": honest["difference"], "se": honest["se"], "all": plain.difference,
            "se of all": plain.se, "Pareto k high": honest["khat_high"],
        })  # fmt: skip
        print(rows[-1], flush=True)


def levels_of_people(study: Simulation, edges: int, seed: int, options: dict) -> np.ndarray:
    """Return what each scan's person differs by from the mean of the feature, (scan, feature).

    The same study is simulated with other gains: the difference is proportional to it.
    """
    one, other = (
        simulate_srpbs(edges, seed, **{**options, "gain_log_sd": sd}, sizes=SIZES["large"], dtype="float64")
        for sd in (0.0, 1.0)
    )
    return (other.features - one.features) / (other.truth.gain.loc[study.scans["scanner"]].to_numpy()[:, None] - 1)


def unequal_slopes(values: np.ndarray, away: np.ndarray, scanner: pd.Series) -> float:
    """Compute the sd over scanners of the log slope of values on the levels of people."""
    slopes = []
    for rows in scanner.groupby(scanner).indices.values():
        x, y = (part[rows] - part[rows].mean(0) for part in (away, values))
        slopes.append((x * y).sum() / (x**2).sum())
    return float(np.log(slopes).std())


def recovery(case: str, edges: int, seed: int) -> list[dict]:
    """Fit one simulated study with gains, without, and by ComBat, and compare all with the truth."""
    options = CASES[case]
    study = simulate_srpbs(edges, seed, **options, sizes=SIZES["large"], dtype="float64")
    truth, away, scanner = study.truth, levels_of_people(study, edges, seed, options), study.scans["scanner"]
    bias, gain = truth.effects["measurement"], truth.gain.loc[scanner].to_numpy()[:, None]
    noise = study.features - truth.mean - bias.loc[scanner].to_numpy() - gain * away
    wanted = truth.mean + bias.mean().to_numpy() + away + noise / gain
    dataset, true = load_dataset(study.scans, study.features), centered_truth(study)["measurement"]
    oracle = np.sqrt(((gaussian_oracle(study).mean - true).to_numpy() ** 2).mean())
    rows = []

    def add(model: str, found: pd.DataFrame, values: np.ndarray, **more: float) -> None:
        error = np.sqrt(((found.loc[true.index].to_numpy() - true.to_numpy()) ** 2).mean())
        scans, slopes = np.sqrt(((values - wanted) ** 2).mean()), unequal_slopes(values, away, scanner)
        rows.append({"case": case, "seed": seed, "model": model, "bias, to oracle": error / oracle, **more,
                     "scans, error": scans, "unequal slopes": slopes})  # fmt: skip
        print(rows[-1], flush=True)

    for choice in ("scanner", "none"):
        posterior = fit(dataset, MODEL, seed=seed, feature_scaling="common", gain=choice)
        effect = posterior.effect("measurement")
        mean, sd = effect["mean"].to_pandas(), effect["sd"].to_pandas()
        inside = np.abs(mean - true.set_axis(mean.columns, axis=1)) < Z * sd
        harmonized = harmonize(posterior, dataset, match_gain=choice == "scanner")
        more = {"bias, coverage": inside.to_numpy().mean()}
        more["scans, coverage"] = (np.abs(harmonized.mean - wanted) < Z * harmonized.sd).mean()
        if choice == "scanner":
            log_gain = np.log(posterior.hyper["gain"].values).reshape(-1, len(posterior.scanners))
            error = log_gain.mean(0) - np.log(truth.gain.loc[posterior.scanners])
            more["log gain, error"] = np.sqrt((error**2).mean())
            more["log gain, coverage"] = (np.abs(error) < Z * log_gain.std(0)).mean()
        add(f"gain {choice}", mean, harmonized.mean, **more)
    if COMBAT in available_methods():
        fitted = get_method(COMBAT).fit(dataset, ["diagnosis"])
        add("neuroCombat", fitted.bias, fitted.apply(dataset).values)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["onharmony", "recovery"])
    add_study_options(parser, FAMILIES, CASES)
    options = parser.parse_args()
    rows, gains = [], []
    if options.what == "recovery":
        made_with = (
            f"SRPBS study, sizes large, {options.edges} edges, seeds {options.seeds}, bayesharm {version('bayesharm')}"
        )
        for case in options.cases:
            for seed in options.seeds:
                rows += recovery(case, options.edges, seed)
        means = pd.DataFrame(rows).drop(columns="seed").groupby(["case", "model"], sort=False).mean()
        publish(means.reset_index(), made_with, options.out)
        return
    made_with = f"ON-Harmony, model traveling, seed {options.seed}, bayesharm {version('bayesharm')}"
    for family in options.families:
        onharmony(family, options.seed, rows, gains)
        publish(pd.DataFrame(rows), made_with, options.out)
        publish(pd.concat(gains), made_with, options.out and options.out.with_suffix(".gains.md"))


if __name__ == "__main__":
    main()
