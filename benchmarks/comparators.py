"""`bayesharm fit`, its preview and three ComBats on the same study: wall time, peak memory, error of what is removed.

    python benchmarks/comparators.py [--edges 35778] [--repeats 3] [--only combatlearn …] [--out table.md]

The simulated SRPBS study, 1,216 scans. Every tool is a process of its own, from files to files, one after the other. The
ComBats run in environments that this script makes (``--environments``, default ``benchmarks/.comparators``), because
they need other versions of numpy and pandas; Python 3.12 has wheels for all of them.

The error is that of the scanners' biases: what each scanner's scans lose on average, against the simulated truth, both
centered over scanners. All are given the same scans, travelers included. ComBat does not know that travelers are the same
people on all scanners, and the population of a site is part of what it removes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
from recovery import centered_truth, publish

from bayesharm.datasets.simulate import Simulation, simulate_srpbs
from bayesharm.results.posterior import load_posterior

HERE = Path(__file__).parent
PACKAGES = {
    "neuroCombat": ["neuroCombat==0.2.12", "numpy", "pandas"],  # it does not say that it needs them
    "neuroHarmonize": ["neuroHarmonize==2.5.2"],
    "combatlearn": ["combatlearn==2.3.0"],
}
QUICK = 60.0  # seconds; what takes less is repeated
# A row: what is run, with which options, and whether programs of an earlier run are there.
FITS = {
    "bayesharm fit, nothing compiled": ([], "fit"),
    "bayesharm fit, programs kept": ([], "fit"),
    "bayesharm fit --preview, nothing compiled": (["--preview"], "preview"),
    "bayesharm fit --preview, programs kept": (["--preview"], "preview"),
}


def make_environment(tool: str, folder: Path) -> Path:
    """The interpreter of a tool's environment, which is made if it is not there."""
    python, ready = folder / tool / "bin" / "python", folder / tool / "ready"
    if not ready.exists() or ready.read_text() != " ".join(PACKAGES[tool]):
        print(f"making an environment for {tool}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder / tool)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PACKAGES[tool]], check=True)
        ready.write_text(" ".join(PACKAGES[tool]))
    return python


def versions_in(python: Path, tool: str) -> str:
    """A tool's version, and that of its numpy."""
    code = f"from importlib.metadata import version; print({tool!r}, version({tool!r}), 'with numpy', version('numpy'))"
    return subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def run(command: list[str | Path], **environment: str) -> tuple[float, float, str]:
    """Seconds, peak memory in GB and output of a process.

    What Linux says of a process that has ended includes the memory of the one that started it, so that the process is
    asked while it runs.
    """
    with tempfile.TemporaryFile() as output:
        started, peak = time.perf_counter(), 0.0
        with subprocess.Popen(
            [str(part) for part in command], env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT
        ) as process:
            while process.poll() is None:
                found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
                peak = max(peak, int(found[1]) / 1e6 if found else 0.0)
                time.sleep(0.05)
        seconds = time.perf_counter() - started
        output.seek(0)
        text = output.read().decode()
    if process.returncode:
        raise SystemExit(f"{text}\n{command[0]} ended with exit code {process.returncode}")
    return seconds, peak, text


def fit(arguments: list[str], study: Path, out: Path, cache: Path) -> dict:
    """Run `bayesharm fit` once."""
    files = [study / "scans.csv", study / "features.npy"]
    options = ["--seed", "1", "--out", out, "--overwrite", "--quiet", *arguments]
    command = [sys.executable, "-m", "bayesharm.cli", "fit", *files, *options]
    seconds, memory, _ = run(command, JAX_COMPILATION_CACHE_DIR=str(cache))
    posterior = load_posterior(out)
    found = json.loads((out / "run.json").read_text())
    effect = posterior.effect("measurement")["mean"].transpose("scanner", "feature").to_pandas().sort_index()
    failed = "" if arguments else found["n_features"] - found["n_converged"]
    return {"seconds": seconds, "memory": memory, "bias": effect.to_numpy(), "not converged": failed}


def combat(python: Path, tool: str, study: Path, out: Path) -> dict:
    """Run a ComBat once."""
    seconds, memory, text = run([python, HERE / "combat.py", tool, study, out])
    return {"seconds": seconds, "memory": memory, "bias": np.load(out), "call": float(text.split()[-1])}


def describe(name: str, once: Callable[[], dict], repeats: int, study: Simulation) -> dict:
    """A row; medians over runs where one takes less than `QUICK` seconds."""
    runs = [once()]
    while len(runs) < repeats and runs[0]["seconds"] < QUICK and "nothing compiled" not in name:
        runs.append(once())
    truth = centered_truth(study)["measurement"].sort_index().to_numpy()
    bias = runs[0]["bias"] - runs[0]["bias"].mean(axis=0)
    row = {
        "tool": name,
        "whole process, s": round(median(one["seconds"] for one in runs), 1),
        "its call alone, s": round(median(one["call"] for one in runs), 1) if "call" in runs[0] else "",
        "runs": len(runs),
        "peak memory, GB": round(max(one["memory"] for one in runs), 2),
        "RMSE of measurement bias": float(np.sqrt(((bias - truth) ** 2).mean())),
        "not converged": runs[0].get("not converged", ""),
    }
    print(row, flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=int, default=35778)
    parser.add_argument("--repeats", type=int, default=1, help=f"of what takes less than {QUICK:.0f} s")
    parser.add_argument("--only", nargs="+", default=["fit", "preview", *PACKAGES], choices=["fit", "preview", *PACKAGES])
    parser.add_argument("--environments", type=Path, default=HERE / ".comparators")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    pythons = {tool: make_environment(tool, options.environments) for tool in PACKAGES if tool in options.only}
    study, rows = simulate_srpbs(options.edges, seed=1), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = study.write(folder / "study")
        for tool, python in pythons.items():
            once = partial(combat, python, tool, files, folder / "bias.npy")
            rows.append(describe(tool, once, options.repeats, study))
        for row, (arguments, kind) in FITS.items():
            if kind in options.only:
                once = partial(fit, arguments, files, folder / f"run_{kind}", folder / f"cache_{kind}")
                rows.append(describe(row, once, options.repeats, study))
    no_correction = np.sqrt((centered_truth(study)["measurement"].to_numpy() ** 2).mean())
    rows.append({"tool": "nothing removed", "RMSE of measurement bias": float(no_correction)})
    versions = [f"{name} {version(name)}" for name in ("bayesharm", "jax")]
    versions += [versions_in(python, tool) for tool, python in pythons.items()]
    note = f"{len(study.scans):,} scans, {options.edges:,} edges; Python {platform.python_version()}, {', '.join(versions)}"
    publish(pd.DataFrame(rows, dtype=object).fillna(""), note, options.out)


if __name__ == "__main__":
    main()
