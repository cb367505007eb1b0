"""Time of a fit with missing values against that of the complete data.

    python benchmarks/missing_values.py [--regions 268] [--share 0.02]

Simulates the SRPBS study (1,216 scans), takes regions from scans at random, and fits the connectome with and without these
holes, each in a process of its own, first with compilation, then with kept programs. An edge lacks a scan if either of its
two regions does, so that nearly every edge has a pattern of its own.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np


def with_missing_regions(values: np.ndarray, n_regions: int, share: float, seed: int) -> np.ndarray:
    """Remove a share of the regions of each scan, with all their edges; (scan, edge), the lower triangle by rows."""
    row, column = np.tril_indices(n_regions, -1)
    is_lost = np.random.default_rng(seed).random((len(values), n_regions)) < share
    return np.where(is_lost[:, row] | is_lost[:, column], np.nan, values)


def fit_file(scans: str, features: str) -> None:
    """Fit one study and print its seconds and peak memory."""
    import bayesharm
    from bayesharm.algorithms.programs import cache_programs

    cache_programs()
    dataset = bayesharm.load_dataset(scans, features)
    start = time.perf_counter()
    posterior = bayesharm.fit(dataset, "traveling_and_cohort", seed=1)
    seconds, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    n_failed = posterior.run["n_features"] - posterior.run["n_converged"]
    print(f"{seconds:7.1f} s, peak {peak:.2f} GB, {n_failed} features not converged")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--regions", type=int, default=268)
    parser.add_argument("--share", type=float, default=0.02)
    parser.add_argument("--fit", nargs=2, metavar=("SCANS", "FEATURES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.fit:
        fit_file(*arguments.fit)
        return
    from bayesharm.datasets.simulate import simulate_srpbs

    n_edges = arguments.regions * (arguments.regions - 1) // 2
    simulated = simulate_srpbs(n_edges, seed=1)
    values = np.asarray(simulated.features, np.float32)
    holed = with_missing_regions(values, arguments.regions, arguments.share, 0)
    print(f"{len(values)} scans × {n_edges} edges, {np.isnan(holed).mean():.1%} of the values missing", flush=True)
    with TemporaryDirectory() as folder:
        simulated.scans.to_csv(Path(folder) / "scans.csv", index=False)
        for name, each in (("complete", values), ("missing", holed)):
            np.save(Path(folder) / f"{name}.npy", each)
        for state in ("compiled", "kept"):
            for name in ("complete", "missing"):
                files = [str(Path(folder) / file) for file in ("scans.csv", f"{name}.npy")]
                command = [sys.executable, __file__, "--fit", *files]
                print(
                    f"{name:9} {state:9}",
                    subprocess.run(command, check=True, capture_output=True, text=True).stdout,
                    end="",
                    flush=True,
                )


if __name__ == "__main__":
    main()
