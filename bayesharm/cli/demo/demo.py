"""The main job from beginning to end, on a simulated study whose truth is known and on a real one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bayesharm.analysis.summary import effect_size_table, hyper_table, scanners_table, summarize
from bayesharm.cli.demo.folder import claim_folder
from bayesharm.data.dataset import load_dataset
from bayesharm.datasets.download import fetch_onharmony
from bayesharm.datasets.oracle import gaussian_oracle
from bayesharm.datasets.simulate import Simulation, simulate_srpbs
from bayesharm.errors import BayesharmError
from bayesharm.fitting.fit import fit
from bayesharm.harmonization.harmonize import harmonize, harmonize_to_files
from bayesharm.progress import Progress
from bayesharm.results.console import as_text, bullets, make_table
from bayesharm.results.posterior import Posterior

if TYPE_CHECKING:
    from rich.console import Group

Z90 = 1.6448536269514722  # half a 90% interval of a standard normal
ONHARMONY_COLUMNS = {"participant_id": "subject", "scanner": "scanner_typeloc"}
EDGES, THICKNESS = "rfMRI_d25_fullcorr_v*", "freesurfer_*ThickAvg*"
REPORT = "report.html"
HELD_OUT = ("thickness_cohort_A", "harmonized_cohort_B.csv", "harmonized_cohort_B_sd.csv")


@dataclass(frozen=True)
class Story:
    """What a demo has to show, for a terminal or as text."""

    parts: tuple[Any, ...]

    def __rich__(self) -> Group:
        from rich.console import Group

        return Group(*self.parts)

    def __str__(self) -> str:
        return as_text(self)


def demo_simulated(folder: str | Path, n_features: int, seed: int, progress: Progress) -> Story:
    """Simulate the SRPBS study, fit, harmonize, and compare with the truth.

    Parameters
    ----------
    folder : path
        Receives ``study/``, ``run/``, ``tables/``, harmonized features and ``progress.html``. An earlier
        demo there is replaced.
    n_features, seed : int
    progress : callable
        As in :func:`bayesharm.fit`.

    Raises
    ------
    RunFolderError
        The folder holds something that is not a demo's.
    """
    began = monotonic()
    study, run, tables = "study", "run", "tables"
    folder = claim_folder(Path(folder), (study, run, tables, "harmonized.npy", "harmonized_sd.npy", REPORT))
    progress("simulating a study", 0, 1, "")
    simulation = simulate_srpbs(n_features, seed)
    simulation.write(folder / study)
    progress("simulating a study", 1, 1, "")
    scans, features = folder / study / "scans.csv", folder / study / "features.npy"
    dataset = load_dataset(scans, features)
    posterior = fit(dataset, "traveling_and_cohort", seed=seed, out=folder / run, progress=progress)
    harmonized, sd = folder / "harmonized.npy", folder / "harmonized_sd.npy"
    harmonize_to_files(posterior, dataset, harmonized, sd)
    progress("comparing with the truth", 0, 1, "")
    recovery, errors = compare_with_truth(posterior, simulation)
    summary = summarize(posterior)
    summary.write(folder / tables)
    recovery.to_csv(folder / tables / "recovery.csv", lineterminator="\n")
    progress("comparing with the truth", 1, 1, "")
    reported = _write_report(posterior, folder / REPORT)

    from rich.text import Text

    commands = [
        f"bayesharm simulate --edges {n_features} --seed {seed} --out study",
        f"bayesharm fit study/scans.csv study/features.npy --seed {seed} --out run",
        "bayesharm harmonize run study/scans.csv study/features.npy \\",
        "    --out harmonized.npy --sd harmonized_sd.npy",
        "bayesharm summary run",
        f"bayesharm report run --out {REPORT}",
    ]
    where = [
        f"{folder / study}: the simulated study and its truth",
        f"{folder / run}: the posterior (a run folder)",
        f"{harmonized}, {sd.name}: harmonized features and their uncertainty",
        f"{folder / tables}: the tables above and more, as .csv",
        reported,
    ]
    return Story(
        (
            Text(
                f"\nSimulated: {len(simulation.scans):,} scans of travelers and cohort, "
                f"{summary.about['n_scanners']} scanners, {n_features:,} edges\n"
            ),
            hyper_table(summary),
            effect_size_table(summary),
            scanners_table(summary),
            bullets("Convergence", summary.diagnostics),
            bullets("Beware", summary.notes),
            _recovery_table(recovery),
            bullets(
                "Error of the measurement bias, over scanners and edges",
                [
                    f"estimated: {errors['posterior']:.5f} (root mean square, Fisher z)",
                    f"if nothing were corrected: {errors['nothing']:.5f}",
                    f"best possible, told the true scales: {errors['oracle']:.5f}; "
                    f"ours is {errors['posterior'] / errors['oracle']:.3f} times that",
                ],
            ),
            bullets("Where it is", where),
            Text("The same by hand, in an empty folder\n" + "\n".join(f"  {line}" for line in commands)),
            Text(f"\nTime taken: {monotonic() - began:.0f} s"),
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
            group = np.array([level.split("/")[-1] if source == "sampling" else "" for level in levels])
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


def demo_onharmony(folder: str | Path, seed: int, progress: Progress) -> Story:
    """Fit the ON-Harmony study, and check on people who were not part of the fit that harmonizing helps.

    Parameters
    ----------
    folder : path
        Receives the run folders ``thickness/``, ``edges/`` and ``thickness_cohort_A/``, ``tables/``, the
        harmonized thickness of cohort B, and a report of each of the first two runs. An earlier demo there is replaced.
    seed : int
    progress : callable
        As in :func:`bayesharm.fit`.

    Raises
    ------
    RunFolderError
        The folder holds something that is not a demo's.
    """
    began = monotonic()
    names = ("thickness", "edges", "tables", *HELD_OUT, f"thickness_{REPORT}", f"edges_{REPORT}")
    file = fetch_onharmony()  # before anything is written
    folder = claim_folder(Path(folder), names)
    table = pd.read_csv(file, encoding="utf-8-sig")

    from rich.text import Text

    parts, reported = [], []
    for name, select in (("thickness", THICKNESS), ("edges", EDGES)):
        dataset = load_dataset(table, columns=ONHARMONY_COLUMNS, select=select, bad_features="drop")
        posterior = fit(dataset, "traveling", seed=seed, out=folder / name, progress=_within(name, progress))
        summary = summarize(posterior)
        summary.write(folder / "tables" / name)
        reported.append(_write_report(posterior, folder / f"{name}_{REPORT}"))
        size = f"{len(dataset.scans)} scans of 20 people, {dataset.features.n_features} features"
        parts += [
            Text(f"\n{name} ({select}): {size}\n", "bold"),
            hyper_table(summary),
            effect_size_table(summary),
            scanners_table(summary),
            bullets("Convergence", summary.diagnostics),
            bullets("Beware", summary.notes),
        ]
    held_out = harmonize_held_out(table, folder, seed, _within("cohort A", progress))
    parts += [
        bullets("Does harmonizing help people who were not part of the fit?", held_out.sentences()),
        bullets("Where it is", [*(f"{folder / name}" for name in names if not name.endswith(REPORT)), *reported]),
        Text(f"Time taken: {monotonic() - began:.0f} s"),
    ]
    return Story(tuple(parts))


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Differences between scanners in people who were not part of the fit.

    Attributes
    ----------
    n_fit : int
        Scans that the measurement bias was learned from.
    scans : DataFrame
        Those it was removed from.
    before, after : (feature,) arrays
        Sd over the scans of a person, mean over people, in standard deviations of the feature.
    """

    n_fit: int
    scans: pd.DataFrame
    before: np.ndarray
    after: np.ndarray

    def sentences(self) -> list[str]:
        """What was done, and what came out."""
        before, after = self.before.mean(), self.after.mean()
        return [
            f"Measurement bias of thickness learned from the {self.n_fit} scans of cohort A; removed from the "
            f"{len(self.scans)} scans of {self.scans.participant_id.nunique()} people of cohort B on scanners "
            f"that A visited too ({', '.join(sorted(self.scans.scanner.unique()))}).",
            f"Sd between scanners within a person, mean over {self.before.size} features, in sd of a feature: "
            f"{before:.3f} before, {after:.3f} after harmonizing ({after / before - 1:+.1%}); it is lower in "
            f"{(self.after < self.before).sum()} features.",
        ]


def harmonize_held_out(table: pd.DataFrame, folder: Path, seed: int, progress: Progress) -> HeldOut:
    """Fit thickness in cohort A, harmonize cohort B on the scanners that both visited.

    Parameters
    ----------
    table : DataFrame
        The ON-Harmony table.
    folder : path
        Receives what `HELD_OUT` names: the run folder, the harmonized thickness and its sd.
    seed : int
    progress : callable
    """
    run, mean, sd = (folder / name for name in HELD_OUT)
    in_a = (table["cohort"] == "A").to_numpy()
    dataset = load_dataset(table[in_a], columns=ONHARMONY_COLUMNS, select=THICKNESS, bad_features="drop")
    posterior = fit(dataset, "traveling", seed=seed, out=run, progress=progress)
    shared = table["scanner_typeloc"].isin(posterior.scanners).to_numpy()
    others = load_dataset(table[~in_a & shared], columns=ONHARMONY_COLUMNS, select=posterior.features, check="apply")
    harmonize_to_files(posterior, others, mean, sd)
    values = others.features.read(0, others.features.n_features)
    finite = np.isfinite(values).all(axis=0)
    unit, people = values[:, finite].std(axis=0, ddof=1), others.scans["participant_id"].to_numpy()
    before, after = (
        pd.DataFrame(some[:, finite]).groupby(people).std().mean().to_numpy() / unit
        for some in (values, harmonize(posterior, others).mean)
    )
    return HeldOut(int(in_a.sum()), others.scans, before, after)


def _write_report(posterior: Posterior, out: Path) -> str:
    """Where the report is, or why there is none: figures need what not everybody has installed."""
    try:
        from bayesharm.reporting.html import write_report

        return f"{write_report(posterior, out)}: what the run has found, in words, tables and figures"
    except BayesharmError as error:
        return f"no report. {error.what} {error.do}"


def _within(name: str, progress: Progress) -> Progress:
    """Progress of one fit among several."""
    return lambda stage, done, total, note: progress(f"{name}: {stage}", done, total, note)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _recovery_table(recovery: pd.DataFrame) -> Any:
    table = make_table(
        "Recovery of the known truth",
        "Root mean squares in Fisher z. Correlation and error: of posterior mean and truth, "
        "over levels and edges. Coverage: how many 90% intervals hold the truth.",
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
