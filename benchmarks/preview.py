"""How far a preview is from the fit: effects of the simulated SRPBS study, and the time of both.

    python benchmarks/preview.py [--edges 640] [--out table.md]

The fit averages effects over 500 draws, five times as many as by default, so that its own Monte-Carlo error is small.
Prints a row for each family: root mean square of the difference over that of the fit.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
from recovery import publish

from bayesharm import load_dataset
from bayesharm.datasets.simulate import simulate_srpbs
from bayesharm.fitting.fit import fit
from bayesharm.results.posterior import Posterior


def timed_fit(study, **settings) -> tuple[Posterior, float]:
    """A fit, and its seconds."""
    started = time.perf_counter()
    posterior = fit(load_dataset(study.scans, study.features), "traveling_and_cohort", seed=1, **settings)
    return posterior, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=int, default=640)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    study = simulate_srpbs(options.edges, seed=1)
    exact, seconds = timed_fit(study, effect_draws=500)
    preview, seconds_of_preview = timed_fit(study, preview=True)
    unit = exact.tree["scales"].to_dataset()["feature_scale"].values
    rows = []
    for family in exact.tree["effects"].children:
        row: dict[str, float | str] = {"family": family}
        for name in ("mean", "sd"):
            near, true = (posterior.effect(family)[name].values / unit for posterior in (preview, exact))
            row[name] = round(float(np.sqrt(((near - true) ** 2).mean() / (true**2).mean())), 4)
        rows.append(row)
    poor = (preview.tree["scales"].to_dataset()["khat"].values > 0.7).mean()
    times = f"fit {seconds:.0f} s, preview {seconds_of_preview:.0f} s"
    note = f"{options.edges} edges; Pareto k above 0.7 for {poor:.1%} of them; {times}"
    publish(pd.DataFrame(rows), note, options.out)


if __name__ == "__main__":
    main()
