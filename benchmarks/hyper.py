"""Sensitivity of the hyperposterior to the importance samples, and the cost of importance sampling and of NUTS.

    python benchmarks/hyper.py [--edges 8000] [--seeds 0 1 2 3 4] [--out table.md]

The study is that of `growth.py`. The hyperparameters are learned from the same 512 features each time, with importance
samples drawn anew by every seed. *Moves* is the sd over seeds of posterior means, in posterior sds, of the worst and the
median eta and log omega. NUTS uses an eighth of the 2,048 samples of each feature.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
from growth import Row, srpbs_scans, write_study
from recovery import publish

from bayesharm.algorithms.devices import find_devices
from bayesharm.algorithms.diagnostics import diagnose
from bayesharm.data.dataset import load_dataset
from bayesharm.inference import fixed_point, hyperparameters, hyperposterior
from bayesharm.likelihood.moments import MomentReader
from bayesharm.likelihood.problem import make_problem
from bayesharm.model.catalog import load_model
from bayesharm.model.design import build_design

N_FEATURES = 512
WAYS: dict[str, tuple[int, str]] = {
    "importance sampling, 2,048 samples": (2**20, "_draw_by_nuts"),
    "importance sampling, 512 samples": (2**18, "_draw_by_nuts"),
    "NUTS, 256 of 2,048 samples": (2**20, "_draw_by_importance"),
}


def learn(problem: Any, moments: Any, features: np.ndarray, seed: int, way: str) -> Row | None:
    """Draw the hyperparameters in one of the ways, and measure the time of that stage."""
    n_evaluations, not_used = WAYS[way]
    seconds: list[float] = []
    draw = hyperposterior.sample_hyperposterior
    settings = replace(fixed_point.SETTINGS, evaluations=(2**18, n_evaluations))

    def timed(*arguments: Any) -> Any:
        started = time.perf_counter()
        drawn = draw(*arguments)
        seconds.append(time.perf_counter() - started)
        return drawn

    with (
        patch.object(fixed_point, "SETTINGS", settings),
        patch.object(hyperparameters, "SETTINGS", settings),
        patch.object(hyperposterior, not_used, lambda *_: None),
        patch.object(hyperparameters, "sample_hyperposterior", timed),
    ):
        hyper = hyperparameters.fit_hyperparameters(problem, moments, features, len(features), seed=seed)
    if hyper is None:
        return None
    draws = np.concatenate([hyper.eta, np.log(hyper.omega)], axis=2)
    diagnostics = diagnose(draws[..., None], np.zeros((*draws.shape[:2], 1), bool))
    pooled = draws.reshape(-1, draws.shape[2])
    return {"mean": pooled.mean(0), "sd": pooled.std(0), "seconds": seconds[0], "rhat": diagnostics.rhat.max()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=int, default=8000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    with TemporaryDirectory() as folder, find_devices().in_use("float64"):
        study = write_study(Path(folder) / "study", srpbs_scans(), options.edges)
        dataset = load_dataset(study / "scans.csv", study / "features.npy")
        design = build_design(dataset.scans, load_model("traveling_and_cohort"))
        problem = make_problem(design)
        features = np.sort(np.random.default_rng(0).choice(options.edges, N_FEATURES, replace=False))
        moments, _ = MomentReader(dataset.features, design)(features)
        for way in WAYS:
            results = [learn(problem, moments, features, seed, way) for seed in options.seeds]
            settled = [row for row in results if row is not None]
            row: Row = {"": way, "settled": f"{len(settled)} of {len(results)}"}
            if len(settled) > 1:
                means, sds = (np.array([row[name] for row in settled]) for name in ("mean", "sd"))
                moves = np.split(means.std(0, ddof=1) / sds.mean(0), 2)
                row |= {f"{name} moves": f"{part.max():.2f}, {np.median(part):.2f}"
                        for name, part in zip(("eta", "log omega"), moves, strict=True)}  # fmt: skip
                row |= {"median seconds": round(float(np.median([row["seconds"] for row in settled])), 1),
                        "largest R-hat": round(max(float(row["rhat"]) for row in settled), 3)}  # fmt: skip
            rows.append(row)
            print(row, flush=True)
    publish(pd.DataFrame(rows), f"bayesharm {version('bayesharm')}, jax {version('jax')}", options.out)


if __name__ == "__main__":
    main()
