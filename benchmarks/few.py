"""Time of `bayesharm fit` on few features, from the shell to the finished run folder.

    python benchmarks/few.py [--features 1 2 14 …] [--designs srpbs cohort protocol null] [--out table.md]

*srpbs*: the simulated SRPBS study; *cohort*: 2,000 people on 20 scanners, three diagnoses, age and sex, each scanned once,
model `cohort`; *protocol*: the SRPBS study with the model `protocol`; *null*: the SRPBS study without sampling bias. Each is
fitted twice, each time by a process of its own: first with nothing compiled, then with the programs that the first has kept.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from recovery import publish

from bayesharm.datasets.simulate import simulate_srpbs

OPTIONS = {
    "srpbs": [],
    "cohort": ["--model", "cohort", "--covariates", "age,sex"],
    "protocol": ["--model", "protocol"],
    "null": [],
}
N_PEOPLE, N_SCANNERS = 2000, 20


def write_study(design: str, n_features: int, folder: Path) -> None:
    """Write a scans table and features."""
    if design != "cohort":
        simulate_srpbs(n_features, seed=1, sampling_bias=design != "null").write(folder)
        return
    rng = np.random.default_rng(1)
    scanner = rng.integers(N_SCANNERS, size=N_PEOPLE)
    scans = pd.DataFrame({
        "scan_id": [f"scan{k}" for k in range(N_PEOPLE)], "participant_id": [f"p{k}" for k in range(N_PEOPLE)],
        "scanner": [f"scanner{k:02d}" for k in scanner], "diagnosis": rng.choice(["HC", "MDD", "SCZ"], N_PEOPLE),
        "age": rng.integers(18, 80, N_PEOPLE), "sex": rng.choice(["F", "M"], N_PEOPLE),
    })  # fmt: skip
    scale = np.exp(0.3 * rng.normal(size=(3, n_features)))
    values = rng.normal(size=(N_PEOPLE, n_features)) * scale[0]
    values += 0.5 * scale[1] * rng.normal(size=(N_SCANNERS, n_features))[scanner]
    values += np.outer(scans.diagnosis == "SCZ", 0.3 * scale[2]) + np.outer(scans.age - 50, np.full(n_features, 0.01))
    folder.mkdir()
    scans.to_csv(folder / "scans.csv", index=False)
    np.save(folder / "features.npy", values.astype("float32"))


def measure(design: str, n_features: int) -> dict[str, object]:
    """Fit a study twice, and return the seconds of both and what has not converged."""
    row: dict[str, object] = {"design": design, "features": n_features}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_study(design, n_features, folder / "study")
        for programs in ("compiled", "kept"):
            out, study = folder / programs, folder / "study"
            command = [sys.executable, "-m", "bayesharm.cli", "fit", study / "scans.csv", study / "features.npy"]
            command += ["--seed", "1", "--out", out, "--quiet", *OPTIONS[design]]
            started = time.perf_counter()
            subprocess.run(
                [*map(str, command)], check=True, env={**os.environ, "JAX_COMPILATION_CACHE_DIR": f"{folder}/cache"}
            )
            row[f"{programs}, s"] = round(time.perf_counter() - started)
        run = json.loads((out / "run.json").read_text())
        return row | {"not converged": run["n_features"] - run["n_converged"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, nargs="+", default=[1, 2, 8, 14, 32, 33, 64, 68, 150, 400, 2000])
    parser.add_argument("--designs", nargs="+", default=["srpbs", "cohort"], choices=list(OPTIONS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    for design in options.designs:
        for n_features in options.features:
            rows.append(measure(design, n_features))
            print(rows[-1], flush=True)
    publish(pd.DataFrame(rows), f"bayesharm {version('bayesharm')}", options.out)


if __name__ == "__main__":
    main()
