"""Sections on the study: who was scanned where, and what the design can separate."""

from __future__ import annotations

import pandas as pd

from bayesharm.model.spec import Family
from bayesharm.reporting.charts.study import graph_chart, people_chart, scans_chart
from bayesharm.reporting.run_view import RunView
from bayesharm.reporting.section import Chart, Section, Table
from bayesharm.reporting.words import MOSTLY_PRIOR, SOURCES, count, estimated_families, named, on_slopes
from bayesharm.results.console import SOURCE_DESCRIPTIONS


def describe_study(view: RunView) -> Section:
    """Describe the data, the linkage of the scanners by travelers, and the model."""
    about, design = view.summary.about, view.posterior.design
    people = view.before_after.people
    table = design[["n_scans", "n_single_scan", "n_travelers"]].to_dataframe()
    table.index = table.index.map(str)
    families = [
        named(view, family.name)
        if family.by in ("participant", family.name)
        else f"{named(view, family.name)} ({_described(family)})"
        for family in estimated_families(view)
    ]
    covariates = [*view.posterior.spec.covariates, *([view.posterior.spec.formula] if view.posterior.spec.formula else [])]
    sentences = [
        f"{count(about['n_scans'], 'scan')} from {count(about['n_scanners'], 'scanner')}, "
        f"{count(about['n_features'], 'feature')}. {describe_linkage(view)}",
        f"Model {about['model']}: {about['title']}. Its sources of variation are {', '.join(families)}, and noise.",
    ]
    sentences += on_slopes(view)
    if covariates:
        sentences.append(f"Covariates: {', '.join(covariates)}.")
    if any(family.by == "diagnosis" for family in estimated_families(view)):
        sentences.append(f"Reference group of {SOURCES['disorder']}: {view.posterior.spec.reference}.")
    if "tails" in about:
        sentences.append(about["tails"])
    if transform := view.posterior.run.get("transform"):
        sentences.append(f"Features are analyzed in other units: {transform}.")
    charts: list[Chart] = [scans_chart(table, people)]
    if people is not None and people.has_travelers:
        charts += [people_chart(people), graph_chart(people)]
    return Section("Study", sentences, figures=tuple(charts))


def _described(family: Family) -> str:
    return SOURCE_DESCRIPTIONS.get(family.name, f"by {family.by}")


def describe_linkage(view: RunView) -> str:
    """Say in a sentence which scanners travelers link."""
    n_scanners = len(view.posterior.scanners)
    n_groups = len(set(view.posterior.design["component"].values))
    if n_groups == 1:
        return "Travelers link all scanners." if n_scanners > 1 else "There is a single scanner."
    if n_groups == n_scanners:
        return "Nobody traveled between scanners."
    return f"Travelers do not link all scanners, which form {n_groups} separate groups."


def describe_check(view: RunView) -> Section | None:
    """Describe what the study can separate, and how precisely, as it was checked before the fit."""
    check = view.posterior.run.get("check")
    if check is None:
        return None
    rows, prior = {}, []
    for row in check["scanners"]:
        rows[row["scanner"]] = {
            "scans": row["n_scans"], "people": row["n_people"], "travelers": row["n_travelers"],
            **row["diagnoses"], **row["described"],
        }  # fmt: skip
        share = row.get("from_data")
        if row.get("expected_sd") is not None:
            rows[row["scanner"]] |= {"expected sd": float(row["expected_sd"]), "from data": f"{share:.0%}"}
        prior.append(share is not None and share < MOSTLY_PRIOR)
    caption = (
        "Diagnoses: people with scans on one scanner only. Expected sd: that of the scanner's effect relative to the "
        "mean of all scanners, in sd of a feature, before the fit. Pale: more prior than data."
    )
    table = Table(pd.DataFrame.from_dict(rows, orient="index").rename_axis("scanner"), caption, prior)
    return Section("What can this study separate?", list(check["verdict"]["sentences"]), (table,))
