"""NUTS on the features in their first run: features to run again, effective draws, leapfrog steps, Pareto-k.

    python benchmarks/sampling.py [--features 512] [--case base …] [--sizes large] [--feature-scaling common]

The script prints one row for each case of the simulated SRPBS study.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
from recovery import CASES, SIZES

import bayesharm.fitting.scheduler as scheduler
from bayesharm import fit, load_dataset
from bayesharm.datasets.simulate import simulate_srpbs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--case", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--sizes", default="large", choices=list(SIZES))
    parser.add_argument("--feature-scaling", default="common", choices=["per_feature", "common"])
    options = parser.parse_args()
    scheduler.RETRY_SCHEDULE = scheduler.RETRY_SCHEDULE[:1]  # no feature is run again
    rows = []
    for case in options.case:
        study = simulate_srpbs(options.features, seed=0, sizes=SIZES[options.sizes], **CASES[case])
        posterior = fit(
            load_dataset(study.scans, study.features),
            "traveling_and_cohort",
            seed=0,
            feature_scaling=options.feature_scaling,
        )
        scales = posterior.tree["scales"].to_dataset()
        draws = scales["draws"].values
        row = {
            "not converged": 1 - scales["converged"].values.mean(),
            "with a divergence": (scales["divergences"].values > 0).mean(),
            "least effective draws per draw": np.median(scales["ess_bulk"].values.min(0) / draws),
            "steps per draw": (scales["steps"].values / draws).mean(),
            "median Pareto k": np.median(scales["khat"].values),
        }
        rows.append({"case": case} | {name: round(float(value), 4) for name, value in row.items()})
        print(rows[-1], flush=True)
    print(pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    main()
