"""Findings on the features and on outlying scans, in the form of all findings on data."""

from __future__ import annotations

import pandas as pd

from bayesharm.data.finding import Finding
from bayesharm.errors import shorten
from bayesharm.study_check.feature_values import FeatureCheck
from bayesharm.study_check.outlying import FALSE_ALARM

MANY_MISSING = 0.2  # share of missing values above which a feature or a scan is named


def on_features(features: FeatureCheck, n_scans: int) -> list[Finding]:
    """Findings on constant, empty, duplicated and incomplete features."""
    found = []
    drop = "to omit these features, add --bad-features drop (bad_features='drop' in Python)"
    for names, code, problem in (
        (features.constant, "constant-features", "the same in every scan"),
        (features.empty, "empty-features", "without any value"),
        (features.infinite, "infinite-features", "infinite in some scans"),
    ):
        if names:
            what = f"{len(names)} of {features.n_features} features are {problem}."
            expected = "features with numbers that vary between scans"
            found.append(Finding(code, "error", what, shorten(names), expected, drop, columns=names))
    if features.duplicated:
        groups = features.duplicated
        found.append(
            Finding(
                "duplicated-features",
                "caveat",
                f"{sum(map(len, groups))} features are copies of one another, up to unit, offset and sign "
                f"({len(groups)} group{'s' if len(groups) > 1 else ''}).",
                "; ".join(" = ".join(group[:4]) for group in groups[:3])
                + (f"; and {len(groups) - 3} more groups" if len(groups) > 3 else ""),
                "each feature once",
                "keep one of each group, since copies count twice in what all features share",
                columns=tuple(name for group in groups for name in group),
            )
        )
    for table, code, kind in (
        (features.missing, "incomplete-features", "features"),
        (features.missing_scans, "incomplete-scans", "scans"),
    ):
        total = n_scans if kind == "features" else features.n_features
        many = table[table.n_missing > MANY_MISSING * total]
        names = tuple(map(str, many.index.difference(features.empty, sort=False)))
        if names:
            share = many.n_missing.iloc[-1] / total
            found.append(
                Finding(
                    code,
                    "caveat",
                    f"{len(names)} {kind} lack more than {MANY_MISSING:.0%} of their values.",
                    shorten(names) + f", each without at least {share:.0%}",
                    f"{kind} with most of their values",
                    f"find out why the values are missing, or leave these {kind} out",
                    scans=names if kind == "scans" else (),
                    columns=names if kind == "features" else (),
                )
            )
    return found


def on_outlying(outlying: pd.DataFrame, n_scans: int) -> list[Finding]:
    """A finding that names the outlying scans; none if there are none."""
    if outlying.empty:
        return []
    named = [
        f"{scan} (person {row.participant_id} on {row.scanner}: {row.distance:.1f} times the typical squared distance)"
        for scan, row in outlying.head(5).iterrows()
    ]
    more = f" and {len(outlying) - 5} more" if len(outlying) > 5 else ""
    return [
        Finding(
            "outlying-scans",
            "caveat",
            f"{len(outlying)} of {n_scans} scans {'are' if len(outlying) > 1 else 'is'} far from the other scans of "
            f"{'their' if len(outlying) > 1 else 'its'} scanner.",
            "; ".join(named) + more,
            f"distances below {outlying.limit.iloc[0]:.1f}, which at most {FALSE_ALARM:.0%} of studies without outlying "
            "scans exceed",
            "look at the images and the processing of these scans",
            scans=tuple(map(str, outlying.index)),
            participants=tuple(dict.fromkeys(map(str, outlying.participant_id))),
        )
    ]
