"""Result of an evaluation, and its rendering as tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from bayesharm.results.console import as_text, bullets, make_table
from bayesharm.results.tables import Tables

if TYPE_CHECKING:
    from rich.console import Group

# Names of bayesharm among the methods: harmonized data, those with noise or gain of scanners matched, predictions of scans
BAYESHARM = "bayesharm"
MATCHED_NOISE, MATCHED_GAIN = f"{BAYESHARM}, matched noise", f"{BAYESHARM}, matched gain"
MODEL_PREDICTION = f"{BAYESHARM}, prediction"


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation(Tables):
    """Measures of harmonization methods on held-out people and visits.

    Attributes
    ----------
    measures : DataFrame by measure and method
        `value` and `se` (jackknife over people); `chance`, the value by chance where there is one; `better`, the advantage
        over bayesharm (positive: better than bayesharm) and `better_se`; `n_scans` and `n_features`.
    methods : DataFrame by method
        `seconds` of a fit (mean), and `notes` on scans that the method could not use or correct.
    about : dict
        Size of the study, folds, covariates, `preview`.
    conclusions : tuple of str
        Sentences, the most important first.
    """

    measures: pd.DataFrame
    methods: pd.DataFrame
    about: dict[str, Any]
    conclusions: tuple[str, ...] = ()

    def __str__(self) -> str:
        return as_text(self)

    def __rich__(self) -> Group:
        return render_evaluation(self)


HARMONIZATION_COLUMNS = {
    "between_scanner_sd": "between", "share_removed": "removed", "icc": "ICC", "identification": "identified",
    "scanner_accuracy": "classified",
}  # fmt: skip
PREDICTION_MEASURES = ("prediction_rmse", "visit_rmse")


def render_evaluation(evaluation: Evaluation) -> Group:
    """Render harmonization and prediction of held-out people and visits, conclusions and caveats."""
    from rich.console import Group

    table, about = evaluation.measures, evaluation.about
    repeats = f", {about['repeats']} divisions" if about["repeats"] > 1 else ""
    harmonization = make_table(
        "Harmonization of held-out people",
        f"± standard error over people; {about['folds']} folds{repeats}. Between: rms difference "
        f"between a person's scans on two scanners over √2, in sd of a feature{_floor(table)}. Removed: share of the excess "
        "of its square over noise that is removed. ICC: intraclass correlation, median over features. Identified: people "
        f"recognized among all on another scanner{_chance(table, 'identification')}. Classified: scanners recognized by a "
        f"classifier{_chance(table, 'scanner_accuracy')}; less is better.",
        ["method", *HARMONIZATION_COLUMNS.values()],
    )
    prediction = make_table(
        "Prediction of scans from the same person's other scans",
        "Root mean square error in sd of a feature, and its advantage over bayesharm ± standard error of the difference. "
        "People: not in the fit. Visits: held-out visits of people in the fit. Seconds: time of a fit.",
        ["method", "people", "advantage", "visits", "advantage", "seconds"],
    )
    for method in dict.fromkeys(table.index.get_level_values("method")):
        if not method:  # the noise floor
            continue
        if any((measure, method) in table.index for measure in HARMONIZATION_COLUMNS):
            harmonization.add_row(method, *(_cell(table, measure, method) for measure in HARMONIZATION_COLUMNS))
        if any((measure, method) in table.index for measure in PREDICTION_MEASURES):
            cells = [cell for measure in PREDICTION_MEASURES for cell in _with_advantage(table, measure, method)]
            seconds = evaluation.methods.seconds.get(method)
            prediction.add_row(method, *cells, "" if pd.isna(seconds) else f"{seconds:.1f}")
    caveats = [f"{name}: {row.notes}" for name, row in evaluation.methods.iterrows() if row.notes]
    return Group(harmonization, prediction, bullets("Conclusions", evaluation.conclusions), bullets("Caveats", caveats))


def _cell(table: pd.DataFrame, measure: str, method: str) -> str:
    if (measure, method) not in table.index:
        return ""
    row = table.loc[(measure, method)]
    return f"{row.value:.3f}{_plus_minus(row.se, 3)}"


def _plus_minus(se: float, digits: int) -> str:
    return "" if pd.isna(se) else f" ±{se:.{digits}f}".replace("±0.", "±.")


def _with_advantage(table: pd.DataFrame, measure: str, method: str) -> tuple[str, str]:
    if (measure, method) not in table.index:
        return "", ""
    row = table.loc[(measure, method)]
    return f"{row.value:.3f}", "" if pd.isna(row.better) else f"{row.better:+.4f}{_plus_minus(row.better_se, 4)}"


def _floor(table: pd.DataFrame) -> str:
    return f" (noise alone: {table.value[('noise_floor', '')]:.3f})" if ("noise_floor", "") in table.index else ""


def _chance(table: pd.DataFrame, measure: str) -> str:
    if measure not in table.index.get_level_values("measure"):
        return ""
    return f" (by chance {table.loc[measure].chance.mean():.2f})"
