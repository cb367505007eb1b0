"""An evaluation in words: what is better by more than a standard error, and where all methods are equal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from bayesharm.errors import listed

BAYESHARM, NONE = "bayesharm", "none"
SAID = {
    "prediction_rmse": "In predicting scans of people that no model had seen from their other scans",
    "visit_rmse": "In predicting visits that were left out from the person's other visits",
    "share_removed": "In removing differences between scanners",
    "icc": "In the intraclass correlation of people",
    "identification": "In recognizing people on another scanner",
    "scanner_accuracy": "In hiding the scanner from a classifier",
}
LITTLE = 0.05  # of the variance between a person's scans: less to remove is hardly worth it


def say_verdict(table: pd.DataFrame, methods: pd.DataFrame, about: Mapping[str, Any]) -> tuple[str, ...]:
    """Sentences on the tables of an evaluation, the most important first.

    A method is called better where the difference is more than one standard error, over people.

    Parameters
    ----------
    table : DataFrame
        By measure and method, as in `Evaluation.measures`.
    methods : DataFrame
        By method, with `notes`.
    about : dict
    """
    sentences = [*_on_removable(table)]
    for measure, said in SAID.items():
        sentences += _compare(table, measure, said)
    if ("visit_coverage", f"{BAYESHARM}, own prediction") in table.index:
        row = table.loc[("visit_coverage", f"{BAYESHARM}, own prediction")]
        sentences.append(f"90% intervals of visits that were left out hold {_percent(row.value, row.se)} of them.")
    if left := [name for name in methods.index if name not in table.index.get_level_values("method")]:
        sentences.append(f"Not compared, see the notes: {listed(left)}.")
    if about["preview"]:
        sentences.append("bayesharm was fitted by its preview.")
    return tuple(sentences)


def _on_removable(table: pd.DataFrame) -> list[str]:
    """How much of what differs between a person's scans is the scanners'."""
    if ("between_scanner_sd", NONE) not in table.index or ("noise_floor", "") not in table.index:
        return []
    between, floor = table.loc[("between_scanner_sd", NONE)], table.loc[("noise_floor", "")]
    share = 1 - (floor.value / between.value) ** 2
    words = f"Of the variance between scans of one person on two scanners, {max(share, 0):.0%} is more than noise"
    if share < LITTLE:
        return [f"{words}: there is little to remove, and methods can hardly differ in that."]
    return [f"{words}."]


def _compare(table: pd.DataFrame, measure: str, said: str) -> list[str]:
    if measure not in table.index.get_level_values("measure") or (measure, BAYESHARM) not in table.index:
        return []
    found = table.loc[measure]
    others = found.drop(index=[BAYESHARM, *[name for name in found.index if name.startswith(f"{BAYESHARM},")]])
    others = others[others.better.notna()]
    if others.empty:
        return []
    ahead = others[others.better > others.better_se]
    behind = others[others.better < -others.better_se]
    own = f"bayesharm {_number(measure, found.loc[BAYESHARM].value, found.loc[BAYESHARM].se)}"
    if len(ahead):
        named = listed(f"{name} {_number(measure, row.value, row.se)}" for name, row in ahead.iterrows())
        beside = [
            f"{name} {_number(measure, row.value, row.se)}"
            for name, row in found.iterrows()
            if name.startswith(f"{BAYESHARM},")
        ]
        more = f" Beside them: {listed(beside)}." if beside else ""
        return [f"{said}, better than {own} by more than one standard error: {named}.{more}"]
    if len(behind) == len(others):
        best = others.better.idxmax()
        return [f"{said}, {own} is better than every other by more than one standard error; the next is {best} "
                f"{_number(measure, others.value[best], others.se[best])}."]  # fmt: skip
    equal = [str(name) for name in others.index[others.better_se.notna()] if name not in behind.index]
    near = f"; within one standard error of it: {listed(equal)}" if equal else ""
    return [f"{said}, no method is better than {own}{near}."]


def _number(measure: str, value: float, se: float) -> str:
    return f"({_percent(value, se)})" if "rmse" not in measure else f"({value:.3f} ± {se:.3f})"


def _percent(value: float, se: float) -> str:
    return f"{value:.1%} ± {se:.1%}"
