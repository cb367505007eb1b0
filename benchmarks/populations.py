"""One population or several: verdicts on simulated studies with no sampling bias, with the published, and with half of it.

    python benchmarks/populations.py --studies 20 --features 200 --out table.md

*Half*: every second feature has no sampling bias at all; what the posterior says of each feature is compared with that.
"""

from __future__ import annotations

import argparse
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from recovery import publish

from bayesharm import fit, load_dataset, simulate_srpbs
from bayesharm.analysis.population_structure import ALL, test_populations

KINDS = ("none", "published", "half")
SURE = 0.95


def measure(kind: str, seed: int, n_features: int, preview: bool) -> dict[str, object]:
    """Verdicts of one study."""
    study = simulate_srpbs(n_features, seed=seed, sampling_bias=kind != "none")
    features, null = study.features, np.zeros(n_features, bool)
    if kind == "half":
        null[::2] = True
        features = np.where(null, simulate_srpbs(n_features, seed=seed, sampling_bias=False).features, features)
    dataset = load_dataset(study.scans, features)
    posterior = fit(dataset, "traveling_and_cohort", seed=seed, feature_scaling="common", preview=preview)
    started = time.perf_counter()
    found = test_populations(posterior, dataset)
    took = time.perf_counter() - started
    regression = test_populations(posterior, dataset, method="yamashita2019")
    row: dict[str, object] = {"kind": kind, "seed": seed, "seconds": took, "yamashita2019": regression.several}
    row |= {name: value for name, value in found.families["probability"].items()}
    for (family, what), told in found.predictions.iterrows():
        row[f"{family} {what} z"] = told.difference / told.se
    if kind == "half":
        chance = found.features[f"probability_{ALL}"].to_numpy()
        row["auc"] = (chance[~null][:, None] > chance[null]).mean()
        row["null called"], row["biased called"] = (chance[null] > SURE).mean(), (chance[~null] > SURE).mean()
        row["share"] = found.families.share[ALL]
    print(row, flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=20)
    parser.add_argument("--features", type=int, default=200)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--preview", action="store_true", help="preview fits: the verdicts start from them only")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = pd.DataFrame(
        [measure(kind, seed, options.features, options.preview) for kind in options.kinds for seed in range(options.studies)]
    )
    table = []
    for kind, own in rows.groupby("kind", sort=False):
        names = [str(name) for name in own.columns]
        families = [name for name in names if name == ALL or name.startswith("sampling_") and " " not in name]
        line = {"sampling bias": kind, "studies": len(own)}
        line |= {f"several ({name})": int((own[name] > SURE).sum()) for name in families}
        line["several (yamashita2019)"] = int(own["yamashita2019"].sum())
        line |= {name: own[name].mean() for name in ("auc", "null called", "biased called", "share") if name in own}
        table.append(line)
    fits = "preview fits" if options.preview else "whole fits"
    publish(pd.DataFrame(table), f"{options.features} features, {fits}, bayesharm {version('bayesharm')}", options.out)


if __name__ == "__main__":
    main()
