"""Simulation-based calibration of all that a fit reports, for every model in `models/`.

    python benchmarks/calibration.py run [--model traveling …] [--datasets 200] [--processes 2] [--preview]
    python benchmarks/calibration.py report [--preview]

*run* draws studies from the prior of a model, fits them as a user would, and appends the PIT of every quantity to a folder
beside this file; run again, it goes on where it stopped. *report* makes the tables and pictures of
`docs/benchmarks/calibration.md`, and the `calibration.json` of each model, from all that is there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from bayesharm.reference_models.prior_studies import PriorStudy

MODELS = ("traveling", "traveling_and_cohort", "protocol", "longitudinal", "cohort")
RESULTS = Path(__file__).parent / ".calibration"
FIGURES = Path(__file__).parents[1] / "docs" / "figures"
SCANNERS = "ABCDEF"
FACTORS = ("Manufacturer", "PhaseEncodingDirection")
# So few that a fit takes seconds of one core; nothing else differs from what a user would run.
FEATURES = {"traveling": 16, "traveling_and_cohort": 12, "protocol": 8, "longitudinal": 6, "cohort": 12}


def make_scans(model: str) -> pd.DataFrame:
    """Return the scans of one modest study for each model, the same for all its datasets."""
    rng = np.random.default_rng(20261130)
    travelers = [(f"T{i}", SCANNERS[(i + k * (1 + i % 2)) % 6], "home", "HC") for i in range(8) for k in range(4)]
    people = [(f"P{i:02d}", SCANNERS[i % 6], f"site{SCANNERS[i % 6]}", ("HC", "MDD")[i // 6 % 2]) for i in range(48)]
    twice = people + people[::7]
    rows = {
        "traveling": travelers + travelers[::3],
        "cohort": twice,
        "longitudinal": travelers + [person for i, person in enumerate(people[:30]) for _ in range(1 + i % 4)],
    }.get(model, travelers + twice)
    scans = pd.DataFrame(rows, columns=["participant_id", "scanner", "site", "diagnosis"])
    scans.insert(0, "scan_id", [f"scan{n:03d}" for n in range(len(scans))])
    number = scans.scanner.map(SCANNERS.index)
    scans["Manufacturer"] = np.array(["GE", "Siemens", "Siemens", "Philips", "GE", "Siemens"])[number]
    scans["PhaseEncodingDirection"] = np.array(["AP", "PA", "AP", "PA", "PA", "AP"])[number]
    if model == "longitudinal":
        visit, travels = scans.groupby("participant_id").cumcount(), scans.participant_id.str.startswith("T")
        years = np.where(visit > 0, np.where(travels, 0.05, rng.uniform(0.5, 1.5, len(scans))), 0.0)
        scans["time"] = pd.Series(years).groupby(scans.participant_id).cumsum().round(2)
        scans["scanner"] = scans.scanner.mask((rng.random(len(scans)) < 0.2) & (visit > 0) & ~travels, SCANNERS[0])
    return scans


class Simulator:
    """Draws and fits datasets of one model, all of one design, so that programs are compiled once."""

    def __init__(self, model: str, preview: bool) -> None:
        from bayesharm import load_dataset
        from bayesharm.model.configure import configure_model
        from bayesharm.model.design import build_design

        self.n_features, self.preview, scans = FEATURES[model], preview, make_scans(model)
        placeholder = np.random.default_rng(0).normal(size=(len(scans), self.n_features))
        dataset = load_dataset(scans, placeholder).sorted()
        self.spec = configure_model(model, dataset, protocol=FACTORS if model == "protocol" else ())
        self.scans, self.design = dataset.scans, build_design(dataset.scans, self.spec)
        assert len(self.design.rows) == len(scans)

    def run(self, seeds: Iterable[int]) -> Iterator[dict[str, Any]]:
        """Draw and fit a dataset for each seed."""
        from bayesharm.reference_models.prior_studies import draw_studies

        seeds = list(seeds)
        for seed, study in zip(seeds, draw_studies(self.design, self.n_features, seeds), strict=True):
            yield self.fit(seed, study)

    def fit(self, seed: int, study: PriorStudy) -> dict[str, Any]:
        """Fit one dataset; return the PIT of each quantity, and the share of its 90% intervals that contain the truth."""
        from bayesharm import fit, harmonize, load_dataset, variance_components
        from bayesharm.model_check import calibration

        rng, dataset, started = (
            np.random.default_rng([seed, 1]),
            load_dataset(self.scans, study.features),
            time.process_time(),
        )
        settings = {"preview": True} if self.preview else {"keep_draws": calibration.N_DRAWS}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # notes on the study
            posterior = fit(dataset, self.spec, seed=seed, accept=["all"], **settings)
            seconds, harmonized = time.process_time() - started, harmonize(posterior, dataset)
        shared = calibration.calibrate_hyper(posterior, self.design, study, rng)
        of_features = calibration.calibrate_features(posterior, self.design, study, rng)
        if not self.preview:
            of_features |= calibration.calibrate_sizes(posterior, self.design, study, rng)
            components = variance_components(posterior)
            shared |= calibration.calibrate_means(components.families, self.design, study, rng)
            shared |= calibration.calibrate_levels(components.levels, self.design, study, rng)
        removed = next(group for group in self.design.effects if group.name == self.spec.removed_effect)
        bias = (removed.contrasts @ study.effects)[self.design.class_scanner[self.design.scan_class]]
        true = study.features - bias
        of_features["harmonized"] = calibration.pit_of_normal(true, harmonized.mean, harmonized.sd)
        feature = int(rng.integers(self.n_features))  # the same for all quantities; levels and scans at random
        one = shared | {name: pit[..., feature] for name, pit in of_features.items()}
        return {
            "seed": seed,
            "seconds": seconds,
            "converged": posterior.run["n_converged"] / self.n_features,
            "rhat": float(posterior.hyper.attrs["rhat_max"]),
            "independent": float(posterior.hyper.attrs["n_independent_features"]) / self.n_features,
            "pit": {name: float(rng.choice(np.ravel(pit))) for name, pit in one.items()},
            "inside": {
                name: float(np.mean(np.abs(pit - 0.5) < calibration.LEVEL / 2))
                for name, pit in (shared | of_features).items()
            },
        }


def read_results(model: str, preview: bool) -> list[dict[str, Any]]:
    """Read the finished datasets of a model, by their seeds; a line that was cut off is left out."""
    files = RESULTS.glob(f"{model}{'-preview' * preview}.*.jsonl")
    lines = [line for path in files for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    rows = {row["seed"]: row for row in map(json.loads, lines)}
    return [rows[seed] for seed in sorted(rows)]


def run_worker(options: argparse.Namespace) -> None:
    """Run every n-th dataset of each model; workers begin with different models, and compile different programs."""
    first = options.worker * len(options.model) // options.processes
    for model in options.model[first:] + options.model[:first]:
        out = RESULTS / f"{model}{'-preview' * options.preview}.{options.worker}.jsonl"
        done = {row["seed"] for row in read_results(model, options.preview)}
        seeds = [seed for seed in range(options.datasets) if seed % options.processes == options.worker and seed not in done]
        if not seeds:
            continue
        for row in Simulator(model, options.preview).run(seeds):
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(f"{model} {row['seed']}: {row['seconds']:.1f} s, converged {row['converged']:.0%}", flush=True)


def run(options: argparse.Namespace) -> None:
    """Start the workers, processes of their own, and wait for them."""
    RESULTS.mkdir(exist_ok=True)
    command = [sys.executable, __file__, "worker", *sys.argv[2:]]
    environment = os.environ | {"XLA_FLAGS": os.environ.get("XLA_FLAGS", "--xla_backend_optimization_level=1")}
    workers = [subprocess.Popen([*command, f"--worker={k}"], env=environment) for k in range(options.processes)]
    if any([worker.wait() for worker in workers]):
        raise SystemExit("a worker failed; its message is above")


def report(options: argparse.Namespace) -> None:
    """Print the tables, and draw the pictures."""
    from calibration_report import draw, summarize_coverage, tabulate

    from bayesharm.model.catalog import models_folder

    for model in options.model:
        if rows := read_results(model, options.preview):
            if not options.preview:
                record = json.dumps(summarize_coverage(rows), indent=2)
                (models_folder() / model / "calibration.json").write_text(record + "\n", encoding="utf-8")
            print(f"\n## {model}{', preview' * options.preview}\n\n{tabulate(rows)}", flush=True)
            draw(rows, FIGURES / f"calibration_{model}{'_preview' * options.preview}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["run", "report", "worker"])
    parser.add_argument("--model", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--datasets", type=int, default=200)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--preview", action="store_true")
    parser.add_argument("--worker", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    {"run": run, "report": report, "worker": run_worker}[options.action](options)


if __name__ == "__main__":
    main()
