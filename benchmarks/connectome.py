"""Time and memory of `bayesharm fit` on the simulated SRPBS study, from features on disk to the finished run folder.

    python benchmarks/connectome.py [--edges 2000 8000 35778] [--out table.md]

Every size is fitted twice, each time by a process of its own: first with nothing compiled, then with the programs that the
first has kept. Prints a row each.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import pandas as pd
from recovery import publish

from bayesharm.datasets.simulate import simulate_srpbs


def measure(study: Path, out: Path, cache: Path) -> dict[str, float]:
    """Run the command once."""
    command = [sys.executable, "-m", "bayesharm.cli", "fit", study / "scans.csv", study / "features.npy"]
    started = time.perf_counter()
    with subprocess.Popen(
        [*map(str, command), "--seed", "1", "--out", str(out), "--quiet"],
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)},
        stdout=subprocess.DEVNULL,
    ) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"bayesharm fit ended with exit code {process.returncode}")
    run = json.loads((out / "run.json").read_text())
    return {
        "seconds": round(seconds),
        "features per second": round(run["n_features"] / seconds),
        "not converged": run["n_features"] - run["n_converged"],
        "peak memory, GB": round(usage.ru_maxrss / 1e6, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=int, nargs="+", default=[2000, 8000, 35778])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    for edges in options.edges:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            simulate_srpbs(edges, seed=1).write(folder / "study")
            size = (folder / "study" / "features.npy").stat().st_size / 1e9
            for programs in ("none", "kept"):
                row = {"edges": edges, "feature file, GB": round(size, 2), "programs": programs}
                rows.append(row | measure(folder / "study", folder / f"run_{programs}", folder / "cache"))
                print(rows[-1], flush=True)
    versions = ", ".join(f"{name} {version(name)}" for name in ("bayesharm", "jax", "numpyro"))
    publish(pd.DataFrame(rows), f"Python {platform.python_version()}, {versions}", options.out)


if __name__ == "__main__":
    main()
