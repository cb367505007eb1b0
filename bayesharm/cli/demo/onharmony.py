"""The demo on a real study, ON-Harmony, with a test on people who were not in the fit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pandas as pd

from bayesharm.analysis.summary import summarize
from bayesharm.cli.demo.folder import claim_folder
from bayesharm.cli.demo.result import REPORT, DemoResult, render_summary, write_demo_report
from bayesharm.data.dataset import load_dataset
from bayesharm.datasets.download import fetch_onharmony
from bayesharm.fitting.fit import fit
from bayesharm.harmonization.harmonize import harmonize, harmonize_to_files
from bayesharm.progress import Progress
from bayesharm.results.console import bullets

ONHARMONY_COLUMNS = {"participant_id": "subject", "scanner": "scanner_typeloc"}
EDGES, THICKNESS = "rfMRI_d25_fullcorr_v*", "freesurfer_*ThickAvg*"
HELD_OUT = ("thickness_cohort_A", "harmonized_cohort_B.csv", "harmonized_cohort_B_sd.csv")


def demo_onharmony(folder: str | Path, seed: int, progress: Progress) -> DemoResult:
    """Fit the ON-Harmony study, and test on people who were not in the fit whether harmonization helps.

    Parameters
    ----------
    folder : path
        Output: the run folders ``thickness/``, ``edges/`` and ``thickness_cohort_A/``, the folder ``tables/``, the
        harmonized thickness of cohort B, and a report on each of the first two runs. An earlier demo is replaced.
    seed : int
    progress : Progress

    Raises
    ------
    RunFolderError
        The folder holds files that no demo wrote.
    """
    start = monotonic()
    file = fetch_onharmony()  # before anything is written: the download may fail
    names = ("thickness", "edges", "tables", *HELD_OUT, f"thickness_{REPORT}", f"edges_{REPORT}")
    folder = claim_folder(Path(folder), names)
    table = pd.read_csv(file, encoding="utf-8-sig")

    from rich.text import Text

    parts: list[Any] = []
    reports = []
    for name, select in (("thickness", THICKNESS), ("edges", EDGES)):
        dataset = load_dataset(table, columns=ONHARMONY_COLUMNS, select=select, missing="drop-features")
        posterior = fit(dataset, "traveling", seed=seed, out=folder / name, progress=_with_prefix(name, progress))
        summary = summarize(posterior)
        summary.write(folder / "tables" / name)
        reports.append(write_demo_report(posterior, folder / name, folder / f"{name}_{REPORT}"))
        size = f"{len(dataset.scans)} scans of 20 people, {dataset.features.n_features} features"
        parts += [Text(f"\n{name} ({select}): {size}\n", "bold"), *render_summary(summary)]
    held_out = harmonize_held_out(table, folder, seed, _with_prefix("cohort A", progress))
    files = [f"{folder / name}" for name in names if not name.endswith(REPORT)]
    parts += [
        bullets("Does harmonization help people who were not in the fit?", held_out.sentences()),
        bullets("Output files", [*files, *reports]),
        Text(f"Time taken: {monotonic() - start:.0f} s"),
    ]
    return DemoResult(tuple(parts))


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Differences between scanners in people who were not in the fit.

    Attributes
    ----------
    n_fit : int
        Number of scans in the fit.
    scans : DataFrame
        The harmonized scans.
    before, after : (feature,) arrays
        Standard deviation over the scans of a person, averaged over people, in standard deviations of the feature.
    """

    n_fit: int
    scans: pd.DataFrame
    before: np.ndarray
    after: np.ndarray

    def sentences(self) -> list[str]:
        """Describe the test and its result."""
        before, after = self.before.mean(), self.after.mean()
        return [
            f"The measurement bias of cortical thickness was estimated from the {self.n_fit} scans of cohort A, and removed "
            f"from {len(self.scans)} scans of {self.scans.participant_id.nunique()} people of cohort B: those on scanners "
            f"that cohort A visited too ({', '.join(sorted(self.scans.scanner.unique()))}).",
            f"Standard deviation between the scans of a person, mean over {self.before.size} features, in standard "
            f"deviations of the feature: {before:.3f} before and {after:.3f} after harmonization "
            f"({after / before - 1:+.1%}). It decreased in {(self.after < self.before).sum()} features.",
        ]


def harmonize_held_out(table: pd.DataFrame, folder: Path, seed: int, progress: Progress) -> HeldOut:
    """Fit cortical thickness in cohort A, and harmonize cohort B on the scanners that both cohorts visited.

    Parameters
    ----------
    table : DataFrame
        The ON-Harmony table.
    folder : path
        Output: the files in `HELD_OUT`, which are the run folder, the harmonized thickness and its sd.
    seed : int
    progress : Progress
    """
    run, mean, sd = (folder / name for name in HELD_OUT)
    in_cohort_a = (table["cohort"] == "A").to_numpy()
    cohort_a = load_dataset(table[in_cohort_a], columns=ONHARMONY_COLUMNS, select=THICKNESS, missing="drop-features")
    posterior = fit(cohort_a, "traveling", seed=seed, out=run, progress=progress)
    on_shared_scanner = table["scanner_typeloc"].isin(posterior.scanners).to_numpy()
    cohort_b = load_dataset(
        table[~in_cohort_a & on_shared_scanner], columns=ONHARMONY_COLUMNS, select=posterior.features, check="apply"
    )
    harmonize_to_files(posterior, cohort_b, mean, sd)
    values = cohort_b.features.read(0, cohort_b.features.n_features)
    is_complete = np.isfinite(values).all(axis=0)
    feature_sd = values[:, is_complete].std(axis=0, ddof=1)
    participants = cohort_b.scans["participant_id"].to_numpy()
    before, after = (
        pd.DataFrame(each[:, is_complete]).groupby(participants).std().mean().to_numpy() / feature_sd
        for each in (values, harmonize(posterior, cohort_b).mean)
    )
    return HeldOut(int(in_cohort_a.sum()), cohort_b.scans, before, after)


def _with_prefix(name: str, progress: Progress) -> Progress:
    """Name the fit in front of each stage, for one fit among several."""
    return lambda stage, done, total, note: progress(f"{name}: {stage}", done, total, note)
