"""How far the posterior of the hyperparameters depends on the nodes, and what importance sampling and NUTS take for it.

    python benchmarks/hyper.py [--edges 8000] [--seeds 0 1 2 3 4] [--out table.md]

The study is that of `growth.py`; the same 512 features teach each time, with nodes drawn anew by every seed. *Moves*: the
sd over seeds of posterior means, in posterior sds, of the worst and the median eta and log omega. NUTS takes an eighth of
the 2,048 nodes.
"""

from __future__ import annotations

import argparse
import time
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
from bayesharm.inference import hyperparameters as hyper
from bayesharm.inference import hyperposterior as population
from bayesharm.likelihood.moments import MomentReader
from bayesharm.likelihood.problem import make_problem
from bayesharm.model.catalog import load_model
from bayesharm.model.design import build_design

N_FEATURES = 512
WAYS: dict[str, tuple[int, str]] = {
    "importance sampling, 2,048 nodes": (2**20, "_run_chains"),
    "importance sampling, 512 nodes": (2**18, "_run_chains"),
    "NUTS, 256 of 2,048 nodes": (2**20, "_weigh"),
}


def update_posterior(problem: Any, moments: Any, features: np.ndarray, seed: int, way: str) -> Row | None:
    """Draws by one of the ways, and the time of that stage."""
    n_evaluations, not_used = WAYS[way]
    seconds: list[float] = []
    draw = population.sample_hyperposterior

    def timed(*arguments: Any) -> Any:
        started = time.perf_counter()
        drawn = draw(*arguments)
        seconds.append(time.perf_counter() - started)
        return drawn

    with (
        patch.object(hyper, "EVALUATIONS", (2**18, n_evaluations)),
        patch.object(population, not_used, lambda *_: None),
        patch.object(hyper, "draw_exactly", timed),
    ):
        found = hyper.fit_hyperparameters(problem, moments, features, len(features), seed=seed)
    if found is None:
        return None
    draws = np.concatenate([found.eta, np.log(found.omega)], axis=2)
    verdict = diagnose(draws[..., None], np.zeros((*draws.shape[:2], 1), bool))
    pooled = draws.reshape(-1, draws.shape[2])
    return {"mean": pooled.mean(0), "sd": pooled.std(0), "seconds": seconds[0], "rhat": verdict.rhat.max()}


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
        moments, _ = MomentReader(dataset.features, design, problem.likelihood.plan.layout, None)(features)
        for way in WAYS:
            found = [update_posterior(problem, moments, features, seed, way) for seed in options.seeds]
            there = [row for row in found if row is not None]
            row: Row = {"": way, "found": f"{len(there)} of {len(found)}"}
            if len(there) > 1:
                means, sds = (np.array([row[name] for row in there]) for name in ("mean", "sd"))
                moves = np.split(means.std(0, ddof=1) / sds.mean(0), 2)
                row |= {f"{name} moves": f"{part.max():.2f}, {np.median(part):.2f}"
                        for name, part in zip(("eta", "log omega"), moves, strict=True)}  # fmt: skip
                row |= {"median seconds": round(float(np.median([row["seconds"] for row in there])), 1),
                        "largest R-hat": round(max(float(row["rhat"]) for row in there), 3)}  # fmt: skip
            rows.append(row)
            print(row, flush=True)
    publish(pd.DataFrame(rows), f"bayesharm {version('bayesharm')}, jax {version('jax')}", options.out)


if __name__ == "__main__":
    main()
