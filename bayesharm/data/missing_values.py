"""Treatment of missing values, and of features that no model can use."""

from __future__ import annotations

from typing import Literal, get_args

import pandas as pd

from bayesharm.data.features import Features, Flaws
from bayesharm.errors import InputError, shorten

Missing = Literal["model", "drop-features", "drop-scans", "error"]
OPTIONS = {
    "missing": get_args(Missing),
    "bad_features": ("error", "drop", "keep"),
    "check": ("fit", "apply"),
}


def check_options(**options: str) -> None:
    """Refuse unknown values of the options of `load_dataset`."""
    for name, value in options.items():
        if value not in OPTIONS[name]:
            raise InputError(
                f"Unknown value of {name}.",
                got=f"{name}={value!r}",
                expected=f"one of {', '.join(map(repr, OPTIONS[name]))}",
                do="use one of these",
            )


def refuse_unfit(table: pd.DataFrame, features: Features, flaws: Flaws, missing: str, bad_features: str) -> None:
    """Raise an `InputError` about features that the options do not allow."""
    total, names, has_missing = features.n_features, features.names, flaws.missing > 0
    if missing == "error" and has_missing.any():
        scans = table["scan_id"][flaws.missing_by_scan > 0]
        raise InputError(
            f"Values are missing in {has_missing.sum()} of {total} features.",
            got=f"{flaws.missing.sum()} missing values, in features {shorten(names[has_missing])}, "
            f"in {len(scans)} of {len(table)} scans: {shorten(scans)}",
            expected="a number for every scan and feature",
            do="choose missing='model', 'drop-features' or 'drop-scans' (--missing in the shell)",
        )
    is_lost = flaws.unfit | (has_missing if missing == "drop-features" else False)
    do = "to omit these features, use bad_features='drop' (--bad-features drop in the shell)"
    if bad_features == "drop" or not flaws.bad.any():
        if not is_lost.all():
            return
        do = "check the values; every feature is unusable"
    if (flaws.infinite > 0).any():
        scans, which = table["scan_id"][flaws.infinite_by_scan > 0], flaws.infinite > 0
        raise InputError(
            f"Values are infinite in {which.sum()} of {total} features.",
            got=f"{flaws.infinite.sum()} such values, in features {shorten(names[which])}, in scans {shorten(scans)}",
            expected="finite numbers, and empty cells or NaN where a value is missing",
            do=do,
        )
    if flaws.bad.any():
        constant, level = names[flaws.bad], flaws.level[flaws.bad]
        raise InputError(
            f"{constant.size} of {total} features are constant.",
            got=f"{shorten(constant)}; the first is {level[0]:g} in every scan",
            expected="features that vary between scans",
            do=do,
        )
    raise InputError(
        "Every feature has missing values." if missing == "drop-features" else "No feature has two different values.",
        got=f"{flaws.scarce.sum()} of {total} features with at most one value, {has_missing.sum()} with missing values",
        expected="features that all scans have" if missing == "drop-features" else "features that vary between scans",
        do="use missing='model', which needs no complete features (--missing model in the shell)"
        if missing == "drop-features"
        else "check the values",
    )
