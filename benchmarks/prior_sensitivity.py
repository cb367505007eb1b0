"""Prior sensitivity against fits with other hyperpriors: three scanners, five travelers with two scans on each, 16 features.

    python benchmarks/prior_sensitivity.py [--out table.md]

The study is fitted with the priors of the model `traveling`, and with the sds of all hyperpriors times and divided by √2.
The table compares the change that `bayesharm.prior_sensitivity` predicts from the first fit with that of the other two.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from recovery import publish

import bayesharm
from bayesharm.analysis.headline_draws import headline_draws

HYPERPRIORS = ("eta_sd", "omega_sd", "noise_ratio_sd", "bias_ratio_sd", "gain_sd", "correlation_sd")
NOISE = {"A": 0.6, "B": 0.9, "C": 0.42}  # sds of the noise of the scanners
N_TRAVELERS, N_VISITS, N_FEATURES = 5, 2, 16


def make_study() -> bayesharm.Dataset:
    """Simulate the study."""
    rng = np.random.default_rng(3)
    rows = [(f"t{i}", scanner) for i in range(N_TRAVELERS) for scanner in NOISE for _ in range(N_VISITS)]
    scans = pd.DataFrame(rows, columns=["participant_id", "scanner"])
    scans.insert(0, "scan_id", [f"s{k}" for k in range(len(scans))])
    person = dict(zip(scans.participant_id.unique(), rng.normal(0, 0.7, (N_TRAVELERS, N_FEATURES)), strict=True))
    bias = dict(zip(NOISE, rng.normal(0, 0.4, (len(NOISE), N_FEATURES)), strict=True))
    values = [person[i] + bias[scanner] + rng.normal(0, NOISE[scanner], N_FEATURES) for i, scanner in rows]
    return bayesharm.load_dataset(scans, np.stack(values))


def fit(dataset: bayesharm.Dataset, factor: float) -> bayesharm.Posterior:
    """Fit with the sds of all hyperpriors times a factor."""
    spec = bayesharm.load_model("traveling")
    priors = replace(spec.priors, **{name: factor * getattr(spec.priors, name) for name in HYPERPRIORS})
    return bayesharm.fit(dataset, replace(spec, priors=priors), seed=1)


def main() -> None:
    """Fit three times and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    dataset, found = make_study(), {}
    posterior = fit(dataset, 1.0)
    numbers = bayesharm.prior_sensitivity(posterior).numbers
    for name, factor in (("wider", np.sqrt(2)), ("narrower", np.sqrt(0.5))):
        found[name] = {(each.kind, each.name): each.draws.mean() for each in headline_draws(fit(dataset, factor))}
    table = pd.DataFrame({
        "number": [f"{kind}, {name}" for kind, name in numbers.index], "value": numbers["value"].to_numpy(),
        "wider, predicted": numbers["weaker"].to_numpy(), "wider, fitted": [found["wider"][key] for key in numbers.index],
        "narrower, predicted": numbers["stronger"].to_numpy(),
        "narrower, fitted": [found["narrower"][key] for key in numbers.index],
        "prior": numbers["prior"].to_numpy(), "diagnosis": numbers["diagnosis"].to_numpy(),
    })  # fmt: skip
    publish(table, "`python benchmarks/prior_sensitivity.py`", options.out)


if __name__ == "__main__":
    main()
