"""How time and memory of a fit grow: with features, with scans, with people, scanners and covariates, with the file.

    python benchmarks/growth.py [--part features scans moments large designs] [--full] [--out table.md]

features
    The SRPBS study with 2,000, 8,000 and 35,778 edges: the time of the features' stage, once programs are compiled.
scans
    The same study with every person ten times, 1,216 and 12,160 scans.
moments
    The pass that reads the features, beside numpy's sum of the same file, both from the system's cache.
large
    1,000 scans × 200,000 features as .npy and as .zarr: the peak memory.
designs
    10,000 people scanned twice; 300 hub-and-spoke travelers between 40 scanners; five covariates of each scan; 2,000 edges.

Every fit is a process of its own. `large` and `designs` are previews; --full samples them too, which takes minutes a row.
Prints a row each.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from recovery import publish

from bayesharm.data.dataset import load_dataset
from bayesharm.datasets import srpbs
from bayesharm.datasets.simulate import RMS, simulate_srpbs
from bayesharm.fitting.fit import fit
from bayesharm.model.catalog import load_model
from bayesharm.model.design import build_design

EDGES = (2000, 8000, 35778)
COVARIATES = ("age", "motion", "temperature", "hour", "duration")
BLOCK = 4096  # features simulated at a time
Row = dict[str, Any]


def srpbs_scans(times: int = 1) -> pd.DataFrame:
    """The scans of the study, with every person so many times over."""
    rng = np.random.default_rng(0)
    once = pd.concat([srpbs.travelers_published(rng), srpbs.cohort(rng)], ignore_index=True)
    copies = [once.assign(participant_id=once.participant_id + f"_{k}") for k in range(times)]
    return _numbered(pd.concat(copies, ignore_index=True))


def longitudinal(n_people: int = 10_000, n_scanners: int = 12) -> pd.DataFrame:
    """People scanned twice on the scanner of their site, and nine travelers, three scans a visit."""
    rng = np.random.default_rng(0)
    scanners = [f"S{k:02d}" for k in range(n_scanners)]
    visits = [(f"t{p}", scanner, "HC") for p in range(9) for scanner in scanners for _ in range(3)]
    for p in range(n_people):
        visits += [(f"p{p:05d}", scanners[rng.integers(n_scanners)], _diagnosis(rng))] * 2
    return _table(visits)


def hub_and_spoke(n_travelers: int = 300, n_scanners: int = 40) -> pd.DataFrame:
    """Travelers scanned at the hub and at two of the spokes, and twenty people scanned once on every scanner."""
    rng = np.random.default_rng(0)
    hub, *spokes = [f"S{k:02d}" for k in range(n_scanners)]
    visits = [(f"t{p}", scanner, "HC") for p in range(n_travelers)
              for scanner in (hub, *rng.choice(spokes, 2, replace=False))]  # fmt: skip
    visits += [(f"p_{scanner}_{k}", scanner, _diagnosis(rng)) for scanner in (hub, *spokes) for k in range(20)]
    return _table(visits)


def everything() -> pd.DataFrame:
    """Longitudinal people, hub-and-spoke travelers and covariates in one study."""
    people = longitudinal(n_scanners=40)
    people = people[people.participant_id.str.startswith("p")]
    travelers = hub_and_spoke()
    travelers = travelers[travelers.participant_id.str.startswith("t")]
    return with_covariates(_numbered(pd.concat([people, travelers], ignore_index=True)))


def with_covariates(scans: pd.DataFrame) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    return scans.assign(**{name: rng.normal(size=len(scans)) for name in COVARIATES})


def _diagnosis(rng: np.random.Generator) -> str:
    return str(rng.choice(["HC", "HC", "MDD", "SCZ"]))


def _table(visits: list[tuple[str, str, str]]) -> pd.DataFrame:
    table = pd.DataFrame(visits, columns=["participant_id", "scanner", "diagnosis"])
    return _numbered(table.assign(site=table.scanner))


def _numbered(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(scan_id=[f"scan{k:06d}" for k in range(len(table))])


def write_study(folder: Path, scans: pd.DataFrame, n_features: int) -> Path:
    """Simulate features of any table of scans from the model, and write the study block by block."""
    folder.mkdir(parents=True)
    scans.to_csv(folder / "scans.csv", index=False)
    out = np.lib.format.open_memmap(folder / "features.npy", mode="w+", dtype=np.float32, shape=(len(scans), n_features))
    travels = scans.groupby("participant_id").scanner.transform("nunique") > 1
    levels = {
        "measurement": scans.scanner,
        "sampling_HC": (scans.site + "/" + scans.diagnosis).mask(travels, ""),
        "disorder": scans.diagnosis.mask(scans.diagnosis == "HC", ""),
        "participant": scans.participant_id,
    }
    for start in range(0, n_features, BLOCK):
        rng = np.random.default_rng([1, start])
        width = min(BLOCK, n_features - start)
        scale = {family: size * np.exp(rng.normal(0, 0.3, width) - 0.09) for family, size in RMS.items()}
        values = rng.standard_normal((len(scans), width), np.float32) * scale["noise"].astype(np.float32)
        for family, label in levels.items():
            codes, names = pd.factorize(label)
            effects = rng.standard_normal((len(names), width)) * scale[family] * (names != "")[:, None]
            values += effects.astype(np.float32)[codes]
        for name in scans.columns.intersection(COVARIATES):
            values += np.outer(scans[name], rng.normal(0, 0.02, width))
        out[:, start : start + width] = values + 0.2
    out.flush()
    return folder


def fit_once(features: Path, scans: Path, out: Path, options: Row) -> None:
    """What the process of one fit does: it prints when stages began and ended."""
    events: list[tuple[str, int, float, float]] = []
    started = time.perf_counter()

    def report(stage: str, done: int, total: int, note: str) -> None:
        events.append((stage, done, time.perf_counter() - started, time.process_time()))

    posterior = fit(load_dataset(scans, features), seed=1, out=out, progress=report, **options)
    ended, (_, _, learned, learned_cpu) = time.perf_counter() - started, _last(events, "hyperparameters")
    _, _, sampled, sampled_cpu = events[-1]
    begun = next(at for stage, _, at, _ in events if stage == "hyperparameters")
    print(json.dumps({
        "reading": begun,
        "hyperparameters": learned - begun,
        "features": sampled - learned,
        "features, CPU": sampled_cpu - learned_cpu,
        "writing": ended - sampled,
        "seconds": ended,
        "not converged": len(posterior.features) - posterior.run["n_converged"],
    }))  # fmt: skip


def _last(events: list, stage: str):
    return [event for event in events if event[0] == stage][-1]


def measure(features: Path, out: Path, cache: Path, **options) -> Row:
    """Fit in a process of its own."""
    job = json.dumps([str(features), str(features.parent / "scans.csv"), str(out), options])
    with subprocess.Popen(
        [sys.executable, __file__, "--job", job],
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"},
        stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        text = process.stdout.read() if process.stdout else ""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the fit ended with exit code {process.returncode}")
    row = {name: round(value, 2) for name, value in json.loads(text).items()}
    return row | {"peak memory, GB": round(usage.ru_maxrss / 1e6, 2)}


def grow_features(folder: Path, full: bool) -> list[Row]:
    """A first fit compiles."""
    study, rows = folder / "study", []
    simulate_srpbs(max(EDGES), seed=1).write(study)
    values = np.load(study / "features.npy", mmap_mode="r")
    for turn, edges in enumerate((EDGES[0], *EDGES)):
        part = folder / f"study{turn}"
        part.mkdir()
        (part / "scans.csv").write_bytes((study / "scans.csv").read_bytes())
        np.save(part / "features.npy", values[:, :edges])
        found = measure(part / "features.npy", folder / f"run{turn}", folder / "cache")
        if turn:
            each = {f"ms a feature{of}": 1e3 * found[f"features{of}"] / edges for of in ("", ", CPU")}
            rows.append(_show({"edges": edges} | found | each))
    return rows


def grow_scans(folder: Path, full: bool) -> list[Row]:
    """Ten times the scans; a first fit compiles."""
    rows = []
    for times in (1, 10):
        study = write_study(folder / f"study{times}", srpbs_scans(times), EDGES[0])
        for turn in (0, 1):
            found = measure(study / "features.npy", folder / f"run{times}_{turn}", folder / f"cache{times}")
        rows.append(_show({"scans": 1216 * times, "edges": EDGES[0]} | found))
    return rows


def read_moments(folder: Path, full: bool) -> list[Row]:
    """Medians of nine passes, processor time."""
    from bayesharm.fitting.context import FitContext
    from bayesharm.fitting.settings import Settings
    from bayesharm.likelihood.problem import make_problem

    rows = []
    for times in (1, 10):
        study = write_study(folder / f"study{times}", srpbs_scans(times), max(EDGES) // times)
        path = study / "features.npy"
        dataset = load_dataset(study / "scans.csv", path)
        design = build_design(dataset.scans, load_model("traveling_and_cohort"))
        problem = make_problem(design)

        def moments_pass(dataset=dataset, design=design, problem=problem) -> None:
            study = FitContext(dataset, design, problem, None, 1, Settings())
            for start, stop in dataset.features.blocks():
                study.moments(np.arange(start, stop))

        size = path.stat().st_size / 1e9
        passes = {
            "numpy sum": lambda path=path: np.load(path, mmap_mode="r").sum(),
            "numpy sum in double precision": lambda path=path: np.load(path, mmap_mode="r").sum(dtype=float),
            "moments": moments_pass,
        }
        for name, one in passes.items():
            wall, cpu = _median_time(one)
            rows.append(_show({"scans": len(dataset.scans), "pass": name, "GB": size, "GB/s": size / wall,
                               "GB/s of processor time": size / cpu}))  # fmt: skip
    return rows


def _median_time(work: Callable[[], Any], times: int = 9) -> tuple[float, float]:
    found = []
    for _ in range(times):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        found.append((time.perf_counter() - wall, time.process_time() - cpu))
    wall, cpu = np.median(found, axis=0)
    return float(wall), float(cpu)


def fit_large(folder: Path, full: bool) -> list[Row]:
    """A file of 0.8 GB."""
    import zarr

    scans = srpbs_scans().iloc[::-1].head(1000)  # of both parts
    study = write_study(folder / "study", scans.assign(scan_id=scans.scan_id.sort_values().to_numpy()), 200_000)
    values = np.load(study / "features.npy", mmap_mode="r")
    store = zarr.create_array(study / "features.zarr", shape=values.shape, dtype=values.dtype, chunks=(250, 8192))
    for start in range(0, values.shape[1], 8192):
        store[:, start : start + 8192] = values[:, start : start + 8192]
    rows = []
    for name in ("features.npy", "features.zarr"):
        for preview in (True, False) if full else (True,):
            found = measure(study / name, folder / f"{name}{preview}", folder / "cache", preview=preview)
            rows.append(_show({"file": name, "preview": preview} | found))
    return rows


def fit_designs(folder: Path, full: bool) -> list[Row]:
    """With programs compiled by the fit itself."""
    designs = {
        "SRPBS": srpbs_scans(),
        "10,000 people scanned twice": longitudinal(),
        "300 travelers hub-and-spoke, 40 scanners": hub_and_spoke(),
        "5 covariates": with_covariates(srpbs_scans()),
        "all three at once": everything(),
    }
    rows = []
    for k, (name, scans) in enumerate(designs.items()):
        study = write_study(folder / f"study{k}", scans, EDGES[0])
        covariates = [column for column in COVARIATES if column in scans]
        for preview in (True, False) if full else (True,):
            options = {"preview": preview, "covariates": covariates}
            found = measure(study / "features.npy", folder / f"run{k}{preview}", folder / f"cache{k}", **options)
            rows.append(_show({"design": name, "scans": len(scans), "people": scans.participant_id.nunique(),
                               "preview": preview} | found))  # fmt: skip
    return rows


def _show(row: Row) -> Row:
    print(row, flush=True)
    return row


PARTS = {
    "features": grow_features, "scans": grow_scans, "moments": read_moments, "large": fit_large, "designs": fit_designs,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--full", action="store_true", help="sample the large file and the designs too")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        features, scans, out, rest = json.loads(options.job)
        fit_once(Path(features), Path(scans), Path(out), rest)
        return
    made_with = ", ".join(f"{name} {version(name)}" for name in ("bayesharm", "jax", "numpyro", "numpy"))
    for name in options.part:
        with tempfile.TemporaryDirectory() as folder:
            table = pd.DataFrame(PARTS[name](Path(folder), options.full))
        out = options.out and options.out.with_stem(f"{options.out.stem}_{name}")
        publish(table, f"Python {platform.python_version()}, {made_with}", out)


if __name__ == "__main__":
    main()
