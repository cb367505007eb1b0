"""Section on the reliability of a run: convergence, findings on the data, and what the study does not identify."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from bayesharm.analysis.convergence import MAX_KHAT
from bayesharm.analysis.prior_sensitivity import prior_sensitivity
from bayesharm.errors import listed
from bayesharm.fitting.settings import Settings
from bayesharm.reporting.charts.scanners import check_chart
from bayesharm.reporting.charts.sources import histogram
from bayesharm.reporting.predictive_check import HIGH, LOW, check_travelers, find_unusual
from bayesharm.reporting.run_view import RunView
from bayesharm.reporting.section import Chart, Section, Table
from bayesharm.reporting.words import not_in_noise, slope_of_removed

SENSITIVITY_COLUMNS = {
    "value": "value", "value_q05": "value_q05", "value_q95": "value_q95", "weaker": "wider", "stronger": "narrower",
    "prior": "to the prior", "likelihood": "to the data", "diagnosis": "diagnosis",
}  # fmt: skip
MAX_NAMED = 200  # features in the table of those that have not converged


def describe_reliability(view: RunView) -> Section:
    """Describe convergence, and what the study does not identify."""
    summary = view.summary
    return Section(
        "Are the results reliable?",
        [*summary.diagnostics, "Caveats:" if summary.notes else "The design of the study raises no caveats."],
        caveats=summary.notes,
    )


def describe_fit(view: RunView) -> Section | None:
    """Describe whether the scans of travelers are as the model predicts."""
    table = check_travelers(view.before_after)
    if table is None or table.dropna().empty:
        return None
    high, low = find_unusual(table)
    sentences = [
        "The model says that a scan is the person, one bias for each scanner and feature, and noise. If so, the "
        "harmonized scans of a traveler differ between scanners by noise alone."
    ]
    if high:
        sentences.append(f"They differ by clearly more on {listed(high)}.")
    if low:
        sentences.append(f"They differ by clearly less on {listed(low)}.")
    if not high and not low:
        where = "" if table["ratio_q05"].notna().all() else " of a scanner with three travelers or more"
        sentences.append(
            f"Their variance is {table['ratio'].min():.2f} to {table['ratio'].max():.2f} times the expected one: no "
            f"interval{where} lies entirely outside {LOW} to {HIGH}."
        )
    if column := slope_of_removed(view):
        sentences.append(f"The check subtracts the bias of each scanner at the mean {column}, not its change with {column}.")
    if others := not_in_noise(view):
        sentences.append(
            f"The expected variance leaves out {others}: where they differ between the scans of a traveler, the ratio rises."
        )
    return Section("Does the model fit the scans?", sentences, (), (check_chart(table),))


def describe_prior_sensitivity(view: RunView) -> Section:
    """Describe how far the main numbers depend on the hyperpriors."""
    result = prior_sensitivity(view.posterior)
    frame = result.numbers.reset_index()[["name", *SENSITIVITY_COLUMNS]].assign(
        name=[f"{kind}: {name}" for kind, name in result.numbers.index]
    )
    order = np.argsort(-frame["prior"].to_numpy(), kind="stable")
    caption = (
        f"Posterior mean with its 90% interval, in {view.units} (scales, and biases as root mean squares that include their "
        "uncertainty) or relative to the average scanner (ratios); the posterior mean with hyperpriors √2 times as wide, "
        "and as narrow; sensitivity to the power of the prior and the likelihood, large above 0.05. Shares of variance: "
        "those of a typical feature, in the population; the bar under \u201cSources of variation\u201d has those of "
        "the scans of this study."
    )
    table = Table(frame.iloc[order].set_index("name").rename(columns=SENSITIVITY_COLUMNS), caption)
    return Section("Do the numbers depend on the priors?", result.conclusions(), (table,), caveats=result.notes)


def describe_convergence(view: RunView) -> Section:
    """Describe the convergence of each feature, or the approximation of a preview."""
    features = view.summary.features
    charts: tuple[Chart, ...]
    if view.is_preview:
        values = features["khat"].to_numpy(float)
        good = int((values < MAX_KHAT).sum())
        charts = (
            histogram(values, "Pareto k of the approximation", f"Pareto k of the approximation of each feature; good below "
                      f"{MAX_KHAT} (dashed).", f"Histogram of Pareto k; {good:,} of {len(values):,} features are good.",
                      MAX_KHAT),
        )  # fmt: skip
        sentences = [f"Nothing was sampled. The approximation of {good:,} of {len(values):,} features is good."]
    else:
        limits = asdict(Settings()) | view.posterior.run["settings"]
        rhat, ess = features["rhat"].to_numpy(float), features["ess_bulk"].to_numpy(float)
        charts = (
            histogram(rhat, "R-hat", "Largest R-hat of the scales of each feature. Dashed: the limit of convergence.",
                      f"Histogram of R-hat, median {np.nanmedian(rhat):.4f}, largest {np.nanmax(rhat):.4f}.",
                      limits["max_rhat"]),
            histogram(ess, "Effective sample size", "Smallest effective sample size of the scales of each feature. Dashed: "
                      "the smallest size that counts as converged.",
                      f"Histogram of effective sample sizes, median {np.nanmedian(ess):.0f}, smallest {np.nanmin(ess):.0f}.",
                      limits["target_ess"], log=True),
        )  # fmt: skip
        sentences = [
            f"{int(features['converged'].sum()):,} of {len(features):,} features have converged: R-hat below "
            f"{limits['max_rhat']} and at least {limits['target_ess']} effective draws of every scale, and no divergence."
        ]
    failed = features[~features["converged"]]
    tables: tuple[Table, ...] = ()
    if len(failed):
        frame = failed[["reason", "rhat", "ess_bulk", "divergences"]].head(MAX_NAMED)
        subset = f" ({MAX_NAMED} of {len(failed):,})" if len(failed) > MAX_NAMED else ""
        tables = (Table(frame.rename_axis("feature"), f"Features that have not converged{subset}."),)
    return Section("Convergence of each feature", sentences, tables, charts, is_folded=True)
