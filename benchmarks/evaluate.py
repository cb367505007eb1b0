"""Harmonized data proven against other methods: simulated studies, a real one, disorder contrasts, speed.

    python benchmarks/evaluate.py simulated [--edges 1000] [--seeds 0 1 2 3 4] --out folder
    python benchmarks/evaluate.py published [--edges 1000] [--seeds 0 1 2 3 4] --out folder
    python benchmarks/evaluate.py contrasts [--edges 1000] [--seeds 0 1 2 3 4] --out folder
    python benchmarks/evaluate.py scanner   [--edges 1000] [--seeds 0 1 2 3 4] --out folder
    BAYESHARM_DATA=folder python benchmarks/evaluate.py onharmony [--families thickness …] --out folder
    python benchmarks/evaluate.py speed RUN SCANS FEATURES --out folder

*simulated*: error of the measurement bias, fits to whole studies. *published*: the 2019 study's three measures, of people
who were left out. *contrasts*: coverage of differences between diagnoses with and without the uncertainty of harmonization.
*scanner*: a scanner that the fit has not seen, learned from its scans afterwards. *onharmony*: `bayesharm.cross_validate`
on five families of measures. *speed*: of `bayesharm harmonize`. Other libraries are compared with where
`make comparators` has put them. Each seed, or family, is written as soon as it is there, and not computed again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from recovery import CASES, centered_truth, publish

from bayesharm import (
    adapt,
    compare_propagation,
    cross_validate,
    fetch_onharmony,
    fit,
    group_difference,
    harmonize,
    load_dataset,
    simulate_srpbs,
)
from bayesharm.baselines import available_methods, get_method
from bayesharm.cli.demo.onharmony import EDGES, ONHARMONY_COLUMNS, THICKNESS
from bayesharm.data.dataset import Dataset
from bayesharm.data.splits import split_people
from bayesharm.datasets.oracle import gaussian_oracle
from bayesharm.datasets.simulate import Simulation, scan_levels
from bayesharm.evaluation import metrics as measures
from bayesharm.evaluation.bayesharm_method import BayesFitted
from bayesharm.reporting.plots import plot_evaluation, save_figure

STUDIES = {
    name: CASES[name] for name in ("base", "unequal noise", "unequal biases", "hub and spoke", "scanner without travelers")
}
STUDIES["heavy tails"] = {"tail_df": 3.0}
FAMILIES = {
    "thickness": [THICKNESS] if isinstance(THICKNESS, str) else list(THICKNESS),
    "volumes": ["freesurfer_*GrayVol*", "freesurfer_aseg_Volume*"],
    "edges, full correlation": [EDGES] if isinstance(EDGES, str) else list(EDGES),
    "edges, partial correlation": ["rfMRI_d25_partialcorr_*"],
    "diffusion": ["dMRI_TBSS_FA*", "dMRI_TBSS_MD*", "dMRI_TBSS_ICVF*"],
}
MODEL, DRAWS = "traveling_and_cohort", 50
BAYESHARM = "bayesharm"


def ours(train: Dataset, seed: int) -> BayesFitted:
    return BayesFitted(fit(train, MODEL, seed=seed, feature_scaling="common"))


def fitted_methods(train: Dataset, seed: int):
    """Each method, fitted, and the seconds it took."""
    for name in [*available_methods(), BAYESHARM]:
        start = time.perf_counter()
        found = ours(train, seed) if name == BAYESHARM else get_method(name).fit(train, ["diagnosis"])
        yield name, found, time.perf_counter() - start


def expected_of(study: Simulation) -> np.ndarray:
    """What each scan would be without its scanner, its person and noise, (scan, feature)."""
    total = np.tile(study.truth.mean, (len(study.scans), 1))
    for group in ("sampling", "disorder"):
        effects = study.truth.effects[group]
        levels = pd.Index(effects.index).get_indexer(pd.Index(scan_levels(study.scans, group)))
        total += np.where(levels[:, None] >= 0, effects.to_numpy()[levels], 0.0)
    return total


def simulated(case: str, edges: int, seed: int) -> pd.DataFrame:
    """Error of the measurement bias of each method, as a ratio to the oracle's, and coverage."""
    study = simulate_srpbs(edges, seed, **STUDIES[case])
    dataset, best = load_dataset(study.scans, study.features), gaussian_oracle(study)
    truth = centered_truth(study)["measurement"]
    truth.columns = best.mean.columns = dataset.features.names
    rows = []
    for name, found, seconds in fitted_methods(dataset, seed):
        error = measures.bias_error(found.bias, truth, oracle=best.mean, sd=getattr(found, "sd", None))
        rows.append({
            "case": case, "seed": seed, "method": name, "RMSE": error.rmse.value, "to oracle": error.ratio.value,
            "coverage": np.nan if error.coverage is None else error.coverage.value, "seconds": seconds,
        })  # fmt: skip
    return pd.DataFrame(rows)


def published(case: str, edges: int, seed: int) -> pd.DataFrame:
    """The three measures of 2019, two-fold; the oracle subtracts the true bias."""
    study = simulate_srpbs(edges, seed, **STUDIES[case])
    dataset, truth = load_dataset(study.scans, study.features), study.truth.effects["measurement"]
    fold, rows = split_people(dataset.scans, 2, np.random.default_rng(seed)), []
    for k in range(2):
        out = np.flatnonzero(fold == k)
        test = dataset.take(out)
        raw = test.features.read(0, edges)
        values = {"oracle": raw - (truth - truth.mean()).loc[test.scans["scanner"]].to_numpy()}
        for name, found, _ in fitted_methods(dataset.take(np.flatnonzero(fold != k)), seed):
            values[name] = found.apply(test).values
        lacking = np.any([~np.isfinite(own).any(1) for own in values.values()], axis=0)
        for name, own in values.items():
            told = measures.effect_magnitudes(np.where(lacking[:, None], np.nan, own), test.scans)
            rows.append({
                "case": case, "seed": seed, "fold": k, "method": name, "measurement": told.measurement.value,
                "participant / measurement": told.participant_ratio.value, "scans": int((~lacking).sum()),
                "disorder / measurement": told.disorder_ratio.value,
            })  # fmt: skip
    return pd.DataFrame(rows)


def contrasts(case: str, edges: int, seed: int) -> pd.DataFrame:
    """Coverage of 90% intervals of the differences between diagnoses, in people scanned once, of the fit and others."""
    study = simulate_srpbs(edges, seed, **STUDIES[case])
    dataset, expected = load_dataset(study.scans, study.features), expected_of(study)
    once = ~dataset.scans["participant_id"].duplicated(keep=False).to_numpy()
    every, fold = np.full(len(once), True), split_people(dataset.scans, 2, np.random.default_rng(seed))
    told = [_contrasts(dataset, expected, every, once, seed).assign(people="of the fit")]
    for k in range(2):
        told.append(_contrasts(dataset, expected, fold != k, once & (fold == k), seed).assign(people="others"))
    return pd.concat(told).assign(case=case, seed=seed)


def _contrasts(dataset: Dataset, expected: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int) -> pd.DataFrame:
    posterior = fit(dataset.take(np.flatnonzero(train)), MODEL, seed=seed, feature_scaling="common")
    part, expected = dataset.take(np.flatnonzero(test)), expected[test]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = harmonize(posterior, part, draws=DRAWS, seed=seed)
    rows = []
    for diagnosis in ("MDD", "SCZ", "ASD", "OCD"):
        if not (part.scans["diagnosis"] == diagnosis).any():
            continue
        difference = group_difference(part.scans["diagnosis"], "HC", diagnosis)
        table = compare_propagation(difference, found.mean, found.draws, labels=found.names, level=0.9)
        true = np.asarray(difference(expected).estimate)
        plain = (table["lower_plain"] <= true) & (true <= table["upper_plain"])
        with_it = (table["lower"] <= true) & (true <= table["upper"])
        rows.append({
            "contrast": f"{diagnosis} - HC", "propagated": with_it.mean(),
            "not propagated": plain.mean(), "se": table["se"].mean(), "se, not propagated": table["se_plain"].mean(),
            "lost": table["lost"].mean(),
        })  # fmt: skip
    return pd.DataFrame(rows)


def scanner(case: str, edges: int, seed: int) -> pd.DataFrame:
    """A scanner that is left out of the fit, learned afterwards from its scans, against a fit that had them."""
    study = simulate_srpbs(edges, seed, **STUDIES[case])
    dataset, rows = load_dataset(study.scans, study.features), []
    everything = fit(dataset, MODEL, seed=seed, feature_scaling="common")
    for name, people in (("COI", "travelers and cohort"), ("COI", "cohort only"), ("COI", "travelers only")):
        own = dataset.scans["scanner"] == name
        travels = dataset.scans["participant_id"].isin(everything.tree["design"].attrs["site_travelers"])
        new = own & {"travelers and cohort": True, "cohort only": ~travels, "travelers only": travels}[people]
        posterior = fit(dataset.take(np.flatnonzero(~own)), MODEL, seed=seed, feature_scaling="common")
        learned = adapt(posterior, dataset.take(np.flatnonzero(new)))
        truth = study.truth.effects["measurement"]
        for method, known in (("adapted", learned), ("fitted to all", everything)):
            effect = known.effect("measurement")
            mean, sd = effect["mean"].to_pandas(), effect["sd"].to_pandas()
            mean = mean - mean.drop(index=name).mean()
            error = mean.loc[name].to_numpy() - (truth - truth.drop(index=name).mean()).loc[name].to_numpy()
            row = {"seed": seed, "new scans": people, "method": method, "RMSE": np.sqrt((error**2).mean())}
            if method == "adapted":
                row["coverage"] = (np.abs(error) < 1.6449 * sd.loc[name].to_numpy()).mean()
            rows.append(row)
    return pd.DataFrame(rows)


def onharmony(family: str, seed: int, figures: Path | None) -> pd.DataFrame:
    """`evaluate` on one family of measures."""
    table = pd.read_csv(fetch_onharmony(), encoding="utf-8-sig")
    dataset = load_dataset(table, columns=ONHARMONY_COLUMNS, select=FAMILIES[family], missing="drop-features")
    typical = fit(dataset, "traveling", covariates=("age", "sex"), seed=seed, preview=True)
    n_effective = typical.tree["hyper"].attrs["n_independent_features"]
    print(f"{family}: {dataset.features.n_features} features count for {n_effective:.0f}", flush=True)
    found = cross_validate(dataset, model="traveling", covariates=("age", "sex"), seed=seed, progress=_tell)
    print(found, flush=True)
    if figures:
        file = figures / f"evaluation_{family.replace(', ', '_').replace(' ', '_')}.png"
        file.unlink(missing_ok=True)
        save_figure(plot_evaluation(found), file)
    notes = pd.DataFrame({"measure": "conclusions", "method": "", "words": list(found.conclusions)})
    return pd.concat([found.measures.reset_index(), found.methods.reset_index().assign(measure="seconds"), notes]).assign(
        family=family
    )


def tabulate(found: pd.DataFrame) -> pd.DataFrame:
    """The measures of all families that say most, a row for each method."""
    shown = {
        "prediction_rmse": "people, error", "visit_rmse": "visits, error", "share_removed": "removed", "icc": "ICC",
        "scanner_accuracy": "scanner found", "identification": "identified", "visit_coverage": "90% intervals",
    }  # fmt: skip
    rows = []
    for family, table in found.groupby("family", sort=False):
        for method in dict.fromkeys(table.method.dropna()):
            row = {"family": family, "method": method}
            for measure, name in shown.items():
                one = table[(table.measure == measure) & (table.method == method)]
                row[name] = "" if one.empty else f"{one.value.iloc[0]:.3f} ± {one.se.iloc[0]:.3f}"
                if "error" in name:
                    gap = "" if one.empty or one.better.isna().all() else one.iloc[0]
                    row[f"{name}, better by"] = "" if isinstance(gap, str) else f"{gap.better:+.4f} ± {gap.better_se:.4f}"
            if any(row[name] for name in shown.values()):
                rows.append(row)
    return pd.DataFrame(rows)


def _tell(stage: str, done: int, total: int, note: str) -> None:
    print(stage, done, total, note, file=sys.stderr, flush=True)


def speed(run: Path, scans: Path, features: Path, n_draws: int = 100, rounds: int = 3, pause: float = 20) -> pd.DataFrame:
    """Seconds and memory of the command, and how fast the disk takes a file of the size of the draws.

    Both take turns, each after a pause: a virtual machine hands free memory back to its host, and who writes first into
    what it gets again waits as long as for the disk.
    """
    rows = []
    with tempfile.TemporaryDirectory(dir=run.parent) as name:
        folder = Path(name)
        base = [Path(sys.executable).with_name("bayesharm"), "harmonize", run, scans, features, "--quiet", "--out"]
        draws = ["--draws", str(n_draws), "--draws-file", folder / "draws.npy"]

        def timed(what: str, *command: object) -> float:
            """MB that were written."""
            time.sleep(pause)
            start = time.perf_counter()
            process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - start
            assert status == 0
            size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
            rows.append({"what": what, "seconds": seconds, "MB written": size, "MB/s": size / seconds,
                         "peak MB, files included": usage.ru_maxrss / 1e3})  # fmt: skip
            print(rows[-1], flush=True)
            for file in folder.iterdir():
                file.unlink()
            return size

        for _ in range(rounds):
            timed("mean and sd", *base, folder / "mean.npy", "--sd", folder / "sd.npy")
            size = timed(f"{n_draws} draws", *base, folder / "mean.npy", *draws)
            for what, past in (("plain writing", ""), ("writing past the system's memory", "O_DIRECT")):
                if past and not hasattr(os, past):
                    continue
                timed(what, sys.executable, "-c", PLAIN, folder / "plain", int(size * 1e6) >> 24, past)
    return pd.DataFrame(rows).groupby("what", sort=False).median().reset_index()


PLAIN = """
import mmap, os, sys
block = mmap.mmap(-1, 1 << 24)
block.write(os.urandom(1 << 24))
file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | getattr(os, sys.argv[3], 0))
for _ in range(int(sys.argv[2])):
    assert os.write(file, block) == len(block)
os.fsync(file)
"""


def kept(file: Path, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """A table from its file, or computed and written there."""
    if not file.exists():
        compute().to_csv(file, index=False)
        print(file.name, flush=True)
    return pd.read_csv(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["simulated", "published", "contrasts", "scanner", "onharmony", "speed"])
    parser.add_argument("files", nargs="*", type=Path, help="of speed: RUN SCANS FEATURES")
    parser.add_argument("--edges", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--cases", nargs="+", choices=list(STUDIES), default=None)
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--figures", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder for tables")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.what == "speed":
        publish(speed(*options.files), "harmonize", options.out / "speed.md")
        return
    if options.what == "onharmony":
        tables = []
        for family in options.families:
            file = options.out / f"onharmony_{family.replace(', ', '_').replace(' ', '_')}.csv"
            tables.append(kept(file, lambda family=family: onharmony(family, 0, options.figures)))
        publish(tabulate(pd.concat(tables)), "ON-Harmony, model traveling", options.out / "onharmony.md")
        return
    compute = {"simulated": simulated, "published": published, "contrasts": contrasts, "scanner": scanner}[options.what]
    cases = options.cases or (list(STUDIES) if options.what == "simulated" else ["base"])
    parts = [
        kept(options.out / f"{options.what}_{case.replace(' ', '_')}_{options.edges}_{seed}.csv",
             lambda case=case, seed=seed: compute(case, options.edges, seed))
        for seed in options.seeds for case in cases
    ]  # fmt: skip
    table = pd.concat(parts)
    keys = [name for name in ("case", "new scans", "people", "contrast", "method") if name in table]
    seeds = table.drop(columns="fold", errors="ignore").groupby([*keys, "seed"], sort=False).mean().groupby(keys, sort=False)
    summary = seeds.mean().join(seeds.sem().add_prefix("± ")) if len(options.seeds) > 1 else seeds.mean()
    publish(summary.reset_index(), f"{options.edges} edges, seeds {options.seeds}", options.out / f"{options.what}.md")


if __name__ == "__main__":
    main()
