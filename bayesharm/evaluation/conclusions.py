"""Conclusions of an evaluation: differences between methods of more than one standard error, in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from bayesharm.errors import listed
from bayesharm.evaluation.result import BAYESHARM, MODEL_PREDICTION

# Beginning of the sentence on each measure, the most important first.
TASKS = {
    "prediction_rmse": "In predicting scans of people who are not in the fit from their other scans",
    "visit_rmse": "In predicting held-out visits from the person's other visits",
    "share_removed": "In removing differences between scanners",
    "icc": "In the intraclass correlation of people",
    "identification": "In recognizing people on another scanner",
    "scanner_accuracy": "In hiding the scanner from a classifier",
}
NONE = "none"  # the method that corrects nothing
LITTLE = 0.05  # share of the variance between a person's scans below which harmonizing can hardly help


def draw_conclusions(measures: pd.DataFrame, methods: pd.DataFrame, about: Mapping[str, Any]) -> tuple[str, ...]:
    """State which methods differ, the most important measure first.

    A method is called better where the difference exceeds one standard error over people.

    Parameters
    ----------
    measures, methods : DataFrame
        As in :class:`bayesharm.Evaluation`.
    about : dict
    """
    sentences = [*_on_removable(measures)]
    for measure, task in TASKS.items():
        sentences += _compare(measures, measure, task)
    if ("visit_coverage", MODEL_PREDICTION) in measures.index:
        row = measures.loc[("visit_coverage", MODEL_PREDICTION)]
        sentences.append(f"The 90% prediction intervals of bayesharm cover {_percent(row)} of the held-out visits.")
    if absent := [name for name in methods.index if name not in measures.index.get_level_values("method")]:
        sentences.append(f"Not compared, see the caveats: {listed(absent)}.")
    if about["preview"]:
        sentences.append("The fits of bayesharm are previews.")
    return tuple(sentences)


def _on_removable(measures: pd.DataFrame) -> list[str]:
    """State the share of the variance between a person's scans that exceeds noise: all that harmonizing can remove."""
    if ("between_scanner_sd", NONE) not in measures.index or ("noise_floor", "") not in measures.index:
        return []
    between, floor = measures.loc[("between_scanner_sd", NONE)], measures.loc[("noise_floor", "")]
    share = 1 - (floor.value / between.value) ** 2
    sentence = f"Of the variance between scans of one person on two scanners, {max(share, 0):.0%} exceeds noise"
    if share < LITTLE:
        return [f"{sentence}: there is little to remove, and methods can hardly differ in that."]
    return [f"{sentence}."]


def _compare(measures: pd.DataFrame, measure: str, task: str) -> list[str]:
    """State which methods are better than bayesharm, or that it is best, or which are as good."""
    if (measure, BAYESHARM) not in measures.index:
        return []
    table = measures.loc[measure]
    is_variant = table.index.str.startswith(f"{BAYESHARM},")
    others = table[~is_variant & (table.index != BAYESHARM) & table.better.notna()]
    if others.empty:
        return []
    bayesharm = _with_value(table, BAYESHARM, measure)
    ahead = others.index[others.better > others.better_se]
    behind = others.index[others.better < -others.better_se]
    if len(ahead):
        variants = [_with_value(table, name, measure) for name in table.index[is_variant]]
        also = f" For comparison: {listed(variants)}." if variants else ""
        better = listed(_with_value(table, name, measure) for name in ahead)
        return [f"{task}, better than {bayesharm} by more than one standard error: {better}.{also}"]
    if len(behind) == len(others):
        second = _with_value(table, str(others.better.idxmax()), measure)
        return [f"{task}, {bayesharm} is better than every other method by more than one standard error; next is {second}."]
    equal = [str(name) for name in others.index[others.better_se.notna()] if name not in behind]
    near = f"; within one standard error: {listed(equal)}" if equal else ""
    return [f"{task}, no method is better than {bayesharm}{near}."]


def _with_value(table: pd.DataFrame, name: str, measure: str) -> str:
    """Name a method with its value and standard error."""
    row = table.loc[name]
    return f"{name} ({f'{row.value:.3f} ± {row.se:.3f}' if 'rmse' in measure else _percent(row)})"


def _percent(row: pd.Series) -> str:
    return f"{row.value:.1%} ± {row.se:.1%}"
