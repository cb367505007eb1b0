"""Do the published sizes come back? Sources of simulated studies of the published shape and sizes against their truth.

    python benchmarks/replication.py [--features 2000] [--studies 4] [--out table.md]

Sizes are those of the effects that are there (`finite_sd`), means over features, in Fisher z × 1000.
"""

from __future__ import annotations

import argparse
from importlib.metadata import version
from pathlib import Path

import pandas as pd
from recovery import publish
from sources import MODEL, true_sizes

from bayesharm import fit, load_dataset, simulate_srpbs, variance_components


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=2000)
    parser.add_argument("--studies", type=int, default=4)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = [row for seed in range(1, options.studies + 1) for row in measure(options.features, seed)]
    publish(pd.DataFrame(rows), f"{options.features} features, bayesharm {version('bayesharm')}", options.out)


def measure(n_features: int, seed: int) -> list[dict[str, object]]:
    """A row for each source of one study, largest first."""
    study = simulate_srpbs(n_features, seed)
    posterior = fit(load_dataset(study.scans, study.features), MODEL, seed=seed, feature_scaling="common")
    found, truth = variance_components(posterior), true_sizes(study)["finite_sd"]
    order, rows = found.families.finite_sd.sort_values(ascending=False).index, []
    for family, following in zip(order, [*order[1:], None], strict=True):
        row, true = found.families.loc[family], float(truth[str(family)].mean())
        rows.append({
            "study": seed, "source": family, "true": 1e3 * true, "found": 1e3 * row.finite_sd,
            "90% interval": f"{1e3 * row.finite_sd_q05:.2f} to {1e3 * row.finite_sd_q95:.2f}",
            "inside": bool(row.finite_sd_q05 <= true <= row.finite_sd_q95),
            "larger than the next": float("nan") if following is None else found.larger.loc[family, following],
        })  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
