"""Intervals of means, scores and sources over correlated features: do they cover the truth?

    python benchmarks/correlated.py [--features 200] [--seeds 4] [--kinds blocks …] [--data ../shared/data] [--out table.md]

The simulated SRPBS study with errors and people whose features are correlated: in *blocks* of 50 that share half of their
variance; by five *factors* with random loadings, half of the variance; as the residuals of ON-Harmony *thickness*. With
*+biases* the scanners' biases are correlated in the same way; otherwise they are independent. For the biases of all
scanners: share of 90% intervals of joint draws that contain the truth, of single features, of means over 10 and 100 random
features, over blocks and over all, and of the score of a random linear classifier; beside each, in brackets, the same draws
with the features independent. For `sources`: intervals of the mean finite-population sd over all features.
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from recovery import SIZES, centered_truth, publish

import bayesharm
from bayesharm.cli.demo.onharmony import ONHARMONY_COLUMNS, THICKNESS
from bayesharm.data.dataset import load_dataset
from bayesharm.datasets.simulate import Simulation, simulate_srpbs
from bayesharm.inference.effective_features import residualize
from bayesharm.model.catalog import load_model
from bayesharm.model.design import build_design

BLOCK, SHARE, N_FACTORS, N_DRAWS = 50, 0.5, 5, 400
KINDS = ("none", *(f"{kind}{biases}" for biases in ("", "+biases") for kind in ("blocks", "factors", "thickness")))


def mixing(kind: str, n_features: int, rng: np.random.Generator, data: Path) -> np.ndarray:
    """Matrix A, (source, feature), such that independent standard normal sources times A are correlated features."""
    if kind == "thickness":
        table = pd.read_csv(data / "onharmony.csv", encoding="utf-8-sig")
        dataset = load_dataset(table, columns=ONHARMONY_COLUMNS, select=THICKNESS, missing="drop-features")
        design = build_design(dataset.scans, load_model("traveling"))
        values = dataset.features.read(0, dataset.features.n_features)[design.rows]
        residuals = residualize(design, dataset.scans, values)((values - values.mean(0)) / values.std(0))
        residuals = residuals[:, rng.choice(residuals.shape[1], n_features, replace=n_features > residuals.shape[1])]
        return residuals / np.sqrt((residuals**2).sum(0))
    if kind == "factors":
        common = rng.normal(size=(N_FACTORS, n_features))
        common *= np.sqrt(SHARE / (common**2).sum(0))
    else:
        common = np.sqrt(SHARE) * (np.arange(n_features) // BLOCK == np.arange(-(-n_features // BLOCK))[:, None])
    return np.concatenate([common, np.sqrt(1 - SHARE) * np.eye(n_features)])


def simulate(kind: str, n_features: int, seed: int, data: Path) -> Simulation:
    """Simulate a study whose errors and participant effects are correlated over features."""
    study = simulate_srpbs(n_features, seed=seed, sizes=SIZES["large"], dtype="float64")
    rng, truth, scans = np.random.default_rng([seed, 1]), study.truth, study.scans
    root = np.eye(n_features) if kind == "none" else mixing(kind.removesuffix("+biases"), n_features, rng, data)

    def draw(labels: pd.Series, scale: np.ndarray) -> pd.DataFrame:
        levels = pd.unique(labels)
        return pd.DataFrame(rng.normal(size=(len(levels), len(root))) @ root * scale, levels)

    people, noise = draw(scans.participant_id, truth.scales["participant"]), draw(scans.scan_id, truth.scales["noise"])
    biases = truth.effects["measurement"]
    if kind.endswith("+biases"):
        biases = draw(scans.scanner, truth.scales["measurement"])
    population = (scans.site + "/" + scans.diagnosis).where(scans.participant_id.str.startswith("P"))
    features = truth.mean + biases.loc[scans.scanner].to_numpy() + people.loc[scans.participant_id].to_numpy()
    for effect, labels in ((truth.effects["sampling"], population), (truth.effects["disorder"], scans.diagnosis)):
        features = features + effect.reindex(labels).fillna(0.0).to_numpy()
    effects = {**truth.effects, "measurement": biases, "participant": people}
    return Simulation(scans, features + noise.to_numpy(), study.feature_names, replace(truth, effects=effects))


def cover(draws: np.ndarray, truth: np.ndarray) -> float:
    """Share of 90% intervals of draws, (draw, …), that contain the truth."""
    low, high = np.quantile(draws, [0.05, 0.95], axis=0)
    return float(((low <= truth) & (truth <= high)).mean())


def measure(kind: str, n_features: int, seed: int, data: Path) -> dict[str, tuple[float, float]]:
    """Fit a study; coverage with joint draws and with draws independent over features."""
    study = simulate(kind, n_features, seed, data)
    dataset = load_dataset(study.scans, study.features)
    posterior = bayesharm.fit(dataset, seed=seed, feature_scaling="common")
    one = study.scans.drop_duplicates("scanner")
    empty = load_dataset(one, pd.DataFrame(np.zeros((len(one), n_features)), one.scan_id, posterior.features), check="apply")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        draws = -bayesharm.harmonize(posterior, empty, draws=N_DRAWS, seed=seed).draws
    truth = centered_truth(study)["measurement"].loc[one.scanner].to_numpy()
    rng = np.random.default_rng(seed)
    shuffled = np.stack([draws[rng.permutation(N_DRAWS), :, k] for k in range(n_features)], axis=-1)
    groups = {
        "single features": np.eye(n_features),
        "means of 10": _random_groups(rng, n_features, 10),
        "means of 100": _random_groups(rng, n_features, 100),
        "blocks": (np.arange(n_features) // BLOCK == np.arange(n_features // BLOCK)[:, None]) / BLOCK,
        "all": np.full((1, n_features), 1 / n_features),
        "classifier score": rng.normal(size=(20, n_features)) / np.sqrt(n_features),
    }
    row = {
        name: (cover(draws @ weights.T, truth @ weights.T), cover(shuffled @ weights.T, truth @ weights.T))
        for name, weights in groups.items()
    }
    sources = bayesharm.variance_components(posterior).families
    sizes = {name: effect.std(ddof=1).mean() for name, effect in _centered(study).items()}
    inside = [sources.finite_sd_q05[name] <= size <= sources.finite_sd_q95[name] for name, size in sizes.items()]
    return row | {"sources": (float(np.mean(inside)), np.nan)}


def _random_groups(rng: np.random.Generator, n_features: int, size: int) -> np.ndarray:
    groups = np.zeros((20, n_features))
    for group in groups:
        group[rng.choice(n_features, min(size, n_features), replace=False)] = 1 / min(size, n_features)
    return groups


def _centered(study: Simulation) -> dict[str, pd.DataFrame]:
    """Effects of the families whose finite-population sd is that of the levels."""
    effects = centered_truth(study)
    people = study.truth.effects["participant"]
    travelers = people[~people.index.str.startswith("P")]  # of other people only the scale is known
    found = {"participant": travelers, "measurement": effects["measurement"]}
    diagnosis = effects["sampling"].index.str.split("/").str[1]
    return found | {f"sampling_{name}": rows for name, rows in effects["sampling"].groupby(diagnosis)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    for kind in options.kinds:
        found = [measure(kind, options.features, seed, options.data) for seed in range(options.seeds)]
        row = {"correlated": kind}
        for name in found[0]:
            joint, independent = np.mean([each[name] for each in found], axis=0)
            row[name] = f"{joint:.0%}" + (f" ({independent:.0%})" if np.isfinite(independent) else "")
        rows.append(row)
        print(row, flush=True)
    publish(pd.DataFrame(rows), f"bayesharm {version('bayesharm')}", options.out)


if __name__ == "__main__":
    main()
