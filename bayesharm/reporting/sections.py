"""Sections of a report: what the numbers of a run say, in words, as a table and as figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

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
from bayesharm.results.console import SOURCE_DESCRIPTIONS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SURE, UNSURE = 0.95, 0.8  # probabilities
SUPPORTED = 0.9  # of the draws have a group
MOST_ROWS = 25


@dataclass(frozen=True, eq=False)
class Section:
    """A part of a report.

    Attributes
    ----------
    title : str
    sentences : list of str
        What this run says, as a paragraph.
    table : DataFrame, optional
        Columns `…_q05` and `…_q95` are the ends of 90% intervals.
    figures : tuple of Figure
    remarks : list of str
        A list below the paragraph.
    """

    title: str
    sentences: list[str]
    table: pd.DataFrame | None = None
    figures: tuple[Figure, ...] = ()
    remarks: tuple[str, ...] = ()


def tell_study(found: RunView) -> Section:
    """What was studied, and with which model."""
    about, run = found.summary.about, found.posterior.run
    families = [
        f"{family.name} ({SOURCE_DESCRIPTIONS.get(family.name, 'by ' + family.grouping)})"
        for family in found.posterior.spec.families
    ]
    n_groups = len(set(found.posterior.tree["design"].to_dataset()["component"].values))
    joined = (
        "Traveling subjects join all scanners."
        if n_groups == 1
        else "Nobody traveled between scanners."
        if n_groups == about["n_scanners"]
        else f"Traveling subjects do not join all scanners: these fall into {n_groups} groups."
    )
    return Section(
        "The study",
        [
            f"{about['n_scans']:,} scans from {about['n_scanners']} scanners, {about['n_features']:,} features. {joined}",
            f"Model {about['model']}: {about['title']}. Sources of differences in it: {', '.join(families)}, and noise.",
            f"Seed {about['seed']}, bayesharm {run['versions'].get('bayesharm', '?')}.",
        ],
    )


def tell_trust(found: RunView) -> Section:
    """Whether the computation has converged, and what the study cannot tell."""
    summary = found.summary
    return Section(
        "Can it be relied on?",
        [*summary.verdicts, "Beware:" if summary.notes else "Nothing in the study's design asks for caution."],
        remarks=summary.notes,
    )


def tell_sources(found: RunView) -> Section | None:
    """How large each source is, and which is larger."""
    if found.posterior.preview_notice:
        return None
    sources = found.sources
    table = sources.families.dropna(subset="finite_sd").sort_values("finite_sd", ascending=False, kind="stable")
    first = table.index[0]
    sentences = [
        f"The largest source of differences is {_named(found, first)}: the standard deviation of its effects is "
        f"{_sized(table.loc[first], 'finite_sd')}, in the mean over {sources.about['n_features']:,} features ({found.unit})."
    ]
    for one, other in zip(table.index[:-1], table.index[1:], strict=True):
        ratio = table.loc[one, "finite_sd"] / table.loc[other, "finite_sd"]
        sentences.append(
            f"Then {_named(found, other)}, {_sized(table.loc[other], 'finite_sd')}, smaller by a factor of {ratio:.2f}; "
            f"that it is smaller {_believed(sources.larger.loc[one, other])}."
        )
    if {found.removed, "disorder"} <= set(table.index):
        ratio = table.loc[found.removed, "finite_sd"] / table.loc["disorder", "finite_sd"]
        probability = sources.larger.loc[found.removed, "disorder"]
        sentences.append(
            f"What scanners do to the data is {ratio:.2f} times as large as what diagnoses do; the probability that it is "
            f"the larger is {_percent(probability)}."
        )
    table = table.drop(columns=table.filter(like="contribution").columns)  # have a section of their own
    return Section("Sources of differences", sentences, table, (plot_sources(found), plot_order(found)))


def tell_contributions(found: RunView) -> Section | None:
    """What each source contributes to a scan's squares."""
    if found.posterior.preview_notice:
        return None
    table = found.sources.families.filter(like="contribution")
    others = table.drop(index="noise").dropna().sort_values("contribution", ascending=False, kind="stable")
    first, last = others.index[0], others.index[-1]
    sentences = [
        f"Of a scan's squares {table.loc['noise', 'contribution']:.1%} is noise, what changes from scan to scan.",
        f"Of the rest, by level, most comes from {_named(found, first)}, {others.loc[first, 'contribution']:.2%} "
        f"({others.loc[first, 'contribution_q05']:.2%} to {others.loc[first, 'contribution_q95']:.2%})"
        + (f", and least from {_named(found, last)}, {others.loc[last, 'contribution']:.2%}." if len(others) > 1 else "."),
        "The contribution is that of the 2019 study: the squared effect over the sum of all squared effects and the squared "
        "residual, divided by the number of levels.",
    ]
    percent = (100 * others).rename(columns=lambda name: name.replace("contribution", "percent"))
    return Section("Contributions", sentences, percent, (plot_contributions(found),))


def tell_ranking(found: RunView) -> Section | None:
    """Which protocol factor is largest, where the model has such."""
    ranking = None if found.posterior.preview_notice else getattr(found.sources, "ranking", None)
    if ranking is None:
        return None
    name, first = ranking.index[0], ranking.iloc[0]
    sentences = [
        f"Of what {_named(found, found.removed)} is made of, {name} is largest: {_sized(first, 'rms')} ({found.unit}). That "
        f"it is the largest {_believed(first['rank_1'])}."
    ]
    beware = tuple(note for note in found.summary.notes if "only their priors tell" in note or "only priors tell" in note)
    return Section("Protocol factors", sentences, ranking, (plot_ranking(found),), beware)


def tell_scanners(found: RunView) -> Section:
    """Which scanners are off, and which are noisy."""
    more = found.summary.scanners[["bias_ratio", "bias_ratio_q05", "bias_ratio_q95", "from_data"]]
    sized = (more["bias_ratio_q05"] < more["bias_ratio_q95"]).any()  # else it is 1 on all
    table = found.scanners.join(more if sized else more["from_data"])
    first, last = table.index[0], table.index[-1]
    sentences = [
        f"{first} is furthest from the mean of all scanners: the root mean square of its bias over features is "
        f"{_sized(table.loc[first], 'rms')} ({found.unit}), {table.rms.iloc[0] / table.rms.iloc[-1]:.2f} times that of "
        f"{last}, which is nearest."
    ]
    ratio = table["noise_ratio"]
    noisy = table[table["noise_ratio_q05"] > 1].sort_values("noise_ratio", ascending=False, kind="stable")
    quiet = table[table["noise_ratio_q95"] < 1].sort_values("noise_ratio", kind="stable")
    if len(noisy) or len(quiet):
        for some, what in ((noisy, "Noisier"), (quiet, "Less noisy")):
            if len(some):
                named = _listed(f"{name} ({ratio[name]:.2f} times its variance)" for name in some.index)
                sentences.append(f"{what} than the average scanner: {named}.")
    else:
        sentences.append("No scanner is noisier or less noisy than the average, as far as the data tell.")
    if sized and (table["bias_ratio_q05"] > 1).any():
        large = table[table["bias_ratio_q05"] > 1].sort_values("bias_ratio", ascending=False, kind="stable")
        named = _listed(f"{name} ({size:.2f} times the variance)" for name, size in large["bias_ratio"].items())
        sentences.append(f"Larger biases than those of the average scanner, over all features: {named}.")
    unknown = table.index[table["from_data"] < 0.5]
    if len(unknown):
        sentences.append(f"Of {_listed(unknown)} more is known from the prior than from the data.")
    figures = (plot_scanners(found), *((plot_bias(found),) if len(table) > 1 else ()))
    return Section("Scanners", sentences, table, figures)


def tell_similarity(found: RunView) -> Section | None:
    """Which scanners measure alike."""
    if len(found.posterior.scanners) < 2:
        return None
    pairs, splits = found.similarity.pairs, found.similarity.splits
    near, far = pairs["distance"].idxmin(), pairs["distance"].idxmax()
    groups = splits.iloc[:-1]
    good = groups[groups["support"] >= SUPPORTED]
    sentences = [
        f"The bias maps of {near[0]} and {near[1]} are closest, at {_sized(pairs.loc[near], 'distance')} ({found.unit}), "
        f"those of {far[0]} and {far[1]} furthest apart, at {_sized(pairs.loc[far], 'distance')}.",
        f"{near[0]} and {near[1]} have a correlation of {pairs.loc[near, 'correlation']:.2f} over features; that of "
        f"unrelated scanners is {-1 / (len(found.similarity.scanners) - 1):.2f}, as biases are counted from their mean.",
    ]
    members = found.similarity.groups
    for k, row in good.iterrows():
        apart = [name for name in found.similarity.scanners if name not in members[k]]
        sentences.append(f"{apart[0]} stands apart from all others" if len(apart) == 1 else f"{row.scanners} form a group")
        sentences[-1] += f", in {row.support:.0%} of the posterior draws."
    if len(groups) and not len(good):
        sentences.append(
            f"No group of scanners is in more than {groups['support'].max():.0%} of the posterior draws: read the tree as "
            "one of many that the data allow."
        )
    figures = plot_dendrogram(found), plot_distance(found)
    return Section("Which scanners measure alike", sentences, splits.set_index("scanners"), figures)


def tell_scales(found: RunView) -> Section:
    """What the data say of the scales against what was believed before."""
    spec, table = found.posterior.spec, found.summary.hyper
    by_population = {family.name for family in spec.families if family.grouping == "population"}
    sampling = [str(name) for name in table.index if found.scales[str(name)].family in by_population]
    before = np.exp(2 * 1.645 * spec.priors.eta_sd)
    sentences = [
        "The typical scale of a source is the middle of its scales over features, in sd of a feature; before the data its "
        f"90% interval spanned a factor of {before:.0f}."
    ]
    for name in sampling or [found.removed]:
        if name in table.index:
            row = table.loc[name]
            sentences.append(
                f"That of {_named(found, name)} is {_sized(row, 'scale')}, an interval that spans a factor of "
                f"{row.scale_q95 / row.scale_q05:.2f}."
            )
    title = "Scale of sampling bias" if sampling else "Scales"
    columns = [name for name in table.columns if not name.startswith(("rhat", "ess"))]
    return Section(title, sentences, table[columns], (plot_scales(found),))


def tell_populations(found: RunView) -> Section | None:
    """Whether sites sample populations of their own."""
    if found.populations is None:
        return None
    told, table = found.populations, found.populations.families
    sentences = []
    for name, verdict in zip(table.index, told.verdicts(), strict=True):
        row = table.loc[name]
        best = max(row["log_bayes_factor_some"], row["log_bayes_factor_all"])
        low, high = row["share_q05"], row["share_q95"]
        every = row["log_bayes_factor_all"] >= row["log_bayes_factor_some"]
        share = (
            "; nothing says that there are features without it"
            if every
            else f"; {row['share']:.0%} ({low:.0%} to {high:.0%}) of the features have sampling bias"
        )
        sentences.append(
            f"{verdict[0].upper()}{verdict[1:]}; ½ before the data, log Bayes factor {best:+.1f}"
            + (share if row["probability"] > 0.5 else "")
            + "."
        )
    left = told.predictions.loc[table.index[-1]]
    for what, row in left.iterrows():
        better = "better" if row["difference"] > 0 else "worse"
        sentences.append(
            f"With sampling bias, {what} that were left out are predicted {better}: by {abs(row['difference']):.1f} in log "
            f"density, standard error {row['se']:.1f}."
        )
    return Section(
        "One population or several", sentences, table.drop(columns=["diagnosis", "khat", "good"]), (plot_populations(told),)
    )


def tell_regions(found: RunView) -> Section | None:
    """Where in the brain measurement bias is large."""
    if found.edge_table is None or found.posterior.preview_notice:
        return None
    table, mean = found.regions(found.mapped), found.sources.families.loc[found.mapped, "finite_sd"]
    above = int((table["finite_sd_q05"] > mean).sum())
    sentences = [
        f"Largest is {_named(found, found.mapped)} in the edges of {table.index[0]}, {_sized(table.iloc[0], 'finite_sd')}, "
        f"and smallest in those of {table.index[-1]}, {_sized(table.iloc[-1], 'finite_sd')} ({found.unit}).",
        f"In {above} of {len(table)} regions the interval lies above the mean over all features, {mean:#.3g}.",
    ]
    figures = [plot_regions(found)]
    if found.networks is not None:
        square = found.networks_of(found.mapped)
        pair = square.stack().idxmax()
        where = f"within {pair[0]}" if pair[0] == pair[1] else f"between {pair[0]} and {pair[1]}"
        sentences.append(f"Among pairs of networks it is largest {where}, {square.loc[pair]:#.3g}.")
        figures.append(plot_networks(found))
    if found.coordinates is not None:
        figures += [plot_brain(found), plot_connectome(found)]
    return Section("Regions", sentences, table, tuple(figures))


SECTIONS: tuple[Callable[[RunView], Section | None], ...] = (
    tell_study, tell_trust, tell_sources, tell_contributions, tell_ranking, tell_scanners, tell_similarity, tell_scales,
    tell_populations, tell_regions,
)  # fmt: skip


def _named(found: RunView, label: object) -> str:
    source, group = found.scales.get(str(label), Scale(str(label)))
    words = {"measurement": "measurement bias", "sampling": "sampling bias", "disorder": "disorder effects",
             "participant": "differences between people", "noise": "noise", "site": "site effects"}  # fmt: skip
    return words.get(source, str(label)) + (f" of {group}" if group and source in words else "")


def _sized(row: pd.Series, name: str) -> str:
    return f"{row[name]:#.3g} ({row[f'{name}_q05']:#.3g} to {row[f'{name}_q95']:#.3g})"


def _percent(probability: float) -> str:
    return "above 99.9%" if probability > 0.999 else "below 0.1%" if probability < 0.001 else f"{probability:.1%}"


def _believed(probability: float) -> str:
    sure = "is certain, as far as the model goes" if probability > 0.999 else (
        "is well supported" if probability > SURE else "is likely" if probability > UNSURE else "is not settled"
    )  # fmt: skip
    return f"{sure} (probability {_percent(probability)})"


def _listed(names: Iterable[str], most: int = 6) -> str:
    names = [str(name) for name in names]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
