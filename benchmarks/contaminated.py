"""Student-t noise against bad scans and bad values: error, coverage, time, and whether the bad scans are found.

    python benchmarks/contaminated.py [--features 300] [--seeds 0 1 2] [--plain] [--out table.md]
    python benchmarks/contaminated.py --explicit

The simulated SRPBS study: *clean*; *bad scans*, 2% of the scans with an error of 8 noise sds and a random sign in every
feature; *bad values*, 2% of all values with such an error; *Student-t*, noise with 4 degrees of freedom. Errors are root
mean square errors of the measurement bias over that of the Gaussian fit of the clean study. Time is processor time of a fit
whose programs are compiled, over that of the Gaussian fit of the same study. With --plain there is a third fit, whose noise
is Student-t for all values instead of for a share of them.

With --explicit, a study of 209 scans and 10 features with 3% bad values is fitted, and sampled by NUTS from the explicit
NumPyro model, in which every effect is sampled (ten minutes and more): differences of means, in sds, and ratios of sds.
"""

from __future__ import annotations

import argparse
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
from recovery import centered_truth, publish
from scipy import optimize, stats

import bayesharm
from bayesharm import load_dataset
from bayesharm.datasets.reference_study import reference_study
from bayesharm.datasets.simulate import Simulation, simulate_srpbs
from bayesharm.fitting import tail_learning
from bayesharm.inference.tails import TailDraws, Tails, draw_tails
from bayesharm.model.catalog import load_model
from bayesharm.model.design import build_design
from bayesharm.model.spec import Priors
from bayesharm.reference_models.numpyro_model import sample_explicit

SHARE, SIZE = 0.02, 8.0
CASES = ("clean", "bad scans", "bad values", "Student-t")
ALL = 1 - 1e-6  # share of the values with Student-t noise, where all have it


def contaminate(features: np.ndarray, sd: np.ndarray, case: str, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Add errors of `SIZE` sds; also return which values are bad, (scan, feature)."""
    rng = np.random.default_rng([seed, 1])
    sign = rng.choice([-1.0, 1.0], features.shape)
    bad = np.zeros(features.shape, bool)
    if case == "bad scans":
        bad[rng.choice(len(bad), round(share * len(bad)), replace=False)] = True
    elif case == "bad values":
        bad = rng.random(features.shape) < share
    return features + np.where(bad, SIZE * sign * sd, 0.0), bad


def plain_tails(squares: np.ndarray, weight: float, priors: Priors, shape: tuple[int, int], rng: Any) -> TailDraws:
    """Learn the degrees of freedom of noise that is Student-t for all values, and its scale: at the mode."""
    z = np.sqrt(rng.choice(squares, min(len(squares), 100_000), replace=False))
    found = optimize.minimize(
        lambda x: -stats.t.logpdf(z, np.exp(x[0]), scale=np.exp(x[1])).sum(), [1.5, 0.0], method="Nelder-Mead"
    )
    return TailDraws(np.full(shape, ALL), np.full(shape, np.exp(min(found.x[0], 7.0))))


def measure(study: Simulation, case: str, likelihood: str, seed: int) -> dict[str, Any]:
    """Fit one study and compare it with its truth."""
    sd = study.truth.scales["noise"] * np.sqrt(study.truth.noise_ratio.loc[study.scans.scanner].to_numpy())[:, None]
    features, bad = contaminate(np.asarray(study.features, float), sd, case, SHARE, seed)
    is_plain = likelihood == "plain"
    start = time.process_time()
    with (
        patch.object(tail_learning, "draw_tails", plain_tails if is_plain else draw_tails),
        patch.object(tail_learning, "default_tails", lambda _: Tails(ALL, 4.0)) if is_plain else nullcontext(),
    ):
        posterior = bayesharm.fit(
            load_dataset(study.scans, features), likelihood="student-t" if is_plain else likelihood, seed=seed,
            feature_scaling="common", accept=["all"],
        )  # fmt: skip
    row: dict[str, Any] = {"time": time.process_time() - start}
    for name, true in centered_truth(study).items():
        if name in ("measurement", "sampling", "disorder"):
            effect = posterior.effect(name)
            error = effect["mean"].values - true.loc[[str(label) for label in effect[effect["mean"].dims[0]].values]]
            row[f"{name} coverage"] = float((np.abs(error) < 1.6448536 * effect["sd"].values).to_numpy().mean())
            if name == "measurement":
                row["rmse"] = float(np.sqrt((error.to_numpy() ** 2).mean()))
    row["converged"] = posterior.run["n_converged"] / len(posterior.features)
    if likelihood != "gaussian":
        row["share"] = float(np.median(posterior.hyper["tail_share"]))
        row["df"] = float(np.median(posterior.hyper["tail_df"]))
        weights = bayesharm.summarize(posterior).scans
        if case == "bad scans":
            is_bad = pd.Series(bad[:, 0], study.scans["scan_id"]).loc[weights.index]
            row["found"] = float(is_bad.iloc[: bad[:, 0].sum()].mean())
    return row


def compare(options: argparse.Namespace) -> pd.DataFrame:
    """One row for each case and likelihood: means over seeds."""
    likelihoods = ["gaussian", "student-t", *(["plain"] if options.plain else [])]
    rows = []
    for likelihood in likelihoods:  # one after the other: programs stay compiled
        for case in options.cases:
            for seed in options.seeds:
                tail_df = 4.0 if case == "Student-t" else None
                study = simulate_srpbs(options.features, seed=seed, tail_df=tail_df)
                if case == options.cases[0] and seed == options.seeds[0]:
                    measure(study, case, likelihood, seed)  # compiles
                rows.append({"case": case, "likelihood": likelihood, "seed": seed} | measure(study, case, likelihood, seed))
                print({name: round(v, 4) if isinstance(v, float) else v for name, v in rows[-1].items()}, flush=True)
    table = pd.DataFrame(rows).set_index(["case", "likelihood", "seed"])
    gaussian = table.xs("gaussian", level="likelihood")
    clean, keys = gaussian.xs("clean", level="case")["rmse"], table.index.to_frame()
    table.insert(0, "error", table.pop("rmse") / clean.loc[keys["seed"]].to_numpy())
    same_study = pd.MultiIndex.from_frame(keys[["case", "seed"]])
    table["time"] = table["time"] / gaussian["time"].loc[same_study].to_numpy()
    return table.groupby(["case", "likelihood"], sort=False).mean().reset_index()


def compare_with_explicit(n_draws: int) -> pd.DataFrame:
    """Compare the posterior of a small study with the explicit model."""
    scans, features = reference_study()
    sd = np.full(features.shape, 0.09)
    features = contaminate(features, sd, "bad values", 0.03, 1)[0][:, :10]
    spec = replace(load_model("traveling_and_cohort"), likelihood="student-t")
    design = build_design(scans, spec)
    explicit = sample_explicit(design, features, seed=1, n_warmup=500, n_draws=n_draws)
    with patch.object(tail_learning, "count_independent_for_ratios", lambda *_: float(features.shape[1])):
        posterior = bayesharm.fit(load_dataset(scans, features), spec, seed=1, accept=["all"], target_ess=400)
    rows = []
    for name, draws in explicit.effects.items():
        effect, (mean, spread) = posterior.effect(name), (draws.mean(("chain", "draw")), draws.std(("chain", "draw")))
        z = (effect["mean"].values - mean.values) / spread.values
        ratio = np.log(effect["sd"].values / spread.values)
        rows.append({
            "effects": name, "difference of means, root mean square": float(np.sqrt((z**2).mean())),
            "largest": float(np.abs(z).max()), "ratio of sds, geometric mean": float(np.exp(ratio.mean())),
            "smallest": float(np.exp(ratio.min())), "largest ratio": float(np.exp(ratio.max())),
        })  # fmt: skip
    for name, ours, theirs in (
        ("share", posterior.hyper["tail_share"], explicit.hyper["tail_share"]),
        ("1 / df", 1 / posterior.hyper["tail_df"], explicit.hyper["inverse_df"]),
    ):
        print(f"{name}: {ours.values.mean():.3f} ± {ours.values.std():.3f}, explicit {theirs.values.mean():.3f} ± "
              f"{theirs.values.std():.3f}")  # fmt: skip
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--explicit", action="store_true")
    parser.add_argument("--draws", type=int, default=1000, help="of each chain of the explicit model")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.explicit:
        publish(compare_with_explicit(options.draws), "209 scans, 10 features, 3% bad values", options.out)
    else:
        publish(compare(options), f"{options.features} features, seeds {options.seeds}", options.out)


if __name__ == "__main__":
    main()
