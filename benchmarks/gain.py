"""Gains of scanners: held-out densities on ON-Harmony with and without them, and recovery of a simulated truth.

    BAYESHARM_DATA=folder python benchmarks/gain.py onharmony [--families thickness …] --out table.md
    python benchmarks/gain.py recovery [--edges 300] [--seeds 0 1 2] --out table.md

*onharmony*: log predictive density of held-out participants and visits under a model with gains minus that without. *All*:
`bayesharm.compare_models`, whose ratios of scanners (noise, size of biases, gains) are those of all scans, held-out ones
too. *Without*: the ratios are learned again without the scans of each fold; nothing that is predicted has entered them.
"""

from __future__ import annotations

import argparse
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from evaluate import FAMILIES
from recovery import publish

from bayesharm import compare_models, fetch_onharmony, fit, load_dataset, summarize
from bayesharm.algorithms.random_streams import Stage
from bayesharm.analysis.held_out_prediction import HeldOutPredictor
from bayesharm.analysis.predictive_scores import Scores, elpd_difference
from bayesharm.analysis.validation_schemes import Scheme, arrange_schemes
from bayesharm.cli.demo.onharmony import ONHARMONY_COLUMNS
from bayesharm.fitting.context import FitContext, load_fit_context
from bayesharm.inference.learning import learn_by_importance
from bayesharm.likelihood.moments import compute_moments
from bayesharm.likelihood.problem import make_problem
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.results.posterior import Posterior

SCHEMES = ("participants", "visits")
FOLDS = 5


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
    folds = scheme.folds[context.design.rows]
    fold_of_unit = np.array([scheme.folds[scheme.units == unit][0] for unit in range(len(scheme.labels))])
    log_density, khat = np.full((2, len(scheme.labels), len(features)), np.nan)
    for fold in range(folds.max() + 1):
        known = with_ratios(posterior, learn_ratios(posterior, context, features, folds == fold))
        scores, _ = HeldOutPredictor.from_posterior(known, context, features).predict(scheme, with_pit=False)
        own = fold_of_unit == fold
        log_density[own], khat[own] = scores.log_density[own], scores.khat[own]
    return Scores(log_density, khat)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["onharmony", "recovery"])
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    made_with = f"ON-Harmony, model traveling, seed {options.seed}, bayesharm {version('bayesharm')}"
    rows, gains = [], []
    for family in options.families:
        onharmony(family, options.seed, rows, gains)
        publish(pd.DataFrame(rows), made_with, options.out)
        publish(pd.concat(gains), made_with, options.out and options.out.with_suffix(".gains.md"))


if __name__ == "__main__":
    main()
