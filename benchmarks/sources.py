"""Are the sizes of the sources calibrated? Coverage of 90% intervals and of probabilities over simulated studies.

    python benchmarks/sources.py [--studies 20] [--features 200] [--sizes large] [--out table.md]

Each study has effects and scales of its own. *Regions*: 20, each edge joining two of them at random. *Says … to …*: of the
pairs of families of single features whose probability to be in this order lies in that range, the share that is.
"""

from __future__ import annotations

import argparse
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from recovery import SIZES, publish

from bayesharm import fit, load_dataset
from bayesharm.analysis.variance_components import variance_components
from bayesharm.datasets.simulate import Simulation, scan_levels, simulate_srpbs
from bayesharm.model.catalog import load_model
from bayesharm.model.design import build_design
from bayesharm.model.labels import Population

MODEL = "traveling_and_cohort"
N_REGIONS = 20
BINS = ((0.5, 0.6), (0.6, 0.7), (0.7, 0.8), (0.8, 0.9), (0.9, 1.0))


def true_sizes(study: Simulation) -> dict[str, dict[str, np.ndarray]]:
    """tau, finite_sd and contribution of each family and feature, from the true effects and the residual they leave."""
    design, truth = build_design(load_dataset(study.scans, study.features).scans, load_model(MODEL)), study.truth
    sizes: dict[str, dict[str, np.ndarray]] = {"tau": {}, "finite_sd": {}, "contribution": {}}
    squares, residual = {}, study.features - truth.mean
    for k, family in enumerate(design.scale_labels[1:], start=1):
        own = [column for column, scale in zip(design.columns, design.column_scale, strict=True) if scale == k]
        group = own[0].family
        effects = truth.effects[group].loc[[str(Population(column.level, column.group)) for column in own]]
        level = scan_levels(study.scans, group)
        residual = residual - effects.reindex(level).fillna(0).to_numpy()
        if group != "disorder":
            effects = effects - effects.mean()
        squares[family] = effects.reindex(level).fillna(0).to_numpy() ** 2
        sizes["tau"][family] = truth.scales[family]
        sizes["finite_sd"][family] = np.sqrt((effects**2).sum() / (len(effects) - (group != "disorder"))).to_numpy()
        sizes["contribution"][family] = 1 / np.full(study.features.shape[1], len(effects))
    total = sum(squares.values()) + residual**2
    for family, square in squares.items():
        sizes["contribution"][family] = sizes["contribution"][family] * (square / total).mean(0)
    sizes["contribution"]["noise"] = (residual**2 / total).mean(0)
    sizes["tau"]["noise"] = sizes["finite_sd"]["noise"] = truth.scales["noise"]
    return sizes


def measure(seed: int, n_features: int, sizes: dict[str, float] | None) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Whether each true value is inside its interval; probabilities of pairs and whether they are in this order."""
    study, rng = simulate_srpbs(n_features, seed=seed, sizes=sizes), np.random.default_rng(seed)
    dataset = load_dataset(study.scans, study.features)
    names = [str(name) for name in dataset.features.names]
    ends = np.array([rng.choice(N_REGIONS, 2, replace=False) for _ in names])
    nodes = pd.DataFrame({"feature": names, "node_a": ends[:, 0].astype(str), "node_b": ends[:, 1].astype(str)})
    posterior = fit(dataset, MODEL, seed=seed, feature_scaling="common")
    found, truth = variance_components(posterior, nodes), true_sizes(study)
    assert found.regions is not None
    rows = []
    for size, of_family in truth.items():
        for family, true in of_family.items():
            own = found.features[[f"{size}_{family}_q05", f"{size}_{family}_q95"]].to_numpy()
            rows.append({"size": size, "family": family, "of": "features", "inside": _inside(true, *own.T)})
            for region in range(N_REGIONS):
                member = (ends == region).any(1)
                if member.any():
                    row = found.regions.loc[(str(region), family)]
                    inside = _inside(true[member].mean(), row[f"{size}_q05"], row[f"{size}_q95"])
                    rows.append({"size": size, "family": family, "of": "regions", "inside": inside})
            row = found.families.loc[family]
            inside = _inside(true.mean(), row[f"{size}_q05"], row[f"{size}_q95"])
            rows.append({"size": size, "family": family, "of": "all features", "inside": inside})
    larger = posterior.tree["sources"].to_dataset()["larger"]
    families = [str(name) for name in larger["family"].values]
    pairs = [
        (larger.values[i, j], truth["finite_sd"][families[i]] > truth["finite_sd"][families[j]])
        for i in range(len(families)) for j in range(i)
    ]  # fmt: skip
    return rows, np.concatenate([np.stack(pair) for pair in pairs], axis=1)


def _inside(true: Any, low: Any, high: Any) -> float:
    return float(np.mean((low <= true) & (true <= high)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=20)
    parser.add_argument("--features", type=int, default=200)
    parser.add_argument("--sizes", default="large", choices=list(SIZES))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows, pairs = [], []
    for seed in range(options.studies):
        started = time.perf_counter()
        some, those = measure(seed, options.features, SIZES[options.sizes])
        rows += some
        pairs.append(those)
        print(f"study {seed}: {time.perf_counter() - started:.0f} s", flush=True)
    coverage = pd.DataFrame(rows).pivot_table(index=["size", "family"], columns="of", values="inside", sort=False)
    studies = f"{options.studies} studies of {options.features} features, sizes {options.sizes}"
    made_with = f"{studies}, bayesharm {version('bayesharm')}"
    publish(coverage.reset_index(), made_with, options.out)
    says, order = np.concatenate(pairs, axis=1)
    says, order = np.where(says < 0.5, 1 - says, says), np.where(says < 0.5, 1 - order, order)
    found = []
    for low, high in BINS:
        if (there := (says >= low) & ((says < high) | (high == 1))).any():
            row = {"says": f"{low} to {high}", "pairs": int(there.sum())}
            found.append(row | {"right": order[there].mean(), "mean of what it says": says[there].mean()})
    publish(pd.DataFrame(found), made_with, options.out and options.out.with_suffix(".order.md"))


if __name__ == "__main__":
    main()
