"""Do protocol factors come back? Simulated studies in the published order, and vendor against scanner in ON-Harmony.

    python benchmarks/protocol.py [--studies 4] [--features 300] [--real] [--out table.md]

The study has twelve scanners: a factor is known by two to eight levels, however many the scans. *True*, *found*: root mean
square over features of the sd of the effects that are there. *Together*: correlation of found effects, over levels and
features, with true ones. *One at a time*: contribution size of the 2019 study's regression with one factor in place of the
scanners, in percent.
"""

from __future__ import annotations

import argparse
import datetime
import os
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

from bayesharm import fit, load_dataset
from bayesharm.analysis.summary import summarize
from bayesharm.analysis.variance_components import variance_components
from bayesharm.baselines import univariate_effects
from bayesharm.cli.demo.onharmony import EDGES, THICKNESS
from bayesharm.datasets.download import fetch_onharmony
from bayesharm.datasets.simulate import PROTOCOL_RMS, simulate_srpbs
from bayesharm.results.posterior import Posterior

REAL = {"thickness": THICKNESS, "d25 edges": EDGES}


def recover(seed: int, n_features: int) -> tuple[pd.DataFrame, dict[str, float]]:
    """Sizes, order and effects of factors in one study, and how near measurement bias is with the model and without."""
    study = simulate_srpbs(n_features, seed, protocol=PROTOCOL_RMS)
    dataset = load_dataset(study.scans, study.features)
    started = time.perf_counter()
    posterior = fit(dataset, "protocol", seed=seed, feature_scaling="common")
    seconds = time.perf_counter() - started
    plain = fit(dataset, "traveling_and_cohort", seed=seed, feature_scaling="common")
    ranking, single = variance_components(posterior).ranking, univariate_effects(dataset)
    assert ranking is not None
    rows = []
    for name, effects in study.truth.factors.items():
        true = effects - effects.mean()
        found = posterior.effect(name)["mean"]
        found = pd.DataFrame(found.values, index=found[found.dims[0]].values).loc[true.index]
        row = ranking.loc[name]
        rows.append({
            "seed": seed, "part": name,
            "true": np.sqrt((effects.std() ** 2).mean()),
            "found": row.rms, "q05": row.rms_q05, "q95": row.rms_q95,
            "together": np.corrcoef(true.to_numpy().ravel(), found.to_numpy().ravel())[0, 1],
            **{f"{k}.": row[f"rank_{k}"] for k in range(1, len(ranking) + 1)},
            "one at a time": 100 * single[name].contributions[name] if name in single else np.nan,
        })  # fmt: skip
    true = study.truth.effects["measurement"]
    true -= true.mean()
    about = {"seed": seed, "seconds": seconds, "converged": posterior.run["n_converged"] / n_features}
    about["teachers"] = posterior.tree["hyper"].attrs["features"]  # fewer than all: the turns did not settle
    for name, run in (("protocol", posterior), ("traveling_and_cohort", plain)):
        effect = run.effect("measurement")
        away = effect["mean"].values - true.loc[effect["scanner"].values]
        about[f"rmse {name}"] = np.sqrt((away**2).to_numpy().mean())
        about[f"coverage {name}"] = (np.abs(away / effect["sd"].values) < 1.645).to_numpy().mean()
    effects = [run.effect("measurement")["mean"].values.ravel() for run in (posterior, plain)]
    about["correlation of both"] = np.corrcoef(*effects)[0, 1]
    return pd.DataFrame(rows), about


def on_real_data(select: str) -> Posterior:
    """Vendor and what it leaves of the scanner, 20 travelers on 6 of 8 scanners each."""
    dataset = load_dataset(
        fetch_onharmony(), select=select, missing="drop-features",
        columns={"participant_id": "subject", "scanner": "scanner_typeloc"},
    )  # fmt: skip
    return fit(dataset, "protocol", protocol=["vendor"], seed=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=4)
    parser.add_argument("--features", type=int, default=300)
    parser.add_argument("--real", action="store_true", help="ON-Harmony too")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    pd.set_option("display.width", 200, "display.max_columns", 30)
    print(f"bayesharm {version('bayesharm')}, {options.features} features, {datetime.date.today()}, {os.cpu_count()} cores")
    tables = []
    for seed in range(1, options.studies + 1):
        table, about = recover(seed, options.features)
        print(table.to_string(float_format="%.3g"), about, sep="\n", flush=True)
        tables.append((table, about))
    if tables:
        factors = pd.concat([table for table, _ in tables]).set_index(["seed", "part"])
        studies = pd.DataFrame([about for _, about in tables]).set_index("seed")
        for table in (factors, studies):
            text = table.round(4).to_csv(sep="|")
            print(text)
            if options.out:
                with options.out.open("a", encoding="utf-8") as file:
                    file.write(f"{text}\n")
    for name, select in REAL.items() if options.real else ():
        posterior = on_real_data(select)
        found = variance_components(posterior)
        print(f"\n{name}: {len(posterior.features)} features", found.ranking, found.families, found.about, sep="\n")
        print("\n".join(summarize(posterior).diagnostics + summarize(posterior).notes), flush=True)


if __name__ == "__main__":
    main()
