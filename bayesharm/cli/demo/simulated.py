"""The demo on a simulated study, whose results are compared with the known ground truth."""

from __future__ import annotations

from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pandas as pd

from bayesharm.analysis.summary import summarize
from bayesharm.cli.demo.folder import claim_folder
from bayesharm.cli.demo.result import REPORT, DemoResult, render_summary, write_demo_report
from bayesharm.data.dataset import load_dataset
from bayesharm.datasets.oracle import gaussian_oracle
from bayesharm.datasets.simulate import Simulation, simulate_srpbs
from bayesharm.fitting.fit import fit
from bayesharm.harmonization.harmonize import harmonize_to_files
from bayesharm.progress import Progress
from bayesharm.results.console import bullets, make_table
from bayesharm.results.posterior import Posterior

Z90 = 1.6448536269514722  # half-width of the 90% interval of a standard normal distribution
STUDY, RUN, TABLES, MEAN, SD = "study", "run", "tables", "harmonized.npy", "harmonized_sd.npy"


def demo_simulated(folder: str | Path, n_features: int, seed: int, progress: Progress) -> DemoResult:
    """Simulate the SRPBS study, fit and harmonize it, and compare the estimates with the ground truth.

    Parameters
    ----------
    folder : path
        Output: ``study/``, ``run/``, ``tables/``, harmonized features and their sd, and a report. An earlier demo is
        replaced.
    n_features, seed : int
    progress : Progress

    Raises
    ------
    RunFolderError
        The folder holds files that no demo wrote.
    """
    start = monotonic()
    folder = claim_folder(Path(folder), (STUDY, RUN, TABLES, MEAN, SD, REPORT))
    progress("simulating a study", 0, 1, "")
    simulation = simulate_srpbs(n_features, seed)
    simulation.write(folder / STUDY)
    progress("simulating a study", 1, 1, "")
    dataset = load_dataset(folder / STUDY / "scans.csv", folder / STUDY / "features.npy")
    posterior = fit(dataset, "traveling_and_cohort", seed=seed, out=folder / RUN, progress=progress)
    harmonize_to_files(posterior, dataset, folder / MEAN, folder / SD)
    progress("comparing with the truth", 0, 1, "")
    recovery, errors = compare_with_truth(posterior, simulation)
    summary = summarize(posterior)
    summary.write(folder / TABLES)
    recovery.to_csv(folder / TABLES / "recovery.csv", lineterminator="\n")
    progress("comparing with the truth", 1, 1, "")
    report = write_demo_report(posterior, folder / RUN, folder / REPORT)

    from rich.text import Text

    size = (
        f"{len(simulation.scans):,} scans of traveling subjects and of a cohort, {summary.about['n_scanners']} scanners, "
        f"{n_features:,} features (edges)"
    )
    return DemoResult(
        (
            Text(f"\nSimulated study: {size}\n"),
            *render_summary(summary),
            _render_recovery(recovery),
            _render_errors(errors),
            bullets("Output files", _describe_files(folder, report)),
            _render_commands(n_features, seed),
            Text(f"\nTime taken: {monotonic() - start:.0f} s"),
        )
    )


def compare_with_truth(posterior: Posterior, simulation: Simulation) -> tuple[pd.DataFrame, dict[str, float]]:
    """How well the effects of a simulated study are recovered.

    Parameters
    ----------
    posterior : Posterior
        Of all the simulation's features in their order; with measurement, sampling and disorder effects.
    simulation : Simulation

    Returns
    -------
    recovery : DataFrame by source
        `true_rms` and `rms` of the centered effects, `correlation` and `rmse` of posterior mean and truth over
        levels and features, `coverage` of the 90% intervals (mean ± 1.645 sd).
    errors : dict
        RMSE of the centered measurement bias: of the posterior mean (`posterior`), of zero (`nothing`), and of
        the best estimate that knows the true scales (`oracle`).
    """
    rows, errors = {}, {}
    for source in ("measurement", "sampling", "disorder"):
        effect = posterior.effect(source)
        levels = [str(level) for level in effect[effect["mean"].dims[0]].values]
        true = simulation.truth.effects[source].loc[levels].to_numpy()
        if source != "disorder":  # which is against the reference; the others are centered in their group
            group = effect["diagnosis"].values if source == "sampling" else np.full(len(levels), "")
            true = true - np.stack([true[group == name].mean(axis=0) for name in group])
        mean, sd = effect["mean"].values, effect["sd"].values
        rows[source] = {
            "true_rms": _rms(true),
            "rms": float(np.sqrt(np.mean(mean**2 + sd**2))),
            "correlation": float(np.corrcoef(mean.ravel(), true.ravel())[0, 1]) if true.any() else np.nan,
            "rmse": _rms(mean - true),
            "coverage": float((abs(mean - true) <= Z90 * sd).mean()),
        }
        if source == "measurement":
            best = gaussian_oracle(simulation).mean.loc[levels].to_numpy()
            best = best - best.mean(axis=0)
            errors = {"posterior": _rms(mean - true), "nothing": _rms(true), "oracle": _rms(best - true)}
    return pd.DataFrame(rows).T.rename_axis("source"), errors


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _render_recovery(recovery: pd.DataFrame) -> Any:
    table = make_table(
        "Recovery of the known truth",
        "True size and estimated size: root mean square of the effects. Correlation and error (root mean square): between "
        "posterior mean and truth, over all levels and features. Coverage: share of the 90% intervals that contain the "
        "truth. Sizes and errors are in Fisher z.",
        ["source", "true size", "estimated", "correlation", "error", "coverage"],
    )
    for source, row in recovery.iterrows():
        table.add_row(
            str(source),
            f"{row.true_rms:.4f}",
            f"{row.rms:.4f}",
            f"{row.correlation:.3f}",
            f"{row.rmse:.4f}",
            f"{row.coverage:.1%}",
        )
    return table


def _render_errors(errors: dict[str, float]) -> Any:
    ratio = errors["posterior"] / errors["oracle"]
    return bullets(
        "Error of the estimated measurement bias (root mean square over scanners and features, Fisher z)",
        [
            f"bayesharm: {errors['posterior']:.5f}",
            f"without any correction: {errors['nothing']:.5f}",
            f"best possible, given the true scales: {errors['oracle']:.5f}; the error of bayesharm is {ratio:.3f} times "
            "as large",
        ],
    )


def _describe_files(folder: Path, report: str) -> list[str]:
    return [
        f"{folder / STUDY}: the simulated study and its ground truth",
        f"{folder / RUN}: the run folder with the posterior",
        f"{folder / MEAN}, {SD}: harmonized features and the uncertainty of the correction",
        f"{folder / TABLES}: the tables above and others, as .csv files",
        report,
    ]


def _render_commands(n_features: int, seed: int) -> Any:
    from rich.text import Text

    commands = [
        f"bayesharm simulate --edges {n_features} --seed {seed} --out {STUDY}",
        f"bayesharm fit {STUDY}/scans.csv {STUDY}/features.npy --seed {seed} --out {RUN}",
        f"bayesharm harmonize {RUN} {STUDY}/scans.csv {STUDY}/features.npy \\",
        f"    --out {MEAN} --sd {SD}",
        f"bayesharm summary {RUN}",
        f"bayesharm report {RUN} --out {REPORT}",
    ]
    return Text("To repeat these steps yourself, in an empty folder\n" + "\n".join(f"  {line}" for line in commands))
