"""Compare the numbers of two versions of the package: record those of each, then compare the records.

    python scripts/same_numbers.py record before.npz     # in a checkout of one version
    python scripts/same_numbers.py record after.npz      # in a checkout of the other, on the same machine
    python scripts/same_numbers.py compare before.npz after.npz

A record holds every numeric array of: a fit of each model to its reference study; ON-Harmony, thickness and edges (with
``BAYESHARM_DATA``); a simulated SRPBS study of 2,000 edges, harmonized in several ways; adaptation to a new scanner;
predictions; the test of populations; a comparison of models; a preview. It takes about ten minutes on two cores.

A change that only moves and renames leaves all bits as they are. One that reorders sums in single precision changes the last
digits of draws, and `compare` says by how much.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

import bayesharm
from bayesharm.cli.demo.onharmony import EDGES, ONHARMONY_COLUMNS, THICKNESS
from bayesharm.datasets.reference_study import reference_study

MODEL = "traveling_and_cohort"


class Recorder:
    """Numeric arrays by name."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self.started = time.monotonic()

    def add_posterior(self, name: str, posterior: bayesharm.Posterior) -> None:
        for group in posterior.tree.subtree:
            for key, array in group.data_vars.items():
                if array.dtype.kind in "fiub":
                    self.arrays[f"{name}{group.path}/{key}"] = np.asarray(array.values)
        print(f"{time.monotonic() - self.started:4.0f} s  {name}", flush=True)

    def add_table(self, name: str, table: pd.DataFrame) -> None:
        for column, values in table.select_dtypes(["number", "bool"]).items():
            self.arrays[f"{name}/{column}"] = values.to_numpy(float)

    def add_harmonized(self, name: str, harmonized: bayesharm.Harmonized) -> None:
        for part in ("mean", "sd", "draws"):
            if (values := getattr(harmonized, part)) is not None:
                self.arrays[f"{name}/{part}"] = values


def record(folder: Path) -> dict[str, np.ndarray]:
    """Run everything, with files in a folder."""
    recorder = Recorder()
    reference = bayesharm.load_dataset(*reference_study())
    for model in bayesharm.model_names():
        recorder.add_posterior(f"reference_{model}", bayesharm.fit(reference, model, seed=1))
    _record_onharmony(recorder)
    _record_srpbs(recorder, _simulate(folder / "srpbs", 2000, seed=1))
    _record_analyses(recorder, _simulate(folder / "small", 300, seed=2))
    return recorder.arrays


def _simulate(folder: Path, n_features: int, seed: int) -> bayesharm.Dataset:
    bayesharm.simulate_srpbs(n_features, seed=seed).write(folder)
    return bayesharm.load_dataset(folder / "scans.csv", folder / "features.npy")


def _record_onharmony(recorder: Recorder) -> None:
    table = pd.read_csv(bayesharm.fetch_onharmony(), encoding="utf-8-sig")
    for name, select in (("thickness", THICKNESS), ("edges", EDGES)):
        dataset = bayesharm.load_dataset(table, columns=ONHARMONY_COLUMNS, select=select, missing="drop-features")
        posterior = bayesharm.fit(dataset, "traveling", seed=1)
        recorder.add_posterior(f"onharmony_{name}", posterior)
        recorder.add_harmonized(f"onharmony_{name}_harmonized", bayesharm.harmonize(posterior, dataset, draws=2))
        recorder.add_table(f"onharmony_{name}_similarity", bayesharm.scanner_similarity(posterior).pairs)


def _record_srpbs(recorder: Recorder, dataset: bayesharm.Dataset) -> None:
    posterior = bayesharm.fit(dataset, MODEL, seed=1)
    recorder.add_posterior("srpbs", posterior)
    recorder.add_harmonized("srpbs_harmonized", bayesharm.harmonize(posterior, dataset, draws=2))
    to_scanner = bayesharm.harmonize(
        posterior, dataset, remove=("measurement", "sampling"), target="ATT", match_noise=True, draws=1
    )
    recorder.add_harmonized("srpbs_options", to_scanner)
    components, summary = bayesharm.variance_components(posterior), bayesharm.summarize(posterior)
    for name, table in (("sources", "families"), ("larger", "larger"), ("levels", "levels")):
        recorder.add_table(f"srpbs_{name}", getattr(components, table))
    for table in ("effect_sizes", "hyper", "scanners", "features"):
        recorder.add_table(f"srpbs_summary_{table}", getattr(summary, table))
    prediction = bayesharm.predict(posterior, dataset.scans.iloc[:40])
    recorder.arrays |= {"srpbs_predict/mean": prediction.mean, "srpbs_predict/sd": prediction.sd}


def _record_analyses(recorder: Recorder, dataset: bayesharm.Dataset) -> None:
    is_new = (dataset.scans.scanner == "COI").to_numpy()
    without = bayesharm.fit(dataset.take(np.flatnonzero(~is_new)), MODEL, seed=1)
    recorder.add_posterior("small", without)
    adapted = bayesharm.adapt(without, dataset.take(np.flatnonzero(is_new)))
    recorder.add_posterior("adapted", adapted)
    recorder.add_harmonized("adapted_harmonized", bayesharm.harmonize(adapted, dataset))
    recorder.add_harmonized("prior_harmonized", bayesharm.harmonize(without, dataset, new_scanners="prior"))
    posterior, cohort = (bayesharm.fit(dataset, model, seed=1) for model in (MODEL, "cohort"))
    populations = bayesharm.test_populations(posterior, dataset)
    for table in ("families", "predictions", "features"):
        recorder.add_table(f"populations_{table}", getattr(populations, table))
    recorder.add_posterior("small_cohort", cohort)
    comparison = bayesharm.compare_models(posterior, cohort, dataset)
    for table in ("predictions", "units", "predictive_checks"):
        recorder.add_table(f"compare_{table}", getattr(comparison, table))
    recorder.add_posterior("preview", bayesharm.fit(dataset, MODEL, seed=1, preview=True))


def compare(before: Path, after: Path, renamed: dict[str, str]) -> bool:
    """Print what differs, the largest differences first; whether all bits are the same.

    Parameters
    ----------
    renamed : dict
        Part of a name in the earlier record -> what stands there in the later one.
    """
    old, new = (dict(np.load(path)) for path in (before, after))
    for part, now in renamed.items():
        old = {name.replace(part, now): values for name, values in old.items()}
    absent, extra = sorted(old.keys() - new.keys()), sorted(new.keys() - old.keys())
    rows, same = [], 0
    for name in sorted(old.keys() & new.keys()):
        one, other = old[name], new[name]
        if one.shape == other.shape and np.array_equal(one, other, equal_nan=one.dtype.kind == "f"):
            same += 1
        elif one.shape != other.shape:
            rows.append((np.inf, name, f"shapes {one.shape} and {other.shape}"))
        else:
            one, other = one.astype(float), other.astype(float)
            scale = np.nanstd(one) or np.nanmax(np.abs(one)) or 1.0
            away = np.nanmax(np.abs(one - other)) / scale
            rows.append((away, name, f"at most {away:.2g} of its sd, {np.mean(one != other):.0%} of the values"))
    print(f"{same} of {len(old)} arrays are the same, bit for bit; {len(rows)} differ")
    for _, name, text in sorted(rows, reverse=True):
        print(f"  {name}: {text}")
    for what, names in (("only before", absent), ("only after", extra)):
        if names:
            print(f"{what}: {', '.join(names)}")
    return not (rows or absent)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("record")
    one.add_argument("out", type=Path)
    two = commands.add_parser("compare")
    two.add_argument("before", type=Path)
    two.add_argument("after", type=Path)
    two.add_argument("--renamed", nargs="*", default=[], metavar="OLD=NEW")
    options = parser.parse_args()
    if options.command == "compare":
        pairs = dict(pair.split("=", 1) for pair in options.renamed)
        return int(not compare(options.before, options.after, pairs))
    warnings.simplefilter("ignore", UserWarning)
    with TemporaryDirectory() as folder:
        np.savez(options.out, allow_pickle=False, **record(Path(folder)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
