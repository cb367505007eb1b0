"""Comparison of two models by their predictions of held-out participants, visits and scanners."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import ndtri

from bayesharm.algorithms.random_streams import Stage
from bayesharm.analysis.held_out_prediction import N_SAMPLES, HeldOutPredictor
from bayesharm.analysis.predictive_scores import Scores, elpd_difference, reliability_warnings, to_elpd
from bayesharm.analysis.validation_schemes import Scheme, arrange_schemes
from bayesharm.data.dataset import Dataset
from bayesharm.errors import InputError
from bayesharm.fitting.context import FitContext, load_fit_context
from bayesharm.progress import Progress, no_progress
from bayesharm.results.console import as_text, bullets, make_table
from bayesharm.results.posterior import Posterior
from bayesharm.results.tables import Tables

if TYPE_CHECKING:
    from rich.console import Group

MAX_FEATURES = 256  # features that are predicted, a random sample of all: enough for a standard error, and quick
MIN_UNITS = 10  # units below which a standard error is itself hardly known
N_BINS = 10  # bins of the histogram of PIT values
MAX_Z = 3.0  # standardized residuals beyond are counted: 0.3% of a normal distribution

ScoresByRun = dict[str, Scores]


@dataclass(frozen=True, eq=False, repr=False)
class ModelComparison(Tables):
    """Two runs on the same data, compared by their predictions of held-out scans.

    Attributes
    ----------
    about : dict
        `runs`, the names of the two; `models`; `n_features`, the number of predicted features, of `of_features`; `folds`;
        `preview`.
    predictions : DataFrame by type of unit (participants, visits, scanners)
        log predictive density of each run (`elpd_<run>`), summed over features and units; `difference`, first run minus
        second, with its standard error `se` over `n` units; and the share of Pareto-k above 0.7, `khat_high`.
    units : DataFrame by type of unit and unit
        log predictive density of each run, and their difference.
    predictive_checks : DataFrame by run and scanner
        Scans of held-out participants against their predictions, over scans and features: `mean` (0 if the model is right)
        and `sd` (1) of the standardized residuals, the share `outside` the 90% interval (0.10), the share `beyond_3sd`
        (0.003), and the histogram of the probability integral transform, `pit_0` to `pit_9` (0.1 each).
    elpd : dict
        ``elpd[type of unit][run]`` for :func:`arviz.compare`.
    notes : tuple of str
        Caveats.
    """

    about: dict[str, Any]
    predictions: pd.DataFrame
    units: pd.DataFrame
    predictive_checks: pd.DataFrame
    elpd: Mapping[str, Mapping[str, Any]]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        return as_text(self)

    def __rich__(self) -> Group:
        return render_comparison(self)

    def conclusions(self) -> list[str]:
        """State which run predicts each type of unit better, and how certain that is."""
        return [self._conclude(str(unit_type), row) for unit_type, row in self.predictions.iterrows()]

    def _conclude(self, unit_type: str, row: pd.Series) -> str:
        first, second = self.about["runs"]
        better = first if row.difference > 0 else second
        n_se = abs(row.difference) / row.se if row.se else 0.0
        size = f"{abs(row.difference):.1f} ± {row.se:.1f}"
        few = f" (only {row.n:.0f} {unit_type})" if row.n < MIN_UNITS else ""
        if n_se <= 1:
            return f"{unit_type}: no clear difference, {size}{few}"
        return f"{unit_type}: {better} predicts better by {size}{few}" + ("; this may be chance" if n_se <= 2 else "")


def compare_models(
    one: Posterior,
    other: Posterior,
    dataset: Dataset | None = None,
    *,
    names: tuple[str, str] | None = None,
    folds: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
) -> ModelComparison:
    """Compare two runs on the same data by their predictions of held-out scans.

    For each fold, the hyperparameters (at their mode) and the scales are estimated again without its scans, which are then
    predicted from all others. The effects are integrated out: predictive densities are exact given the scales and are
    averaged over importance samples of these. Participants, and visits (the scans of a traveler on one scanner), are
    predicted one by one, the scans of a scanner jointly. The variance ratios of the scanners stay those estimated from all
    scans.

    Parameters
    ----------
    one, other : Posterior
    dataset : Dataset, optional
        The data of both fits; by default read from the files of the fit.
    names : tuple of str, optional
        Names of the runs in tables; by default those of their models.
    folds : int
        At least 2.
    seed : int
        Seed of the division into folds, and of the sample of features (256 at most) that are predicted.
    progress : callable, optional
        Receives progress (:class:`bayesharm.progress.Progress`).

    Returns
    -------
    ModelComparison

    Raises
    ------
    InputError
        The runs are fits of different data, the data cannot be found, or there is nobody to hold out.
    """
    _check_options(one, other, folds)
    progress = progress or no_progress
    progress("comparing", 0, 1, "reading the data")
    first = load_fit_context(one, dataset)
    contexts = (first, load_fit_context(other, first.dataset))
    runs = names or _default_names(one, other)
    rng = np.random.default_rng([seed, Stage.SAMPLE])
    n_features = len(first.dataset.features.names)
    features = np.sort(rng.choice(n_features, min(n_features, MAX_FEATURES), replace=False))
    schemes, notes = arrange_schemes(contexts, folds, rng)
    scores: dict[str, ScoresByRun] = {unit_type: {} for unit_type in schemes}
    checks = []
    for run, posterior, context in zip(runs, (one, other), contexts, strict=True):
        progress("comparing", 0, len(schemes), f"{run}: importance samples")
        predictor = HeldOutPredictor.from_posterior(posterior, context, features)
        for k, (unit_type, scheme) in enumerate(schemes.items()):
            progress("comparing", k, len(schemes), f"{run}: {unit_type}")
            scores[unit_type][run], pit = predictor.predict(scheme, with_pit=unit_type == "participants")
            if pit is not None:
                checks.append(_check_predictions(pit, context).assign(run=run))
    progress("comparing", len(schemes), len(schemes), "")
    preview_notice = one.preview_notice or other.preview_notice
    predictions = _sum_scores(scores, runs)
    return ModelComparison(
        about={
            "runs": list(runs),
            "models": [one.spec.name, other.spec.name],
            "n_features": len(features),
            "of_features": n_features,
            "folds": folds,
            "preview": bool(preview_notice),
        },
        predictions=predictions,
        units=_tabulate_units(scores, schemes, runs),
        predictive_checks=pd.concat(checks or [pd.DataFrame(columns=["run", "scanner"])]).set_index(["run", "scanner"]),
        elpd={
            unit_type: {run: to_elpd(scores[unit_type][run], scheme.labels, unit_type, N_SAMPLES) for run in runs}
            for unit_type, scheme in schemes.items()
        },
        notes=(*filter(None, [preview_notice]), *notes, *reliability_warnings(predictions)),
    )


def _check_options(one: Posterior, other: Posterior, folds: int) -> None:
    if changed := [name for name in ("scans", "fingerprint") if one.run[name] != other.run[name]]:
        raise InputError(
            "The two runs are fits of different data: their predictions cannot be compared.",
            got=f"different {' and '.join('features' if name == 'fingerprint' else name for name in changed)}",
            expected="two runs of the same scans and features",
            do="fit both models to the same data",
        )
    if folds < 2:
        raise InputError(
            "There must be at least two folds.", got=f"folds={folds}", expected="2 or more", do="leave the option out"
        )


def _default_names(one: Posterior, other: Posterior) -> tuple[str, str]:
    names = one.spec.name, other.spec.name
    return names if names[0] != names[1] else (f"{names[0]} a", f"{names[1]} b")


def _sum_scores(scores: Mapping[str, ScoresByRun], runs: tuple[str, str]) -> pd.DataFrame:
    """Tabulate densities summed over units and features, a row for each type of unit."""
    rows = {
        unit_type: {f"elpd_{run}": by_run[run].log_density.sum() for run in runs}
        | elpd_difference(*(by_run[run] for run in runs))
        for unit_type, by_run in scores.items()
    }
    return pd.DataFrame(rows).T.rename_axis("left_out").astype({"n": int, "n_features": int})


def _tabulate_units(scores: Mapping[str, ScoresByRun], schemes: Mapping[str, Scheme], runs: tuple[str, str]) -> pd.DataFrame:
    """Tabulate densities summed over features, a row for each unit."""
    tables = []
    for unit_type, scheme in schemes.items():
        first, second = (scores[unit_type][run].log_density.sum(1) for run in runs)
        columns = {f"elpd_{runs[0]}": first, f"elpd_{runs[1]}": second, "difference": first - second}
        tables.append(pd.DataFrame({"left_out": unit_type, "unit": scheme.labels} | columns))
    return pd.concat(tables).set_index(["left_out", "unit"])


def _check_predictions(pit: np.ndarray, context: FitContext) -> pd.DataFrame:
    """Summarize the PIT of the scans of each scanner, over scans and features."""
    design, rows = context.design, []
    scanner = design.class_scanner[design.scan_class]
    for k, name in enumerate(design.scanners):
        p = pit[scanner == k]
        p = p[np.isfinite(p)]
        if not len(p):
            continue
        z = ndtri(np.clip(p, 1e-7, 1 - 1e-7))
        histogram = np.histogram(p, N_BINS, (0, 1))[0] / len(p)
        rows.append(
            {"scanner": name, "n": len(p), "mean": z.mean(), "sd": z.std(), "outside": ((p < 0.05) | (p > 0.95)).mean(),
             "beyond_3sd": (abs(z) > MAX_Z).mean()} | {f"pit_{bin}": share for bin, share in enumerate(histogram)}
        )  # fmt: skip
    return pd.DataFrame(rows)


def render_comparison(comparison: ModelComparison) -> Group:
    """Render the predictions of both runs, the predictive checks of each scanner, conclusions and caveats."""
    from rich.console import Group

    about, (first, second) = comparison.about, comparison.about["runs"]
    scores = make_table(
        f"{first} versus {second}",
        f"Log predictive density of held-out scans, {about['folds']} folds, summed over {about['n_features']:,} of "
        f"{about['of_features']:,} features. A positive difference favors {first}. se: standard error over participants, "
        "visits or scanners.",
        ["held out", "number", first, second, "difference", "se"],
    )
    for unit_type, row in comparison.predictions.iterrows():
        values = (f"{row[name]:,.1f}" for name in (f"elpd_{first}", f"elpd_{second}", "difference", "se"))
        scores.add_row(str(unit_type), f"{row.n:.0f}", *values)
    checks = make_table(
        "Predictive checks on scans of held-out participants",
        "Standardized residuals over scans and features; in parentheses the value if the model is right: mean (0), sd (1), "
        "share outside the 90% interval (10%), share beyond 3 sd (0.3%).",
        ["run", "scanner", "mean", "sd", "outside", "beyond 3 sd"],
    )
    for (run, scanner), row in comparison.predictive_checks.iterrows():
        cells = f"{row['mean']:+.2f}", f"{row.sd:.2f}", f"{row.outside:.1%}", f"{row.beyond_3sd:.1%}"
        checks.add_row(str(run), str(scanner), *cells)
    return Group(scores, checks, bullets("Conclusions", comparison.conclusions()), bullets("Caveats", comparison.notes))
