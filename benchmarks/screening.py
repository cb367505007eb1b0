"""False alarms of the screening and of outlying scans in studies without mistakes, and the forecasts of `bayesharm check`.

    python benchmarks/screening.py [--studies 100] [--onharmony]

Simulates studies of several designs and kinds of features, and counts those in which something is found. With
``--onharmony`` it also compares the expected sds of the scanners' biases in ON-Harmony with those of a preview fit.
"""

from __future__ import annotations

import argparse
from collections import Counter

import numpy as np
import pandas as pd

from bayesharm.data.dataset import load_dataset
from bayesharm.data.screening.screen import screen
from bayesharm.study_check.outlying import find_outlying

N_FEATURES = 100
DESIGNS = ("cohort", "travelers and cohort", "travelers")
FEATURES = {  # number of common factors, their share of the variance, degrees of freedom of the noise, unequal noise
    "independent": (1, 0.0, np.inf, False),
    "one factor, 10%": (1, 0.1, np.inf, False),
    "one factor, 30%": (1, 0.3, np.inf, False),
    "three factors, 50%": (3, 0.5, np.inf, False),
    "eight factors, 50%": (8, 0.5, np.inf, False),
    "unequal noise of scanners": (1, 0.0, np.inf, True),
    "heavy tails (t, 5)": (1, 0.0, 5, False),
}


def make_study(design: str, features: str, rng: np.random.Generator) -> tuple[pd.DataFrame, np.ndarray]:
    """Simulate a study with effects of scanners and people, 120 scans on six scanners."""
    n_factors, share, dof, is_unequal = FEATURES[features]
    loading = rng.normal(size=(n_factors, N_FEATURES)) / np.sqrt(n_factors)

    def correlated(n: int) -> np.ndarray:
        own = rng.normal(size=(n, N_FEATURES)) if np.isinf(dof) else rng.standard_t(dof, (n, N_FEATURES))
        return np.sqrt(share) * rng.normal(size=(n, n_factors)) @ loading + np.sqrt(1 - share) * own

    cohort = [(f"p{k}", f"s{k % 6}") for k in range({"cohort": 120, "travelers": 0}.get(design, 90))]
    n_travelers = {"cohort": 0, "travelers": 20}.get(design, 5)
    rows = [*cohort, *((f"t{k}", f"s{scanner}") for k in range(n_travelers) for scanner in range(6))]
    scans = pd.DataFrame(rows, columns=["participant_id", "scanner"])
    scans.insert(0, "scan_id", [f"scan{k}" for k in range(len(scans))])
    scans["sex"] = scans["participant_id"].map({name: rng.choice(["F", "M"]) for name in scans["participant_id"].unique()})
    person, scanner = (pd.factorize(scans[name])[0] for name in ("participant_id", "scanner"))
    noise = np.where(is_unequal, np.linspace(0.3, 1.0, 6), 0.5)[scanner, None]
    values = correlated(person.max() + 1)[person] + 0.5 * rng.normal(size=(6, N_FEATURES))[scanner]
    return scans, 10 + values + noise * correlated(len(scans))


def count_false_alarms(n_studies: int) -> None:
    """Print the share of studies with outlying scans, and all findings of the screening."""
    print(f"| design | features | studies with an outlying scan | findings in {n_studies} studies |\n|---|---|---|---|")
    for design in DESIGNS:
        for features in FEATURES:
            rng, outlying, found = np.random.default_rng(1), 0, Counter[str]()
            for _ in range(n_studies):
                scans, values = make_study(design, features, rng)
                dataset = load_dataset(scans, values)
                outlying += len(find_outlying(dataset.features, dataset.scans)) > 0
                found.update({f"{each.code} ({each.severity})" for each in screen(dataset, covariates=["sex"])})
            listed = ", ".join(f"{name} {count}" for name, count in found.items()) or "none"
            print(f"| {design} | {features} | {outlying / n_studies:.1%} | {listed} |", flush=True)


def compare_forecasts() -> None:
    """Print the expected sd of each scanner's bias in ON-Harmony over the sd of a preview fit, root mean squares."""
    import bayesharm
    from bayesharm.cli.demo.onharmony import ONHARMONY_COLUMNS
    from bayesharm.datasets.download import fetch_onharmony

    for select in ("freesurfer_*ThickAvg*", "rfMRI_d25_fullcorr_v*"):
        dataset = load_dataset(fetch_onharmony(), columns=ONHARMONY_COLUMNS, select=select, missing="drop-features")
        expected = bayesharm.check(dataset, model="traveling").precision.scanners["expected_sd"]
        posterior = bayesharm.fit(dataset, "traveling", seed=1, preview=True)
        effect, unit = posterior.effect("measurement"), posterior.scales["feature_scale"].values
        actual = pd.Series(np.sqrt(((effect["sd"].values / unit) ** 2).mean(1)), effect["scanner"].values.astype(str))
        ratio = expected / actual[expected.index]
        print(f"{select}: expected over actual sd {ratio.min():.2f} to {ratio.max():.2f} over {len(ratio)} scanners")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=100)
    parser.add_argument("--onharmony", action="store_true")
    arguments = parser.parse_args()
    count_false_alarms(arguments.studies)
    if arguments.onharmony:
        compare_forecasts()


if __name__ == "__main__":
    main()
