"""Counts of a study: scans, people, travelers and diagnoses, by scanner."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from bayesharm.data.scans import find_travelers
from bayesharm.study_check.columns import Described, Kind

MAX_LEVELS = 2  # of a category that is described by the share of one of them


@dataclass(frozen=True, eq=False)
class Counts:
    """Numbers of scans, people and travelers, by scanner and diagnosis.

    Attributes
    ----------
    totals : dict
        Numbers of `scans`, `people`, `travelers`, `people_scanned_once`, `scanners` and `sites`.
    scanners : DataFrame by scanner
        `n_scans`, `n_people`, `n_travelers`, and `n_cohort`: people with scans on one scanner only.
    diagnoses : DataFrame, scanner × diagnosis
        Number of people with scans on one scanner only; no columns without diagnoses.
    travelers : DataFrame by participant
        `n_scans` and `n_scanners`, most scanners first.
    scans_per_person : Series
        Number of people, by the number of their scans.
    described : DataFrame by scanner
        Age, sex and covariates in words, such as ``34 ± 8`` or ``F: 45%``.
    """

    totals: dict[str, int]
    scanners: pd.DataFrame
    diagnoses: pd.DataFrame
    travelers: pd.DataFrame
    scans_per_person: pd.Series
    described: pd.DataFrame


def count_scans(scans: pd.DataFrame, columns: tuple[Described, ...]) -> Counts:
    """Count scans, people and travelers.

    Parameters
    ----------
    scans : DataFrame
        Canonical columns as in :class:`bayesharm.data.dataset.Dataset`.
    columns : tuple of Described
        Age, sex, … as :func:`bayesharm.study_check.columns.describe_columns` finds them.
    """
    travels = find_travelers(scans)
    people = scans.assign(travels=travels).drop_duplicates(["participant_id", "scanner"])
    by_person = scans.groupby("participant_id")
    n_scans = by_person.size()
    scanners = pd.DataFrame({"n_scans": scans.scanner.value_counts()}).sort_index()
    for name, rows in (("n_people", people), ("n_travelers", people[people.travels]), ("n_cohort", people[~people.travels])):
        scanners[name] = rows.scanner.value_counts().reindex(scanners.index, fill_value=0)
    cohort, diagnoses = people[~people.travels], pd.DataFrame(index=scanners.index)
    if "diagnosis" in scans and scans.diagnosis.ne("").any():
        table = pd.crosstab(cohort.scanner, cohort.diagnosis)
        names = sorted(scans.diagnosis.unique())
        diagnoses = table.reindex(index=scanners.index, columns=names, fill_value=0).rename_axis(columns=None)
    travelers = pd.DataFrame({"n_scans": n_scans, "n_scanners": by_person.scanner.nunique()})
    travelers = travelers[travelers.index.isin(scans.participant_id[travels])]
    return Counts(
        totals={
            "scans": len(scans),
            "people": len(n_scans),
            "travelers": len(travelers),
            "people_scanned_once": int((n_scans == 1).sum()),
            "scanners": len(scanners),
            "sites": scans.site.nunique(),
        },
        scanners=scanners.rename_axis("scanner"),
        diagnoses=diagnoses.rename_axis("scanner"),
        travelers=travelers.sort_values(["n_scanners", "n_scans"], ascending=False, kind="stable"),
        scans_per_person=n_scans.value_counts().sort_index().rename_axis("n_scans").rename("n_people"),
        described=pd.DataFrame(
            {each.name: _in_words(each, people) for each in columns if _is_short(each)}, index=scanners.index
        ),
    )


def _is_short(column: Described) -> bool:
    return column.kind is not Kind.CATEGORY or column.values.nunique() <= MAX_LEVELS


def _in_words(column: Described, people: pd.DataFrame) -> pd.Series:
    """Mean and sd of numbers, the share of the first category, or first and last date; by scanner."""
    values = column.values.loc[people.index].groupby(people.scanner)
    if column.kind is Kind.NUMBER:
        return values.agg(lambda each: _mean_and_sd(each))
    if column.kind is Kind.TIME:
        return values.agg(lambda each: f"{each.min():%Y-%m} to {each.max():%Y-%m}" if each.notna().any() else "")
    common = column.values.dropna().mode()
    if common.empty:
        return values.agg(lambda each: "")
    return values.agg(lambda each: f"{common.iloc[0]}: {(each == common.iloc[0]).mean():.0%}")


def _mean_and_sd(values: pd.Series) -> str:
    with np.errstate(over="ignore", invalid="ignore"):
        mean, sd = values.mean(), values.std(ddof=0)
    if pd.isna(mean):
        return ""
    return f"{mean:.0f} ± {sd:.0f}" if abs(mean) >= 10 and sd >= 1 else f"{mean:.2g} ± {sd:.1g}"
