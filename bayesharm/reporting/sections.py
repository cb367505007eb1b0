"""Sections of a report: sentences on one aspect of a run, with a table, figures and caveats."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from bayesharm.analysis.units import describe_slopes
from bayesharm.errors import listed
from bayesharm.model.labels import Scale
from bayesharm.reporting.plots import (
    RunView,
    plot_bias,
    plot_brain,
    plot_connectome,
    plot_contributions,
    plot_dendrogram,
    plot_distance,
    plot_networks,
    plot_order,
    plot_populations,
    plot_ranking,
    plot_regions,
    plot_scales,
    plot_scanners,
    plot_sources,
)
from bayesharm.reporting.section import Section
from bayesharm.reporting.study_section import describe_check
from bayesharm.results.console import SOURCE_DESCRIPTIONS
from bayesharm.results.nodes import read_scales

WELL_SUPPORTED, LIKELY = 0.95, 0.8  # probabilities above which an order is called so
SUPPORTED_GROUP = 0.9  # share of posterior draws above which a group of scanners is reported
MOSTLY_PRIOR = 0.5  # share of information from the data below which an estimate is called uncertain


def describe_study(view: RunView) -> Section:
    """Describe the data, the linkage of the scanners by travelers, and the model."""
    about, run = view.summary.about, view.posterior.run
    families = [
        f"{family.name} ({SOURCE_DESCRIPTIONS.get(family.name, 'by ' + family.by)})"
        for family in view.posterior.spec.families
    ]
    n_groups = len(set(view.posterior.design["component"].values))
    if n_groups == 1:
        linkage = "Travelers link all scanners."
    elif n_groups == about["n_scanners"]:
        linkage = "Nobody traveled between scanners."
    else:
        linkage = f"Travelers do not link all scanners, which form {n_groups} separate groups."
    return Section(
        "Study",
        [
            f"{about['n_scans']:,} scans from {about['n_scanners']} scanners, {about['n_features']:,} features. {linkage}",
            f"Model {about['model']}: {about['title']}. Its sources of variation are {', '.join(families)}, and noise.",
            f"Seed {about['seed']}, bayesharm {run['versions'].get('bayesharm', '?')}.",
        ],
    )


def describe_reliability(view: RunView) -> Section:
    """Describe convergence, and what the study does not identify."""
    summary = view.summary
    return Section(
        "Are the results reliable?",
        [*summary.diagnostics, "Caveats:" if summary.notes else "The design of the study raises no caveats."],
        caveats=summary.notes,
    )


def describe_sources(view: RunView) -> Section | None:
    """Describe the size of each source of variation, and their order."""
    if view.is_preview:
        return None
    components = view.variance_components
    table = components.families.dropna(subset="finite_sd").sort_values("finite_sd", ascending=False, kind="stable")
    largest = table.index[0]
    sentences = [
        f"The largest source of variation is {_named(view, largest)}: its effects have a standard deviation of "
        f"{_estimate(table.loc[largest], 'finite_sd')} in {view.units}, on average over "
        f"{components.about['n_features']:,} features."
    ]
    for larger, smaller in zip(table.index[:-1], table.index[1:], strict=True):
        ratio = table.loc[larger, "finite_sd"] / table.loc[smaller, "finite_sd"]
        sentences.append(
            f"Next: {_named(view, smaller)}, {_estimate(table.loc[smaller], 'finite_sd')}, smaller by a factor of "
            f"{ratio:.2f}; this order {_support(components.larger.loc[larger, smaller])}."
        )
    if {view.removed_effect, "disorder"} <= set(table.index):
        ratio = table.loc[view.removed_effect, "finite_sd"] / table.loc["disorder", "finite_sd"]
        probability = components.larger.loc[view.removed_effect, "disorder"]
        sentences.append(
            f"The effects of scanners are {ratio:.2f} times as large as those of diagnoses; the probability that they are "
            f"larger is {_percent(probability)}."
        )
    table = table.drop(columns=table.filter(like="contribution").columns)  # which have a section of their own
    return Section("Sources of variation", sentences, table, (plot_sources(view), plot_order(view)))


def describe_contributions(view: RunView) -> Section | None:
    """Describe the contribution of each source to the squares of a scan."""
    if view.is_preview:
        return None
    table = view.variance_components.families.filter(like="contribution")
    others = table.drop(index="noise").dropna().sort_values("contribution", ascending=False, kind="stable")
    largest, smallest = others.iloc[0], others.iloc[-1]
    sentences = [
        f"Noise, the residual of the model, contributes {table.loc['noise', 'contribution']:.1%} of the squares of a scan.",
        f"Among the other sources, {_named(view, others.index[0])} contributes most per level, "
        f"{largest['contribution']:.2%} "
        f"({largest['contribution_q05']:.2%} to {largest['contribution_q95']:.2%})"
        + (f", and {_named(view, others.index[-1])} least, {smallest['contribution']:.2%}." if len(others) > 1 else "."),
        "Contributions are those of Yamashita et al. (2019): the squared effect over the sum of all squared effects and the "
        "squared residual, divided by the number of levels of the source. They do not add up to 100%.",
    ]
    percent = (100 * others).rename(columns=lambda name: name.replace("contribution", "percent"))
    return Section("Contributions", sentences, percent, (plot_contributions(view),))


def describe_ranking(view: RunView) -> Section | None:
    """Describe the ranking of the components of measurement bias, in a model with protocol factors."""
    ranking = None if view.is_preview else view.variance_components.ranking
    if ranking is None:
        return None
    name, largest = ranking.index[0], ranking.iloc[0]
    sentences = [
        f"The largest component of {_named(view, view.removed_effect)} is {name}: {_estimate(largest, 'rms')} in "
        f"{view.units}. "
        f"Its first rank {_support(largest['rank_1'])}."
    ]
    factors = [family.name for family in view.posterior.spec.factors]
    caveats = tuple(note for note in view.summary.notes if any(factor in note for factor in factors))
    return Section("Protocol factors", sentences, ranking, (plot_ranking(view),), caveats)


def describe_scanners(view: RunView) -> Section:
    """Describe the scanners with large bias, with unusual noise, and with estimates that rest on the prior."""
    table = view.scanners.join(view.summary.scanners["from_data"])
    first, last = table.index[0], table.index[-1]
    sentences = [
        f"{first} is furthest from the mean of all scanners: the root mean square of its bias over features, uncertainty "
        f"included, is {_estimate(table.loc[first], 'rms')} in {view.units}, "
        f"{table.rms.iloc[0] / table.rms.iloc[-1]:.2f} times that "
        f"of {last}, the nearest."
    ]
    sentences += _describe_noise(table)
    if "bias_ratio" in table and (table["bias_ratio_q05"] > 1).any():
        large = table[table["bias_ratio_q05"] > 1].sort_values("bias_ratio", ascending=False, kind="stable")
        named = listed(f"{name} (bias variance ratio {ratio:.2f})" for name, ratio in large["bias_ratio"].items())
        sentences.append(f"Larger biases than the average scanner, over all features: {named}.")
    if "gain" in table:
        sentences += _describe_gains(table)
    if len(uncertain := table.index[table["from_data"] < MOSTLY_PRIOR]):
        sentences.append(
            f"For {listed(map(str, uncertain))} the estimate of the bias rests more on the prior than on the data."
        )
    figures = (plot_scanners(view), *((plot_bias(view),) if len(table) > 1 else ()))
    return Section("Scanners", sentences, table, figures)


def _describe_noise(table: pd.DataFrame) -> list[str]:
    """Name the scanners with a noise variance ratio (lambda) that differs from 1."""
    ratio = table["noise_ratio"]
    noisy = table[table["noise_ratio_q05"] > 1].sort_values("noise_ratio", ascending=False, kind="stable")
    quiet = table[table["noise_ratio_q95"] < 1].sort_values("noise_ratio", kind="stable")
    sentences = []
    for subset, comparison in ((noisy, "Noisier"), (quiet, "Less noisy")):
        if len(subset):
            named = listed(f"{name} (noise variance ratio {ratio[name]:.2f})" for name in subset.index)
            sentences.append(f"{comparison} than the average scanner: {named}.")
    return sentences or ["No scanner is clearly noisier or less noisy than the average."]


def _describe_gains(table: pd.DataFrame) -> list[str]:
    """Name the scanners whose gain differs from 1."""
    far = table[(table["gain_q05"] > 1) | (table["gain_q95"] < 1)].sort_values("gain", ascending=False, kind="stable")
    if far.empty:
        return ["Differences between people are about as large on all scanners: no gain is clearly above or below 1."]
    named = listed(f"{name} (gain {gain:.2f})" for name, gain in far["gain"].items())
    return [f"Differences between people are larger (gain above 1) or smaller than on the average scanner on {named}."]


def describe_similarity(view: RunView) -> Section | None:
    """Describe the most similar and most different scanners, and the groups of scanners."""
    if len(view.posterior.scanners) < 2:
        return None
    pairs, splits = view.similarity.pairs, view.similarity.splits
    near, far = pairs["distance"].idxmin(), pairs["distance"].idxmax()
    groups = splits.iloc[:-1]
    supported = groups[groups["support"] >= SUPPORTED_GROUP]
    sentences = [
        f"{near[0]} and {near[1]} have the most similar bias maps, at a distance of "
        f"{_estimate(pairs.loc[near], 'distance')} in {view.units}; {far[0]} and {far[1]} have the most different, at "
        f"{_estimate(pairs.loc[far], 'distance')}.",
        f"The bias maps of {near[0]} and {near[1]} have a correlation of {pairs.loc[near, 'correlation']:.2f} over "
        "features. Biases are centered over scanners: for unrelated scanners it would be "
        f"{-1 / (len(view.similarity.scanners) - 1):.2f}.",
    ]
    for _, row in supported.iterrows():
        others = [name for name in view.similarity.scanners if name not in row.scanners.split(", ")]
        group = f"{others[0]} stands apart from all others" if len(others) == 1 else f"{row.scanners} form a group"
        sentences.append(f"{group} in {row.support:.0%} of the posterior draws.")
    if len(groups) and supported.empty:
        sentences.append(
            f"No group of scanners occurs in more than {groups['support'].max():.0%} of the posterior draws: the tree is "
            "one of many that the data allow."
        )
    figures = plot_dendrogram(view), plot_distance(view)
    return Section("Similarity of scanners", sentences, splits.set_index("scanners"), figures)


def describe_scales(view: RunView) -> Section:
    """Describe the typical scales before and after the data: those of sampling bias, or of the removed effect."""
    spec, table = view.posterior.spec, view.summary.hyper
    by_population = {family.name for family in spec.families if family.by == "population"}
    groups = read_scales(view.posterior.hyper)
    sampling = [str(name) for name in table.index if groups[str(name)].family in by_population]
    factor = np.exp(2 * 1.645 * spec.priors.eta_sd)
    sentences = [
        "The typical scale of a source is the median of its scales over features, in sd of a feature. Its 90% prior "
        f"interval spans a factor of {factor:.0f}."
    ]
    for name in sampling or [view.removed_effect]:
        if name in table.index:
            row = table.loc[name]
            sentences.append(
                f"For {_named(view, name)} it is {_estimate(row, 'scale')}, an interval that spans a factor of "
                f"{row.scale_q95 / row.scale_q05:.2f}."
            )
    title = "Scale of sampling bias" if sampling else "Scales"
    columns = [name for name in table.columns if not name.startswith(("rhat", "ess"))]
    return Section(title, sentences, table[columns], (plot_scales(view),))


def describe_populations(view: RunView) -> Section | None:
    """Describe the evidence for one population or several, if it was computed."""
    if view.populations is None:
        return None
    test, table = view.populations, view.populations.families
    sentences = []
    for name, conclusion in zip(table.index, test.conclusions(), strict=True):
        row = table.loc[name]
        largest = max(row["log_bayes_factor_some"], row["log_bayes_factor_all"])
        share = f"{row['share']:.0%} ({row['share_q05']:.0%} to {row['share_q95']:.0%}) of the features have sampling bias"
        if row["log_bayes_factor_all"] >= row["log_bayes_factor_some"]:
            share = "no evidence for features without sampling bias"
        sentences.append(
            f"{_capitalized(conclusion)}; ½ before the data, log Bayes factor {largest:+.1f}"
            + (f"; {share}." if row["probability"] > 0.5 else ".")
        )
    for unit_type, row in test.predictions.loc[table.index[-1]].iterrows():
        better = "better" if row["difference"] > 0 else "worse"
        sentences.append(
            f"With sampling bias, held-out {unit_type} are predicted {better}, by {abs(row['difference']):.1f} in log "
            f"density (standard error {row['se']:.1f})."
        )
    return Section(
        "One population or several", sentences, table.drop(columns=["khat", "is_reliable"]), (plot_populations(test),)
    )


def describe_regions(view: RunView) -> Section | None:
    """Describe the brain regions and networks with the largest effects."""
    if view.edge_table is None or view.is_preview:
        return None
    family = view.mapped_effect
    table, mean = view.regions(family), view.variance_components.families.loc[family, "finite_sd"]
    n_above = int((table["finite_sd_q05"] > mean).sum())
    sentences = [
        f"{_capitalized(_named(view, family))} is largest in the edges of {table.index[0]}, "
        f"{_estimate(table.iloc[0], 'finite_sd')}, and smallest in those of {table.index[-1]}, "
        f"{_estimate(table.iloc[-1], 'finite_sd')}, in {view.units}.",
        f"In {n_above} of {len(table)} regions the 90% interval lies above the mean over all features, {mean:#.3g}.",
    ]
    figures = [plot_regions(view)]
    if view.networks is not None:
        square = view.networks_of(family)
        pair = square.stack().idxmax()
        where = f"within {pair[0]}" if pair[0] == pair[1] else f"between {pair[0]} and {pair[1]}"
        sentences.append(f"Among pairs of networks it is largest {where}, {square.loc[pair]:#.3g}.")
        figures.append(plot_networks(view))
    if view.coordinates is not None:
        figures += [plot_brain(view), plot_connectome(view)]
    return Section("Regions", sentences, table, tuple(figures))


SECTIONS: tuple[Callable[[RunView], Section | None], ...] = (
    describe_study, describe_check, describe_reliability, describe_sources, describe_contributions, describe_ranking,
    describe_scanners, describe_similarity, describe_scales, describe_populations, describe_regions,
)  # fmt: skip


def _named(view: RunView, label: object) -> str:
    source, group = view.scales.get(str(label), Scale(str(label)))
    words = {"measurement": "measurement bias", "sampling": "sampling bias", "disorder": "disorder effects",
             "participant": "differences between people", "noise": "noise", "site": "site effects"}  # fmt: skip
    words |= describe_slopes(view.posterior)
    return words.get(source, str(label)) + (f" of {group}" if group and source in words else "")


def _capitalized(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}"


def _estimate(row: pd.Series, name: str) -> str:
    """Format an estimate with its 90% interval."""
    return f"{row[name]:#.3g} ({row[f'{name}_q05']:#.3g} to {row[f'{name}_q95']:#.3g})"


def _percent(probability: float) -> str:
    return "above 99.9%" if probability > 0.999 else "below 0.1%" if probability < 0.001 else f"{probability:.1%}"


def _support(probability: float) -> str:
    """Express a probability as a predicate."""
    words = (
        "is certain under the model" if probability > 0.999
        else "is well supported" if probability > WELL_SUPPORTED
        else "is likely" if probability > LIKELY
        else "is not settled"
    )  # fmt: skip
    return f"{words} (probability {_percent(probability)})"
