"""The result of an evaluation, and its rendering as tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from bayesharm.results.console import as_text, bullets, make_table
from bayesharm.results.tables import Tables

if TYPE_CHECKING:
    from rich.console import Group


@dataclass(frozen=True, eq=False)
class Evaluation(Tables):
    """What methods do for scans that they have not seen.

    Attributes
    ----------
    measures : DataFrame
        By ``measure`` and ``method``: ``value``, ``se`` (jackknife over people), ``chance`` where there is one, ``better``
        (how much better than bayesharm: positive is better) and ``better_se``, ``n_scans`` and ``n_features``.
    methods : DataFrame
        By ``method``: ``seconds`` of a fit in the mean, and ``notes``: what it could not use or correct.
    about : dict
        The study, and how it was divided.
    verdict : tuple of str
        What that says, in words.
    """

    measures: pd.DataFrame
    methods: pd.DataFrame
    about: dict[str, Any]
    verdict: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        return as_text(self)

    def __rich__(self) -> Group:
        return render_evaluation(self)


COLUMNS = {
    "between_scanner_sd": "between", "share_removed": "removed", "icc": "ICC", "identification": "identified",
    "scanner_accuracy": "found",
}  # fmt: skip


def render_evaluation(found: Evaluation) -> Group:
    """What methods do for people and visits that were left out, and a verdict."""
    from rich.console import Group

    table, about = found.measures, found.about
    parts = f"{about['folds']} parts, {about['repeats']} times"
    first = make_table(
        "People left out",
        f"± standard error over people; {parts}. Between: rms difference of one person's scans over √2, in sd of a "
        f"feature{_floor(table)}. Removed: share of what of its square is not noise. ICC: of people, median over features. "
        f"Identified: found on another scanner among all people{_chance(table, 'identification')}. Found: the scanner, by a "
        f"classifier{_chance(table, 'scanner_accuracy')}.",
        ["method", *COLUMNS.values()],
    )
    second = make_table(
        "Predicting scans from the same person's other scans",
        "Root mean square error in sd of a feature, and how much smaller it is than that of bayesharm ± standard error of "
        "the difference; of people whom no model had seen, and of visits left out of people who were. Seconds: of a fit.",
        ["method", "people", "better by", "visits", "better by", "seconds"],
    )
    for method in dict.fromkeys(table.index.get_level_values("method")):
        if method and any((measure, method) in table.index for measure in COLUMNS):
            first.add_row(method, *(_cell(table, measure, method) for measure in COLUMNS))
    for method in dict.fromkeys(table.index.get_level_values("method")):
        if method and any((measure, method) in table.index for measure in ("prediction_rmse", "visit_rmse")):
            cells = [cell for measure in ("prediction_rmse", "visit_rmse") for cell in _with_gap(table, measure, method)]
            seconds = found.methods.seconds.get(method)
            second.add_row(method, *cells, "" if pd.isna(seconds) else f"{seconds:.1f}")
    notes = [f"{name}: {row.notes}" for name, row in found.methods.iterrows() if row.notes]
    return Group(first, second, bullets("Verdict", found.verdict), bullets("Beware", notes))


def _cell(table: pd.DataFrame, measure: str, method: str) -> str:
    if (measure, method) not in table.index:
        return ""
    row = table.loc[(measure, method)]
    return f"{row.value:.3f}{_beside(row.se, 3)}"


def _beside(se: float, digits: int) -> str:
    return "" if pd.isna(se) else f" ±{se:.{digits}f}".replace("±0.", "±.")


def _with_gap(table: pd.DataFrame, measure: str, method: str) -> tuple[str, str]:
    if (measure, method) not in table.index:
        return "", ""
    row = table.loc[(measure, method)]
    return f"{row.value:.3f}", "" if pd.isna(row.better) else f"{row.better:+.4f}{_beside(row.better_se, 4)}"


def _floor(table: pd.DataFrame) -> str:
    return f" (noise alone: {table.value[('noise_floor', '')]:.3f})" if ("noise_floor", "") in table.index else ""


def _chance(table: pd.DataFrame, measure: str) -> str:
    if measure not in table.index.get_level_values("measure"):
        return ""
    return f" (by chance {table.loc[measure].chance.mean():.2f})"
