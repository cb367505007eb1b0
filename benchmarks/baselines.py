"""Methods to compare with, on the simulated SRPBS study and on a tenth of it: seconds, and error of the measurement bias.

    python benchmarks/baselines.py [--edges 100] [--out table.md]

Seconds are those of a whole fit and of correcting all scans; methods of other libraries are processes that take some seconds
to start, so that *s per feature* says little of them but for REML, whose own starting time is taken off with a fit to one
feature, the shorter of two. REML by statsmodels takes so long that it gets the first few features only.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd
from recovery import centered_truth, publish

from bayesharm import load_dataset, simulate_srpbs
from bayesharm.baselines import METHODS, available_methods, get_method
from bayesharm.baselines import external_process as comparators
from bayesharm.data.dataset import Dataset

COVARIATES = ["diagnosis"]
SIZES = {1216: 4, 120: 20}  # scans, and features of REML by statsmodels
Z90 = 1.6449


def measure(method, options: dict, dataset: Dataset, truth: pd.DataFrame) -> dict[str, object]:
    """A row: seconds and errors of one method on one study."""
    fit = get_method(method, **options).fit
    one = dataset.features.take(dataset.features.names[:1])
    seconds = []
    for features in (one, one, dataset.features) if method == "reml" else (dataset.features,):
        started = time.perf_counter()
        fitted = fit(Dataset(dataset.scans, features), COVARIATES)
        seconds.append(time.perf_counter() - started)
    started = time.perf_counter()
    applied = fitted.apply(dataset)
    applying = time.perf_counter() - started
    error = fitted.bias - (truth - truth.loc[list(fitted.scanners)].mean())
    row = {
        "fit, s": round(seconds[-1], 2),
        "s per feature": (seconds[-1] - min(seconds[:-1])) / (dataset.features.n_features - 1) if method == "reml" else "",
        "apply, s": round(applying, 2),
        "scanners": len(fitted.scanners),
        "RMSE of measurement bias": float(np.sqrt((error**2).stack().mean())),
    }
    if applied.sd is not None:
        row["90% coverage"] = f"{(error.abs() < Z90 * fitted.sd).to_numpy().mean():.1%}"
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=int, default=100)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    study, rows = simulate_srpbs(options.edges, seed=1), []
    everyone = load_dataset(study.scans, study.features)
    for n_scans, few in SIZES.items():
        chosen = np.sort(np.random.default_rng(1).choice(len(everyone.scans), n_scans, replace=False))
        dataset = Dataset(everyone.scans.iloc[chosen].reset_index(drop=True), everyone.features.align(chosen))
        truth = centered_truth(study)["measurement"].set_axis(dataset.features.names, axis="columns")
        cases = [(name, name, {}, options.edges) for name in METHODS if name in available_methods()]
        if "reml" in available_methods():
            cases.append(("reml by statsmodels", "reml", {"library": "statsmodels"}, few))
        for name, method, settings, n_features in cases:
            some = Dataset(dataset.scans, dataset.features.take(dataset.features.names[:n_features]))
            found = measure(method, settings, some, truth[some.features.names].loc[sorted(dataset.scans.scanner.unique())])
            rows.append({"scans": n_scans, "method": name, "features": n_features} | found)
            print(rows[-1], flush=True)
    note = f"`simulate_srpbs({options.edges}, seed=1)`, covariate diagnosis; Python {platform.python_version()}{versions()}"
    publish(pd.DataFrame(rows, dtype=object).fillna(""), note, options.out)


def versions() -> str:
    """Those of the libraries in the environment of the comparators."""
    if not comparators.has_environment():
        return ""
    names = ["neuroCombat", "neuroHarmonize", "combatlearn", "gpboost", "statsmodels", "numpy"]
    code = f"from importlib.metadata import version; print(*('; ' + n + ' ' + version(n) for n in {names}), sep='')"
    python = comparators.ENVIRONMENT / "bin" / "python"
    return subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
